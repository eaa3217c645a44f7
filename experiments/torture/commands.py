"""Asks the safety layer for everything that a broken policy may ask for, and measures what it lets through."""

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from clamp_jax.deploy import capsules, safety
from clamp_jax.geometry import aloha
from clamp_jax.structs import CONTROL_HZ

STEPS = 10  # commands of a sequence
ROWS = 500  # sequences at a time: what a processor's cache holds
POOL = 5000  # states that sequences start from
EDGE = 3e-5  # rad: commands within safety's rounding of a limit pass as they are
DT = 1 / CONTROL_HZ
BETWEEN_M = 0.01  # ours: safety looks at commands and half way to them, and only at the ends of a period of braking
BOUNDS = {  # what is sent may be at most
    "position_rad": EDGE,
    "velocity": 3.14 + EDGE / DT,
    "acceleration": 60.0 + 2 * EDGE / DT**2,
    "nearer_than_margin_m": 1e-6,
    "nearer_between_m": BETWEEN_M,
}
HOME = np.tile(aloha.HOME_COMMAND, 2)
EXTREMES = np.array([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-40, 0.0, -0.0], np.float32)

Wish = Callable[[np.random.Generator, np.ndarray, np.ndarray, int], np.ndarray]  # (rng, last, velocity, step) -> commands (n, 14)


def jumps(rng: np.random.Generator, last: np.ndarray, velocity: np.ndarray, step: int) -> np.ndarray:
    """Anywhere in the joints' range and somewhat past it."""
    return rng.uniform(-3.5, 3.5, last.shape)


def extremes(rng: np.random.Generator, last: np.ndarray, velocity: np.ndarray, step: int) -> np.ndarray:
    """Here and there a value that is no number, or hardly one."""
    wild = rng.choice(EXTREMES, last.shape)
    return np.where(rng.random(last.shape) < 0.05, wild, last + rng.normal(0, 0.02, last.shape))


def walk(rng: np.random.Generator, last: np.ndarray, velocity: np.ndarray, step: int) -> np.ndarray:
    """A step of any size from where it is, from a tremor to a throw."""
    return last + rng.normal(0, 1, last.shape) * 10 ** rng.uniform(-4, 0, (len(last), 1))


def drift(rng: np.random.Generator, last: np.ndarray, velocity: np.ndarray, step: int) -> np.ndarray:
    """As fast as it goes towards one end of every joint, and past it by less than is rejected."""
    side = np.where(_sign(rng, last.shape), 1.0, -1.0)
    return np.clip(last + 0.06 * side, LOW - 0.09, HIGH + 0.09)


def ring(rng: np.random.Generator, last: np.ndarray, velocity: np.ndarray, step: int) -> np.ndarray:
    """Back and forth at every tick."""
    return last + (-1) ** step * rng.uniform(0, 0.7, (len(last), 1))


def reverse(rng: np.random.Generator, last: np.ndarray, velocity: np.ndarray, step: int) -> np.ndarray:
    """Full speed for a while, then full speed back: what is hardest to brake."""
    return last + (0.063 if (step // 4) % 2 else -0.063) * np.sign(rng.normal(size=(1, 14)))


def smooth(rng: np.random.Generator, last: np.ndarray, velocity: np.ndarray, step: int) -> np.ndarray:
    """A motion that a good policy may make."""
    return last + (velocity + rng.uniform(-0.3, 0.3, last.shape)) * DT


def towards(goal: np.ndarray, rng: np.random.Generator, last: np.ndarray, velocity: np.ndarray, step: int) -> np.ndarray:
    """Straight to a goal at which arms overlap or are in the table."""
    return last + np.clip(goal + rng.normal(0, 0.2, last.shape) - last, -0.063, 0.063)


def _sign(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.random(shape) < 0.5


_LIMITS = safety.aloha_limits()
LOW, HIGH = _LIMITS.low, _LIMITS.high
_EACH_OTHER, _TABLE = HOME.copy(), HOME.copy()
_EACH_OTHER[[1, 8]], _EACH_OTHER[[2, 9]] = 0.7, -0.4
_TABLE[[1, 8]], _TABLE[[2, 9]], _TABLE[[4, 11]] = 0.9, 0.5, 0.5
WISHES: dict[str, Wish] = {
    "jumps": jumps,
    "extremes": extremes,
    "walk": walk,
    "drift": drift,
    "ring": ring,
    "reverse": reverse,
    "smooth": smooth,
    "each other": functools.partial(towards, _EACH_OTHER),
    "table": functools.partial(towards, _TABLE),
}


def torture(count: int, *, seed: int = 0) -> dict[str, Any]:
    """`count` sequences of STEPS commands, each from its own start at its own speed; plain values."""
    began, guard, least = time.monotonic(), safety.Safety(_LIMITS), _least(safety.Margins())
    found: dict[str, Any] = {"sequences": 0, "commands": 0, "bands": {}, "broken": []}
    worst: dict[str, float] = {}
    names, pool = list(WISHES), starts(np.random.default_rng([seed, 2**20]), guard)
    for number in range(-(-count // ROWS)):
        rng, name = np.random.default_rng([seed, number]), names[number % len(names)]
        rows = min(ROWS, count - number * ROWS)
        chosen = rng.integers(POOL, size=rows)
        last, velocity = pool[0][chosen], pool[1][chosen]
        for step in range(STEPS):
            asked = WISHES[name](rng, last, velocity, step).astype(np.float32)
            sent, verdict = answer(guard, asked, last, velocity)
            broken = measure(sent, last, velocity, least, worst)
            found["broken"] += [f"{name}, batch {number}, step {step}: {what}" for what in broken]
            _count(found["bands"], name, verdict)
            last, velocity = sent, (sent - last) / DT
        found["sequences"] += rows
        found["commands"] += rows * STEPS
    seconds = round(time.monotonic() - began, 1)
    return found | {"worst": worst, "seconds": seconds, "good": not found["broken"] and found["sequences"] == count}


def starts(rng: np.random.Generator, guard: safety.Safety) -> tuple[np.ndarray, np.ndarray]:
    """Commands (n, 14) and velocities that safety itself has let through, so that all can be stopped and nothing is too near.

    A third a few ticks from home, a third on the way to the other arm and a third to the table, as far as they got.
    """
    last, velocity = np.tile(HOME, (POOL, 1)), np.zeros((POOL, 14))
    goal, ticks = np.stack([HOME, _EACH_OTHER, _TABLE])[np.arange(POOL) % 3], rng.integers(5, 45, POOL)
    goal = goal + rng.normal(0, 0.3, goal.shape)
    for tick in range(ticks.max()):
        rows = np.flatnonzero(tick < np.where(np.arange(POOL) % 3, ticks, np.minimum(ticks, 12)))
        asked = last[rows] + np.clip(goal[rows] - last[rows], -0.063, 0.063) + rng.uniform(-0.1, 0.1, (len(rows), 14))
        sent, _ = answer(guard, asked.astype(np.float32), last[rows], velocity[rows])
        last[rows], velocity[rows] = sent, (sent - last[rows]) / DT
    return last, velocity


def answer(guard: safety.Safety, asked: np.ndarray, last: np.ndarray, velocity: np.ndarray) -> tuple[np.ndarray, safety.Judgement]:
    """What is sent: the commands as safety lets them through, a hold for those that it rejects."""
    verdict = guard.judge(asked, last, velocity)
    return np.where(verdict.rejected[:, None], guard.brake(last, velocity), verdict.command), verdict


def _least(margins: safety.Margins) -> tuple[np.ndarray, np.ndarray]:
    return safety._pair_margins(margins), np.where(capsules.HANDS, margins.hands_table, margins.table)


def measure(sent: np.ndarray, last: np.ndarray, velocity: np.ndarray, least: tuple, worst: dict[str, float]) -> list[str]:
    """What of the sent commands is outside a limit, in words; `worst` keeps the extremes. The limits are not taken by safety's code."""
    if not np.isfinite(sent).all():
        return ["a command is not finite"]
    arm = safety.ARM
    now = (sent - last) / DT
    figures = {
        "position_rad": np.maximum(sent - HIGH, LOW - sent).max(),
        "velocity": np.abs(now[:, arm]).max(),
        "acceleration": (np.abs(now - velocity)[:, arm] / DT).max(),
        "nearer_than_margin_m": -_over_margin(sent, least),
        "nearer_between_m": -min(_over_margin(last + share * (sent - last), least) for share in (0.25, 0.5)),
    }
    for name, value in figures.items():
        worst[name] = float(max(worst.get(name, -np.inf), value))
    return [f"{name} {value:.5g}, at most {BOUNDS[name]:.5g}" for name, value in figures.items() if value > BOUNDS[name]]


def _over_margin(joints: np.ndarray, least: tuple) -> float:
    """The least distance (m) over its margin of any two parts, or of a part from the table; at most 1."""
    axes = capsules.axes_world(capsules.link_poses(joints))
    near = np.flatnonzero((capsules.arm_clearance_bound(axes) < least[0] + EDGE).any((-1, -2)))
    arms = (capsules.arm_clearance(axes[near]) - least[0]).min(initial=1.0)
    return float(min(arms, (capsules.table_clearance(axes) - least[1]).min(initial=1.0)))


def _count(bands: dict, name: str, verdict: safety.Judgement) -> None:
    of = bands.setdefault(name, {"pass": 0, "clamp": 0, "reject": 0})
    of["reject"] += int(verdict.rejected.sum())
    of["clamp"] += int((~verdict.rejected & (verdict.cause > 0)).sum())
    of["pass"] += int((verdict.cause == 0).sum())
