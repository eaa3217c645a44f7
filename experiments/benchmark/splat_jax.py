"""Our splat of the render benchmark: five views of each cloud, every form of the library."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from clamp_jax import batching
from clamp_jax.geometry import bins
from clamp_jax.geometry.camera import pinhole
from clamp_jax.render.splat import splat_views
from experiments.benchmark.work import NEAR_M, SIZE, Work

FORMS = tuple(bins.FORMS)


def make(work: Work, form: str) -> Callable[[], jax.Array]:
    """A call that renders the work, (b, v, h, w, 4), and waits for it."""
    points = jax.device_put(work.points)
    cameras = jax.device_put((work.intrinsics, work.world_from_camera))
    render = compiled(work.radius_px, form)
    return lambda: jax.block_until_ready(render(points, *cameras))


@functools.cache
def compiled(radius_px: int, form: str | None, slab: int | None = None) -> Callable[..., jax.Array]:
    """The jitted function; batched as the library does it, or `slab` samples at a time."""

    def views(points: jax.Array, intrinsics: jax.Array, poses: jax.Array) -> jax.Array:
        valid = jnp.ones(len(points), bool)
        static = {"height": SIZE, "width": SIZE, "near": NEAR_M, "radius_px": radius_px, "form": form}
        return splat_views(points, valid, pinhole(intrinsics, poses), **static)

    def render(points: jax.Array, intrinsics: jax.Array, poses: jax.Array) -> jax.Array:
        one = lambda cloud: views(cloud, intrinsics, poses)  # noqa: E731
        return batching.each(one, points) if slab is None else jax.lax.map(one, points, batch_size=slab)

    return jax.jit(render)


def image(result: jax.Array) -> np.ndarray:
    """The result as numpy."""
    return np.asarray(result)
