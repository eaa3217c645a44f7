"""Point clouds of a fixed size: merge the cameras', crop, thin out, subsample. Points that do not count are marked, not removed."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, PRNGKeyArray

from clamp_jax.geometry import bins


def merge(points: Float[ArrayLike, "k h w 3"], valid: Bool[ArrayLike, "k h w"]) -> tuple[Float[Array, "n 3"], Bool[Array, " n"]]:
    """One cloud of the points of k images, in image order."""
    return jnp.asarray(points).reshape(-1, 3), jnp.asarray(valid).reshape(-1)


def crop(
    points: Float[ArrayLike, "n 3"], valid: Bool[ArrayLike, " n"], low: Float[ArrayLike, "3"], high: Float[ArrayLike, "3"]
) -> Bool[Array, " n"]:
    """Which points are valid and stand in the closed box from `low` to `high` (m); a NaN stands in no box."""
    points, low, high = jnp.asarray(points), jnp.asarray(low), jnp.asarray(high)
    inside = jnp.asarray(valid)
    for i in range(3):
        inside = inside & (points[:, i] >= low[i]) & (points[:, i] <= high[i])
    return inside


def thin(
    points: Float[ArrayLike, "n 3"],
    valid: Bool[ArrayLike, " n"],
    size_m: float,
    low: Sequence[float],
    high: Sequence[float],
    key: PRNGKeyArray,
    *,
    form: str | None = None,
) -> Bool[Array, " n"]:
    """Marks of one valid point in each cube of a grid of `size_m` from `low` to `high` (m, static), each of a cube's with the same chance.

    Points out of the grid are not marked. Raises ValueError for a size that is not positive or a grid of 2^27 cubes and more.
    """
    shape = _grid(size_m, low, high)
    cell = jnp.floor((jnp.asarray(points) - jnp.asarray(low, jnp.float32)[None]) / size_m)
    inside = jnp.asarray(valid) & jnp.all((cell >= 0) & (cell < jnp.asarray(shape, jnp.float32)[None]), axis=1)
    i, j, k = (jnp.where(inside, cell[:, axis], 0.0).astype(jnp.int32) for axis in range(3))
    count = int(np.prod(shape))
    place = jnp.where(inside, (i * shape[1] + j) * shape[2] + k, count)
    rank = jax.random.bits(key, inside.shape, jnp.uint32) >> 1  # under what an empty cube holds
    _, chosen = bins.least(place, rank, count, form=form)
    return inside & (chosen.at[jnp.minimum(place, count - 1)].get(mode="promise_in_bounds") == jnp.arange(len(inside)))


def _grid(size_m: float, low: Sequence[float], high: Sequence[float]) -> tuple[int, int, int]:
    if not size_m > 0:
        raise ValueError(f"cubes of {size_m} m; expected a size over 0")
    shape = tuple(int(np.ceil((b - a) / size_m - 1e-6)) for a, b in zip(low, high, strict=True))
    if min(shape) < 1 or np.prod(shape, dtype=np.int64) >= 1 << 27:
        raise ValueError(f"cubes of {size_m} m from {tuple(low)} to {tuple(high)} make a grid of {shape}; expected 1 to 2^27 cubes")
    return shape


def subsample(
    points: Float[ArrayLike, "n 3"], valid: Bool[ArrayLike, " n"], count: int, key: PRNGKeyArray
) -> tuple[Float[Array, "count 3"], Bool[Array, " count"]]:
    """`count` of the valid points, each with the same chance and none twice; all of them and padding where there are fewer.

    Source: ours; systematic sampling of the valid points in their order from a random start. It needs no sort (30 times
    slower than the splat on a CPU) and thins every part of an image alike.
    """
    points, valid = jnp.asarray(points), jnp.asarray(valid)
    with jax.enable_x64(True):  # rank * total passes 2^31
        seen = jnp.cumsum(valid, dtype=jnp.int64)
        total = seen[-1]
        start = (jax.random.uniform(key, dtype=jnp.float32).astype(jnp.float64) * total).astype(jnp.int64)
        row = jnp.arange(count, dtype=jnp.int64)
        rank = jnp.where(total > count, (row * total + start) // count, row)
        chosen = jnp.minimum(jnp.searchsorted(seen, rank + 1), len(valid) - 1).astype(jnp.int32)
        kept = (row < total).astype(bool)
    return points[chosen], kept
