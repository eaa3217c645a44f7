"""A robot that nobody commands for a while: its servos' watchdogs stay quiet, and a fault meanwhile is the next caller's."""

import contextlib
import time

import numpy as np
import pytest

from clamp_jax.deploy.robots import SLEEP, Robot, RobotLost, emulator
from clamp_jax.deploy.robots.arm import Motion
from clamp_jax.deploy.robots.dynamixel import BusFault
from clamp_jax.deploy.robots.kept import QUIET_S, Kept
from clamp_jax.deploy.robots.viperx import ViperX
from clamp_jax.deploy.safety import aloha_limits

WATCHDOG_S = 0.5


class Counted:
    """A robot that counts what it is told."""

    def __init__(self):
        self.limits, self.sent, self.fault, self.rested = aloha_limits(), [], None, 0

    def joints(self):
        if self.fault:
            raise self.fault
        return SLEEP.copy()

    def observe(self):
        return {"seen": True}

    def command(self, action):
        self.sent.append(np.array(action))

    def rest(self):
        self.rested += 1


def wait(condition, limit_s=5.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_last_command_is_sent_again_and_nothing_before_the_first_one():
    inner = Counted()
    with Kept(inner) as robot:
        assert isinstance(robot, Robot) and robot.observe() == {"seen": True}
        time.sleep(2 * QUIET_S)
        assert not inner.sent
        goal = np.linspace(0, 1, 14)
        robot.command(goal)
        goal[:] = 9  # a caller may write into its array again
        wait(lambda: len(inner.sent) > 2)
        np.testing.assert_array_equal(inner.sent[-1], np.linspace(0, 1, 14))
        robot.rest()
        sent = len(inner.sent)
        time.sleep(2 * QUIET_S)
        assert (len(inner.sent), inner.rested) == (sent, 1)
    robot_count = len(inner.sent)
    time.sleep(2 * QUIET_S)
    assert len(inner.sent) == robot_count  # the thread has ended


def test_a_fault_that_is_met_meanwhile_is_raised_by_the_next_call():
    inner = Counted()
    with Kept(inner) as robot:
        robot.command(SLEEP)
        inner.fault = RobotLost("left elbow: overload")
        wait(lambda: robot._fault is not None)
        inner.fault = None
        for call in (robot.joints, lambda: robot.command(SLEEP)):
            with pytest.raises(RobotLost, match="left elbow: overload"):
                call()


@pytest.mark.parametrize("kept", [True, False])
def test_watchdogs_trip_without_it_alone(kept):
    with contextlib.ExitStack() as stack:
        buses = [stack.enter_context(emulator.Bus(emulator.servos_of_an_arm(), baud=None)) for _ in range(2)]
        arms = stack.enter_context(ViperX({"left": buses[0].path, "right": buses[1].path}, motion=Motion(watchdog_s=WATCHDOG_S)))
        robot = stack.enter_context(Kept(arms)) if kept else arms
        here = robot.joints()
        robot.command(here)
        time.sleep(2.5 * WATCHDOG_S)
        if kept:
            np.testing.assert_allclose(robot.joints(), here, atol=0.01)
            return
        with pytest.raises(BusFault, match="watchdog has tripped"):
            for _ in range(20):
                robot.joints()
