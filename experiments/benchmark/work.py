"""What every framework of the render benchmark is given, as plain numpy: this file imports nothing else."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

SIZE = 224  # pixels of a view's side
NEAR_M = 0.01


class Work(NamedTuple):
    """Clouds, and the views they are to be rendered into."""

    points: np.ndarray  # (b, n, 3) float32, world, m
    intrinsics: np.ndarray  # (v, 4) float32
    world_from_camera: np.ndarray  # (v, 4, 4) float32
    radius_px: int


def save(work: Work, path: Path) -> None:
    """Write it for a worker."""
    np.savez(path, **work._asdict())


def load(path: str | Path) -> Work:
    """What `save` wrote."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in Work._fields}
    return Work(**(arrays | {"radius_px": int(arrays["radius_px"])}))
