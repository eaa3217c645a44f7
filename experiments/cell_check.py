"""Whether a connected cell may move: a second of its cameras, its joints, and what clamp_jax/deploy/check.py finds in them."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from clamp_jax.deploy.calibration import CURE, CalibrationError
from clamp_jax.deploy.cameras import Cameras, Frame
from clamp_jax.deploy.cell import Connected
from clamp_jax.deploy.check import Finding, check

WATCH_S = 1.0  # for the cameras' rates
POLL_S = 0.005  # cameras that give their newest frame at once are not asked without a pause


class CheckFailed(ValueError):
    """A cell that is not as it was calibrated; the message has the findings that are refused."""


class Watched(NamedTuple):
    """What the cameras gave in a while."""

    frames: dict[str, Frame]  # the newest of each
    rates_hz: dict[str, float]  # new images a second; a camera that stands still has 0
    now_s: float  # when the newest were there, on the clock of the frames' time_s


def watch(cameras: Cameras, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> Watched:
    """Look at the cameras for some seconds; CameraLost when one does not deliver."""
    began, newest, taken = clock(), {}, {}
    while True:
        newest |= cameras.frames()
        now = clock()
        for name, frame in newest.items():
            taken.setdefault(name, set()).add(float(frame.time_s))
        if now - began >= seconds:
            return Watched(newest, {name: (len(times) - 1) / (now - began) for name, times in taken.items()}, now)
        time.sleep(POLL_S)


def look(cell: Connected) -> list[Finding]:
    """All findings of a cell, in which nothing moves.

    CalibrationError for a cell without a calibration, or with one that lacks a camera; CameraLost, RobotLost.
    """
    if cell.calibration is None:
        raise CalibrationError(f"the cell has no calibration to be checked against; {CURE}")
    seen = watch(cell.cameras, WATCH_S)
    about = {"now_s": seen.now_s, "rates_hz": seen.rates_hz, "limits": cell.robot.limits}
    return check(cell.calibration, seen.frames, cell.robot.joints(), **about)


def require_good(findings: list[Finding]) -> None:
    """CheckFailed that names every finding that is refused, and what to do."""
    refused = [str(finding) for finding in findings if not finding.good]
    if refused:
        raise CheckFailed("the cell is not as it was calibrated, nothing was moved; " + "; ".join(refused))


def report(cell: Connected, findings: list[Finding]) -> dict[str, Any]:
    """The findings as JSON: {"good", "calibration", "findings"}."""
    rows = [finding._asdict() | {"value": float(finding.value), "good": bool(finding.good)} for finding in findings]
    return {"good": all(row["good"] for row in rows), "calibration": cell.calibration.id, "findings": rows}
