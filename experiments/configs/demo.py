"""Sizes of the demo, one table: `get_config("small")` and `get_config("large")`. All of it is ours."""

import ml_collections

SIZES = ("small", "large")
_TABLE = {
    # field                     small  large   what it is
    "drawer_open_episodes": (300, 1200),  # demonstrations of the first pre-training task; retrieval is measured on it
    "can_opener_episodes": (100, 600),  # demonstrations of the second pre-training task
    "drawer_close_episodes": (240, 480),  # demonstrations of the task that policies are fine-tuned on
    "held_out_episodes": (96, 128),  # further demonstrations of the first task, for retrieval alone
    "pretrain_steps": (1000, 8000),
    "pretrain_batch": (32, 64),
    "finetune_steps": (1000, 6000),
    "finetune_batch": (32, 64),
    "trials": (32, 96),  # of every policy, from the same initial states
    "limit_s": (8.0, 10.0),  # time limit of a trial
    "replan": (25, 25),  # commands executed of each chunk of 50
    "pool": (64, 64),  # trajectories in a retrieval pool
    "pools": (5, 5),
    "evaluate_timeout_s": (1200, 3600),  # after it the evaluation is taken as hung and repeated with native MuJoCo
    "robot_timeout_s": (300, 300),
}
_SAME = {
    "preset": "demo",  # size of the networks
    "pretrain_tasks": ("drawer_open", "can_opener_in_caddy"),
    "finetune_task": "drawer_close",  # not seen in pre-training
    "backend": "mjx",
    "seed": 0,
    "evaluate_seed": 42,  # upstream's
    "film_trials": 6,
}


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    """The locked config of a size; ValueError for an unknown one."""
    if size not in SIZES:
        raise ValueError(f"size is {size!r}; expected one of {', '.join(SIZES)}")
    column = SIZES.index(size)
    values = {name: row[column] for name, row in _TABLE.items()}
    policies = ("clamp", "scratch", "blind") if size == "small" else ("clamp", "policy_pretrained", "scratch", "blind")
    return ml_collections.ConfigDict({"size": size, "policies": policies} | values | _SAME).lock()
