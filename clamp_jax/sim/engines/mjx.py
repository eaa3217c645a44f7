"""MJX: MuJoCo in jax, a batch of environments in one compiled program, on any device that jax has."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike
from mujoco import mjx

from clamp_jax.sim.engines.base import Physics, Trace, checked, initial
from clamp_jax.sim.robot import control
from clamp_jax.sim.scene import SUBSTEPS, Scene
from clamp_jax.sim.tasks import Task

# XLA's concurrency-optimised scheduler can deadlock MJX on a CPU with few cores.
_CPU_OPTIONS = {"xla_cpu_enable_concurrency_optimized_scheduler": False}


class Engine:
    """Steps a batch of environments with MJX; compiles once for each shape of actions (b, t, 14)."""

    name = "mjx"

    def __init__(self, scene: Scene, task: Task):
        self.scene, self.task = scene, task
        self._model = mjx.put_model(scene.model, impl="jax")
        options = _CPU_OPTIONS if jax.default_backend() == "cpu" else None
        self._run = jax.jit(jax.vmap(self._run_one), compiler_options=options)

    def start(self, qpos: ArrayLike, variant: ArrayLike) -> Physics:
        """Environments at rest: qpos (b, q), variant (b,) int32. Raises ValueError for a wrong shape."""
        return jax.tree.map(jnp.asarray, initial(self.scene, qpos, variant))

    def run(self, physics: Physics, actions: ArrayLike) -> tuple[Physics, Trace]:
        """Apply actions (b, t, 14; rad, gripper 0..1), one each 0.02 s; the new state and the states after each action."""
        return self._run(physics, checked(actions, len(physics.qpos)))

    def _run_one(self, physics: Physics, actions: Array) -> tuple[Physics, Trace]:
        return jax.lax.scan(self._control_step, physics, actions)

    def _control_step(self, physics: Physics, action: Array) -> tuple[Physics, Trace]:
        ctrl = control(action)

        def substep(_: int, state: Physics) -> Physics:
            return self._substep(state, ctrl)

        physics = jax.lax.fori_loop(0, SUBSTEPS, substep, physics)
        success = self.task.success(physics.qpos, physics.qvel, physics.variant)
        return physics, Trace(physics.qpos, physics.qvel, success)

    def _substep(self, state: Physics, ctrl: Array) -> Physics:
        data = mjx.make_data(self.scene.model, impl="jax")
        data = data.replace(qpos=state.qpos, qvel=state.qvel, qacc_warmstart=state.warmstart, time=state.time, ctrl=ctrl)
        data = mjx.step(self._model, data)
        return Physics(data.qpos, data.qvel, data.qacc_warmstart, data.time, state.variant)
