"""Couples the buses of two emulated arms to one body: what their servos push, native MuJoCo moves."""

import threading

import numpy as np

from clamp_jax.deploy.robots import arms
from clamp_jax.deploy.robots.simulated import Plant
from clamp_jax.structs import CONTROL_HZ


class SharedPlant:
    """A simulated robot's plant in real time behind two buses; `step` advances it with what both arms were last told.

    The servos' own motion is the buses', the joints' is the plant's. Without torque an arm is told to stay where it is: the plant
    has no such state.
    """

    def __init__(self, plant: Plant):
        self._plant, self._lock, self._started, self._steps = plant, threading.RLock(), None, 0
        self._goal = np.array(plant.joints(), np.float64)

    def side(self, number: int) -> "SharedSide":
        """The bus plant of the left (0) or right (1) arm."""
        return SharedSide(self, number)

    def joints(self) -> np.ndarray:
        """(2, 7)."""
        with self._lock:
            return np.array(self._plant.joints(), np.float64).reshape(2, 7)

    def push(self, number: int, goal: np.ndarray, now: float) -> None:
        """Set one arm's goal (7,) and bring the body to the moment `now`; it is never stepped for more than 0.1 s at once."""
        with self._lock:
            self._goal.reshape(2, 7)[number] = goal
            self._started = now if self._started is None else self._started
            due = int((now - self._started) * CONTROL_HZ) - self._steps
            for _ in range(min(due, CONTROL_HZ // 10)):
                self._plant.step(self._goal.copy())
            self._steps += max(due, 0)


class SharedSide:
    """One arm of a shared plant, as a bus has it: rad, the gripper's horn last."""

    def __init__(self, shared: SharedPlant, number: int):
        self._shared, self._number = shared, number

    def positions(self) -> list[float]:
        """rad (7,)."""
        joints = self._shared.joints()[self._number].tolist()
        return [*joints[:6], arms.horn_from_gripper(joints[6])]

    def goals(self, goals: list[float | None], now: float) -> None:
        """Where the servos push to."""
        at = self.positions()
        told = [here if goal is None else goal for here, goal in zip(at, goals, strict=True)]
        self._shared.push(self._number, np.array([*told[:6], arms.gripper_from_horn(told[6])]), now)
