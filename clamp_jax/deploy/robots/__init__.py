"""Robots behind one small protocol: what the control loop needs of a pair of arms, simulated or real."""

from typing import Protocol, runtime_checkable

import numpy as np

from clamp_jax.deploy.safety import Limits

SLEEP = np.tile([0.0, -1.85, 1.55, 0.0, 0.8, 0.0, 0.0], 2)  # (14,) rad; where a ViperX may lose its torque without falling


class RobotLost(ConnectionError):
    """The robot does not answer; nothing can be sent to it."""


@runtime_checkable
class Robot(Protocol):
    """Two arms with their cameras. `joints` and `command` take far less than a control period; `observe` may take longer.

    `observe` is called from another thread than the rest.
    """

    limits: Limits

    def joints(self) -> np.ndarray:
        """Measured joints (14,): rad, gripper 0 closed, 1 open."""

    def observe(self) -> dict:
        """Images, depth, joint state and calibration of one moment, as a policy server's request has them."""

    def command(self, action: np.ndarray) -> None:
        """Set the goal (14,); the robot keeps it until the next one."""

    def rest(self) -> None:
        """Go slowly to the sleep pose; only then may the torque go."""


def path_to(goal: np.ndarray, start: np.ndarray, *, speed: float = 0.8, hz: int = 50) -> np.ndarray:
    """Commands (t, 14) from `start` to `goal`, smooth, no joint faster than `speed` rad/s at its fastest."""
    distance = float(np.abs(goal - start).max())
    steps = max(int(np.ceil(1.5 * distance / speed * hz)), 1)  # a cubic's fastest is 1.5 times its mean
    phase = np.linspace(0, 1, steps + 1)[1:, None]
    return start + (3 * phase**2 - 2 * phase**3) * (goal - start)
