"""The simulated robot's body: native MuJoCo and the cameras of a task, in real time in a process of its own."""

from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from clamp_jax.geometry import aloha

EXACT: Mapping[str, Any] = MappingProxyType({})  # no field of the sensors differs from an exact camera's


class SimulatedCell:
    """The plant of a simulated robot: native MuJoCo and the sensors of `observe`, images of (height, width) pixels.

    `sensor` are fields of SensorConfig: the faults of the cameras, and how late images and observed joints are.
    """

    def __init__(self, task: str, instruction: str, height: int, width: int, seed: int, sensor: Mapping[str, Any] = EXACT):
        """Start in a reset whose variant is the instruction's; ValueError when the task has no such instruction."""
        from clamp_jax import runtime

        runtime.setup("cpu", mjx=False)  # the robot's computer; the accelerator, if there is one, is the server's
        import jax
        import mujoco

        from clamp_jax.sim import robot, rollout, scene, tasks

        self._task, self._scene = tasks.get(task), scene.build(task)
        qpos, self._variant = start_state(self._task, instruction, seed)
        self._mujoco, self._control, self._substeps = mujoco, robot.control, self._scene.substeps
        self._data = mujoco.MjData(self._scene.model)
        self._data.qpos[:] = qpos
        mujoco.mj_forward(self._scene.model, self._data)
        self._home = rollout.HOME_ACTION
        self._success, self._succeeded_at = jax.jit(self._task.success), None
        self._states, self._steps = deque([self._qpos()], maxlen=rollout.STATES), 0
        self._sense, self._calibration = _sensors(self._scene, height, width, seed, sensor)
        self.sense(self.snapshot())  # compile before the clock starts
        self._judge()

    def step(self, action: np.ndarray | None) -> None:
        """Advance 0.02 s."""
        self._data.ctrl[:] = self._control(self._home if action is None else action)
        self._mujoco.mj_step(self._scene.model, self._data, nstep=self._substeps)
        self._steps += 1
        self._states.append(self._qpos())
        self._judge()

    def joints(self) -> np.ndarray:
        """Measured joints (14,), exact and of now: what the control loop reads off the servos, not what comes with the images."""
        return joints_of(self._data.qpos)

    def snapshot(self) -> tuple[np.ndarray, int]:
        """The last states (s, q), newest last, and the number of control steps so far."""
        return np.stack(self._states), self._steps

    def sense(self, snapshot: tuple[np.ndarray, int]) -> dict:
        """Images, depth and joints of a snapshot by camera name, and the cell's calibration."""
        from clamp_jax.structs import CAMERAS

        observation = self._sense(*snapshot)
        rgb, depth_m = np.asarray(observation.rgb), np.asarray(observation.depth_m)
        return {
            "images": dict(zip(CAMERAS, rgb, strict=True)),
            "depth_m": dict(zip(CAMERAS, depth_m, strict=True)),
            "state": np.asarray(observation.joints, np.float32),
            "calibration": self._calibration,
        }

    def status(self) -> dict:
        """Whether and when (s of simulated time) the task was first done."""
        return {"success": self._succeeded_at is not None, "succeeded_at_s": self._succeeded_at, "time_s": float(self._data.time)}

    def _qpos(self) -> np.ndarray:
        return self._data.qpos.astype(np.float32)

    def _judge(self) -> None:
        if self._succeeded_at is None and self._success(self._qpos(), self._data.qvel.astype(np.float32), self._variant):
            self._succeeded_at = float(self._data.time)


def joints_of(qpos: np.ndarray) -> np.ndarray:
    """Joints (14,) of a state (q,), in numpy: a control period is no place for jax."""
    arms = qpos[:16].reshape(2, 8)[:, :7].copy()
    arms[:, 6] = (arms[:, 6] - aloha.GRIPPER_CLOSED_M) / (aloha.GRIPPER_OPEN_M - aloha.GRIPPER_CLOSED_M)
    return arms.reshape(14)


def start_state(task: Any, instruction: str, seed: int, draws: int = 64) -> tuple[np.ndarray, Any]:
    """(qpos (q,), variant) of the first reset of `seed` whose instruction is the given one; ValueError when there is none."""
    from clamp_jax.sim import rollout

    if instruction not in task.instructions:
        raise ValueError(f"the policy is for {instruction!r}; task {task.name!r} has {list(task.instructions)}")
    starts = rollout.initial_states(task, draws if len(task.instructions) > 1 else 1, seed)
    for qpos, variant in zip(starts.qpos, starts.variant, strict=True):
        if task.instructions[int(variant)] == instruction:
            return qpos, variant
    raise ValueError(f"none of {draws} resets of task {task.name!r} has the instruction {instruction!r}; try another seed")


def _sensors(built: Any, height: int, width: int, seed: int, sensor: Mapping[str, Any]) -> tuple[Callable, dict]:
    """(last states, control steps so far) -> Observation, compiled, and the nominal calibration as a request has it."""
    from clamp_jax.geometry import kinematics
    from clamp_jax.sensors import SensorConfig
    from clamp_jax.sim import rollout
    from experiments.evaluate import fixed_looks, padded_scene

    state, capacity = padded_scene(built)
    config = fixed_looks(SensorConfig(height, width, capacity, **sensor))
    calibration = kinematics.aloha_calibration(height, width)
    sense = rollout.make_sense(state, calibration, config)
    names = ("intrinsics", "parent_from_camera", "world_from_base")
    told = {name: np.asarray(getattr(calibration, name), np.float32) for name in names}
    return lambda states, step: _first(sense, states, step, seed), told


def _first(sense: Callable, states: np.ndarray, step: int, seed: int) -> Any:
    """The observation of the only trial there is, with the draws that a rollout's first trial has at that step."""
    import jax

    key = jax.random.fold_in(jax.random.key(seed), 0)
    keys = (jax.random.fold_in(key, number)[None] for number in (1 + step, 0))
    past, mask = np.zeros((1, 50, 14), np.float32), np.zeros((1, 50), bool)  # the control loop knows these, not the robot
    return jax.tree.map(lambda leaf: leaf[0], sense(states[None], past, mask, *keys))
