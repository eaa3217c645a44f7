"""Joint targets at 50 Hz out of waypoints: minimum-jerk moves, rounded corners, gravity and damping fed forward."""

from collections.abc import Sequence
from typing import NamedTuple

import mujoco
import numpy as np

from clamp_jax.geometry import aloha
from clamp_jax.sim.experts import ik
from clamp_jax.structs import CONTROL_HZ

_SMOOTHING = np.hanning(11)[1:-1] / np.hanning(11).sum()  # 0.18 s wide: rounds the corners between moves
_STICTION_SPEED = 0.05  # rad/s over which dry friction is fed forward in full
_PEAK_OF_MEAN = 1.875  # peak speed of a minimum-jerk move, in its mean speed
_FASTEST = 2.6  # rad/s of a joint; its command runs ahead by what damping takes and stays within the servos' 3.14 rad/s
_LINE_STEP_M, _LINE_STEP_RAD = 0.02, 0.15  # a straight line is solved this often


class PlanError(ValueError):
    """The expert cannot do the task from this state; the message says why."""


class Move(NamedTuple):
    """One motion of an arm: along a path of joint positions within `seconds`, then still for `hold_s`."""

    path: np.ndarray  # (k, 6) rad, passed through evenly; where the arm is before is not among them
    gripper: float  # 0 closed, 1 open, at the end
    seconds: float
    hold_s: float = 0.0


class Script:
    """The moves of one arm, added one after the other; raises ik.IKError where the arm does not reach."""

    def __init__(self, side: str, qpos0: np.ndarray, *, tempo: float = 1.0):
        """qpos0: the scene's qpos (16 or more); tempo: all durations are divided by it."""
        first = 8 * aloha.SIDES.index(side)
        self.side, self.tempo = side, tempo
        self.gripper = float(aloha.HOME_COMMAND[6])  # what it was told last, not where closed fingers stopped each other
        self.joints = np.asarray(qpos0[first : first + 6], float)
        self.start, self.pose = np.append(self.joints, self.gripper), ik.forward(side, self.joints[None])[0][0]
        self.moves: list[Move] = []

    def reach(self, pose: np.ndarray, seconds: float, **end: float) -> "Script":
        """Move to pose (4, 4) by any way the joints take; `end`: gripper and hold_s."""
        return self._add(ik.solve(self.side, pose, self.joints)[None], pose, seconds, **end)

    def slide(self, pose: np.ndarray, seconds: float, **end: float) -> "Script":
        """Move to pose (4, 4) on a straight line; `end`: gripper and hold_s."""
        path = ik.line(self.side, between(self.pose, pose), self.joints)
        return self._add(path, pose, seconds, **end)

    def grip(self, gripper: float, seconds: float, hold_s: float = 0.0) -> "Script":
        """Open or close the gripper in place."""
        return self._add(self.joints[None], self.pose, seconds, gripper=gripper, hold_s=hold_s)

    def home(self, seconds: float, hold_s: float = 0.0) -> "Script":
        """Go back to the home position, closing the gripper."""
        joints = aloha.HOME[:6]
        return self._add(joints[None], ik.forward(self.side, joints[None])[0][0], seconds, gripper=0.0, hold_s=hold_s)

    def wait_for(self, other: "Script") -> "Script":
        """Stay until the other arm's script is where it is now; no change if it is not behind it."""
        missing = other.ticks - self.ticks
        if missing > 0:
            self.moves.append(Move(self.joints[None], self.gripper, missing / CONTROL_HZ))
        return self

    @property
    def ticks(self) -> int:
        """How many commands the moves take so far."""
        return sum(_ticks(move) for move in self.moves)

    def _add(self, path: np.ndarray, pose: np.ndarray, seconds: float, gripper: float | None = None, hold_s: float = 0.0) -> "Script":
        self.gripper = self.gripper if gripper is None else gripper
        seconds = max(seconds / self.tempo, shortest(np.concatenate([self.joints[None], path])))
        self.moves.append(Move(path, self.gripper, seconds, hold_s / self.tempo))
        self.joints, self.pose = path[-1], pose
        return self


def between(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Poses (k, 4, 4) on the straight line from start to stop (4, 4), turning evenly; stop is the last, start is left out."""
    axis = ik.rotation_vector((stop[:3, :3] @ start[:3, :3].T)[None])[0]
    way = stop[:3, 3] - start[:3, 3]
    count = max(int(np.ceil(max(np.linalg.norm(way) / _LINE_STEP_M, np.linalg.norm(axis) / _LINE_STEP_RAD))), 1)
    poses = np.tile(np.eye(4), (count, 1, 1))
    for pose, fraction in zip(poses, np.arange(1, count + 1) / count, strict=True):
        pose[:3, :3] = ik.rotation_about(axis * fraction) @ start[:3, :3]
        pose[:3, 3] = start[:3, 3] + fraction * way
    return poses


def shortest(points: np.ndarray) -> float:
    """Least seconds for a minimum-jerk move through joint points (k, 6), evenly passed, whose servos keep up."""
    fastest = np.abs(np.diff(points, axis=0)).max() * (len(points) - 1)
    return _PEAK_OF_MEAN * fastest / _FASTEST


def minimum_jerk(steps: int) -> np.ndarray:
    """Fraction of the way (steps,) after each of `steps` ticks: no speed and no acceleration at either end; the last is 1."""
    t = np.arange(1, steps + 1) / steps
    return t**3 * (10 - 15 * t + 6 * t**2)


def _ticks(move: Move) -> int:
    return max(round(move.seconds * CONTROL_HZ), 1) + round(move.hold_s * CONTROL_HZ)


def trajectory(start: np.ndarray, moves: list[Move]) -> tuple[np.ndarray, np.ndarray]:
    """Planned joints (t, 6) rad and gripper (t,) at 50 Hz that follow `moves` from `start` (7,), joints and gripper."""
    joints, gripper = [start[None, :6]], [start[6:7]]
    for move in moves:
        along = minimum_jerk(max(round(move.seconds * CONTROL_HZ), 1))
        points = np.concatenate([joints[-1][-1:], move.path])
        joints.append(np.stack([np.interp(along, np.linspace(0, 1, len(points)), column) for column in points.T], 1))
        gripper.append(gripper[-1][-1] + along * (move.gripper - gripper[-1][-1]))
        hold = round(move.hold_s * CONTROL_HZ)
        if hold:
            joints.append(np.repeat(joints[-1][-1:], hold, 0))
            gripper.append(np.repeat(gripper[-1][-1:], hold))
    return _smooth(np.concatenate(joints)), np.concatenate(gripper)


def _smooth(path: np.ndarray) -> np.ndarray:
    half = len(_SMOOTHING) // 2
    padded = np.pad(path, ((half, half), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, _SMOOTHING, "valid") for column in padded.T], 1)


def commands(model: mujoco.MjModel, script: Script, qpos0: np.ndarray) -> np.ndarray:
    """Actions (t, 14) float32, absolute rad and gripper 0..1, of one arm's script; the other arm holds its home command."""
    joints, gripper = trajectory(script.start, script.moves)
    first = 7 * aloha.SIDES.index(script.side)
    actions = np.tile(np.tile(aloha.HOME_COMMAND, 2), (len(joints), 1)).astype(float)
    actions[:, first : first + 6] = joints + feedforward(model, script.side, qpos0, joints)
    actions[:, first + 6] = gripper
    return np.clip(actions, *aloha.WORKING_RANGE.T).astype(np.float32)


def together(model: mujoco.MjModel, scripts: Sequence[Script], qpos0: np.ndarray) -> np.ndarray:
    """Actions (t, 14) float32 of both arms' scripts, begun at the same time; the one that ends first holds its last command."""
    arms = {script.side: commands(model, script, qpos0) for script in scripts}
    length = max(map(len, arms.values()))
    held = {side: np.concatenate([rows, np.repeat(rows[-1:], length - len(rows), axis=0)]) for side, rows in arms.items()}
    return np.concatenate([held[side][:, 7 * i : 7 * i + 7] for i, side in enumerate(aloha.SIDES)], axis=1)


def feedforward(model: mujoco.MjModel, side: str, qpos0: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """What to add to joint targets (t, 6) so that the soft servos get there: torque / kp, rad (t, 6).

    Torque is what gravity and Coriolis forces (mj_rne), damping and dry friction take at the planned pose and speed.
    Without it an arm hangs 1 to 4 cm low and follows 0.1 to 0.2 s late.
    """
    data = mujoco.MjData(model)
    data.qpos[:] = qpos0
    names = [f"{side}/{name}" for name in aloha.ARM_JOINTS]
    places, dofs = (np.array([getattr(model.joint(name), key)[0] for name in names]) for key in ("qposadr", "dofadr"))
    kp = np.array([model.actuator(name).gainprm[0] for name in names])
    speeds = np.gradient(joints, 1 / CONTROL_HZ, axis=0)
    torque, bias = np.zeros_like(joints), np.zeros(model.nv)
    for tick, (place, speed) in enumerate(zip(joints, speeds, strict=True)):
        data.qpos[places], data.qvel[dofs] = place, speed
        for stage in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_comVel):
            stage(model, data)
        mujoco.mj_rne(model, data, 0, bias)
        torque[tick] = bias[dofs]
    torque += model.dof_damping[dofs] * speeds + model.dof_frictionloss[dofs] * np.tanh(speeds / _STICTION_SPEED)
    return torque / kp
