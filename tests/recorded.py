"""A robot, cameras and a person for the recorder's tests: exact, cheap, and broken on request."""

import contextlib
import time

import numpy as np

from clamp_jax.deploy import calibration
from clamp_jax.deploy.cameras import Frame
from clamp_jax.deploy.cell import Connected
from clamp_jax.deploy.control import Clock
from clamp_jax.deploy.safety import aloha_limits
from clamp_jax.geometry import aloha
from clamp_jax.structs import CAMERAS
from data_tools.record.loop import Settings

HOME = np.tile([*aloha.HOME_COMMAND[:6], 0.5], 2)
SIZE = (6, 8)
CALIBRATION = calibration.nominal(*SIZE)


class Patient(Clock):
    """Stands still while the machine is late: whoever waits is never late by more than a millisecond or two."""

    def __init__(self):
        self._late_s = 0.0

    def now(self):
        return time.monotonic() - self._late_s

    def wait_until(self, moment):
        super().wait_until(moment)
        self._late_s += max(self.now() - moment - 0.001, 0.0)


class FakeRobot:
    """Is at once where it is told to be."""

    def __init__(self, start=HOME):
        self.limits, self.at, self.commands, self.rested, self.torque = aloha_limits(), np.array(start), [], 0, True
        self.before_joints = lambda: None

    def joints(self):
        self.before_joints()
        return self.at.copy()

    def command(self, action):
        assert self.torque
        self.commands.append(np.array(action))
        self.at = np.array(action)

    def observe(self):
        return {}

    def rest(self):
        self.rested += 1

    def let_go(self, *, held):
        assert held
        self.torque = False

    def take_hold(self):
        self.torque = True


class FakeCameras:
    """`fps` frames a second, of brightness and depth that count them; `at(name, number, time)` may change the time or raise."""

    def __init__(self, fps=30.0, size=SIZE, names=CAMERAS, *, clock=None):
        self.size, self.names, self._fps, self.clock = size, names, fps, clock or Clock()
        self._start = self.clock.now()
        self.at = lambda name, number, time_s: time_s

    def frames(self):
        number = int((self.clock.now() - self._start) * self._fps)
        time_s = self._start + number / self._fps
        return {name: self._frame(name, number, self.at(name, number, time_s)) for name in self.names}

    def _frame(self, name, number, time_s):
        rgb = np.full((*self.size, 3), number % 256, np.uint8)
        depth_m = np.full(self.size, 0.5 + 1e-4 * (number % 1000) + 3e-5, np.float32)  # 0.03 mm beside a stored depth
        return Frame(rgb, depth_m, time_s, CALIBRATION.cameras[name].intrinsics, np.zeros(5))


class Wave:
    """All joints swing; over after so many ticks."""

    def __init__(self, ticks=25):
        self.ticks, self.wanted, self.measured = ticks, [], []

    def command(self, joints, tick):
        self.measured.append(joints)
        if tick >= self.ticks:
            return None
        self.wanted.append(HOME + 0.1 * np.sin(2 * np.pi * tick / 50))
        return self.wanted[-1]


class Pressed:
    """Keys one after the other, one a look."""

    attended = True

    def __init__(self, keys=()):
        self.keys = list(keys)

    def take(self):
        return self.keys.pop(0) if self.keys else ""

    def clear(self):
        pass


def settings(**changed):
    """Of short episodes of small images."""
    return Settings("reach", "reach out", CALIBRATION, seconds=2.0, size=SIZE, images_hz=20.0)._replace(**changed)


class Person:
    """Leader arms held still at a place."""

    def __init__(self, at=HOME):
        self.at = np.array(at)

    def joints(self):
        return self.at


@contextlib.contextmanager
def cell(size):
    """A cell for `--cell recorded:cell`."""
    del size
    yield Connected(FakeRobot(), FakeCameras(), CALIBRATION, Person())
