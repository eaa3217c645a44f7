"""Engines step a batch of environments: native (MuJoCo in C, any machine) and mjx (jitted, on accelerators too)."""

import importlib

from clamp_jax.sim.scene import Scene
from clamp_jax.sim.tasks import Task

BACKENDS = ("native", "mjx")


def make(backend: str, scene: Scene, task: Task):
    """The engine of that name for a scene and its task; ValueError for an unknown name. MJX is imported only when asked for."""
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; expected one of {', '.join(BACKENDS)}")
    return importlib.import_module(f"clamp_jax.sim.engines.{backend}").Engine(scene, task)
