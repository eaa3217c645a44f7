"""A robot, cameras and a person for the recorder's tests: exact, cheap, and broken on request."""

import contextlib
import os
import subprocess
import time

import numpy as np
import pytest

from clamp_jax.data.records import Frame, round_depth
from clamp_jax.deploy import calibration, cameras
from clamp_jax.deploy.cell import Connected
from clamp_jax.deploy.control import Clock
from clamp_jax.deploy.safety import aloha_limits
from clamp_jax.geometry import aloha
from clamp_jax.structs import CAMERAS, Calibration
from data_tools.record.files import EpisodeWriter
from data_tools.record.loop import Settings, head_of, record_episode

HOME = np.tile([*aloha.HOME_COMMAND[:6], 0.5], 2)
SIZE = (6, 8)
CALIBRATION = calibration.nominal(*SIZE)
FURTHER_S = 0.015  # less than a period
UNSEEN_S = 0.1


class Patient(Clock):
    """Goes on to the moment that is waited for and hardly further: however late the machine is, the recorder is not.

    Nor goes it on for long without a look at the cameras, of which `looked` is told.
    """

    def __init__(self):
        self._leapt_to, self.looked = 0.0, np.inf
        self._set(time.monotonic(), FURTHER_S)

    def _set(self, moment, further_s):
        self._behind_s, self._limit = time.monotonic() - moment, moment + further_s

    def now(self):
        return min(time.monotonic() - self._behind_s, self._limit)

    def wait_until(self, moment):
        time.sleep(max(moment - (time.monotonic() - self._behind_s), 0.0))
        patience = time.monotonic() + 5
        while moment - self.looked > UNSEEN_S and time.monotonic() < patience:
            time.sleep(0.001)
        self._set(max(moment, self._leapt_to), FURTHER_S)

    def leap(self, seconds):
        """As if the machine had stood still for so long."""
        self._leapt_to = self.now() + seconds
        self._set(self._leapt_to, 0.0)


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
        self.size, self.names, self._fps, self.clock = size, names, fps, clock or Patient()
        self._start = self.clock.now()
        self.at = lambda name, number, time_s: time_s

    def frames(self):
        now = self.clock.now()
        number = int((now - self._start) * self._fps)
        time_s = self._start + number / self._fps
        found = {name: self._frame(name, number, self.at(name, number, time_s)) for name in self.names}
        self.clock.looked = now
        return found

    def _frame(self, name, number, time_s):
        rgb = np.full((*self.size, 3), number % 256, np.uint8)
        depth_m = np.full(self.size, 0.5 + 1e-4 * (number % 1000) + 3e-5, np.float32)  # 0.03 mm beside a stored depth
        return cameras.Frame(rgb, depth_m, time_s, CALIBRATION.cameras[name].intrinsics, np.zeros(5))


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


def written(folder, actions, frames=1):
    """An episode's file of these actions (t, 14), of arms that follow exactly, with so many images from its start on."""
    writer = EpisodeWriter(folder / "000000.episode", head_of(settings(), 0))
    for tick, action in enumerate(actions):
        writer.tick(tick, 0.02 * tick, 0.02 * tick, action, action, np.zeros((0, 3)))
    values, random = calibration.fields(CALIBRATION, SIZE), np.random.default_rng(0)
    told = Calibration(values.intrinsics, values.parent_from_camera, values.mount, values.world_from_base)
    for tick in range(frames):
        rgb, depth_m = random.integers(0, 256, (len(CAMERAS), *SIZE, 3), np.uint8), random.uniform(0.3, 1.0, (len(CAMERAS), *SIZE))
        writer.frame(np.full(len(CAMERAS), 0.02 * tick), Frame(tick, rgb, round_depth(depth_m), told))
    return writer.finish({"ended": "source", "frames": list(range(frames))})


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
    yield Connected(FakeRobot(), FakeCameras(clock=Clock()), CALIBRATION, Person())


def record(folder, source=None, *, robot=None, cameras=None, number=7, pressed=(), **changed):
    """One episode into `folder`; (result, source, robot, cameras)."""
    robot, source, seen = robot or FakeRobot(), source or Wave(), cameras or FakeCameras()
    path = folder / f"{number:06d}.episode"
    result = record_episode(robot, seen, source, settings(**changed), Pressed(pressed), path=path, clock=seen.clock)
    return result, source, robot, seen


@contextlib.contextmanager
def small_disk(folder):
    """An empty file system of 2 MB in memory."""
    folder.mkdir()
    tried = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"needs the right to mount a small tmpfs (root has it): {tried.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder, free):
    """A file that leaves so many bytes of a file system free."""
    path = folder / "of_somebody_else"
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    os.truncate(path, path.stat().st_size - free)
    return path
