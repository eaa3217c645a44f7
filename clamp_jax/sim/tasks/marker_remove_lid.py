"""Marker Remove Lid: pull the cap off a marker and lay both down.

Range of the reset and success are the public simulator's; that the yaw is any and that nothing may move at the end are ours.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, Int, Key

from clamp_jax.geometry.aloha import TABLE_TOP_Z
from clamp_jax.geometry.transforms import compose, invert, pose, transform
from clamp_jax.sim.distance import TOUCHING_M, between_segments, segment_to_box
from clamp_jax.sim.fingers import finger_segments
from clamp_jax.sim.objects.marker import (
    BARREL_HALF,
    CAP_HALF,
    CAP_Y,
    EDGE_RADIUS,
    PLUG_HALF,
    PLUG_RADIUS,
    PLUG_Y,
    RADIUS,
    add_marker,
    edges,
)
from clamp_jax.sim.robot import FINGER_RADIUS
from clamp_jax.sim.tasks.base import HOME_QPOS, Task
from clamp_jax.sim.tasks.placing import free_pose, standing, still

LOW_M, HIGH_M = -0.2, 0.225  # the marker's x and y
APART_M = 0.05  # the cap is off beyond it
MARKER_QPOS, CAP_QPOS, MARKER_QVEL, CAP_QVEL = 16, 23, 16, 22
# The boxes that fingers meet: of the marker its barrel and plug, of the cap itself. Centre along y, half sizes (m).
_MARKER_BOXES = ((0.0, (RADIUS, BARREL_HALF, RADIUS)), (PLUG_Y, (PLUG_RADIUS, PLUG_HALF, PLUG_RADIUS)))
_CAP_BOXES = ((0.0, (RADIUS, CAP_HALF, RADIUS)),)
# Axes of round-ended rods as long and thick as body and cap: first and last y in their frames, m.
_BODY_ROD, _CAP_ROD = (RADIUS - BARREL_HALF, PLUG_Y + PLUG_HALF - RADIUS), (RADIUS - CAP_HALF, CAP_HALF - RADIUS)


def reset(key: Key[Array, ""]) -> tuple[Float[Array, " q"], Int[Array, ""]]:
    """A marker anywhere in the range with its cap on, any yaw; qpos (30,) and variant 0."""
    place, turn = jax.random.split(key)
    x, y = jax.random.uniform(place, (2,), minval=LOW_M, maxval=HIGH_M)
    yaw = jax.random.uniform(turn, minval=-jnp.pi, maxval=jnp.pi)
    cap = jnp.stack([x - CAP_Y * jnp.sin(yaw), y + CAP_Y * jnp.cos(yaw)])
    things = standing(jnp.stack([x, y]), RADIUS, yaw), standing(cap, RADIUS, yaw)
    return jnp.concatenate([jnp.asarray(HOME_QPOS), *things]), jnp.int32(0)


def success(qpos: Float[ArrayLike, " q"], qvel: Float[ArrayLike, " v"], variant: Int[ArrayLike, ""]) -> Bool[Array, ""]:
    """The cap is over 5 cm from the body; both touch the table, neither a finger, and neither moves."""
    del variant
    marker, cap = free_pose(qpos, MARKER_QPOS), free_pose(qpos, CAP_QPOS)
    down = jnp.maximum(_height(marker, BARREL_HALF), _height(cap, CAP_HALF)) < TOUCHING_M
    let_go = jnp.minimum(_to_fingers(qpos, marker, _MARKER_BOXES), _to_fingers(qpos, cap, _CAP_BOXES)) > TOUCHING_M
    return (apart(marker, cap) > APART_M) & down & let_go & still(qvel, MARKER_QVEL, CAP_QVEL)


def apart(marker: Float[ArrayLike, "4 4"], cap: Float[ArrayLike, "4 4"]) -> Float[Array, ""]:
    """Metres between the marker's body and its cap, as round-ended rods of their length and thickness."""
    return between_segments(_rod(marker, _BODY_ROD), _rod(cap, _CAP_ROD)) - 2 * RADIUS


def _rod(world_from_body: Array, ends_y: tuple[float, float]) -> Float[Array, "2 3"]:
    return transform(world_from_body, jnp.array([(0.0, y, 0.0) for y in ends_y], jnp.float32))


def _height(world_from_body: Array, half: float) -> Float[Array, ""]:
    """Metres from the table to the lowest point of barrel or cap."""
    ends = transform(world_from_body, jnp.asarray(edges(half).reshape(-1, 3), jnp.float32))
    return jnp.min(ends[:, 2]) - EDGE_RADIUS - TABLE_TOP_Z


def _to_fingers(qpos: Array, world_from_body: Array, boxes: tuple) -> Float[Array, ""]:
    """Metres from a body's boxes to the nearest of the four fingers."""
    gaps = []
    for y, half in boxes:
        world_from_box = compose(world_from_body, pose(jnp.array([0.0, y, 0.0]), jnp.array([1.0, 0.0, 0.0, 0.0])))
        segments = transform(invert(world_from_box), finger_segments(qpos))
        gaps.append(jax.vmap(segment_to_box, in_axes=(0, None))(segments, np.float32(half)))
    return jnp.min(jnp.concatenate(gaps)) - FINGER_RADIUS


MARKER_REMOVE_LID = Task(
    name="marker_remove_lid",
    objects=(("cap", "cap"), ("marker", "marker")),
    instructions=("remove the cap from the marker",),
    horizon_s=30.0,
    build=add_marker,
    reset=reset,
    success=success,
)
