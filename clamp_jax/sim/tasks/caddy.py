"""A tool into the left or the right compartment of a caddy. Reset and success are the public simulator's."""

import functools

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, Int, Key

from clamp_jax.geometry.aloha import TABLE_TOP_Z
from clamp_jax.geometry.transforms import compose, invert, pose
from clamp_jax.sim.objects.caddy import CADDY_HALF, CADDY_RIM, TOOLS, add_caddy, add_tools
from clamp_jax.sim.overlap import boxes_overlap
from clamp_jax.sim.tasks.base import AT_REST, HOME_QPOS, Task
from clamp_jax.sim.tasks.placing import NUMBERS, first_apart, six_places, standing

SHARED_ROW = ("caddy", "screwdriver", "magnifier")  # share a row; the others share the other one
OTHER_ROW = ("can_opener", "thumb_drive", "scissors")

NAMES = tuple(TOOLS)  # order of the tools in qpos, after the caddy's x and y
CADDY_QPOS, TOOLS_QPOS, CADDY_QVEL, TOOLS_QVEL = 16, 18, 16, 18
COMPARTMENTS = np.array([(-0.032, 0.0, -0.01), (0.032, 0.0, -0.01)], np.float32)  # m, left and right, in the caddy's frame
COMPARTMENT_HALF = np.array((0.015, 0.047, 0.025), np.float32)
_HALF = np.array([TOOLS[name] for name in NAMES], np.float32)


def build(spec: mujoco.MjSpec, *, target: str) -> None:
    """Caddy and tools; qpos after the robot: caddy x, y, then 7 for each of NAMES."""
    add_caddy(spec)
    add_tools(spec, target)


def reset(key: Key[Array, ""]) -> tuple[Float[Array, " q"], Int[Array, ""]]:
    """Six things in six regions, any yaw but for the caddy; qpos (53,) and the variant, 0 left or 1 right."""
    place, side = jax.random.split(key)
    return first_apart(_draw, _apart, place), jax.random.bernoulli(side).astype(jnp.int32)


def _draw(key: Key[Array, ""]) -> Float[Array, " q"]:
    # One draw for all: each call of the generator costs seconds of compilation.
    numbers = jax.random.uniform(key, (NUMBERS + len(NAMES),))
    places = dict(zip(SHARED_ROW + OTHER_ROW, six_places(numbers[:NUMBERS]), strict=True))
    yaws = jnp.pi * (2 * numbers[NUMBERS:] - 1)
    tools = [standing(places[name], TOOLS[name][2], yaw) for name, yaw in zip(NAMES, yaws, strict=True)]
    return jnp.concatenate([jnp.asarray(HOME_QPOS), places["caddy"], *tools])


def _apart(qpos: Float[Array, " q"]) -> Bool[Array, ""]:
    """Whether the boxes round caddy and tools are clear of one another."""
    caddy = jnp.concatenate([_caddy(qpos) + jnp.array([0, 0, CADDY_RIM / 2], qpos.dtype), jnp.array([1.0, 0, 0, 0], qpos.dtype)])
    frames = jnp.concatenate([caddy[None], qpos[TOOLS_QPOS:].reshape(len(NAMES), 7)])
    halves = jnp.concatenate([jnp.array([(*CADDY_HALF, CADDY_RIM / 2)], qpos.dtype), jnp.asarray(_HALF)])
    poses = pose(frames[:, :3], frames[:, 3:])
    first, second = np.triu_indices(len(frames), 1)
    return ~jnp.any(jax.vmap(_overlap)(poses[first], halves[first], poses[second], halves[second]))


def _overlap(world_from_a: Array, half_a: Array, world_from_b: Array, half_b: Array) -> Array:
    return boxes_overlap(compose(invert(world_from_a), world_from_b), half_a, half_b)


def _caddy(qpos: Float[Array, " q"]) -> Float[Array, "3"]:
    """Position of the caddy's frame in the world, m."""
    return jnp.concatenate([qpos[CADDY_QPOS:TOOLS_QPOS], jnp.array([TABLE_TOP_Z], qpos.dtype)])


def overlaps(qpos: Float[ArrayLike, " q"]) -> Bool[Array, "2 5"]:
    """Which tool's oriented box overlaps which compartment's box (left, right)."""
    qpos = jnp.asarray(qpos)
    tools = qpos[TOOLS_QPOS:].reshape(len(NAMES), 7)
    world_from_tool = pose(tools[:, :3], tools[:, 3:])
    centres = _caddy(qpos)[None] + jnp.asarray(COMPARTMENTS)
    world_from_compartment = pose(centres, jnp.tile(jnp.array([1.0, 0, 0, 0], qpos.dtype), (2, 1)))
    over_tools = jax.vmap(_overlap, in_axes=(None, None, 0, 0))
    over_both = jax.vmap(over_tools, in_axes=(0, None, None, None))
    return over_both(world_from_compartment, jnp.asarray(COMPARTMENT_HALF), world_from_tool, jnp.asarray(_HALF))


def at_rest(qvel: Float[ArrayLike, " v"]) -> Bool[Array, ""]:
    """Whether every component of the linear velocity of caddy and tools is under 1 mm/s."""
    qvel = jnp.asarray(qvel)
    tools = qvel[TOOLS_QVEL:].reshape(len(NAMES), 6)[:, :3]
    return jnp.all(jnp.abs(tools) < AT_REST) & jnp.all(jnp.abs(qvel[CADDY_QVEL:TOOLS_QVEL]) < AT_REST)


def success(qpos: Float[ArrayLike, " q"], qvel: Float[ArrayLike, " v"], variant: Int[ArrayLike, ""], *, target: str) -> Bool[Array, ""]:
    """The target is in the named compartment (0 left, 1 right), no other tool is in either, and nothing moves."""
    inside, row = overlaps(qpos), NAMES.index(target)
    others = jnp.delete(inside, row, axis=1, assume_unique_indices=True)
    return inside[jnp.asarray(variant), row] & ~jnp.any(others) & at_rest(qvel)


def task(target: str) -> Task:
    """The task of one of the tools."""
    spoken = target.replace("_", " ")
    others = tuple(name for name in NAMES if name != target)
    return Task(
        name=f"{target}_in_caddy",
        objects=tuple((name.replace("_", " "), name) for name in (target, "caddy", *others)),
        instructions=tuple(f"place the {spoken} in the {side} compartment of the caddy" for side in ("left", "right")),
        horizon_s=30.0,
        build=functools.partial(build, target=target),
        reset=reset,
        success=functools.partial(success, target=target),
        things=("caddy", *NAMES),
        contact_slots=28,  # twenty hold the tools on the table
    )
