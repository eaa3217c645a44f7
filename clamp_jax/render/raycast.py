"""RGB-D images of primitive geoms by exact ray casting: what the simulated cameras see, where there is no renderer.

Geoms are culled against tiles of pixels (tiles.py); each that may be seen in a tile meets its rays, which stand in the
geom's frame; the nearest geom is the minimum of the depth's bits with the geom's slot in the low bits; the bits so lost
are won back from the winner's surface. Solids are seen from outside only, as in MuJoCo's renderer, which culls back faces.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float, Int

from clamp_jax.geometry.camera import pixel_rays
from clamp_jax.geometry.transforms import compose, invert
from clamp_jax.render import tiles
from clamp_jax.render.shapes import SHAPES, Ray, Vector
from clamp_jax.structs import Camera, Capacity, Geoms

BACKGROUND = 0.5  # grey of a pixel without a hit
AMBIENT, HEADLIGHT, LIGHT = 0.25, 0.4, 0.35  # shares of the light: everywhere, from the camera, directed
LIGHT_DIRECTION = np.array([0.36, -0.48, 0.8], np.float32)  # unit, towards the directed light, in the world: tells the faces of a box apart
NEAR_M = 0.01

_MISS = np.uint32(0x7F800000)  # bits of +inf


class _Frame(NamedTuple):
    """What is static in an image."""

    height: int
    width: int
    capacity: Capacity
    far: float

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width in whole tiles."""
        rows, columns = tiles.grid(self.height, self.width)
        return rows * tiles.SIDE, columns * tiles.SIDE

    def join(self, pixels: Array, cameras: int) -> Array:
        """Images (k, h, w) of the pixels of their tiles."""
        return jax.vmap(lambda image: tiles.join(image, self.height, self.width))(pixels.reshape(cameras, -1, tiles.SIDE**2))


def raycast(
    world_from_geom: Float[ArrayLike, "g 4 4"],
    geoms: Geoms,
    cameras: Camera,
    *,
    height: int,
    width: int,
    capacity: Capacity,
    far: float,
    light: Float[ArrayLike, "3"] = LIGHT_DIRECTION,
) -> tuple[Float[Array, "k h w 3"], Float[Array, "k h w"], Int[Array, "k h w"]]:
    """RGB in [0, 1], depth (m along the camera's axis, 0 = no hit nearer than `far` m) and slot of the geom seen (-1 = none).

    `geoms` stands in the slots of `capacity`; body -1 marks an empty slot. `cameras` is a stack (k,) of pinholes, their
    pixels may be anisotropic. `light` points towards the directed light, in the world, and its length scales it. A plane
    with half sizes is finite, a half size of 0 reaches to infinity; planes are seen from both sides.
    """
    rows = np.shape(geoms.body)[0]
    if rows != capacity.total:
        raise ValueError(f"geom table has {rows} rows, expected {capacity.total} of {capacity}; pad the table to that capacity")
    if cameras.distortion is not None:
        raise ValueError("the ray caster's cameras have no lens; render with distortion None")
    world_from_geom, light = jnp.asarray(world_from_geom), jnp.asarray(light, jnp.float32)
    table, cameras = jax.tree.map(jnp.asarray, (geoms, cameras))
    frame, k = _Frame(height, width, capacity, far), len(cameras.intrinsics)
    rays = jax.vmap(lambda camera: tiles.split(pixel_rays(camera, *frame.padded)[1]))(cameras)
    rays = jnp.moveaxis(rays.reshape(-1, tiles.SIDE**2, 3), -1, 0)  # (3, k * t, p): tiles of all cameras in one row
    geom_from_camera = _relative(invert(world_from_geom)[None], cameras.world_from_camera[:, None])[..., :3, :]
    slot, near = _nearest(geom_from_camera, table.size, rays, _touched(world_from_geom, table, cameras, frame), frame)
    geom_light = jnp.sum(world_from_geom[:, :3, :3] * light[None, :, None], axis=1)
    fixed = jnp.broadcast_to(jnp.concatenate([table.size, geom_light, table.colour], axis=1), (k, rows, 9))
    known = jnp.concatenate([geom_from_camera.reshape(k, rows, 12), fixed], axis=-1).reshape(k * rows, 21)
    first = jnp.repeat(jnp.arange(k, dtype=jnp.int32) * rows, slot.shape[0] // k)[:, None]  # of each tile's camera
    row = known[(first + jnp.maximum(slot, 0)).reshape(-1)].T
    rgb, depth_m = _surface(row, (slot.reshape(-1), near.reshape(-1)), rays.reshape(3, -1), frame)
    return jnp.stack([frame.join(channel, k) for channel in rgb], axis=-1), frame.join(depth_m, k), frame.join(slot, k)


def _relative(one: Array, two: Array) -> Array:
    """Products of rigid transforms (..., 4, 4) that broadcast against one another."""
    lead = jnp.broadcast_shapes(one.shape, two.shape)
    return compose(jnp.broadcast_to(one, lead), jnp.broadcast_to(two, lead))


def _touched(world_from_geom: Array, geoms: Geoms, cameras: Camera, frame: _Frame) -> Array:
    """(k * t, g): which geoms may be seen in which tile."""
    camera_from_geom = _relative(invert(cameras.world_from_camera)[:, None], world_from_geom[None])
    touch = jax.vmap(lambda matrix, intrinsics: tiles.touched(matrix, geoms.size, intrinsics, frame.capacity, (frame.height, frame.width)))
    found = touch(camera_from_geom, cameras.intrinsics) & (geoms.body >= 0)[None, None]
    return found.reshape(-1, found.shape[-1])


def _ray(matrix: Array, direction: Array) -> Ray:
    """Rays of camera directions (3, ...) in geoms' frames, matrix (3, 4, ...) is geom_from_camera."""
    x, y, z = direction
    return Ray(tuple(row[3] for row in matrix), tuple(row[0] * x + row[1] * y + row[2] * z for row in matrix))


def _index_bits(capacity: Capacity) -> int:
    return max(1, (capacity.total - 1).bit_length())


def _nearest(geom_from_camera: Array, size: Array, rays: Array, touched: Array, frame: _Frame) -> tuple[Array, Array]:
    """Slot (k * t, p) of the nearest geom that each ray meets, -1 for none, and its depth but for the low bits.

    Of two within 2^-15 of a depth the lower slot is taken.
    """
    bits, best = _index_bits(frame.capacity), jnp.full(rays.shape[1:], _MISS, jnp.uint32)
    low = np.uint32((1 << bits) - 1)
    tiles_each = len(touched) // len(geom_from_camera)

    def visit(index: int, first: int) -> Callable[[Array, Array, Array, Array], Array]:
        def meet(best: Array, tile: Array, geom: Array, live: Array) -> Array:
            slot = first + geom
            matrix = jnp.moveaxis(geom_from_camera[tile // tiles_each, slot], 0, -1)[..., None]
            depth_m = SHAPES[index].meet(_ray(matrix, rays[:, tile]), tuple(size[slot, i, None] for i in range(3)))
            key = jax.lax.bitcast_convert_type(depth_m, jnp.uint32) & ~low | slot[:, None].astype(jnp.uint32)
            key = jnp.where(live[:, None] & (depth_m > NEAR_M), key, _MISS)
            return best.at[tile].min(key, indices_are_sorted=True)

        return meet

    for index, block in tiles.blocks(frame.capacity):  # a tile of these scenes sees some three geoms: a few chunks do
        best = tiles.over_pairs(touched[:, block], visit(index, block.start), best, chunk=len(touched))
    depth_m = jax.lax.bitcast_convert_type(best & ~low, jnp.float32)
    return jnp.where(depth_m < frame.far, (best & low).astype(jnp.int32), -1), depth_m


def _surface(row: Array, found: tuple[Array, Array], direction: Array, frame: _Frame) -> tuple[Array, Array]:
    """Shaded rgb (3, p) and full depth (p,) of the geoms found; row (21, p) is what is known of each pixel's geom."""
    slot, near = found
    ray, size, light, colour = _ray(row[:12].reshape(3, 4, -1), direction), tuple(row[12:15]), row[15:18], row[18:21]
    seen = slot >= 0
    near = jnp.where(seen, near, 1)
    point, height, normal = ray.at(near), jnp.zeros_like(near), (jnp.zeros_like(near),) * 3
    for index, block in tiles.blocks(frame.capacity):
        mine = (slot >= block.start) & (slot < block.stop)
        over, outwards = SHAPES[index].surface(point, size)
        height = jnp.where(mine, over, height)
        normal = tuple(jnp.where(mine, new, old) for new, old in zip(outwards, normal, strict=True))
    # One step of Newton's method along the ray, no longer than the bits that the slot took.
    rate = sum(n * d for n, d in zip(normal, ray.direction, strict=True))
    step = jnp.clip(-height / jnp.where(jnp.abs(rate) < 1e-9, 1e-9, rate), 0, near * 2.0 ** (_index_bits(frame.capacity) - 23))
    rgb = jnp.where(seen[None], colour * _light(normal, ray.direction, light)[None], BACKGROUND)
    return jnp.clip(rgb, 0, 1), jnp.where(seen, near + step, 0)


def _light(normal: Vector, direction: Vector, light: Array) -> Array:
    """Lambert's law for a light at the camera and one from afar, (p,)."""
    facing = -sum(n * d for n, d in zip(normal, direction, strict=True)) / jnp.sqrt(sum(d * d for d in direction))
    lit = sum(n * towards for n, towards in zip(normal, light, strict=True))
    return AMBIENT + HEADLIGHT * jnp.maximum(facing, 0) + LIGHT * jnp.maximum(lit, 0)
