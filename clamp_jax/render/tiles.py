"""Images in tiles of pixels, and which geoms can be seen in which tile: a conservative test."""

from collections.abc import Iterator, Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Shaped, UInt32

from clamp_jax.render.shapes import SHAPES
from clamp_jax.structs import Capacity

SIDE = 8  # pixels of a tile's side
_MARGIN_PX = 0.01  # by which a tile is widened: rounding must not lose a geom that a ray grazes


def grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tiles that cover an image; those at its right and lower edge may stand over."""
    return -(-height // SIDE), -(-width // SIDE)


def blocks(capacity: Capacity) -> Iterator[tuple[int, slice]]:
    """Index in SHAPES and slots of each type that has any."""
    start = 0
    for index, count in enumerate(capacity):
        if count:
            yield index, slice(start, start + count)
        start += count


def join(pixels: Shaped[Array, "t p"], height: int, width: int) -> Shaped[Array, "h w"]:
    """The image of its tiles' pixels, tiles and pixels row by row; cut to its size."""
    rows, columns = grid(height, width)
    image = pixels.reshape(rows, columns, SIDE, SIDE).transpose(0, 2, 1, 3).reshape(rows * SIDE, columns * SIDE)
    return image[:height, :width]


def touched(
    camera_from_geom: Float[Array, "g 4 4"],
    size: Float[Array, "g 3"],
    intrinsics: Float[Array, "4"],
    capacity: Capacity,
    shape: tuple[int, int],
) -> Bool[Array, "t g"]:
    """Whether a geom may be hit by a ray of a tile: False only where none can.

    A tile's rays lie between four planes through the camera. A geom is left out where it lies wholly beyond one of them,
    by its exact extent along the plane's normal, or wholly behind the camera. Columns and rows are tested apart, so that
    this costs (rows + columns) tests a geom, not rows * columns.
    """
    fx, fy, cx, cy = intrinsics
    rows, columns = grid(*shape)

    def reaches(*normal: Array) -> Array:
        return _reaches(camera_from_geom, size, normal, capacity)

    (low, high), zero, one = _edges(columns, fx, cx), jnp.zeros(columns), jnp.ones(columns)
    in_column = reaches(one, zero, -low) & reaches(-one, zero, high)
    (low, high), zero, one = _edges(rows, fy, cy), jnp.zeros(rows), jnp.ones(rows)
    in_row = reaches(zero, one, -low) & reaches(zero, -one, high)
    in_front = reaches(jnp.zeros(1), jnp.zeros(1), jnp.ones(1))
    return (in_row[:, None] & in_column[None] & in_front[:, None]).reshape(rows * columns, -1)


def _edges(count: int, focal: Array, centre: Array) -> tuple[Array, Array]:
    """First and last pixel centre of each tile along an axis, as slopes, with the margin."""
    first = jnp.arange(count, dtype=jnp.float32) * SIDE + 0.5 - centre
    return (first - _MARGIN_PX) / focal, (first + SIDE - 1 + _MARGIN_PX) / focal


def _reaches(camera_from_geom: Array, size: Array, normal: Sequence[Array], capacity: Capacity) -> Array:
    """(n, g): whether any of a geom lies on the side of a plane through the camera that its normal, components (n,), points to."""
    height = _along(normal, camera_from_geom[:, :3, 3])
    axes = tuple(_along(normal, camera_from_geom[:, :3, i]) for i in range(3))
    sizes = tuple(size[:, i] for i in range(3))
    extent = []
    for index, block in blocks(capacity):
        extent.append(SHAPES[index].extent(tuple(axis[:, block] for axis in axes), tuple(half[None, block] for half in sizes)))
    return height + jnp.concatenate(extent, axis=1) >= 0


def _along(normal: Sequence[Array], vector: Array) -> Array:
    """(n, g): products of normals, components (n,), and vectors (g, 3)."""
    return sum(component[:, None] * vector[None, :, i] for i, component in enumerate(normal))


def directions(intrinsics: Float[Array, "t 4"], row: Int[Array, " t"], column: Int[Array, " t"]) -> Float[Array, "3 t p"]:
    """Directions of the rays of tiles' pixels in their pinhole cameras' frames, row by row; z is 1: their parameter is depth."""
    fx, fy, cx, cy = (intrinsics[:, i, None] for i in range(4))
    step = jnp.arange(SIDE, dtype=jnp.float32)[None] + 0.5
    u, v = (place[:, None].astype(jnp.float32) * SIDE + step for place in (column, row))
    x = jnp.repeat(((u - cx) / fx)[:, None], SIDE, axis=1).reshape(len(row), -1)
    y = jnp.repeat((v - cy) / fy, SIDE, axis=1)
    return jnp.stack([x, y, jnp.ones_like(x)])


def spans(capacity: Capacity) -> Iterator[tuple[int, int, int]]:
    """Index in SHAPES, first slot and count of runs of at most 32 geoms of one type: each has a word in `words`."""
    for index, block in blocks(capacity):
        for first in range(block.start, block.stop, 32):
            yield index, first, min(32, block.stop - first)


def words(found: Bool[Array, "t g"], capacity: Capacity) -> UInt32[Array, "t w"]:
    """The marks as bits, a word for each of `spans`."""
    each = []
    for _, first, count in spans(capacity):
        weight = jnp.left_shift(jnp.uint32(1), jnp.arange(count, dtype=jnp.uint32))
        each.append(jnp.sum(jnp.where(found[:, first : first + count], weight[None], jnp.uint32(0)), axis=1, dtype=jnp.uint32))
    return jnp.stack(each, axis=1)
