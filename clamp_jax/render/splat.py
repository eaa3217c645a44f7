"""Points into a z-buffered image, by one scatter-min of a packed key. Exact, and the same whatever the order of the points."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, Int

from clamp_jax.geometry.camera import project
from clamp_jax.structs import Camera

_EMPTY = (1 << 64) - 1


def splat(
    points_world: Float[ArrayLike, "n 3"],
    valid: Bool[ArrayLike, " n"],
    camera: Camera,
    *,
    height: int,
    width: int,
    near: float = 0.01,
    radius_px: int = 0,
) -> Float[Array, "h w 4"]:
    """An image of depth, x, y, z (m) in which each pixel holds its nearest point; an empty pixel is all 0.

    Points that are invalid, not finite, at depth <= near (m) or out of the image are dropped. Of two points at one depth
    the lower index wins. radius_px r lets a point cover a square of 2 r + 1 pixels. Gradients flow to the winners'
    coordinates, not through the choice. Source: the 64-bit atomic minimum of RVT-2 (arXiv 2406.08545).
    """
    points = jnp.asarray(points_world)
    index = visible(points, valid, camera, height=height, width=width, near=near, radius_px=radius_px).reshape(-1)
    xyz = points.at[jnp.maximum(index, 0)].get(mode="promise_in_bounds")
    _, depth_m = project(camera, xyz)
    image = jnp.concatenate([depth_m[:, None], xyz], axis=1)
    return jnp.where((index >= 0)[:, None], image, 0.0).reshape(height, width, 4)


def visible(
    points_world: Float[ArrayLike, "n 3"],
    valid: Bool[ArrayLike, " n"],
    camera: Camera,
    *,
    height: int,
    width: int,
    near: float = 0.01,
    radius_px: int = 0,
) -> Int[Array, "h w"]:
    """Index of the point that each pixel of `splat` shows, -1 where it shows none."""
    points = jax.lax.stop_gradient(jnp.asarray(points_world))
    pixel, z = _pixels(points, jnp.asarray(valid), camera, (height, width, near))
    return _nearest(pixel, z, (height, width), radius_px).reshape(height, width)


def _pixels(points: Array, valid: Array, camera: Camera, frame: tuple[int, int, float]) -> tuple[Array, Array]:
    """Flat pixel index of each point, height * width for a dropped one, and its depth."""
    height, width, near = frame
    uv, z = project(camera, points)
    u, v = uv[:, 0], uv[:, 1]
    # Comparisons with NaN are false, so a point that is not finite is dropped with those out of the image.
    keep = valid & (z > near) & (z < jnp.inf) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    row, column = (jnp.where(keep, c, 0.0).astype(jnp.int32) for c in (v, u))
    return jnp.where(keep, row * width + column, height * width), z


def _nearest(pixel: Array, z: Array, size: tuple[int, int], radius_px: int) -> Array:
    """Index of the nearest point of each pixel, -1 for none, (height * width,)."""
    height, width = size
    depth_bits = jax.lax.bitcast_convert_type(z, jnp.uint32)  # positive floats order as their bits do
    with jax.enable_x64(True):
        index = jnp.arange(z.shape[0], dtype=jnp.uint64)
        key = (depth_bits.astype(jnp.uint64) << jnp.uint64(32)) | index
        image = jnp.full((height * width + 1,), _EMPTY, jnp.uint64)
        image = image.at[pixel].min(key, mode="promise_in_bounds")[:-1]
        if radius_px:
            image = _min_filter(image.reshape(height, width), radius_px).reshape(-1)
        winner = (image & jnp.uint64(0xFFFFFFFF)).astype(jnp.uint32)
        seen = image != jnp.uint64(_EMPTY)
    return jnp.where(seen, winner.astype(jnp.int32), -1)


def _min_filter(keys: Array, radius: int) -> Array:
    """Minimum over a square window, one axis at a time."""
    for window in ((2 * radius + 1, 1), (1, 2 * radius + 1)):
        keys = jax.lax.reduce_window(keys, jnp.uint64(_EMPTY), jax.lax.min, window, (1, 1), "SAME")
    return keys
