"""Sizes of the cell's rehearsal, one table: `get_config("small")`, and `"debug"` for tests. All of it is ours."""

import ml_collections

SIZES = ("debug", "small")
_TABLE = {
    # field: (debug, small)
    "preset": ("debug", "demo"),  # of experiments/configs/pretrain.py and finetune.py
    "drawer_open_episodes": (8, 300),  # simulated demonstrations of the first pre-training task
    "can_opener_episodes": (8, 100),  # of the second
    "pretrain_steps": (2, 400),
    "pretrain_batch": (4, 32),
    "poses": (15, 15),  # of the calibration
    "episodes": (2, 50),  # recorded in the cell
    "images_hz": (4.0, 5.0),  # of each camera, while recording: two cores draw four images of 848 x 480 in some 0.15 s
    "finetune_steps": (2, 1000),
    "finetune_batch": (2, 32),
    "trials": (1, 24),  # with each calibration, from the same initial states
    "limit_s": (2.0, 8.0),  # time limit of a trial
}
_SAME = {
    "pretrain_tasks": ("drawer_open", "can_opener_in_caddy"),
    "finetune_task": "drawer_close",  # the nearest to the paper's Close Drawers; not seen in pre-training
    "seed": 0,
    "evaluate_seed": 42,  # upstream's
    "record_seed": 500,  # of the first reset that is demonstrated
    "server_timeout_s": 300,
    "policies": ("clamp",),
}


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    """The locked config of a size; ValueError for an unknown one."""
    if size not in SIZES:
        raise ValueError(f"size is {size!r}; expected one of {', '.join(SIZES)}")
    column = SIZES.index(size)
    return ml_collections.ConfigDict({"size": size} | {name: row[column] for name, row in _TABLE.items()} | _SAME).lock()
