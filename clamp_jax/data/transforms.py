"""Arrays in, arrays out: normalisation by the robot's table, padding to fixed sizes, chunks of actions with their masks.

Numpy for what is done before the step; `normalise` and `denormalise` also take jax arrays, traced ones too.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int
from jaxtyping import Float32 as F32

from clamp_jax.geometry.aloha import WORKING_RANGE
from clamp_jax.structs import CHUNK, HISTORY, JOINT_FIXED, Capacity, Geoms, Tree

# MuJoCo's mjtGeom number of each type a table has slots for.
GEOM_TYPES = {"plane": 0, "sphere": 2, "capsule": 3, "cylinder": 5, "box": 6}
EMPTY_BODY = -1  # body of an empty geom slot


class Sizes(NamedTuple):
    """The fixed sizes that scenes of all tasks are padded to, so that they stand in one batch."""

    bodies: int = 48
    qpos: int = 80  # the laid table's 58 and 7 for each of three distractors; a number more costs next to nothing, a geom does
    geoms: Capacity = Capacity()


SIZES = Sizes()


def _columns(ranges: Any, ndim: int) -> tuple[Any, Any]:
    """Low and high of the table with `ndim` axes, in float32 where it is numpy's."""
    ranges = ranges.astype(np.float32)
    shape = (1,) * (ndim - 1) + (ranges.shape[0],)
    return ranges[:, 0].reshape(shape), ranges[:, 1].reshape(shape)


def normalise(
    actions: Float[ArrayLike, "*batch a"], ranges: Float[ArrayLike, "a 2"] = WORKING_RANGE
) -> Float[ArrayLike, "*batch a"]:
    """Map actions or joint states to [-1, 1] by the table of working ranges; values outside it are not clipped.

    actions (..., a) rad and gripper 0..1, ranges (a, 2) low, high; numpy or jax in, the same out, float32.
    Source: min-max as of ALOHA Unleashed (arXiv 2410.13126); ours: the table is the robot's, not a data set's.
    """
    low, high = _columns(ranges, actions.ndim)
    return (actions - low) * (2 / (high - low)) - 1


def denormalise(
    normalised: Float[ArrayLike, "*batch a"], ranges: Float[ArrayLike, "a 2"] = WORKING_RANGE
) -> Float[ArrayLike, "*batch a"]:
    """Inverse of `normalise`: (..., a) in [-1, 1] to rad and gripper 0..1, float32."""
    low, high = _columns(ranges, normalised.ndim)
    return (normalised + 1) * ((high - low) / 2) + low


def past_chunk(
    actions: Float[ArrayLike, "t a"], tick: int, length: int = HISTORY
) -> tuple[F32[np.ndarray, "length a"], Bool[np.ndarray, " length"]]:
    """Commands before `tick`, a[tick - length] ... a[tick - 1], oldest first, and the mask of those that exist.

    What lies before the start of the episode is 0 with mask False; the command at `tick` itself is never in it.
    """
    actions = np.asarray(actions, np.float32)
    found = actions[max(0, tick - length) : tick]
    past = np.zeros((length, actions.shape[1]), np.float32)
    past[length - len(found) :] = found
    return past, np.arange(length) >= length - len(found)


def future_chunk(
    actions: Float[ArrayLike, "t a"], tick: int, length: int = CHUNK
) -> tuple[F32[np.ndarray, "length a"], Bool[np.ndarray, " length"]]:
    """Commands from `tick` on, a[tick] ... a[tick + length - 1]; past the end the last one is repeated, mask False."""
    actions = np.asarray(actions, np.float32)
    ticks = np.arange(tick, tick + length)
    return actions[np.minimum(ticks, len(actions) - 1)], ticks < len(actions)


def _too_many(what: str, found: int, capacity: int) -> ValueError:
    return ValueError(f"the scene has {found} {what}, the capacity is {capacity}; use fewer, or raise the capacity of {what} in Sizes")


def pad_tree(tree: Tree, bodies: int) -> Tree:
    """Pad a kinematic tree to `bodies` rows; padding rows are fixed to the world at its origin.

    Raises ValueError when the tree has more bodies.
    """
    count = len(tree.parent)
    if count > bodies:
        raise _too_many("bodies", count, bodies)

    def pad(column: Any, dtype: type, fill: Any = 0) -> np.ndarray:
        column = np.asarray(column, dtype)
        padding = np.broadcast_to(np.asarray(fill, dtype), (bodies - count, *column.shape[1:]))
        return np.concatenate([column, padding])

    return Tree(
        parent=pad(tree.parent, np.int32),
        pos=pad(tree.pos, np.float32),
        quat=pad(tree.quat, np.float32, (1, 0, 0, 0)),
        joint=pad(tree.joint, np.int32, JOINT_FIXED),
        axis=pad(tree.axis, np.float32, (0, 0, 1)),
        anchor=pad(tree.anchor, np.float32),
        qpos_start=pad(tree.qpos_start, np.int32),
    )


def pad_qpos(qpos: Float[ArrayLike, "*t q"], size: int) -> F32[np.ndarray, "*t size"]:
    """Pad the last axis of qpos with zeros to `size`; raises ValueError when it is longer."""
    qpos = np.asarray(qpos, np.float32)
    if qpos.shape[-1] > size:
        raise _too_many("qpos", qpos.shape[-1], size)
    return np.pad(qpos, [(0, 0)] * (qpos.ndim - 1) + [(0, size - qpos.shape[-1])])


def count_geoms(geom_types: Int[ArrayLike, " g"]) -> Capacity:
    """Geoms of each type; raises ValueError for a type that has no slots (ellipsoids, meshes)."""
    geom_types = np.asarray(geom_types)
    unknown = sorted(set(geom_types.tolist()) - set(GEOM_TYPES.values()))
    if unknown:
        raise ValueError(f"geom type(s) {unknown} of MuJoCo have no slots; expected {GEOM_TYPES}: build the shape from those")
    return Capacity(**{name: int(np.sum(geom_types == number)) for name, number in GEOM_TYPES.items()})


def check_sizes(bodies: int, qpos: int, geoms: Capacity, sizes: Sizes) -> None:
    """Raise ValueError that names what a scene has more of than `sizes` has room for, with number and capacity."""
    found = {"bodies": bodies, "qpos": qpos} | {f"geoms of type {name}": n for name, n in geoms._asdict().items()}
    limits = [sizes.bodies, sizes.qpos, *sizes.geoms]
    for (what, count), limit in zip(found.items(), limits, strict=True):
        if count > limit:
            raise _too_many(what, count, limit)


def _slots(geom_types: np.ndarray, capacity: Capacity) -> np.ndarray:
    """Slot of each geom: those of one type in their order, types in the order of Capacity."""
    slots, start = np.zeros(len(geom_types), np.int32), 0
    for name, number in GEOM_TYPES.items():
        rows = np.flatnonzero(geom_types == number)
        if len(rows) > getattr(capacity, name):
            raise _too_many(f"geoms of type {name}", len(rows), getattr(capacity, name))
        slots[rows] = start + np.arange(len(rows))
        start += getattr(capacity, name)
    return slots


def pad_geoms(geom_types: Int[ArrayLike, " g"], geoms: Geoms, capacity: Capacity) -> Geoms:
    """Put geoms into their slots by type; an empty slot has body -1, size 0 and the unit quaternion.

    geom_types (g,) MuJoCo's mjtGeom, geoms unpadded in the same order; returns (capacity.total, ...).
    Raises ValueError naming the type when there are more than its slots.
    """
    geom_types = np.asarray(geom_types)
    count_geoms(geom_types)
    slots, total = _slots(geom_types, capacity), capacity.total

    def place(column: Any, dtype: type, fill: Any = 0) -> np.ndarray:
        column = np.asarray(column, dtype)
        placed = np.array(np.broadcast_to(np.asarray(fill, dtype), (total, *column.shape[1:])))
        placed[slots] = column
        return placed

    return Geoms(
        size=place(geoms.size, np.float32),
        colour=place(geoms.colour, np.float32),
        body=place(geoms.body, np.int32, EMPTY_BODY),
        pos=place(geoms.pos, np.float32),
        quat=place(geoms.quat, np.float32, (1, 0, 0, 0)),
    )
