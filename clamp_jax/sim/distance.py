"""Distances between the shapes that touch: contact, for a success condition, is a distance under TOUCHING_M on every engine."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, Float

TOUCHING_M = 1e-3
Gap = Callable[[Array], Array]  # first_from_second (4, 4) -> metres between two things, negative where one is in the other
_TINY = 1e-12


def sphere_to_box(
    centre: Float[ArrayLike, "3"],
    radius: float,
    box_centre: Float[ArrayLike, "3"],
    rotation: Float[ArrayLike, "3 3"],
    half: Float[ArrayLike, "3"],
) -> Float[Array, ""]:
    """Metres between a sphere and a box (rotation: frame of centre from the box's axes); the sphere's centre inside: -radius."""
    local = jnp.sum(jnp.asarray(rotation) * (jnp.asarray(centre) - jnp.asarray(box_centre))[:, None], 0)
    outside = jnp.maximum(jnp.abs(local) - jnp.asarray(half), 0.0)
    return jnp.sqrt(jnp.sum(outside * outside)) - radius


def between_segments(one: Float[ArrayLike, "2 3"], two: Float[ArrayLike, "2 3"]) -> Float[Array, ""]:
    """Metres between two line segments given by their ends.

    The nearest points are ends or where the common normal meets both: of the four ends against the other segment and the
    two lines' nearest points, if these lie within the segments, the least distance is taken.
    """
    one, two = jnp.asarray(one), jnp.asarray(two)
    ends = [_from_point(one[i], two) for i in range(2)] + [_from_point(two[i], one) for i in range(2)]
    return jnp.sqrt(jnp.minimum(jnp.min(jnp.stack(ends)), _across(one, two)))


def _from_point(point: Array, segment: Array) -> Array:
    """Square of a point's distance from a segment."""
    way, off = segment[1] - segment[0], point - segment[0]
    along = jnp.clip(jnp.sum(off * way) / jnp.maximum(jnp.sum(way * way), _TINY), 0.0, 1.0)
    return jnp.sum((off - along * way) ** 2)


def _across(one: Array, two: Array) -> Array:
    """Square of the distance of two lines where their nearest points lie within both segments, else infinity."""
    u, v, w = one[1] - one[0], two[1] - two[0], one[0] - two[0]
    uu, uv, vv, uw, vw = (jnp.sum(a * b) for a, b in ((u, u), (u, v), (v, v), (u, w), (v, w)))
    area = uu * vv - uv * uv
    slanted = area > 1e-9 * uu * vv  # else parallel: an end is among the nearest points
    area = jnp.where(slanted, area, 1.0)
    s, t = (uv * vw - vv * uw) / area, (uu * vw - uv * uw) / area
    within = slanted & (s >= 0) & (s <= 1) & (t >= 0) & (t <= 1)
    return jnp.where(within, jnp.sum((w + s * u - t * v) ** 2), jnp.inf)


def segment_to_box(segment: Float[ArrayLike, "2 3"], half: Float[ArrayLike, "3"]) -> Float[Array, ""]:
    """Metres between a line segment, given by its ends in a box's frame, and the box of half size `half`; 0 where they meet.

    The square of a point's distance is convex along the segment, and its slope is a line between the places where the segment
    crosses the planes of the box's faces: between those that enclose slope 0 the nearest point is found by interpolation.
    """
    start, half = jnp.asarray(segment)[0], jnp.asarray(half)
    way = jnp.asarray(segment)[1] - start
    crossings = (jnp.concatenate([half, -half]) - jnp.tile(start, 2)) / jnp.tile(jnp.where(jnp.abs(way) > _TINY, way, 1.0), 2)
    along = jnp.sort(jnp.clip(jnp.concatenate([jnp.array([0.0, 1.0], crossings.dtype), crossings]), 0.0, 1.0))

    def outside(t: Array) -> Array:
        point = start + t * way
        return point - jnp.clip(point, -half, half)

    slopes = jnp.sum(jax.vmap(outside)(along) * way[None], axis=1)
    return jnp.sqrt(jnp.sum(outside(jnp.interp(0.0, slopes, along)) ** 2))
