"""A robot that is kept alive while nobody commands it: between poses, between episodes, while a person thinks.

The servos' watchdogs stop arms whose program has fallen silent. A program that waits on purpose says so by this: whenever nothing was
sent for a while, the joints are read and the last command is sent again. The control loop does without, so that it cannot stall unseen.
"""

import threading
import time
from typing import Any

import numpy as np

from clamp_jax.deploy.robots import Robot, RobotLost

QUIET_S = 0.1  # a fifth of the watchdogs' time (arm.Motion)


class Kept:
    """A Robot around another one, kept alive while the context is open; faults that are met meanwhile are the next caller's."""

    def __init__(self, robot: Robot):
        self._robot, self.limits = robot, robot.limits
        self._lock, self._over = threading.RLock(), threading.Event()
        self._last: np.ndarray | None = None
        self._then, self._fault = time.monotonic(), None
        self._thread = threading.Thread(target=self._keep, name="keep alive", daemon=True)

    def __enter__(self) -> "Kept":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join(5)

    def joints(self) -> np.ndarray:
        """Measured joints (14,)."""
        with self._lock:
            self._raise()
            return self._robot.joints()

    def observe(self) -> dict:
        """As the robot's own; other calls need not wait for it."""
        return self._robot.observe()

    def command(self, action: np.ndarray) -> None:
        """Set the goal (14,)."""
        with self._lock:
            self._raise()
            self._robot.command(action)
            self._last, self._then = np.array(action, float), time.monotonic()

    def rest(self) -> None:
        """Go to the sleep pose; what was commanded before is forgotten."""
        with self._lock:
            self._last = None
            self._robot.rest()

    def _raise(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _keep(self) -> None:
        while not self._over.wait(QUIET_S / 4):
            with self._lock:
                self._repeat()

    def _repeat(self) -> None:
        if self._last is None or self._fault is not None or time.monotonic() - self._then < QUIET_S:
            return
        try:
            self._robot.joints()
            self._robot.command(self._last)
            self._then = time.monotonic()
        except RobotLost as fault:
            self._fault = fault
