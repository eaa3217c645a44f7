"""A task as two pure functions on arrays, for jit, vmap and scan: MJX steps it, on any device that jax has.

    env = make("drawer_open")
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 1024))
    states, seen = jax.jit(jax.vmap(env.step))(states, actions)

On a CPU call runtime.setup() first: without its flag MJX can hang there.
"""

import contextlib
import functools
import io
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike

from clamp_jax.sim import scene as scenes
from clamp_jax.sim import tasks
from clamp_jax.sim.engines.base import Physics, Trace
from clamp_jax.sim.robot import control
from clamp_jax.sim.scene import Scene

with contextlib.redirect_stdout(io.StringIO()):  # it prints that its optional Warp backend is not installed
    from mujoco import mjx


class Env(NamedTuple):
    """One environment; batch both functions by vmap."""

    reset: Callable[[Array], Physics]  # key -> a state at rest
    step: Callable[[Physics, Array], tuple[Physics, Trace]]  # state, action (14,) rad, gripper 0..1 -> 0.02 s later, and what is there


def make(task_name: str, geometry: str = "primitive") -> Env:
    """The environment of a task; ValueError for an unknown task (with the nearest name) or geometry."""
    return of_scene(scenes.build(task_name, geometry), tasks.get(task_name, geometry))


def of_scene(scene: Scene, task: tasks.Task) -> Env:
    """The environment of a task in a scene that is built already."""
    model = mjx.put_model(scene.model, impl="jax")
    return Env(functools.partial(_reset, scene, task), functools.partial(_control_step, scene, task, model))


def _reset(scene: Scene, task: tasks.Task, key: Array) -> Physics:
    qpos, variant = task.reset(key)
    rest = jnp.zeros(scene.model.nv, jnp.float32)
    return Physics(qpos, rest, rest, jnp.float32(0.0), variant)


def _control_step(scene: Scene, task: tasks.Task, model: mjx.Model, physics: Physics, action: Array) -> tuple[Physics, Trace]:
    ctrl = control(action)

    def substep(_: ArrayLike, state: Physics) -> Physics:
        data = mjx.make_data(scene.model, impl="jax")
        data = data.replace(qpos=state.qpos, qvel=state.qvel, qacc_warmstart=state.warmstart, time=state.time, ctrl=ctrl)
        with jax.numpy_rank_promotion("allow"):  # MJX broadcasts by rank, whatever the caller's setting
            data = _advance(model, data)
        return Physics(data.qpos, data.qvel, data.qacc_warmstart, data.time, state.variant)

    physics = jax.lax.fori_loop(0, scene.substeps, substep, physics)
    return physics, Trace(physics.qpos, physics.qvel, task.success(physics.qpos, physics.qvel, physics.variant))


def _advance(model: mjx.Model, data: mjx.Data) -> mjx.Data:
    """mjx.step for the implicitfast integrator, with its two matrix factorisations one after the other.

    Ours: jax's batched Cholesky on a CPU waits inside XLA's thread pool for work that it has put into the same pool. The
    integrator's factorisation does not depend on the constraint solver's, so XLA runs both at once, and on two cores both
    wait forever. Nothing times the acceleration is a dependence that XLA has to respect.
    """
    data = mjx.forward(model, data)
    return mjx.implicit(model.replace(dof_damping=model.dof_damping + 0.0 * data.qacc), data)
