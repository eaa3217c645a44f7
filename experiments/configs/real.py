"""The paper's five tasks of the real cell: instruction, objects, where they are put, when a trial is won.

    python -m data_tools.task_sheet --task mug_on_plate --out runs/sheets

The paper (arXiv 2602.00937) names the tasks and shows them; sentences, sizes, places, limits and counts are ours unless a source stands
beside them. Lengths are metres in the world frame: origin at the table's centre, x to the right arm, y away from whoever stands in front
of the cell. None of them has been run on hardware.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

TASKS = ("close_drawers", "open_drawers", "mug_on_plate", "plate_on_rack", "recycle_cans")

# The public simulator's regions and objects, so that what was pre-trained on them sees the like (google-deepmind/aloha_sim).
_BACK, _FRONT = ((-0.3, 0.3), (0.1, 0.2)), ((-0.3, 0.3), (-0.25, -0.1))
_DRAWERS = (0.240, 0.143, 0.084)
_MIDDLE = ((-0.15, 0.15), (-0.15, 0.15))


def get_config(task: str = "mug_on_plate") -> ConfigDict:
    """A locked config of one task; ValueError for an unknown one."""
    if task not in TASKS:
        raise ValueError(f"no real task {task!r}; expected one of {', '.join(TASKS)}")
    config = globals()[f"_{task}"]()
    config.task = task
    config.demonstrations = 50  # of one task, for fine-tuning; ours
    config.trials = 20  # of an evaluation; ours
    return config.lock()


def _task(instruction: str, objects: Sequence[ConfigDict], *, steps: Sequence[str], success: Sequence[str], horizon_s: float) -> ConfigDict:
    """What a task is made of."""
    return ConfigDict(
        {
            "instruction": instruction,  # the artifact's, letter for letter
            "objects": tuple(objects),
            "reset": tuple(steps),  # what a person does before each trial, in this order
            "success": tuple(success),  # all of it, judged by eye when the arms are at rest
            "horizon_s": horizon_s,  # of a trial
        }
    )


def _object(
    name: str, size_m: Sequence[float], x_m: Sequence[float], y_m: Sequence[float], yaw_deg: float, *, note: str = ""
) -> ConfigDict:
    """A thing as the text encoder names it, its extent, and where its middle is put: uniform in x, y and in +-yaw."""
    values = {"name": name, "size_m": tuple(size_m), "x_m": tuple(x_m), "y_m": tuple(y_m), "yaw_deg": float(yaw_deg), "note": note}
    return ConfigDict(values)


def _close_drawers() -> ConfigDict:
    box = _object("jewelry box", _DRAWERS, *_MIDDLE, 45, note="three drawers; weigh it down or stick it to the table, it must not slide")
    return _task(
        "close the drawers",
        [box],
        steps=["put the box on its mark, turned as the sheet says", "pull all three drawers 5 to 9 cm out"],
        success=["no drawer stands out by more than 5 mm", "the box has moved by less than 2 cm"],
        horizon_s=40.0,
    )


def _open_drawers() -> ConfigDict:
    box = _object("jewelry box", _DRAWERS, *_MIDDLE, 45, note="three drawers with knobs; it must not slide")
    return _task(
        "open the drawers",
        [box],
        steps=["put the box on its mark, turned as the sheet says", "push all three drawers home"],
        success=["each drawer stands out by more than 5 cm", "the box has moved by less than 2 cm"],
        horizon_s=40.0,
    )


def _mug_on_plate() -> ConfigDict:
    plate = _object("plate", (0.210, 0.211, 0.025), *_BACK, 180)
    mug = _object("mug", (0.118, 0.094, 0.083), *_FRONT, 180, note="red; empty")
    return _task(
        "put the red mug on the plate",  # the public simulator's
        [plate, mug],
        steps=["put plate and mug on their marks, the mug upright", "in half of the trials change the two rows"],
        success=["the mug stands upright on the plate and touches nothing else", "nothing moves"],
        horizon_s=40.0,
    )


def _plate_on_rack() -> ConfigDict:
    rack = _object("rack", (0.345, 0.448, 0.126), (-0.1, 0.1), (0.18, 0.25), 3.6, note="its long side along x; it must not slide")
    plate = _object("plate", (0.184, 0.184, 0.022), (0.0, 0.25), (-0.2, 0.0), 180)
    return _task(
        "put the plate on the rack",
        [rack, plate],
        steps=["put the rack on its mark", "put the plate flat on its mark"],
        success=["the plate stands in the rack and touches neither table nor arm", "nothing moves"],
        horizon_s=60.0,
    )


def _recycle_cans() -> ConfigDict:
    container = _object("bin", (0.300, 0.200, 0.150), (-0.1, 0.1), (0.15, 0.22), 10, note="open above; blue")
    cans = [
        _object(f"{colour} can", (0.066, 0.066, 0.122), (-0.3, 0.3), (-0.25, 0.0), 0, note="330 ml, empty, closed end up")
        for colour in ("red", "green", "silver")
    ]
    return _task(
        "put the cans in the bin",
        [container, *cans],
        steps=["put the bin on its mark", "stand the cans on their marks"],
        success=["all three cans are in the bin", "the bin stands upright"],
        horizon_s=80.0,
    )
