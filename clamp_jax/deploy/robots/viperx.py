"""Two ViperX 300 arms on two serial ports, behind the Robot protocol.

    with ViperX({"left": "/dev/ttyDXL_left", "right": "/dev/ttyDXL_right"}, cameras, calibration) as robot: ...

A fault of any kind ends in a hold of both arms and in an error that names joint and cause; nothing is commanded after it until
somebody has looked and connects anew. Should this program fall silent, the servos' own watchdogs stop them. Torque is taken away
by `close`, and only from an arm that `rest` has brought to the sleep pose, and by `let_go` while people hold the arms: an arm without
torque falls.
Not yet run on hardware: tried on an emulated bus (emulator.py) alone.
"""

import collections
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import numpy as np

from clamp_jax.deploy.cameras import Cameras, Frame
from clamp_jax.deploy.robots import SLEEP, RobotLost, path_to
from clamp_jax.deploy.robots.arm import Arm, Motion
from clamp_jax.deploy.robots.dynamixel import BusFault
from clamp_jax.deploy.safety import Limits, aloha_limits
from clamp_jax.geometry import aloha
from clamp_jax.structs import CONTROL_HZ

logger = logging.getLogger(__name__)
TRACKING_RAD = 0.25  # a joint farther from its goal than this is held where it is, as in control.Settings
READINGS = CONTROL_HZ  # of the joints that are kept: a second, longer than an image is on its way
AT_REST_RAD = 0.15  # of the sleep pose: an arm so near to it may lose its torque
_T = TypeVar("_T")


class ViperX:
    """Both arms. Two threads may use it, as the Robot protocol says."""

    def __init__(
        self,
        ports: Mapping[str, str],
        cameras: Cameras | None = None,
        calibration: Mapping[str, Any] | None = None,
        *,
        limits: Limits | None = None,
        motion: Motion = Motion(),  # noqa: B008 - an immutable tuple
    ):
        """Connect, check every servo and hold the arms where they are.

        `ports` by side; `calibration` as a request has it. ValueError for other sides, BusFault for what is wrong with an arm.
        """
        if set(ports) != set(aloha.SIDES):
            raise ValueError(f"ports are for {sorted(ports)}; expected one each for {' and '.join(aloha.SIDES)}")
        self.limits = limits or aloha_limits()
        self._cameras, self._calibration = cameras, calibration
        self._lock, self._fault, self._watched = threading.RLock(), None, False
        self._arms: list[Arm] = []
        self._readings: collections.deque[tuple[float, np.ndarray]] = collections.deque(maxlen=READINGS)  # (moment, joints)
        self._pool = ThreadPoolExecutor(len(aloha.SIDES), "bus")  # the two buses are read at once
        try:
            for side in aloha.SIDES:
                self._arms.append(Arm(ports[side], side, motion))
            self._measured = self._read()
        except BaseException:
            self._give_back()
            raise

    def __enter__(self) -> "ViperX":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def joints(self) -> np.ndarray:
        """Measured joints (14,); BusFault."""
        return self._do(self._read)

    def command(self, action: np.ndarray) -> None:
        """Set the goal (14,); what lies outside the servos' limits stops at them. ValueError when it is not finite, BusFault."""
        action = np.asarray(action, np.float64)
        if action.shape != (14,) or not np.isfinite(action).all():
            raise ValueError(f"command is {action.tolist()}; expected 14 finite numbers")
        self._do(lambda: self._write(action))

    def observe(self) -> dict:
        """The cameras' newest images with the joints of their moment, as a request has them; CameraLost, RobotLost.

        Images are some ten milliseconds old when they are here: a wrist camera's are of where the arm was then.
        """
        if self._cameras is None or self._calibration is None:
            raise RobotLost("this robot was connected without cameras or calibration; give it both to see")
        frames = self._cameras.frames()
        taken_s = float(np.mean([frame.time_s for frame in frames.values()]))
        with self._lock:
            state = min(self._readings, key=lambda reading: abs(reading[0] - taken_s))[1].astype(np.float32)
        return {
            "images": _of(frames, "rgb"),
            "depth_m": _of(frames, "depth_m"),
            "state": state,
            "calibration": dict(self._calibration),
        }

    def rest(self) -> None:
        """Go slowly to the sleep pose, in real time; BusFault."""
        self._do(self._take_hold)
        start = time.monotonic()
        for step, goal in enumerate(path_to(SLEEP, self.joints())):
            time.sleep(max(start + step / CONTROL_HZ - time.monotonic(), 0.0))
            self.joints()
            self.command(goal)
        self._settle()

    def let_go(self, *, held: bool) -> None:
        """Torque off, for a person who holds both arms and moves them; `joints` goes on, `command` is refused until `take_hold`.

        held: whether somebody has confirmed, just now, that both arms are held: they fall. ValueError when not; BusFault.
        """
        if held is not True:
            raise ValueError(f"held is {held!r}: an arm without torque falls; hold both, then pass held=True")
        self._do(lambda: [arm.release() for arm in self._arms])

    def take_hold(self) -> None:
        """Torque on where the arms are, as after connecting; BusFault."""
        self._do(self._take_hold)

    def close(self) -> None:
        """Torque off where the arms are at rest, and the ports back; elsewhere the servos go on holding."""
        with self._lock, contextlib.suppress(RobotLost):
            if self._arms and self._fault is None:
                self._release()
        self._give_back()

    def _settle(self, seconds: float = 3.0) -> None:
        """Wait until the arms have come to rest."""
        end = time.monotonic() + seconds
        while not all(self._resting()) and time.monotonic() < end:
            time.sleep(1 / CONTROL_HZ)
            self.joints()

    def _resting(self) -> list[bool]:
        off = np.abs(self._measured - SLEEP).reshape(2, 7)[:, :6]
        return (off.max(axis=1) < AT_REST_RAD).tolist()

    def _release(self) -> None:
        self._measured = self._read()
        for arm, resting in zip(self._arms, self._resting(), strict=True):
            if resting:
                arm.release()
            else:
                logger.warning("%s arm is not in the sleep pose: its torque stays on, or it would fall", arm.side)

    def _read(self) -> np.ndarray:
        answers = [self._pool.submit(arm.joints) for arm in self._arms]
        wait(answers)  # both, before a fault of one is dealt with: a bus is no place for two threads
        self._measured = np.array([value for answer in answers for value in answer.result()])
        self._readings.append((time.monotonic(), self._measured))
        return self._measured.copy()

    def _write(self, action: np.ndarray) -> None:
        for arm, goal in zip(self._arms, action.reshape(2, 7), strict=True):
            arm.command(goal.tolist())
        if not self._watched:
            for arm in self._arms:
                arm.arm_watchdog()
            self._watched = True

    def _take_hold(self) -> None:
        """As after connecting: a pause in which the watchdogs tripped is forgotten."""
        for arm in self._arms:
            arm.take_hold()
        self._watched = False

    def _do(self, work: Callable[[], _T]) -> _T:
        """Run something on the buses; a fault holds both arms, and stays."""
        with self._lock:
            if self._fault is not None:
                raise self._fault
            try:
                return work()
            except BusFault as fault:
                self._fault = fault
                self._hold()
                raise

    def _hold(self) -> None:
        for arm, measured in zip(self._arms, self._measured.reshape(2, 7), strict=True):
            with contextlib.suppress(RobotLost):  # an arm that cannot be reached is held by its watchdogs
                arm.hold(measured.tolist(), TRACKING_RAD)

    def _give_back(self) -> None:
        for arm in self._arms:
            with contextlib.suppress(RobotLost):
                arm.close()
        self._pool.shutdown()


def _of(frames: Mapping[str, Frame], field: str) -> dict[str, np.ndarray]:
    return {name: getattr(frame, field) for name, frame in frames.items()}
