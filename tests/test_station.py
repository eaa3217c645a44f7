"""How a calibration's poses are gone through: with the plate in the fingers no way is driven that was not judged for it."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

from clamp_jax.deploy.calibration import CalibrationError
from clamp_jax.deploy.cell import Connected
from clamp_jax.deploy.robots import SLEEP
from clamp_jax.deploy.safety import aloha_limits
from data_tools.calibrate import __main__ as command
from data_tools.calibrate import poses
from data_tools.calibrate.poses import HOME, Stop
from data_tools.calibrate.station import RobotStation, take

BLANK = SimpleNamespace(rgb=np.zeros((48, 64, 3), np.uint8), intrinsics=np.array([50.0, 50, 32, 24]), distortion=np.zeros(5))
MOUNTS = {"overhead": "world"}


class Station:
    """Goes at once, sees nothing, and notes with what in its gripper it went where."""

    def __init__(self):
        self.at, self.holder, self.legs = HOME, "", []

    def joints(self):
        return self.at

    def go(self, joints):
        self.legs.append((self.at, joints, self.holder))
        self.at = joints

    def hold(self, side):
        assert np.array_equal(self.at, HOME), "the plate changes hands in the home pose"
        self.holder = side

    def wait(self, text):
        pass

    def frames(self):
        return {"overhead": BLANK}


def all_clear(station):
    return all(poses.clear(poses._straight(start, goal), holder).all() for start, goal, holder in station.legs)


@pytest.fixture(scope="module")
def no_way_home():
    """Stops of the left arm: the way from the first to the second is clear, from there straight home the plate comes too near.

    Without the plate that way is clear: safety, which knows of none, lets the arms go it.
    """
    rng = np.random.default_rng(0)
    arms = [poses._candidates(*who, rng, (720, 1280)) for who in (("left", poses.SHOW), ("right", poses.LOOK))]
    pool = [poses._together(*pair) for pair in zip(arms[0][:400], arms[1][rng.integers(len(arms[1]), size=400)], strict=False)]
    pool = [joints for joints in pool if poses.clear(joints[None], "left").all()]
    home = [poses.way(joints, HOME, "left") is not None for joints in pool]
    ends = [one for one, good in zip(pool, home, strict=True) if not good and poses.way(one, HOME, "") is not None]
    starts = [one for one, good in zip(pool, home, strict=True) if good and poses.way(HOME, one, "left") is not None]
    start, end = next((a, b) for b in ends for a in starts if poses.clear(poses._straight(a, b), "left").all())
    return Stop(start, "left"), Stop(end, "left")


def test_a_pose_with_no_way_home_for_the_plate_is_left_out_and_told(no_way_home):
    start, end = no_way_home
    straight = Station()
    for joints in (start.joints, end.joints, HOME):
        straight.holder = "left"
        straight.go(joints)
    assert not all_clear(straight), "what is to be kept from"
    for stops in ([start, end], [start, end, Stop(HOME, "right")]):
        station, told = Station(), []
        taken = take(station, stops, MOUNTS, told.append)
        assert all_clear(station) and np.array_equal(station.at, HOME)
        assert not any(np.array_equal(goal, end.joints) for _, goal, _ in station.legs)
        assert "pose 2: there is no safe way home from it" in told[1] and len(taken.joints) == len(stops) - 1


def test_a_pose_that_cannot_be_reached_is_left_out_and_told():
    low, told, station = HOME.copy(), [], Station()
    low[[1, 2]] = 0.9, 0.9
    take(station, [Stop(low, "left")], MOUNTS, told.append)
    assert told == ["pose 1: there is no safe way to it from the one before for the arms and the plate; left out"] and all_clear(station)


def test_from_every_planned_pose_the_way_home_is_clear_and_the_plate_changes_hands_there():
    stops, station = poses.plan(15), Station()
    taken = take(station, stops, MOUNTS, lambda text: None)
    assert len(taken.joints) == 15 and all_clear(station) and np.array_equal(station.at, HOME)


class Robot:
    """At its goal at once."""

    limits = aloha_limits()

    def __init__(self):
        self.at, self.rested = HOME.copy(), False

    def joints(self):
        return self.at

    def command(self, action):
        self.at = np.array(action)

    def observe(self):
        return {}

    def rest(self):
        self.at, self.rested = SLEEP, True


ROBOT = Robot()


@contextlib.contextmanager
def cell(size):
    assert size is None
    yield Connected(ROBOT, SimpleNamespace(frames=lambda: {"overhead": BLANK}), None, None)


def test_a_cell_without_calibration_is_calibrated_and_its_arms_are_brought_to_rest_without_the_plate(tmp_path, monkeypatch):
    asked, seen = [], []

    def gather(station, count, *, by_hand, seed):
        seen.append((station.frames(), station.joints(), count, by_hand, seed))
        return "what was seen"

    def settle(taken):
        assert taken == "what was seen" and ROBOT.rested
        raise CalibrationError("and that is all")

    monkeypatch.setattr(RobotStation, "wait", lambda self, text: asked.append(text))
    monkeypatch.setattr("data_tools.calibrate.station.SETTLE_S", 0.0)
    monkeypatch.setattr("data_tools.calibrate.station.SPEED", 10.0)
    monkeypatch.setattr(command, "gather", gather)
    monkeypatch.setattr(command, "settle", settle)
    with pytest.raises(SystemExit, match="and that is all"):
        command.main(["--cell", "test_station:cell", "--out", str(tmp_path), "--poses", "12"])
    assert seen[0][0] == {"overhead": BLANK} and seen[0][2:] == (12, False, 0)
    np.testing.assert_allclose(seen[0][1], HOME)
    assert len(asked) == 2 and "grippers open" in asked[0] and "Take the plate away" in asked[1]


@pytest.mark.parametrize(
    ("toml", "words"), [("nonsense = 1", "says 'nonsense'"), (None, "cannot read"), ('robot = "viperx"', r"\[cameras\] is None")]
)
def test_a_cell_that_is_none_is_one_line(toml, words, tmp_path):
    path = tmp_path / "cell.toml"
    if toml:
        path.write_text(toml)
    with pytest.raises(SystemExit, match=words):
        command.main(["--cell", str(path), "--out", str(tmp_path / "out")])


class Loose:
    """A robot whose torque can go."""

    def __init__(self):
        self.told = []

    def let_go(self, *, held):
        self.told.append(("let go", held))

    def take_hold(self):
        self.told.append("hold")


def test_torque_goes_only_from_hands_that_said_so_and_comes_back_after_an_error():
    robot = Loose()
    with pytest.raises(CalibrationError, match="they keep their torque"), command._let_go(robot, lambda text: "yes"):
        pass
    assert not robot.told
    with pytest.raises(RuntimeError, match="board fell"), command._let_go(robot, lambda text: " held\n"):
        raise RuntimeError("board fell")
    assert robot.told == [("let go", True), "hold"]
    with pytest.raises(CalibrationError, match="--by-hand: object cannot take the torque"), command._let_go(object(), input):
        pass
