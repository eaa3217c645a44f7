"""A task as two pure functions on arrays, for jit, vmap and scan: MJX steps it, on any device that jax has.

    env = make("drawer_open")
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 1024))
    states, seen = jax.jit(jax.vmap(env.step))(states, actions)

impl="warp" lets MuJoCo Warp do the stepping inside the same functions: it takes meshes too, and wants one vmap, not two.
On a CPU call runtime.setup() first: without its flag MJX can hang there.
"""

import contextlib
import functools
import importlib.util
import io
from collections.abc import Callable, Sequence
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

Advance = Callable[[Physics, Array], tuple[Physics, Array]]  # state, servo targets (14,) -> the state 0.02 s later, slots ran out () bool


class Env(NamedTuple):
    """One environment; batch both functions by vmap."""

    reset: Callable[[Array], Physics]  # key -> a state at rest
    step: Callable[[Physics, Array], tuple[Physics, Trace]]  # state, action (14,) rad, gripper 0..1 -> 0.02 s later, and what is there


def make(task_name: str, geometry: str = "primitive", impl: str = "jax") -> Env:
    """The environment of a task; ValueError for an unknown task (with the nearest name) or geometry, else as of_scene."""
    return of_scene(scenes.build(task_name, geometry), tasks.get(task_name, geometry), impl)


def of_scene(scene: Scene, task: tasks.Task, impl: str = "jax") -> Env:
    """The environment of a task in a scene that is built already.

    impl: "jax" for MJX's own code, "warp" for MuJoCo Warp. Raises ValueError for another one or one that does not take the
    scene, ImportError where Warp is not installed.
    """
    if impl not in _IMPLS:
        raise ValueError(f"impl is {impl!r}; expected one of {', '.join(_IMPLS)}")
    return Env(functools.partial(_reset, scene, task), functools.partial(_control_step, task, _IMPLS[impl](scene)))


def _reset(scene: Scene, task: tasks.Task, key: Array) -> Physics:
    qpos, variant = task.reset(key)
    rest = jnp.zeros(scene.model.nv, jnp.float32)
    return Physics(qpos, rest, rest, jnp.float32(0.0), variant)


def _control_step(task: tasks.Task, advance: Advance, physics: Physics, action: Array) -> tuple[Physics, Trace]:
    physics, overflow = advance(physics, control(action))
    return physics, Trace(physics.qpos, physics.qvel, task.success(physics.qpos, physics.qvel, physics.variant), overflow)


def _with_jax(scene: Scene) -> Advance:
    if scene.geometry != "primitive":
        raise ValueError(f"MJX on jax does not collide the meshes of geometry {scene.geometry!r}; take warp or native")
    model = mjx.put_model(scene.model, impl="jax")

    def substep(ctrl: Array, _: ArrayLike, state: Physics) -> Physics:
        data = _put(mjx.make_data(scene.model, impl="jax"), state, ctrl)
        with jax.numpy_rank_promotion("allow"):  # MJX broadcasts by rank, whatever the caller's setting
            data = _advance(model, data)
        return _taken(data, state)

    def advance(state: Physics, ctrl: Array) -> tuple[Physics, Array]:
        # never told: MJX keeps the deepest contacts of each kind, as many as Task.contact_slots says
        return jax.lax.fori_loop(0, scene.substeps, functools.partial(substep, ctrl), state), jnp.bool_(False)

    return advance


def _put(data: mjx.Data, state: Physics, ctrl: Array) -> mjx.Data:
    return data.replace(qpos=state.qpos, qvel=state.qvel, qacc_warmstart=state.warmstart, time=state.time, ctrl=ctrl)


def _taken(data: mjx.Data, before: Physics) -> Physics:
    return Physics(data.qpos, data.qvel, data.qacc_warmstart, data.time, before.variant)


def _advance(model: mjx.Model, data: mjx.Data) -> mjx.Data:
    """mjx.step for the implicitfast integrator, with its two matrix factorisations one after the other.

    Ours: jax's batched Cholesky on a CPU waits inside XLA's thread pool for work that it has put into the same pool. The
    integrator's factorisation does not depend on the constraint solver's, so XLA runs both at once, and on two cores both
    wait forever. Nothing times the acceleration is a dependence that XLA has to respect.
    """
    data = mjx.forward(model, data)
    return mjx.implicit(model.replace(dof_damping=model.dof_damping + 0.0 * data.qacc), data)


def _with_warp(scene: Scene) -> Advance:
    """Ours: Warp keeps the contacts of all environments in one list, whose length must be known when its data are made.
    The batching rule of custom_vmap is where the number of environments is known; so the functions stay those of one."""
    model, capacity_flags = _warp_model(scene)
    contacts, rows = scenes.warp_capacity(scene.model)

    def one(data: mjx.Data, state: Physics, ctrl: Array) -> tuple[Physics, Array]:
        with jax.numpy_rank_promotion("allow"):
            data = jax.lax.fori_loop(0, scene.substeps, lambda _, data: mjx.step(model, data), _put(data, state, ctrl))
        return _taken(data, state), (data._impl.overflow & capacity_flags) != 0  # flags stay set over the substeps

    def many(states: Physics, ctrl: Array) -> tuple[Physics, Array]:
        data = mjx.make_data(scene.model, impl="warp", naconmax=len(ctrl) * contacts, njmax=rows)
        return jax.vmap(functools.partial(one, data))(states, ctrl)

    @jax.custom_batching.custom_vmap
    def advance(state: Physics, ctrl: Array) -> tuple[Physics, Array]:
        return jax.tree.map(lambda leaf: leaf[0], many(*jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (state, ctrl))))

    @advance.def_vmap
    def batched(environments: int, is_batched: Sequence, state: Physics, ctrl: Array) -> tuple[tuple[Physics, Array], tuple]:
        def spread(leaf: Array, there: bool) -> Array:
            return leaf if there else jnp.broadcast_to(leaf, (environments, *leaf.shape))

        found = many(*jax.tree.map(spread, (state, ctrl), tuple(is_batched)))
        return found, jax.tree.map(lambda _: True, found)

    return advance


def _warp_model(scene: Scene) -> tuple[mjx.Model, int]:
    """Warp's model and the flags of the overflows that lose contacts or constraint rows."""
    if importlib.util.find_spec("warp") is None:
        raise ImportError("the engine 'warp' needs warp-lang; pip install 'clamp-jax[warp]', or take mjx or native")
    import warp
    from mujoco.mjx.warp import mjwp_types

    warp.config.log_level = max(warp.config.log_level, warp.LOG_WARNING)  # else a line for each of its forty kernels
    kinds = mjwp_types.OverflowType
    model = mjx.put_model(scene.model, impl="warp")
    # by default every thread prints; the flags are read instead. A solver that used all its iterations is no overflow.
    model = model.tree_replace({"opt._impl.warn_overflow": 0})
    return model, int(kinds.NEFC | kinds.NJMAX_NNZ | kinds.BROADPHASE | kinds.NARROWPHASE | kinds.CCD)


_IMPLS = {"jax": _with_jax, "warp": _with_warp}
