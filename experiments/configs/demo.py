"""Sizes of the demo, one table: `get_config("small")`, `"large"`, and `"debug"` for tests. All of it is ours."""

import ml_collections

SIZES = ("debug", "small", "large")
_TABLE = {
    # field: (debug, small, large)
    "preset": ("debug", "demo", "large"),  # of experiments/configs/pretrain.py and finetune.py
    "policies": (("clamp",), ("clamp", "scratch", "blind"), ("clamp", "policy_pretrained", "scratch", "blind")),  # compared
    "drawer_open_episodes": (8, 600, 1500),  # demonstrations of the first pre-training task
    "can_opener_episodes": (8, 100, 400),  # demonstrations of the second
    "drawer_close_episodes": (8, 600, 1000),  # demonstrations of the task that policies are fine-tuned on
    "held_out_episodes": (6, 72, 128),  # further ones of the first task, for retrieval alone
    "pretrain_steps": (4, 400, 1000),
    "pretrain_batch": (4, 32, 32),
    "finetune_steps": (4, 1000, 2500),
    "finetune_batch": (4, 32, 32),
    "trials": (2, 48, 96),  # of every policy, from the same initial states
    "limit_s": (1.0, 8.0, 8.0),  # time limit of a trial
    "replan": (25, 25, 25),  # commands executed of each chunk of 50
    "pool": (4, 64, 64),  # trajectories in a retrieval pool
    "pools": (2, 5, 5),
    "evaluate_timeout_s": (300, 1200, 3600),  # after it MJX is taken to hang and the evaluation is repeated with native MuJoCo
    "server_timeout_s": (300, 300, 300),  # for the policy server to load and compile
}
_SAME = {
    "pretrain_tasks": ("drawer_open", "can_opener_in_caddy"),
    "finetune_task": "drawer_close",  # not seen in pre-training
    "seed": 0,
    "backend": "auto",  # physics of the evaluation: native MuJoCo on a CPU, which is some five times as fast there, MJX elsewhere
    "evaluate_seed": 42,  # upstream's
}


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    """The locked config of a size; ValueError for an unknown one."""
    if size not in SIZES:
        raise ValueError(f"size is {size!r}; expected one of {', '.join(SIZES)}")
    column = SIZES.index(size)
    return ml_collections.ConfigDict({"size": size} | {name: row[column] for name, row in _TABLE.items()} | _SAME).lock()
