"""A lab's cell in one file, cell.toml, and its arms and cameras connected. Numpy only, and the vendors' libraries where they are used.

robot = "viperx"                        # or "ros": the Interbotix stack's topics
calibration = "calibration.json"        # beside this file; python -m data_tools.calibrate writes it

[ports]                                 # of viperx
left = "/dev/ttyDXL_left"
right = "/dev/ttyDXL_right"

[leaders]                               # arms that a person moves while episodes are recorded; may be left out
left = "/dev/ttyDXL_leader_left"
right = "/dev/ttyDXL_leader_right"

[cameras]                               # serial numbers
overhead = "130322270001"
worms_eye = "130322270002"
wrist_left = "130322270003"
wrist_right = "130322270004"
"""

import contextlib
import importlib
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from clamp_jax.deploy import calibration as files
from clamp_jax.deploy.calibration import CellCalibration
from clamp_jax.deploy.cameras import Cameras
from clamp_jax.deploy.imaging import SizedCameras
from clamp_jax.deploy.robots import Robot, RobotLost
from clamp_jax.geometry import aloha
from clamp_jax.structs import CAMERAS

ROBOTS = ("viperx", "ros")
_KEYS = {"robot", "calibration", "ports", "leaders", "cameras"}
_NEEDED = {"ports": aloha.SIDES, "leaders": aloha.SIDES, "cameras": CAMERAS}
HELP = "the cell: a cell.toml (docs/cell.md), or module:function that returns one that is connected"


class CellError(ValueError):
    """A cell.toml that is missing or says what cannot be."""


class Cell(NamedTuple):
    """What cell.toml says."""

    robot: str  # of ROBOTS
    ports: dict[str, str]  # by side; viperx
    leaders: dict[str, str]  # by side: ports of the leader arms; {} without
    cameras: dict[str, str]  # serial number by camera
    calibration: Path | None


class Leaders(Protocol):
    """Arms that a person moves."""

    def joints(self) -> np.ndarray:
        """(14,) rad, gripper 0 closed, 1 open."""


class Connected(NamedTuple):
    """A cell that answers."""

    robot: Robot  # observe() gives images without a lens, of the size asked for, and the calibration, as a request has them
    cameras: Cameras  # as they are: whole size, with their lenses
    calibration: CellCalibration | None
    leaders: Leaders | None


def open_cell(text: str, size: tuple[int, int] | None = None) -> AbstractContextManager[Connected]:
    """The cell of a command line, connected while the context is open.

    text: a path to a cell.toml, or `module:function`, whose `function(size)` returns such a context. size: height and width of what
    the robot observes; None: of the cameras. Raises CellError; RobotLost and CameraLost when it is entered.
    """
    module, colon, name = text.partition(":")
    if not colon or Path(text).exists():
        return connect(read(Path(text)), size)
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CellError(f"--cell {text}: {error}; expected a cell.toml, or module:function") from None
    return function(size)


def read(path: Path) -> Cell:
    """A cell.toml; CellError for no file, no TOML, and words or numbers that are not expected."""
    try:
        told = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise CellError(f"cannot read {path}: {error.strerror or error}; docs/cell.md shows a cell.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CellError(f"{path} is no TOML: {error}") from None
    return _cell(told, Path(path))


def _cell(told: Mapping[str, Any], path: Path) -> Cell:
    if unknown := sorted(set(told) - _KEYS):
        raise CellError(f"{path} says {unknown[0]!r}; expected {', '.join(sorted(_KEYS))}")
    if told.get("robot") not in ROBOTS:
        raise CellError(f"{path}: robot is {told.get('robot')!r}; expected one of {', '.join(ROBOTS)}")
    for name in ["cameras"] + ["ports"] * (told["robot"] == "viperx") + ["leaders"] * ("leaders" in told):
        _check_table(told.get(name), name, path)
    calibration = told.get("calibration")
    if not isinstance(calibration, str | None):
        raise CellError(f"{path}: calibration is {calibration!r}; expected a path in quotes")
    places = {name: dict(told.get(name, {})) for name in ("ports", "leaders", "cameras")}
    used = [port for name in ("ports", "leaders") for port in places[name].values()]
    for word, values in (("port", used), ("serial number", list(places["cameras"].values()))):
        if twice := [value for value in values if values.count(value) > 1]:
            raise CellError(f"{path}: {word} {twice[0]!r} stands there twice")
    return Cell(told["robot"], **places, calibration=None if calibration is None else path.parent / calibration)


def _check_table(table: Any, name: str, path: Path) -> None:
    expected = _NEEDED[name]
    if not isinstance(table, dict) or set(table) != set(expected):
        found = f"has {', '.join(map(str, table)) or 'nothing'}" if isinstance(table, dict) else f"is {table!r}"
        raise CellError(f"{path}: [{name}] {found}; expected {', '.join(expected)}")
    for key, value in table.items():
        if not isinstance(value, str) or not value:
            raise CellError(f"{path}: {key} of [{name}] is {value!r}; expected text in quotes")


@contextlib.contextmanager
def connect(cell: Cell, size: tuple[int, int] | None = None) -> Iterator[Connected]:
    """Connect the arms, the cameras and, where there are some, the leader arms.

    Raises CalibrationError for a calibration.json that is damaged or of other cameras (one that is not there yet is None),
    RobotLost, CameraLost, ImportError that says what to install.
    """
    from clamp_jax.deploy.cameras.realsense import RealSense

    calibration = _calibration(cell)
    with contextlib.ExitStack() as stack:
        cameras = stack.enter_context(RealSense(cell.cameras))
        robot = stack.enter_context(_robot(cell, cameras, calibration, size))
        leaders = stack.enter_context(_leaders(cell)) if cell.leaders else None
        yield Connected(robot, cameras, calibration, leaders)


def _calibration(cell: Cell) -> CellCalibration | None:
    if cell.calibration is None or not cell.calibration.exists():
        return None
    found = files.read(cell.calibration, tuple(cell.cameras))
    for name, serial in cell.cameras.items():
        if found.cameras[name].serial not in ("", serial):
            words = f"camera {name!r} is number {serial}, {cell.calibration} was made with number {found.cameras[name].serial}"
            raise files.CalibrationError(f"{words}; {files.CURE}")
    return found


def sized(cameras: Cameras, calibration: CellCalibration | None, size: tuple[int, int] | None) -> tuple[Cameras, dict | None]:
    """Cameras as a policy sees through them, and the calibration as its request has it, both for images of `size`."""
    if calibration is None:
        return cameras, None
    size = size or next(iter(calibration.cameras.values())).image_size
    values = files.fields(calibration, size)
    told = {name: getattr(values, name) for name in ("intrinsics", "parent_from_camera", "world_from_base")}
    return SizedCameras(cameras, calibration, size), told


def _robot(cell: Cell, cameras: Cameras, calibration: CellCalibration | None, size: tuple[int, int] | None) -> Any:
    seen, told = sized(cameras, calibration, size)
    if cell.robot == "viperx":
        from clamp_jax.deploy.robots.viperx import ViperX

        return ViperX(cell.ports, seen, told)
    from clamp_jax.deploy.robots.ros import Ros

    return Ros(observe=_observe(seen, told))


def _observe(cameras: Cameras, told: dict | None) -> Callable[[np.ndarray], dict]:
    """What a robot whose own class knows no cameras sees, at measured joints."""

    def observe(joints: np.ndarray) -> dict:
        if told is None:
            raise RobotLost(f"this cell has no calibration; {files.CURE}")
        frames = cameras.frames()
        images = {name: frame.rgb for name, frame in frames.items()}
        depth_m = {name: frame.depth_m for name, frame in frames.items()}
        return {"images": images, "depth_m": depth_m, "state": np.float32(joints), "calibration": told}

    return observe


def _leaders(cell: Cell) -> Any:
    from clamp_jax.deploy.robots.leaders import LeaderArms

    return LeaderArms(cell.leaders)
