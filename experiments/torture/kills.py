"""A run under SIGKILL: it comes back each time, and its losses are those of a run that nobody disturbed."""

import functools
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from clamp_jax import checkpoint
from experiments import training
from experiments.torture import run
from experiments.torture.life import Life, shared_memory

LONGEST_S = 600.0  # that a life may last before the run is said to hang
INTO_SAVE_S = 0.3  # a kill that aims at a save falls at most so long after its beginning
TIMES = ("step_s", "wait_share", "samples_per_s")  # of a line of the log: no two runs agree on these


class Death(NamedTuple):
    """Where a run stood when it was killed."""

    committed: int  # the newest checkpoint that is whole, 0 for none
    logged: int  # the newest line of the log
    inside_save: bool  # an unfinished checkpoint was left


def torture(
    plan: run.Plan, kills: int, *, seed: int = 0, limit_s: float = float("inf"), tell: Callable[[str], None] = print
) -> dict[str, Any]:
    """Kill runs of a plan that many times (or as many as fit in the time) and compare them with an undisturbed one.

    A run that ends before all kills are spent is compared, and another one is begun. Returns what came of it as plain values.
    """
    began, segments = time.monotonic(), shared_memory()
    _whole(functools.partial(run.prepare, plan), plan.folder / "prepare.log")
    straight = plan.folder / "undisturbed"
    seconds = _whole(functools.partial(run.train, plan, straight), plan.folder / "undisturbed.log")
    expected = _figures(straight)
    tell(f"undisturbed: {plan.steps} steps in {seconds:.1f} s")
    random, deaths, found = Random(seed), [], {"came_back": 0, "runs": 0, "processes_left": 0, "unlike": [], "resumed_elsewhere": []}
    while len(deaths) < kills and time.monotonic() - began < limit_s:
        workdir = plan.folder / f"killed_{found['runs']}"
        _one_run(plan, workdir, random, deaths, found, kills=kills, seconds=seconds, until=began + limit_s, tell=tell)
        found["unlike"] += _unlike(expected, _figures(workdir))
        found["runs"] += 1
        shutil.rmtree(workdir)
    return _report(plan, deaths, found, sorted(shared_memory() - segments), time.monotonic() - began)


def _one_run(
    plan: run.Plan, workdir: Path, random: Random, deaths: list, found: dict, *, kills: int, seconds: float, until: float, tell: Callable
) -> None:
    """Kill and restart one run until it is done or the kills are spent, then let it finish."""
    workdir.mkdir()
    while True:
        before, begun = _stands(workdir), _begun(workdir)
        life = Life(functools.partial(run.train, plan, workdir), workdir / "log")
        spent = len(deaths) >= kills or time.monotonic() >= until
        ended = life.wait(LONGEST_S) if spent else _wait_for_a_moment(life, workdir, random, seconds)
        life.kill()
        found["processes_left"] += len(life.left())
        found["resumed_elsewhere"] += [(step, before.committed) for step in _begun(workdir)[len(begun) :] if step != before.committed]
        if ended:
            if life.code != 0:
                raise RuntimeError(f"the run did not come back after {len(deaths)} kills: {_last(workdir / 'log')}")
            found["came_back"] = len(deaths)
            return
        deaths.append(_stands(workdir))
        if spent:
            raise RuntimeError(f"the run hangs after {len(deaths)} kills: see {workdir / 'log'}")
        tell(f"kill {len(deaths)}: {deaths[-1]}")


def _wait_for_a_moment(life: Life, workdir: Path, random: Random, seconds: float) -> bool:
    """Wait until the moment of a kill: any at all, or one inside a save; True when the run has ended before."""
    if random.random() < 0.5:
        return life.wait(random.uniform(0, seconds))
    skip, end = random.randrange(3), time.monotonic() + 3 * seconds  # which save of this life
    for number in range(skip + 1):
        while not _saves(workdir):
            if life.wait(0.002) or time.monotonic() > end:
                return life.code is not None
        while number < skip and _saves(workdir):
            if life.wait(0.002):
                return True
    return life.wait(random.uniform(0, INTO_SAVE_S))


def _saves(workdir: Path) -> bool:
    where = checkpoint.folder(workdir)
    return where.is_dir() and any(checkpoint.UNFINISHED in path.name for path in where.iterdir())


def _stands(workdir: Path) -> Death:
    lines = training.read_metrics(workdir)
    return Death(checkpoint.latest_step(checkpoint.folder(workdir)) or 0, lines[-1]["step"] if lines else 0, _saves(workdir))


def _begun(workdir: Path) -> list[int]:
    """The steps at which the lives of a run have begun, in their order."""
    path = workdir / run.BEGUN
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def _whole(work: Callable[[], object], log: Path) -> float:
    """Seconds that an undisturbed child takes for some work."""
    began, life = time.monotonic(), Life(work, log)
    if not life.wait(LONGEST_S) or life.code != 0:
        life.kill()
        raise RuntimeError(f"it fails without any kill: {_last(log)}")
    return time.monotonic() - began


def _last(log: Path) -> str:
    """The last line that a child wrote."""
    lines = log.read_text().strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _figures(workdir: Path) -> list[dict[str, float]]:
    return [{name: value for name, value in line.items() if name not in TIMES} for line in training.read_metrics(workdir)]


def _unlike(expected: list[dict], found: list[dict]) -> list[int]:
    """Steps whose figures differ in any bit, or that are in one of two logs alone."""
    if [line["step"] for line in expected] != [line["step"] for line in found]:
        return sorted({line["step"] for line in expected} ^ {line["step"] for line in found}) or [0]
    return [a["step"] for a, b in zip(expected, found, strict=True) if a != b]


def _report(plan: run.Plan, deaths: list[Death], found: dict, segments: list[str], seconds: float) -> dict[str, Any]:
    lost = [death.logged - death.committed for death in deaths]
    return {
        "kills": len(deaths),
        "came_back": found["came_back"],
        "inside_saves": sum(death.inside_save for death in deaths),
        "runs": found["runs"],
        "steps": plan.steps,
        "save_every": plan.save_every,
        "lost_steps_max": max(lost, default=0),
        "lost_steps_mean": sum(lost) / max(len(lost), 1),
        "steps_unlike_the_undisturbed": found["unlike"],
        "resumed_elsewhere_than_the_last_commit": found["resumed_elsewhere"],
        "processes_left": found["processes_left"],
        "shared_memory_left": segments,
        "seconds": round(seconds, 1),
        "good": not (found["unlike"] or found["resumed_elsewhere"] or found["processes_left"] or segments)
        and found["came_back"] == len(deaths),
    }
