"""Point clouds of a fixed size: merge the cameras', crop, subsample. Points that do not count are marked, not removed."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, PRNGKeyArray


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
