"""One episode at 50 Hz with absolute deadlines: measure, ask the source, send after safety, hand everything to the disk's thread.

Whatever goes wrong, nothing more is commanded: the arms keep the last goal that they were sent.
"""

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from clamp_jax.deploy import memory
from clamp_jax.deploy.calibration import CellCalibration
from clamp_jax.deploy.cameras import Cameras
from clamp_jax.deploy.control import Clock
from clamp_jax.deploy.robots import Robot, RobotLost
from clamp_jax.deploy.safety import PASS, Safety
from clamp_jax.structs import ACTION_DIM, CAMERAS, CONTROL_HZ
from data_tools.record.files import SENT, EpisodeWriter
from data_tools.record.follow import Follower
from data_tools.record.keys import DROP, QUIT, START, STOP, Keys
from data_tools.record.stream import RecordingStopped, Stream, TooShort
from data_tools.record.watching import Watcher

SCHEMA = 1
GAP_S = 0.2  # a control loop that stood still for longer is not recorded on
OVER, TIME = "source", "time"  # how an episode ends, beside the keys
NONE = np.full(ACTION_DIM, np.nan)  # no command was sent


class Source(Protocol):
    """Where the commands come from."""

    def command(self, joints: np.ndarray, tick: int) -> np.ndarray | None:
        """The command (14,) wanted at measured joints (14,); None: the episode is over."""


class Settings(NamedTuple):
    """What is recorded, and how."""

    task: str
    instruction: str
    calibration: CellCalibration
    seconds: float  # the longest that an episode lasts
    size: tuple[int, int] = (224, 224)  # height, width of the images
    images_hz: float = 10.0
    cameras: tuple[str, ...] = CAMERAS
    actions: str = SENT  # or files.MEASURED: nothing is sent, a person moves the arms
    object_names: tuple[str, ...] = ()


class Result(NamedTuple):
    """What came of an episode."""

    path: Path | None  # of the finished file; None when it was stopped
    ended: str  # OVER, TIME or a key
    ticks: int
    frames: int
    missed: int  # ticks that began more than a period late and are not measured
    interventions: dict[str, int]  # "band cause" of safety -> commands


def record_episode(
    robot: Robot,
    cameras: Cameras,
    source: Source,
    settings: Settings,
    keys: Keys,
    *,
    path: Path,
    clock: Clock | None = None,
    positions: Callable[[], np.ndarray] | None = None,
) -> Result:
    """Record one episode into `path` (.../000007.episode; the stem is its number), from the first images on.

    cameras: frames without a lens, of `settings.size` (imaging.SizedCameras). positions: of `settings.object_names`, (o, 3) m in the
    world. An episode that DROP ends is finished too: the caller takes it out. Raises RobotLost, CameraLost, RecordingStopped (a clock
    that jumps, a disk that is slow; TooShort), OSError (a full disk) in words; nothing is left of the episode then, and nothing more
    is commanded.
    """
    clock = clock or Clock()
    with memory.steady(), Watcher(cameras, settings.cameras, settings.calibration, clock=clock, hz=settings.images_hz) as watcher:
        _wait_for_images(robot, watcher, settings, clock)
        writer = EpisodeWriter(path, head_of(settings, int(path.stem)))
        start = clock.now()
        with Stream(writer, start, 1 / CONTROL_HZ) as stream:
            watcher.images = stream.images
            loop = _Loop(robot, source, watcher, stream, clock=clock, positions=positions, settings=settings)
            ended = loop.run(start, keys)
            watcher.check()
            watcher.images = lambda seen: None
            kept = ended != STOP
            if kept and not loop.ticks:
                raise TooShort("the episode was over before its first tick; it is not kept")
            counts = {"ended": ended, "missed": loop.missed, "interventions": dict(loop.interventions)}
            done = _finish(robot, stream, counts, clock) if kept else None
            return Result(done, ended, loop.ticks, len(stream.frames), loop.missed, dict(loop.interventions))


def head_of(settings: Settings, number: int) -> dict[str, Any]:
    """What an episode's file says first."""
    return {
        "schema": SCHEMA,
        "number": number,
        "task": settings.task,
        "instruction": settings.instruction,
        "hz": CONTROL_HZ,
        "images_hz": settings.images_hz,
        "cameras": list(settings.cameras),
        "size": list(settings.size),
        "calibration": settings.calibration.id,
        "actions": settings.actions,
        "object_names": list(settings.object_names),
    }


def _wait_for_images(robot: Robot, watcher: Watcher, settings: Settings, clock: Clock) -> None:
    """Until every camera has seen something; the servos' watchdogs want to hear of us meanwhile."""
    while watcher.seen is None:
        robot.joints()
        watcher.check()
        clock.wait_until(clock.now() + 1 / CONTROL_HZ)
    found = watcher.seen.rgb.shape[1:3]
    if found != tuple(settings.size):
        raise ValueError(f"images are {found} pixels, {settings.size} were asked for; pass the cameras through imaging.SizedCameras")


def _finish(robot: Robot, stream: Stream, tail: dict[str, Any], clock: Clock) -> Path:
    """Wait for the disk, which may take seconds; the servos' watchdogs want to hear of us meanwhile."""
    stream.end(tail)
    while (path := stream.finished()) is None:
        robot.joints()
        clock.wait_until(clock.now() + 1 / CONTROL_HZ)
    return path


class _Loop:
    """The turns of one episode."""

    def __init__(self, robot: Robot, source: Source, watcher: Watcher, stream: Stream, *, clock: Clock, positions: Any, settings: Settings):
        self._robot, self._source, self._watcher, self._stream, self._clock = robot, source, watcher, stream, clock
        self._total, self._sends = round(settings.seconds * CONTROL_HZ), settings.actions == SENT
        self._positions = positions or (lambda: np.zeros((len(settings.object_names), 3)))
        self._follower = Follower(Safety(robot.limits))
        self.ticks = self.missed = 0
        self.interventions: collections.Counter = collections.Counter()

    def run(self, start: float, keys: Keys) -> str:
        """How it ended: OVER, TIME or a key."""
        before, tick = start, 0
        while tick < self._total:
            self._clock.wait_until(start + tick / CONTROL_HZ)
            now = self._clock.now()
            if not 0 <= now - before <= GAP_S:
                raise RecordingStopped(
                    f"the clock went on by {now - before:.2f} s between two ticks (tick {tick}), at most {GAP_S} is recorded; "
                    "see what kept this computer busy, or whether it was suspended"
                )
            behind = int((now - start) * CONTROL_HZ + 1e-6) - tick
            if behind > 0:  # absolute deadlines: what was missed is left out, not sent late in a burst
                self.missed, tick = self.missed + behind, tick + behind
                self._follower.pause()
            pressed = keys.take()
            if pressed in (START, DROP, QUIT, STOP):
                return pressed
            if not self._turn(tick):
                return OVER
            before, tick, self.ticks = now, tick + 1, tick + 1
        return TIME

    def _turn(self, tick: int) -> bool:
        """One control period; False when the source says that the episode is over."""
        began = self._clock.now()
        joints = np.asarray(self._robot.joints(), np.float64)
        measured_s = (began + self._clock.now()) / 2
        if joints.shape != (ACTION_DIM,) or not np.isfinite(joints).all():
            raise RobotLost(f"the robot measured joints {joints.tolist()}; expected {ACTION_DIM} finite numbers")
        self._watcher.check()
        self._stream.check()
        wanted = self._source.command(joints.copy(), tick)
        if wanted is None:
            return False
        command = self._send(np.asarray(wanted, np.float64), joints) if self._sends else NONE
        self._stream.tick(tick, (measured_s, self._clock.now()), joints, command, np.asarray(self._positions(), np.float32))
        return True

    def _send(self, wanted: np.ndarray, joints: np.ndarray) -> np.ndarray:
        verdict = self._follower.step(wanted, joints)
        if verdict.band != PASS:
            self.interventions[f"{verdict.band} {verdict.cause}"] += 1
        self._robot.command(verdict.command)
        return np.asarray(verdict.command)
