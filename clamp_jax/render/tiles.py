"""Which geoms can be seen in which tile of an image: a conservative test, and lists of the pairs that pass it."""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Shaped

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


def split(image: Float[Array, "h w c"]) -> Float[Array, "t p c"]:
    """The pixels of each tile, row by row; h and w are multiples of SIDE."""
    h, w, c = image.shape
    return image.reshape(h // SIDE, SIDE, w // SIDE, SIDE, c).transpose(0, 2, 1, 3, 4).reshape(-1, SIDE * SIDE, c)


def join(pixels: Shaped[Array, "t p"], height: int, width: int) -> Shaped[Array, "h w"]:
    """The image whose tiles `split` made, cut to its size."""
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


def over_pairs(found: Bool[Array, "t g"], visit: Callable[[Array, Array, Array, Array], Array], state: Array, chunk: int) -> Array:
    """state = visit(state, tile, geom, live) for all True (tile, geom) in `found`, `chunk` of them at a time, in order.

    The last chunk is filled up with pairs that are not `live` (bool[chunk]). There is no capacity that could overflow:
    as many chunks are visited as it takes.
    """
    ordinal = jnp.cumsum(found.reshape(-1).astype(jnp.int32))  # of each pair among those that are True, from 1
    total, geoms = ordinal[-1], found.shape[1]

    def body(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        begin, state = carry
        wanted = begin + jnp.arange(chunk, dtype=jnp.int32)
        pair = jnp.minimum(jnp.searchsorted(ordinal, wanted + 1), found.size - 1).astype(jnp.int32)
        return begin + chunk, visit(state, pair // geoms, pair % geoms, wanted < total)

    return jax.lax.while_loop(lambda carry: carry[0] < total, body, (jnp.int32(0), state))[1]
