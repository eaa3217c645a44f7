"""Replaying a recorded episode on a fake robot: where it goes, what it refuses, how it is stopped."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from recorded import HOME, FakeCameras, FakeRobot, Patient, Pressed, Wave, settings, written

from clamp_jax.deploy.robots import RobotLost
from data_tools import replay
from data_tools.record.files import EpisodeFile
from data_tools.record.follow import UnsafeWay
from data_tools.record.loop import record_episode

ROOT = Path(__file__).parents[1]


class Lagging(FakeRobot):
    """Stands a little off what it is told, at the left waist."""

    def command(self, action):
        super().command(action)
        self.at[0] += 0.02


@pytest.fixture(scope="module")
def episode(tmp_path_factory):
    cameras = FakeCameras()
    path = tmp_path_factory.mktemp("taken") / "000000.episode"
    record_episode(FakeRobot(), cameras, Wave(50), settings(), Pressed(), path=path, clock=cameras.clock)
    return path


@pytest.mark.parametrize("speed", [1.0, 0.5, 0.3])
def test_stretching_keeps_the_path_and_both_its_ends(episode, speed):
    numbers = EpisodeFile(episode).numbers
    motion = replay.stretched(numbers, speed)
    assert len(motion.actions) == np.ceil(49 / speed - 1e-9) + 1
    np.testing.assert_allclose(motion.actions[[0, -1]], numbers.actions[[0, -1]], atol=1e-9)
    slow = [np.interp(min(number * speed, 49), np.arange(50), numbers.joints[:, 3]) for number in range(len(motion.joints))]
    np.testing.assert_allclose(motion.joints[:, 3], slow, atol=1e-12)
    if speed == 1.0:
        np.testing.assert_array_equal(motion.actions, numbers.actions)


@pytest.mark.parametrize("speed", [0.0, 1.01, -1.0, float("nan")])
def test_no_other_speed_is_taken(episode, speed):
    with pytest.raises(ValueError, match="expected over 0 and at most 1"):
        replay.stretched(EpisodeFile(episode).numbers, speed)


def test_the_arms_go_to_the_first_pose_then_send_all_actions(episode):
    robot, motion = Lagging(HOME + 0.1), replay.stretched(EpisodeFile(episode).numbers, 1.0)
    outcome = replay.replay(robot, motion, clock=Patient(), tell=lambda text: None)
    assert (outcome.ended, outcome.sent) == ("", 50)
    np.testing.assert_allclose(robot.commands[-50:], motion.actions, atol=1e-5)  # what rounding of float32 safety passes
    np.testing.assert_allclose(robot.commands[-51], motion.joints[0], atol=1e-9)
    assert np.abs(np.diff(np.stack(robot.commands[:-50]), axis=0)).max() * 50 < 0.41
    # measured before each command: a tick behind, and the lag
    behind = motion.joints - np.concatenate([motion.joints[:1], motion.actions[:-1]])
    np.testing.assert_allclose(outcome.deviation[1:], np.abs(behind).max(0)[1:], atol=1e-6)
    np.testing.assert_allclose(outcome.deviation[0], np.abs(behind[:, 0] - 0.02).max(), atol=1e-6)


def test_what_is_not_safe_is_refused_before_anything_moves(tmp_path):
    wild = np.tile(HOME, (50, 1))
    wild[30:, 0] += 1.0
    robot, told = FakeRobot(), []
    with pytest.raises(UnsafeWay, match="is not replayed"):
        replay.replay(robot, replay.stretched(EpisodeFile(written(tmp_path, wild)).numbers, 1.0), tell=told.append)
    assert not robot.commands and "reject jump: first at 0.60 s, of left waist" in told
    robot = FakeRobot(HOME + 3.0)
    with pytest.raises(UnsafeWay, match="straight way there is not safe"):
        replay.replay(robot, replay.stretched(EpisodeFile(written(tmp_path / "..", wild[:5])).numbers, 1.0), tell=told.append)
    assert not robot.commands


@pytest.mark.parametrize("after", [10, 60])
def test_a_stop_brakes_and_holds(episode, after):
    robot, motion = FakeRobot(HOME + 0.1), replay.stretched(EpisodeFile(episode).numbers, 0.5)
    outcome = replay.replay(robot, motion, clock=Patient(), stop=lambda: len(robot.commands) >= after, tell=lambda text: None)
    assert outcome.ended.startswith("stopped") and len(robot.commands) <= after + replay.BRAKE_TICKS
    if after == 60:
        np.testing.assert_array_equal(robot.commands[-1], robot.commands[-2])
        accelerations = np.diff(np.stack(robot.commands[-30:]), 2, axis=0) * 2500
        assert np.abs(np.delete(accelerations, [6, 13], axis=1)).max() < 60.1


def test_a_robot_that_is_lost_is_not_commanded_on(episode):
    robot = FakeRobot()

    def fail():
        if len(robot.commands) > 10:
            raise RobotLost("left waist: does not answer")

    robot.before_joints = fail
    with pytest.raises(RobotLost):
        replay.replay(robot, replay.stretched(EpisodeFile(episode).numbers, 1.0), clock=Patient(), tell=lambda text: None)
    assert len(robot.commands) == 11


def test_a_dry_run_needs_no_robot(episode, tmp_path, capsys):
    assert replay.main(["--episode", str(episode), "--dry-run"]) == 0
    assert "197 commands: 197 pass" in capsys.readouterr().out
    wild = np.tile(HOME, (5, 1))
    wild[3, 0] += 1.0
    assert replay.main(["--episode", str(written(tmp_path, wild)), "--dry-run", "--speed", "1"]) == 1
    assert "reject jump: first at 0.06 s, of left waist" in capsys.readouterr().out


def test_bad_input_ends_in_one_line(episode, capsys, tmp_path):
    assert replay.main(["--episode", str(episode), "--dry-run", "--speed", "2"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("replay: speed is 2.0; expected over 0 and at most 1") and len(told.splitlines()) == 1
    assert replay.main(["--episode", str(tmp_path / "none.episode"), "--dry-run"]) == 1
    assert "none.episode: No such file" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        replay.main(["--episode", str(episode)])


class Said(FakeRobot):
    def rest(self):
        print("the arms are at rest", flush=True)


def said_cell(size):
    """For --cell: says when it rests."""
    import recorded

    recorded.FakeRobot = Said
    return recorded.cell(size)


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_command_says_how_far_each_joint_was_off_and_ctrl_c_holds_then_rests(episode, interrupted):
    words = ["--cell", "test_replay:said_cell", "--episode", str(episode), "--speed", "0.5"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen([sys.executable, "-m", "data_tools.replay", *words], env=environment, stdout=subprocess.PIPE, text=True)
    lines = [child.stdout.readline(), child.stdout.readline()]
    if interrupted:
        threading.Timer(0.3, child.send_signal, [signal.SIGINT]).start()
    lines += child.communicate(timeout=60)[0].splitlines()
    assert "99 commands: 99 pass" in lines[0] and lines[1].startswith("to the first pose in")
    assert sum("rad" in line for line in lines) == 12 and "right gripper" in "".join(lines)
    assert child.returncode == interrupted and ("the arms are at rest" in lines) == interrupted
