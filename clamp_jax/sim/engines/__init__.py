"""Engines step a batch of environments: native (MuJoCo in C, any machine), mjx (jitted, on accelerators too), warp (NVIDIA's)."""

import importlib

from clamp_jax.sim.scene import Scene
from clamp_jax.sim.tasks import Task

BACKENDS = ("native", "mjx", "warp")


def make(backend: str, scene: Scene, task: Task):
    """The engine of that name for a scene and its task; MJX and Warp are imported only when asked for.

    Raises ValueError for an unknown name, ImportError (with what to install) where Warp is missing.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; expected one of {', '.join(BACKENDS)}")
    return importlib.import_module(f"clamp_jax.sim.engines.{backend}").Engine(scene, task)
