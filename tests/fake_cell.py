"""A cell for `--cell fake_cell:NAME`: the simulator's depth through a lens, in a calibration that is right, or off as NAME says."""

import contextlib
import functools
import time

import numpy as np

from clamp_jax.deploy import calibration as files
from clamp_jax.deploy.cameras import CameraLost, Frame
from clamp_jax.deploy.cell import Connected, sized
from clamp_jax.deploy.projection import directions, pixel_centres, rigid
from clamp_jax.deploy.robots import SLEEP, RobotLost
from clamp_jax.deploy.safety import aloha_limits

SIZE, HZ = (180, 320), 30
JOINTS = np.tile([0.0, -0.80, 1.05, 0.0, 0.15, 0.0, 0.6], 2)
LENS = np.array([-0.05, 0.04, 5e-4, -3e-4, -0.01])
OPENED = []  # every robot, newest last


@functools.cache
def calibration():
    """The cell as drawn, with lenses."""
    drawn = files.nominal(*SIZE)
    cameras = {name: camera._replace(distortion=LENS, serial=f"no. {name}") for name, camera in drawn.cameras.items()}
    return drawn._replace(cameras=cameras, date="2026-01-02T03:04:05+00:00")


@functools.cache
def seen():
    """By camera: colours and depth, exact, at JOINTS."""
    from data_tools.calibrate.simulated import Arms

    drawn = Arms(files.nominal(*SIZE), SIZE)(JOINTS)
    return {name: tuple(_through_lens(part, name) for part in drawn[name]) for name in drawn}


def _through_lens(image, name):
    """Each pixel of the lens from the nearest of the pinhole; 0 where that ends."""
    camera = calibration().cameras[name]
    rays = directions(pixel_centres(*SIZE), camera.intrinsics, LENS)
    column, row = np.floor(camera.intrinsics[:2] * rays[:, :2] + camera.intrinsics[2:]).astype(int).T
    inside = (row >= 0) & (row < SIZE[0]) & (column >= 0) & (column < SIZE[1])
    taken = np.where(inside, row * SIZE[1] + column, 0)
    flat = image.reshape(SIZE[0] * SIZE[1], -1)[taken] * inside[:, None]
    return flat.reshape(image.shape)


class FakeCameras:
    """Frames of a rate of HZ, `late_s` old, of all cameras but those that are `missing`."""

    def __init__(self, late_s=0.0, missing=(), lost=""):
        self._late_s, self._missing, self._lost = late_s, missing, lost

    def frames(self):
        if self._lost:
            raise CameraLost(f"camera {self._lost!r} delivers no frames")
        taken = np.floor(time.monotonic() * HZ) / HZ - self._late_s
        return {name: self._frame(name, taken) for name in calibration().cameras if name not in self._missing}

    def _frame(self, name, taken):
        (rgb, depth_m), camera = seen()[name], calibration().cameras[name]
        return Frame(rgb.astype(np.uint8), depth_m.astype(np.float32), taken, camera.intrinsics, LENS, camera.serial)


class FakeRobot:
    """Joints that are at their goal at once; all that was sent is kept."""

    limits = aloha_limits()

    def __init__(self, cameras, told, stuck=False):
        self._cameras, self._told, self._stuck = cameras, told, stuck
        self._at, self.sent, self.rested = JOINTS.copy(), [], False
        OPENED.append(self)

    def joints(self):
        return self._at

    def command(self, action):
        self.sent.append(np.array(action))
        self._at = self.sent[-1]

    def observe(self):
        frames = self._cameras.frames()
        images = {name: frame.rgb for name, frame in frames.items()}
        depth_m = {name: frame.depth_m for name, frame in frames.items()}
        return {"images": images, "depth_m": depth_m, "state": np.float32(self._at), "calibration": self._told}

    def rest(self):
        if self._stuck:
            raise RobotLost("left arm: its cable")
        self._at, self.rested = SLEEP, True


@contextlib.contextmanager
def _open(size, *, moved=(0,) * 6, uncalibrated=False, stuck=False, **cameras):
    """`moved`: by how much the overhead camera stands beside where its calibration says: rotation vector, metres; in the world."""
    seen()  # rendered before the clocks run
    known, looking = calibration(), FakeCameras(**cameras)
    overhead = known.cameras["overhead"]
    overhead = overhead._replace(parent_from_camera=rigid(np.array(moved, float)) @ overhead.parent_from_camera)
    known = None if uncalibrated else known._replace(cameras={**known.cameras, "overhead": overhead})
    yield Connected(FakeRobot(*sized(looking, known, size), stuck), looking, known, None)


good = functools.partial(_open)
moved = functools.partial(_open, moved=(0, 0, 0, 0.03, 0, 0))
tilted = functools.partial(_open, moved=(np.radians(2.0), 0, 0, 0, 0, 0))
old = functools.partial(_open, late_s=0.5)
missing = functools.partial(_open, missing=("worms_eye",))
lost = functools.partial(_open, lost="wrist_left")
uncalibrated = functools.partial(_open, uncalibrated=True)
stuck = functools.partial(_open, stuck=True)
