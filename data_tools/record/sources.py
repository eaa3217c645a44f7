"""A person as the source of an episode: by leader arms that the followers track, or by moving the arms themselves."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from clamp_jax.deploy.cell import Leaders as LeaderArms
from clamp_jax.deploy.robots import Robot, RobotLost
from clamp_jax.deploy.safety import ARM, Safety
from clamp_jax.structs import CONTROL_HZ
from data_tools.record.follow import UnsafeWay, go, way
from data_tools.record.keys import HELD, STOP, Keys
from data_tools.record.loop import Source

NEAR_RAD = 0.1  # of the leaders, where an episode may begin
TRIES = 3  # ways to leaders that move meanwhile


class Leaders:
    """The followers do what the leader arms do."""

    def __init__(self, leaders: LeaderArms):
        self._leaders = leaders

    def command(self, joints: np.ndarray, tick: int) -> np.ndarray | None:
        return self._leaders.joints()


class Guided:
    """A person moves the arms themselves, which have no torque: nothing is commanded."""

    def command(self, joints: np.ndarray, tick: int) -> np.ndarray | None:
        return joints


@contextlib.contextmanager
def led(robot: Robot, leaders: LeaderArms, keys: Keys, tell: Callable[[str], None]) -> Iterator[Source | None]:
    """The followers go slowly to where the leaders are, then follow them. UnsafeWay when they cannot; None when stopped."""
    tell("the followers go to the leader arms: hold those still")
    for _ in range(TRIES):
        goal = np.asarray(leaders.joints(), np.float64)
        commands = way(Safety(robot.limits), goal, robot.joints(), alive=robot.joints)
        if not go(robot, commands, stop=lambda: keys.take() == STOP):
            yield None
            return
        apart = np.abs(leaders.joints() - goal)[ARM].max()
        if apart < NEAR_RAD:
            yield Leaders(leaders)
            return
    raise UnsafeWay(f"the leader arms moved by {apart:.2f} rad while the followers went to them; hold them still at the start")


@contextlib.contextmanager
def guided(robot: Any, keys: Keys, clock: Any, tell: Callable[[str], None]) -> Iterator[Source | None]:
    """Torque off once somebody has pressed h, and on again at the end; None for any other key."""
    tell("the arms fall without torque: hold both, then press h to take it away (any other key: not now)")
    keys.clear()
    while not (pressed := keys.take()):
        robot.joints()
        clock.wait_until(clock.now() + 1 / CONTROL_HZ)
    if pressed != HELD:
        yield None
        return
    try:
        robot.let_go(held=True)
        yield Guided()
    finally:
        try:
            robot.take_hold()
        except RobotLost:
            tell("the arms may still be without torque: go on holding them, and lay them down")
            raise
