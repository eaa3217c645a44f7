"""Sends the experts' demonstrations of every task through the safety layer: valid motion is to be left alone."""

import collections
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from clamp_jax.deploy import safety
from clamp_jax.structs import CONTROL_HZ

LEAST = 0.999  # of the steps of all tasks that pass as they are


def torture(episodes: int, *, seed: int = 0, names: Sequence[str] = ()) -> dict[str, Any]:
    """So many episodes of each task (default: all); plain values, of each task the share that passed and why the rest did not."""
    from clamp_jax.sim import tasks

    began, found = time.monotonic(), {}
    for name in names or sorted(tasks.TASKS):
        counts: collections.Counter = collections.Counter()
        for commands in demonstrations(name, episodes, seed):
            counts += interventions(commands)
        total = sum(counts.values())
        causes = {cause: number for cause, number in counts.items() if cause != "pass"}
        found[name] = {"steps": total, "passed": counts["pass"] / max(total, 1), "interventions": causes}
    steps = sum(part["steps"] for part in found.values())
    share = sum(part["steps"] * part["passed"] for part in found.values()) / max(steps, 1)
    return {"tasks": found, "steps": steps, "passed": share, "seconds": round(time.monotonic() - began, 1), "good": share >= LEAST}


def demonstrations(name: str, episodes: int, seed: int) -> Iterator[np.ndarray]:
    """Commands (t, 14) of the expert in the first resets for which it finds a way."""
    import jax

    from clamp_jax.sim import scene, tasks
    from data_tools import task_rates

    task, built = tasks.get(name), scene.build(name)
    reset = jax.jit(task.reset)
    for number in range(seed, seed + episodes):
        qpos, variant = (np.asarray(value) for value in reset(jax.random.key(number)))
        try:
            yield np.asarray(task_rates.expert(task, built, qpos, int(variant), number))
        except (task_rates.experts.PlanError, task_rates.experts.IKError):
            continue


def interventions(commands: np.ndarray) -> collections.Counter:
    """{"pass" or "band cause of where": steps} of commands (t, 14), each after the one that was demonstrated before it."""
    guard = safety.Safety(safety.aloha_limits())
    commands = commands.astype(np.float32)
    wanted = commands.astype(np.float64)
    last, before = wanted[:-1], np.concatenate([wanted[:1], wanted[:-2]])
    found = guard.judge(commands[1:], last, (last - before) * CONTROL_HZ)
    counts: collections.Counter = collections.Counter()
    for rejected, cause, where in zip(found.rejected, found.cause, found.where, strict=True):
        name = safety.CAUSES[cause]
        counts[f"{safety.REJECT if rejected else safety.CLAMP} {name} of {safety.name_of(name, int(where))}" if cause else "pass"] += 1
    return counts
