"""Points into a z-buffered image. Exact, and the same whatever the order of the points and whatever the device."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, Int

from clamp_jax.geometry import bins
from clamp_jax.geometry.camera import project
from clamp_jax.structs import Camera

LANES = 4  # order of the points on a CPU, see _apart
LIMIT_PX = 8  # default of the most that a radius in metres can reach in the image


def splat(
    points_world: Float[ArrayLike, "n 3"],
    valid: Bool[ArrayLike, " n"],
    camera: Camera,
    *,
    height: int,
    width: int,
    near: float = 0.01,
    radius_px: int = 0,
    radius_m: float = 0.0,
    limit_px: int = LIMIT_PX,
    colours: Float[ArrayLike, "n c"] | None = None,
    form: str | None = None,
) -> Float[Array, "h w d"]:
    """An image of depth, x, y, z (m) and the colours' channels in which each pixel holds its nearest point; empty pixels are all 0.

    Points that are invalid, not finite, at depth <= near (m) or out of the image are dropped. Of two points at one depth
    the lower index wins. A point covers the square of 2 r + 1 pixels round its own: r is radius_px, or what radius_m (m)
    measures at the point's depth, rounded to whole pixels for each axis, at most limit_px. `form` forces one of
    bins.FORMS. Gradients flow to the winners' coordinates and colours, not through the choice.
    """
    cameras = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], camera)
    options = {"near": near, "radius_px": radius_px, "radius_m": radius_m, "limit_px": limit_px, "form": form}
    return splat_views(points_world, valid, cameras, height=height, width=width, colours=colours, **options)[0]


def splat_views(
    points_world: Float[ArrayLike, "n 3"],
    valid: Bool[ArrayLike, " n"],
    cameras: Camera,
    *,
    height: int,
    width: int,
    colours: Float[ArrayLike, "n c"] | None = None,
    **options: Any,
) -> Float[Array, "v h w d"]:
    """The images of `splat` of one cloud at several cameras (stacked), which share the work that they can; options as there."""
    winners = visible_in_views(points_world, valid, cameras, height=height, width=width, **options)
    columns = _columns(points_world) + ([] if colours is None else _columns(colours))
    images = []
    for camera, index in zip(_unstack(cameras), winners, strict=True):
        index = index.reshape(-1)
        taken = jnp.maximum(index, 0)
        # Column by column: a CPU gathers rows of three at half the speed.
        found = [column.at[taken].get(mode="promise_in_bounds") for column in columns]
        depth = project(camera, jnp.stack(found[:3], axis=1))[1]
        image = jnp.stack([depth, *found], axis=1)
        images.append(jnp.where((index >= 0)[:, None], image, 0.0).reshape(height, width, -1))
    return jnp.stack(images)


def visible(
    points_world: Float[ArrayLike, "n 3"], valid: Bool[ArrayLike, " n"], camera: Camera, *, height: int, width: int, **options: Any
) -> Int[Array, "h w"]:
    """Index of the point that each pixel of `splat` shows, -1 where it shows none; options as there, but for the colours."""
    cameras = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], camera)
    return visible_in_views(points_world, valid, cameras, height=height, width=width, **options)[0]


class _How(NamedTuple):
    """The options of `splat` that decide the winners."""

    height: int
    width: int
    near: float = 0.01
    radius_px: int = 0
    radius_m: float = 0.0
    limit_px: int = LIMIT_PX
    form: str | None = None


def visible_in_views(
    points_world: Float[ArrayLike, "n 3"], valid: Bool[ArrayLike, " n"], cameras: Camera, *, height: int, width: int, **options: Any
) -> tuple[Int[Array, "h w"], ...]:
    """`visible` at several cameras (stacked), an array for each of them.

    Raises ValueError for a negative radius, for one in pixels and one in metres at once, and for an unknown form.
    """
    how = _How(height, width, **options)
    _check_radius(how.radius_px, how.radius_m, how.limit_px)
    points, valid = jax.lax.stop_gradient(jnp.asarray(points_world)), jnp.asarray(valid)
    # One by one: a CPU runs independent scatters at once, a vmapped one not.
    views = _unstack(jax.tree.map(jax.lax.stop_gradient, cameras))
    nothing = tuple(jnp.full((height, width), -1, jnp.int32) for _ in views)
    if not len(points):
        return nothing

    def find(points: Array, valid: Array, lanes: int) -> tuple[Array, ...]:
        place = jnp.arange(len(valid), dtype=jnp.int32)
        index = place % lanes * (len(valid) // lanes) + place // lanes  # cheaper worked out again than read
        return tuple(_winners(points.T, valid, index, camera, how) for camera in views)

    def written(points: Array, valid: Array) -> tuple[Array, ...]:
        """What goes into and out of a branch is written to memory; else XLA on a CPU works it out again for all that reads it."""
        anything = jnp.asarray(valid).any() & jnp.isfinite(jnp.asarray(cameras.world_from_camera)).any()
        return jax.lax.cond(anything, functools.partial(find, lanes=LANES), lambda *_: nothing, *_apart(points, valid))

    return jax.lax.platform_dependent(points, valid, cpu=written, default=lambda points, valid: find(points.T, valid, lanes=1))


def _winners(points: Array, valid: Array, index: Array, camera: Camera, how: _How) -> Array:
    """The winning index of each pixel of one view, (h, w)."""
    size = (how.height, how.width)
    after = None
    if how.radius_px or how.radius_m:
        most, reach = (how.radius_px, None) if how.radius_px else (how.limit_px, functools.partial(_reach, camera, how.radius_m))
        after = functools.partial(_spread, size=size, most=most, reach=reach)
    pixel, z = _pixels(points, valid, camera, (*size, how.near))
    rank = jax.lax.bitcast_convert_type(z, jnp.uint32)  # positive floats order as their bits do
    best, index = bins.least(pixel, rank, how.height * how.width, index=index, form=how.form, after=after)
    return jnp.where(best != jnp.uint32(bins.NO_RANK), index, -1).reshape(size)


def _apart(points: Array, valid: Array) -> tuple[Array, Array]:
    """The cloud, (3, m), in an order that puts what is side by side in an image LANES apart, and which points count.

    Neighbours often fall into one pixel, and a CPU waits for the first one's minimum to be stored before it takes the next.
    """

    def order(column: Array) -> Array:
        return jnp.pad(column, (0, -len(valid) % LANES)).reshape(LANES, -1).T.reshape(-1)

    return jnp.stack([order(points[:, axis]) for axis in range(3)]), order(valid)


def _columns(rows: ArrayLike) -> list[Array]:
    rows = jnp.asarray(rows)
    return [rows[:, i] for i in range(rows.shape[1])]


def _unstack(cameras: Camera) -> list[Camera]:
    count = np.shape(cameras.intrinsics)[0]
    return [jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf)[i], cameras) for i in range(count)]


def _check_radius(radius_px: int, radius_m: float, limit_px: int) -> None:
    if radius_px < 0 or radius_m < 0 or limit_px < 0:
        raise ValueError(f"radius_px is {radius_px}, radius_m {radius_m} and limit_px {limit_px}; expected 0 or more")
    if radius_px and radius_m:
        raise ValueError(f"radius_px is {radius_px} and radius_m {radius_m}; give one of them")


def _pixels(points: Array, valid: Array, camera: Camera, frame: tuple[int, int, float]) -> tuple[Array, Array]:
    """Flat pixel index of each point, height * width for a dropped one, and its depth."""
    height, width, near = frame
    uv, z = project(camera, points)
    u, v = uv[:, 0], uv[:, 1]
    # Comparisons with NaN are false, so a point that is not finite is dropped with those out of the image.
    keep = valid & (z > near) & (z < jnp.inf) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    row, column = (jnp.where(keep, c, 0.0).astype(jnp.int32) for c in (v, u))
    return jnp.where(keep, row * width + column, height * width), z


def _reach(camera: Camera, radius_m: float, axis: int, rank: Array) -> Array:
    """Whole pixels that a radius spans along an axis (0 down, 1 across) at the depth whose bits are `rank`."""
    depth_m = jax.lax.bitcast_convert_type(rank, jnp.float32)
    focal = jnp.asarray(camera.intrinsics)[1 - axis]
    return jnp.round(radius_m * focal / jnp.where(camera.orthographic, 1.0, depth_m))


def _spread(image: Any, keys: bins.Keys, *, size: tuple[int, int], most: int, reach: Callable[[int, Array], Array] | None) -> Any:
    """Let every pixel's point cover its square, one axis after the other; the least rank wins, then the lowest index.

    Only the winners of single pixels need to spread: a nearer point's square is never smaller, so what it hides of a
    farther one in its own pixel it hides everywhere.
    """
    image = jax.tree.map(lambda each: each.reshape(size), image)
    for axis in (1, 0):
        reaches = None if reach is None else reach(axis, keys.rank(image))
        best = image
        for shift in range(-most, most + 1):
            if shift:
                moved = jax.tree.map(lambda each, empty, shift=shift, axis=axis: _shifted(each, shift, axis, empty), image, keys.empty)
                if reaches is not None:
                    covers = _shifted(reaches, shift, axis, 0) >= abs(shift)
                    hide = functools.partial(_where, covers)
                    moved = jax.tree.map(hide, moved, keys.empty)
                best = keys.lesser(best, moved)
        image = jax.lax.optimization_barrier(best)
    return jax.tree.map(lambda each: each.reshape(-1), image)


def _where(condition: Array, values: Array, fill: int) -> Array:
    return jnp.where(condition, values, jnp.asarray(fill, values.dtype))


def _shifted(image: Array, shift: int, axis: int, fill: int) -> Array:
    """The image moved by `shift` pixels along an axis, `fill` where nothing comes in."""
    low, high = max(shift, 0), max(-shift, 0)
    padding = [(low, high, 0) if each == axis else (0, 0, 0) for each in range(2)]
    padded = jax.lax.pad(image, jnp.asarray(fill, image.dtype), padding)
    return jax.lax.slice_in_dim(padded, high, high + image.shape[axis], axis=axis)
