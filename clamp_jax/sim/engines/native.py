"""MuJoCo in C, one environment a thread at a time."""

import copy
import os
from concurrent.futures import ThreadPoolExecutor

import jax
import mujoco
import numpy as np
from jaxtyping import ArrayLike

from clamp_jax.sim.engines.base import Physics, Trace, checked, initial
from clamp_jax.sim.robot import control
from clamp_jax.sim.scene import Scene
from clamp_jax.sim.tasks import Task

_CHUNKS = (4, 64, 512)  # states whose success is decided at a time: few compiled shapes for all batches and lengths


class Engine:
    """Steps a batch of environments with MuJoCo on `threads` threads (all cores by default); states are float64 inside."""

    name = "native"

    def __init__(self, scene: Scene, task: Task, threads: int | None = None):
        self.scene, self.task = scene, task
        self._threads = threads or len(os.sched_getaffinity(0))
        self._success = jax.jit(jax.vmap(task.success))
        self._own = scene.model.nq, scene.model.nv  # the robot's and the task's part of a state

    def in_scene(self, scene: Scene) -> "Engine":
        """The same engine in a changed scene of the task: other physics, or distractors after the task's own bodies.

        Success is decided as before, by the part of a state that this engine's scene has; nothing is compiled again.
        """
        other = copy.copy(self)
        other.scene = scene
        return other

    def start(self, qpos: ArrayLike, variant: ArrayLike) -> Physics:
        """Environments at rest: qpos (b, q), variant (b,) int32. Raises ValueError for a wrong shape."""
        state = initial(self.scene, qpos, variant)
        return state._replace(**{name: getattr(state, name).astype(np.float64) for name in ("qpos", "qvel", "warmstart", "time")})

    def run(self, physics: Physics, actions: ArrayLike) -> tuple[Physics, Trace]:
        """Apply actions (b, t, 14; rad, gripper 0..1), one each 0.02 s; the new state and the states after each action."""
        targets = control(checked(actions, len(physics.qpos))).astype(np.float64)
        environments = range(len(targets))
        with ThreadPoolExecutor(self._threads) as pool:
            parts = list(pool.map(lambda i: self._run_one(physics, targets[i], i), environments))
        last, qpos, qvel = zip(*parts, strict=True)
        after = Physics(*(np.stack(field) for field in zip(*last, strict=True)), variant=np.asarray(physics.variant))
        qpos, qvel = np.stack(qpos), np.stack(qvel)
        success = self._succeeded(qpos, qvel, after.variant)
        return after, Trace(qpos, qvel, success, np.zeros_like(success))

    def _run_one(self, physics: Physics, targets: np.ndarray, index: int) -> tuple[tuple, np.ndarray, np.ndarray]:
        model, data = self.scene.model, mujoco.MjData(self.scene.model)
        data.qpos[:], data.qvel[:] = physics.qpos[index], physics.qvel[index]
        data.qacc_warmstart[:], data.time = physics.warmstart[index], physics.time[index]
        qpos, qvel = np.empty((len(targets), model.nq), np.float32), np.empty((len(targets), model.nv), np.float32)
        for step, target in enumerate(targets):
            data.ctrl[:] = target
            mujoco.mj_step(model, data, nstep=self.scene.substeps)
            qpos[step], qvel[step] = data.qpos, data.qvel
        return (data.qpos.copy(), data.qvel.copy(), data.qacc_warmstart.copy(), np.float64(data.time)), qpos, qvel

    def _succeeded(self, qpos: np.ndarray, qvel: np.ndarray, variant: np.ndarray) -> np.ndarray:
        """Success (b, t) of every state, in pieces of one size."""
        own_qpos, own_qvel = qpos[..., : self._own[0]], qvel[..., : self._own[1]]
        flat = own_qpos.reshape(-1, self._own[0]), own_qvel.reshape(-1, self._own[1]), np.repeat(variant, qpos.shape[1])
        chunk = next((size for size in _CHUNKS if size >= len(flat[0])), _CHUNKS[-1])
        pieces = []
        for begin in range(0, len(flat[0]), chunk):
            piece = [array[begin : begin + chunk] for array in flat]
            missing = chunk - len(piece[0])
            padded = [np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) for array in piece]
            pieces.append(np.asarray(self._success(*padded))[: chunk - missing])
        return np.concatenate(pieces).reshape(qpos.shape[:2])
