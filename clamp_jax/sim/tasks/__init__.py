"""Tasks: what stands on the table, how it is reset, when it is done. Pure functions, the same for every engine."""

import difflib

from clamp_jax.sim.tasks.base import HOME_QPOS, Task
from clamp_jax.sim.tasks.can_opener_in_caddy import CAN_OPENER_IN_CADDY
from clamp_jax.sim.tasks.drawer_close import DRAWER_CLOSE
from clamp_jax.sim.tasks.drawer_open import DRAWER_OPEN

__all__ = ["HOME_QPOS", "TASKS", "Task", "get"]

TASKS: dict[str, Task] = {task.name: task for task in (DRAWER_OPEN, DRAWER_CLOSE, CAN_OPENER_IN_CADDY)}


def get(name: str) -> Task:
    """The task of that name; ValueError with the nearest name for an unknown one."""
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.0)
    raise ValueError(f"no task is called {name!r}; did you mean {near[0]!r}? There are {', '.join(sorted(TASKS))}")
