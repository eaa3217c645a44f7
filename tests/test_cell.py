"""What a cell.toml says, what it must not say, and a cell that is connected through it."""

import contextlib

import numpy as np
import pytest

from clamp_jax.deploy import calibration as files
from clamp_jax.deploy import cell
from clamp_jax.deploy.cameras import Frame
from clamp_jax.deploy.robots import emulator
from clamp_jax.deploy.robots import registers as reg
from clamp_jax.deploy.robots.dynamixel import BusFault
from clamp_jax.deploy.robots.leaders import TRIGGER_CLOSED_RAD, TRIGGER_OPEN_RAD, LeaderArms, trigger
from clamp_jax.structs import CAMERAS

TOML = """
robot = "viperx"
calibration = "calibration.json"
[ports]
left = "/dev/l"
right = "/dev/r"
[leaders]
left = "/dev/ll"
right = "/dev/lr"
[cameras]
overhead = "1"
worms_eye = "2"
wrist_left = "3"
wrist_right = "4"
"""


def written(folder, text=TOML):
    path = folder / "cell.toml"
    path.write_text(text)
    return path


def test_all_that_a_cell_says_is_read_with_the_calibration_beside_the_file(tmp_path):
    found = cell.read(written(tmp_path))
    assert found == cell.Cell(
        "viperx",
        {"left": "/dev/l", "right": "/dev/r"},
        {"left": "/dev/ll", "right": "/dev/lr"},
        {"overhead": "1", "worms_eye": "2", "wrist_left": "3", "wrist_right": "4"},
        tmp_path / "calibration.json",
    )
    assert set(found.cameras) == set(CAMERAS)


def test_the_example_in_the_files_own_words_is_one(tmp_path):
    cell.read(written(tmp_path, cell.__doc__.split("\n\n", 1)[1]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("viperx", "viper"), "robot is 'viper'; expected one of viperx, ros"),
        (('left = "/dev/l"\n', ""), r"\[ports\] has right; expected left, right"),
        (("[ports]", "[port]"), "says 'port'"),
        (('"/dev/lr"', "7"), r"right of \[leaders\] is 7; expected text in quotes"),
        (('"/dev/lr"', '"/dev/l"'), "port '/dev/l' stands there twice"),
        (('"4"', '"3"'), "serial number '3' stands there twice"),
        (("worms_eye", "front"), r"\[cameras\] has overhead, front, wrist_left, wrist_right; expected overhead, worms_eye"),
        (('"calibration.json"', "3"), "calibration is 3; expected a path"),
        (("robot =", "robot"), "is no TOML"),
    ],
)
def test_what_cannot_be_is_named(tmp_path, change, words):
    assert change[0] in TOML
    with pytest.raises(cell.CellError, match=words):
        cell.read(written(tmp_path, TOML.replace(*change)))


def test_a_file_or_function_that_is_not_there_is_named(tmp_path):
    with pytest.raises(cell.CellError, match=r"cannot read .*none.toml: No such file"):
        cell.open_cell(str(tmp_path / "none.toml"))
    for text in ("no_such_module:cell", "json:no_such_function", "clamp_jax.deploy.cell:"):
        with pytest.raises(cell.CellError, match=f"--cell {text}"):
            cell.open_cell(text)


class Cameras:
    """Four blank cameras of the size that the drawn cell is calibrated at."""

    def __init__(self, serials, size=(12, 16)):
        self._size, self._serials = size, serials

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Nothing is open."""

    def frames(self):
        rgb, depth_m = np.full((*self._size, 3), 9, np.uint8), np.full(self._size, 0.5, np.float32)
        return {name: Frame(rgb, depth_m, 1.0, np.ones(4), np.zeros(5), serial) for name, serial in self._serials.items()}


@pytest.fixture
def buses(tmp_path, monkeypatch):
    """The cell.toml of four emulated buses and blank cameras."""
    monkeypatch.setattr("clamp_jax.deploy.cameras.realsense.RealSense", Cameras)
    with contextlib.ExitStack() as stack:
        text = TOML
        for name in ("/dev/l", "/dev/r", "/dev/ll", "/dev/lr"):
            bus = stack.enter_context(emulator.Bus(emulator.servos_of_an_arm(), baud=None))
            text = text.replace(f'"{name}"', f'"{bus.path}"')
        yield written(tmp_path, text)


def test_a_connected_cell_sees_in_the_size_asked_for_and_reads_its_leaders(buses, tmp_path):
    drawn = files.nominal(12, 16)
    files.write(drawn, tmp_path / "calibration.json")
    with cell.open_cell(str(buses), (6, 8)) as connected:
        seen = connected.robot.observe()
        assert connected.calibration.id == drawn.id and connected.leaders.joints().shape == (14,)
        assert connected.cameras.frames()["overhead"].rgb.shape == (12, 16, 3)
    expected = files.fields(drawn, (6, 8))
    for name in CAMERAS:
        assert seen["images"][name].shape == (6, 8, 3) and seen["depth_m"][name].dtype == np.float32
    np.testing.assert_array_equal(seen["calibration"]["intrinsics"], expected.intrinsics)
    np.testing.assert_array_equal(seen["calibration"]["world_from_base"], expected.world_from_base)


def test_a_calibration_that_is_not_there_yet_is_none_and_one_of_other_cameras_is_refused(buses, tmp_path):
    with cell.open_cell(str(buses)) as connected:
        assert connected.calibration is None
    drawn = files.nominal(12, 16)
    cameras = drawn.cameras | {"worms_eye": drawn.cameras["worms_eye"]._replace(serial="99")}
    files.write(drawn._replace(cameras=cameras), tmp_path / "calibration.json")
    with pytest.raises(files.CalibrationError, match="'worms_eye' is number 2, .* was made with number 99"), cell.open_cell(str(buses)):
        pass


def test_leaders_are_read_without_torque_and_one_that_turns_the_wrong_way_is_refused():
    with contextlib.ExitStack() as stack:
        pair = [stack.enter_context(emulator.Bus(emulator.servos_of_an_arm(), baud=None)) for _ in range(2)]
        with LeaderArms({"left": pair[0].path, "right": pair[1].path}) as leaders:
            joints = leaders.joints().reshape(2, 7)
            at = np.array([bus.joint_positions() for bus in pair])
            np.testing.assert_allclose(joints[:, :6], at[:, :6], atol=reg.RAD_PER_TICK)
            assert all(servo.get(reg.TORQUE) == 0 for bus in pair for servo in bus.servos.values())
        wrong = stack.enter_context(emulator.Bus(emulator.servos_of_an_arm(id2={reg.DRIVE_MODE: 0}), baud=None))
        with pytest.raises(BusFault, match="leader left shoulder.*drive mode is 0, expected 1"):
            LeaderArms({"left": wrong.path, "right": pair[1].path})
    with pytest.raises(ValueError, match=r"leaders are for \['left'\]"):
        LeaderArms({"left": "x"})


def test_a_trigger_opens_the_gripper_between_its_ends():
    middle = (TRIGGER_CLOSED_RAD + TRIGGER_OPEN_RAD) / 2
    assert [trigger(rad) for rad in (TRIGGER_CLOSED_RAD, middle, TRIGGER_OPEN_RAD, -1.0, 2.0)] == pytest.approx([0, 0.5, 1, 0, 1])
