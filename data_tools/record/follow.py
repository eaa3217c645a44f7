"""Commands one after another through the safety layer, and the slow way to a pose."""

from collections.abc import Callable
from typing import Any

import numpy as np

from clamp_jax.deploy.control import Clock
from clamp_jax.deploy.robots import Robot, path_to
from clamp_jax.deploy.safety import REJECT, Safety, Verdict
from clamp_jax.structs import ACTION_DIM, CONTROL_HZ

SPEED = 0.4  # rad/s; a person stands by
PERIOD_S = 1 / CONTROL_HZ
ALIVE_EVERY = 20  # commands that are judged, some milliseconds each at most


class UnsafeWay(ValueError):
    """A motion that the safety layer would not let through; the message says where and why."""


class Follower:
    """What is sent when commands are wanted: as safety lets them through; for a rejected one the arms brake and hold."""

    def __init__(self, safety: Safety):
        self._safety, self._last, self._velocity = safety, None, np.zeros(ACTION_DIM)

    def step(self, wanted: np.ndarray, joints: np.ndarray) -> Verdict:
        """What became of a command (14,), at measured joints (14,): its `command` is what to send, of a rejected one too."""
        last = joints if self._last is None else self._last
        verdict = self._safety.check(wanted, last, self._velocity)
        if verdict.command is None:
            verdict = verdict._replace(command=self._safety.brake(last, self._velocity))
        command = np.asarray(verdict.command, np.float64)
        self._velocity = np.zeros(ACTION_DIM) if self._last is None else (command - self._last) / self._safety.period_s
        self._last = command
        return verdict

    def brake(self) -> np.ndarray:
        """The next command (14,) on the way to rest, and at rest: the last one again. Once something was sent."""
        before, self._last = self._last, self._safety.brake(self._last, self._velocity)
        self._velocity = (self._last - before) / self._safety.period_s
        return self._last

    def pause(self) -> None:
        """Deadlines were missed: the robot has kept its goal meanwhile, and has to be brought up to speed anew."""
        self._velocity = np.zeros(ACTION_DIM)


def judged(safety: Safety, commands: np.ndarray, start: np.ndarray, *, alive: Callable[[], Any] = lambda: None) -> list[Verdict]:
    """What would become of commands (t, 14) one after another, on arms that follow exactly from joints `start` (14,) at rest.

    alive: called again and again meanwhile, where the servos' watchdogs want to hear of us.
    """
    follower, verdicts = Follower(safety), []
    for number, command in enumerate(np.asarray(commands, np.float64)):
        verdicts.append(follower.step(command, start))
        if number % ALIVE_EVERY == 0:
            alive()
    return verdicts


def way(safety: Safety, goal: np.ndarray, start: np.ndarray, *, alive: Callable[[], Any] = lambda: None) -> np.ndarray:
    """Commands (t, 14) that go slowly from `start` to `goal`, both (14,); UnsafeWay when one of them would be rejected."""
    verdicts = judged(safety, path_to(goal, start, speed=SPEED), start, alive=alive)
    for number, verdict in enumerate(verdicts):
        if verdict.band == REJECT:
            at = f"after {100 * number / len(verdicts):.0f} % of it"
            raise UnsafeWay(f"the straight way there is not safe: {verdict.cause} of {verdict.detail} {at}; move the arms nearer to it")
    return np.stack([verdict.command for verdict in verdicts])


def go(robot: Robot, commands: np.ndarray, *, clock: Clock | None = None, stop: Callable[[], bool] = lambda: False) -> bool:
    """Send commands (t, 14) at the control rate; False when `stop()` ended it: the robot keeps the last one."""
    clock = clock or Clock()
    start = clock.now()
    for number, command in enumerate(commands):
        clock.wait_until(start + number * PERIOD_S)
        if stop():
            return False
        robot.joints()  # looks after the servos
        robot.command(command)
    return True
