"""MJX: MuJoCo in jax, a batch of environments in one compiled program, on any device that jax has."""

import contextlib
import io

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike

from clamp_jax.sim.engines.base import Physics, Trace, checked, initial
from clamp_jax.sim.robot import control
from clamp_jax.sim.scene import SUBSTEPS, Scene
from clamp_jax.sim.tasks import Task

with contextlib.redirect_stdout(io.StringIO()):  # it prints that its optional Warp backend is not installed
    from mujoco import mjx


class Engine:
    """Steps a batch of environments with MJX.

    Ours: one control step is compiled, for each batch size once, and called for each action: any number of actions runs
    without another compilation (40 s of one core), and a call costs nothing beside the five substeps in it.
    """

    name = "mjx"

    def __init__(self, scene: Scene, task: Task):
        self.scene, self.task = scene, task
        self._model = mjx.put_model(scene.model, impl="jax")
        self._step = jax.jit(jax.vmap(self._control_step))

    def start(self, qpos: ArrayLike, variant: ArrayLike) -> Physics:
        """Environments at rest: qpos (b, q), variant (b,) int32. Raises ValueError for a wrong shape."""
        return jax.tree.map(jnp.asarray, initial(self.scene, qpos, variant))

    def run(self, physics: Physics, actions: ArrayLike) -> tuple[Physics, Trace]:
        """Apply actions (b, t, 14; rad, gripper 0..1), one each 0.02 s; the new state and the states after each action."""
        states = []
        for action in np.swapaxes(checked(actions, len(physics.qpos)), 0, 1):
            physics, state = self._step(physics, action)
            states.append(state)
        return physics, jax.tree.map(lambda *parts: jnp.stack(parts, axis=1), *states)

    def _control_step(self, physics: Physics, action: Array) -> tuple[Physics, Trace]:
        """One action (14,) in one environment, and what it led to."""
        ctrl = control(action)

        def substep(_: ArrayLike, state: Physics) -> Physics:
            return self._substep(state, ctrl)

        physics = jax.lax.fori_loop(0, SUBSTEPS, substep, physics)
        success = self.task.success(physics.qpos, physics.qvel, physics.variant)
        return physics, Trace(physics.qpos, physics.qvel, success)

    def _substep(self, state: Physics, ctrl: Array) -> Physics:
        data = mjx.make_data(self.scene.model, impl="jax")
        data = data.replace(qpos=state.qpos, qvel=state.qvel, qacc_warmstart=state.warmstart, time=state.time, ctrl=ctrl)
        with jax.numpy_rank_promotion("allow"):  # MJX broadcasts by rank, whatever the caller's setting
            data = _step(self._model, data)
        return Physics(data.qpos, data.qvel, data.qacc_warmstart, data.time, state.variant)


def _step(model: mjx.Model, data: mjx.Data) -> mjx.Data:
    """mjx.step for the implicitfast integrator, with its two matrix factorisations one after the other.

    Ours: jax's batched Cholesky on a CPU waits inside XLA's thread pool for work that it has put into the same pool. The
    integrator's factorisation does not depend on the constraint solver's, so XLA runs both at once, and on two cores both
    wait forever. Nothing times the acceleration is a dependence that XLA has to respect.
    """
    data = mjx.forward(model, data)
    return mjx.implicit(model.replace(dof_damping=model.dof_damping + 0.0 * data.qacc), data)
