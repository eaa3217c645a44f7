"""What calibrating needs of a cell: joints, moving slowly, images, and a person who puts the plate into a gripper."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from clamp_jax.deploy.calibration import CalibrationError
from clamp_jax.deploy.robots import Robot, path_to
from clamp_jax.deploy.safety import Safety
from clamp_jax.geometry import aloha
from clamp_jax.structs import CONTROL_HZ
from data_tools.calibrate.boards import HELD, TABLE, detect
from data_tools.calibrate.poses import HOME, Stop, way
from data_tools.calibrate.sightings import Optics, Sighting

SPEED = 0.4  # rad/s; a person may stand by
SETTLE_S = 1.0  # after a move, for arms and images to come to rest
READINGS = 10  # of the joints, averaged


class Image(NamedTuple):
    """One camera's image of now: the fields that are used here."""

    rgb: np.ndarray  # (h, w, 3) uint8
    intrinsics: np.ndarray  # (4,) pixels, centres at +0.5
    distortion: np.ndarray  # (5,)
    serial: str = ""


class Station(Protocol):
    """A cell with a person beside it."""

    def joints(self) -> np.ndarray:
        """Measured joints (14,), arms at rest."""

    def go(self, joints: np.ndarray) -> None:
        """Move there in a straight line of the joints, and wait until all is at rest."""

    def hold(self, side: str) -> None:
        """Have the plate put into the gripper of this arm, its print to the fixed camera that sees no table; in the home pose.

        Whoever calls it has brought the arms home, if they hold a plate: no way in here is judged for one.
        """

    def wait(self, text: str) -> None:
        """Have a person do what the text says."""

    def frames(self) -> dict[str, Any]:
        """By camera: something with the fields of Image."""


class RobotStation:
    """A station of a robot, something with `frames()`, and a terminal."""

    def __init__(self, robot: Robot, cameras: Any, *, ask: Callable[[str], Any] = input, sleep: Callable[[float], None] = time.sleep):
        self._robot, self._cameras, self._ask, self._sleep = robot, cameras, ask, sleep
        self._safety = Safety(robot.limits)

    def joints(self) -> np.ndarray:
        readings = []
        for _ in range(READINGS):
            readings.append(self._robot.joints())
            self._sleep(1 / CONTROL_HZ)
        return np.mean(readings, axis=0)

    def go(self, joints: np.ndarray) -> None:
        last = self._robot.joints()
        velocity = np.zeros_like(last)
        for wanted in path_to(joints, last, speed=SPEED):
            verdict = self._safety.check(wanted, last, velocity)
            if verdict.command is None:
                raise CalibrationError(
                    f"the way to the next pose is not safe: {verdict.cause} of {verdict.detail}; move the arms away by hand"
                )
            self._robot.command(verdict.command)
            velocity, last = (verdict.command - last) * CONTROL_HZ, verdict.command
            self._sleep(1 / CONTROL_HZ)
        self._sleep(SETTLE_S)

    def hold(self, side: str) -> None:
        opened = HOME.copy()
        opened[[6, 13]] = 1.0
        self.go(HOME)
        self.wait(f"Hands under the plate: the grippers open. The plate goes into the {side} gripper. Enter to open")
        self.go(opened)
        self.wait(f"Hold the plate between the fingers of the {side} arm, its print to the camera at the table's front. Enter to close")
        self.go(HOME)

    def leave(self) -> None:
        """Have the plate taken away, in the home pose, and bring the arms to rest."""
        opened = HOME.copy()
        opened[[6, 13]] = 1.0
        self.wait("Hands under the plate: the grippers open. Enter to open")
        self.go(opened)
        self.wait("Take the plate away, and your hands. Enter: the arms go to rest")
        self._robot.rest()

    def wait(self, text: str) -> None:
        self._ask(f"{text} ")

    def frames(self) -> dict[str, Any]:
        return self._cameras.frames()


class Taken(NamedTuple):
    """All that was seen."""

    sightings: list[Sighting]
    joints: np.ndarray  # (p, 14) measured
    optics: dict[str, Optics]
    sizes: dict[str, tuple[int, int]]  # height, width
    serials: dict[str, str]
    images: dict[str, tuple[int, np.ndarray]]  # by camera: the pose in which it saw most corners, and that image


def take(station: Station, stops: list[Stop], mounts: dict[str, str], tell: Callable[[str], None] = print) -> Taken:
    """Go through the poses and look, and home in the end; mounts are the cameras to calibrate with their mounts.

    A pose without a safe way to it, and from it home again, is left out, and told. Raises CalibrationError where a camera gives no
    image or an arm cannot get on safely.
    """
    taken, here, holder = _nothing(), HOME, ""
    for index, stop in enumerate(stops):
        if stop.holder != holder:
            if holder:
                _go_home(station, here, holder)
            holder, here = stop.holder, HOME
            station.hold(holder)
        corners = way(here, stop.joints, holder)
        if corners is None or way(stop.joints, HOME, holder) is None:
            missing = "home from it" if corners else "to it from the one before"
            tell(f"pose {index + 1}: there is no safe way {missing} for the arms and the plate; left out")
            continue
        for joints in corners:
            station.go(joints)
        here = stop.joints
        taken = _look(taken, station, holder, mounts)
        tell(f"pose {index + 1} of {len(stops)}: {_words(taken)}")
    if holder:
        _go_home(station, here, holder)
    return taken


def _go_home(station: Station, here: np.ndarray, holder: str) -> None:
    """From a pose with the plate in the holder's gripper. CalibrationError where no way is clear."""
    corners = way(here, HOME, holder)
    if corners is None:
        raise CalibrationError(
            f"there is no safe way home with the plate in the {holder} gripper; take it out, move the arms apart by hand, and begin anew"
        )
    for joints in corners:
        station.go(joints)


def take_by_hand(station: Station, count: int, mounts: dict[str, str], tell: Callable[[str], None] = print) -> Taken:
    """The same where a person moves the arms: half of the poses with the plate in the left gripper, half in the right."""
    taken = _nothing()
    for index in range(count):
        holder = aloha.SIDES[int(index >= count - count // 2)]
        station.wait(
            f"pose {index + 1} of {count}: the {holder} arm shows the plate, the other one looks at the board on the table. "
            "Enter when all is at rest"
        )
        taken = _look(taken, station, holder, mounts)
        tell(_words(taken))
    return taken


def _nothing() -> Taken:
    return Taken([], np.zeros((0, 14)), {}, {}, {}, {})


def _look(taken: Taken, station: Station, holder: str, mounts: dict[str, str]) -> Taken:
    frames, index = station.frames(), len(taken.joints)
    missing = [name for name in mounts if name not in frames]
    if missing:
        raise CalibrationError(
            f"camera {missing[0]!r} gives no image, only {', '.join(frames) or 'none does'}; plug it in, or look at its name"
        )
    sightings, images = list(taken.sightings), dict(taken.images)
    for name in mounts:
        rgb = np.asarray(frames[name].rgb)
        for board, by in ((TABLE, ""), (HELD, holder)):
            ids, pixels = detect(rgb, board)
            if len(ids) >= 6:
                sightings.append(Sighting(index, name, board.name, by, ids, pixels))
        if name not in images or _count(sightings, name, index) > _count(sightings, name, images[name][0]):
            images[name] = index, rgb
    optics = {
        name: Optics(np.asarray(frames[name].intrinsics), np.asarray(frames[name].distortion), mount) for name, mount in mounts.items()
    }
    sizes = {name: tuple(np.shape(frames[name].rgb)[:2]) for name in mounts}
    serials = {name: str(getattr(frames[name], "serial", "")) for name in mounts}
    return Taken(sightings, np.concatenate([taken.joints, station.joints()[None]]), optics, sizes, serials, images)


def _count(sightings: list[Sighting], name: str, pose: int) -> int:
    return sum(len(s.ids) for s in sightings if s.camera == name and s.pose == pose)


def _words(taken: Taken) -> str:
    last = len(taken.joints) - 1
    return ", ".join(f"{s.camera} {s.board} {len(s.ids)}" for s in taken.sightings if s.pose == last) or "no board seen"
