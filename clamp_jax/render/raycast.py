"""RGB-D images of primitive geoms by exact ray casting: what the simulated cameras see, where there is no renderer.

Every geom of a type meets every pixel in one array (geoms, pixels), with the rays in the geom's frame; the nearest geom is
the minimum of the depth's bits with the geom's slot in the low bits; the bits so lost are won back from the winner's
surface. No loop over geoms and no scatter: fast on CPUs, and TPUs can do it. Solids are seen from outside only, as
in MuJoCo's renderer, which culls back faces.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float, Int

from clamp_jax.geometry.camera import pixel_rays
from clamp_jax.geometry.transforms import compose, invert
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

    def blocks(self) -> list[slice]:
        """The slots of each type, in the order of SHAPES."""
        ends = np.cumsum(self.capacity).tolist()
        return [slice(end - count, end) for end, count in zip(ends, self.capacity, strict=True)]


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
    world_from_geom, light = jnp.asarray(world_from_geom), jnp.asarray(light, jnp.float32)
    table, cameras = jax.tree.map(jnp.asarray, (geoms, cameras))
    frame = _Frame(height, width, capacity, far)
    return jax.vmap(lambda camera: _image(world_from_geom, table, camera, light, frame))(cameras)


def _image(world_from_geom: Array, geoms: Geoms, camera: Camera, light: Array, frame: _Frame) -> tuple[Array, Array, Array]:
    """One camera's rgb, depth and slots, (h, w, ...)."""
    world_from_camera = jnp.broadcast_to(camera.world_from_camera, world_from_geom.shape)
    matrix = compose(invert(world_from_geom), world_from_camera)[:, :3]
    direction = jnp.moveaxis(pixel_rays(camera, frame.height, frame.width)[1], -1, 0).reshape(3, -1)
    slot, near = _nearest(matrix, geoms, direction, frame)
    geom_light = jnp.sum(world_from_geom[:, :3, :3] * light[None, :, None], axis=1)
    rows = jnp.concatenate([matrix.reshape(-1, 12), geoms.size, geom_light, geoms.colour], axis=1)
    rgb, depth_m = _surface(rows[jnp.maximum(slot, 0)].T, (slot, near), direction, frame)
    shape = (frame.height, frame.width)
    return rgb.reshape(*shape, 3), depth_m.reshape(shape), slot.reshape(shape)


def _ray(matrix: Array, direction: Array) -> Ray:
    """Rays of camera directions (3, ...) in geoms' frames, matrix (3, 4, ...) is geom_from_camera."""
    x, y, z = direction
    return Ray(tuple(row[3] for row in matrix), tuple(row[0] * x + row[1] * y + row[2] * z for row in matrix))


def _index_bits(capacity: Capacity) -> int:
    return max(1, (capacity.total - 1).bit_length())


def _nearest(matrix: Array, geoms: Geoms, direction: Array, frame: _Frame) -> tuple[Array, Array]:
    """Slot of the nearest geom that each ray meets, -1 for none, and its depth but for the low bits.

    Of two within 2^-15 of a depth the lower slot is taken.
    """
    bits = _index_bits(frame.capacity)
    low = np.uint32((1 << bits) - 1)
    best = jnp.full(direction.shape[1], _MISS, jnp.uint32)
    for shape, block in zip(SHAPES, frame.blocks(), strict=True):
        if block.start == block.stop:
            continue
        ray = _ray(jnp.moveaxis(matrix[block], 0, -1)[..., None], direction[:, None, :])
        depth_m = shape.meet(ray, tuple(geoms.size[block, i, None] for i in range(3)))
        near = jnp.where(geoms.body[block] >= 0, NEAR_M, jnp.inf)[:, None]  # an empty slot is beyond every depth
        slot = jnp.arange(block.start, block.stop, dtype=jnp.uint32)[:, None]
        key = jax.lax.bitcast_convert_type(depth_m, jnp.uint32) & ~low | slot
        best = jnp.minimum(best, jnp.min(jnp.where(depth_m > near, key, _MISS), axis=0))
    depth_m = jax.lax.bitcast_convert_type(best & ~low, jnp.float32)
    return jnp.where(depth_m < frame.far, (best & low).astype(jnp.int32), -1), depth_m


def _surface(row: Array, found: tuple[Array, Array], direction: Array, frame: _Frame) -> tuple[Array, Array]:
    """Shaded rgb (p, 3) and full depth (p,) of the geoms found; row (21, p) is what is known of each pixel's geom."""
    slot, near = found
    ray, size, light, colour = _ray(row[:12].reshape(3, 4, -1), direction), tuple(row[12:15]), row[15:18], row[18:21]
    seen = slot >= 0
    near = jnp.where(seen, near, 1)
    point, height, normal = ray.at(near), jnp.zeros_like(near), (jnp.zeros_like(near),) * 3
    for shape, block in zip(SHAPES, frame.blocks(), strict=True):
        mine = (slot >= block.start) & (slot < block.stop)
        over, outwards = shape.surface(point, size)
        height = jnp.where(mine, over, height)
        normal = tuple(jnp.where(mine, new, old) for new, old in zip(outwards, normal, strict=True))
    # One step of Newton's method along the ray, no longer than the bits that the slot took.
    rate = sum(n * d for n, d in zip(normal, ray.direction, strict=True))
    step = jnp.clip(-height / jnp.where(jnp.abs(rate) < 1e-9, 1e-9, rate), 0, near * 2.0 ** (_index_bits(frame.capacity) - 23))
    rgb = jnp.where(seen[None], colour * _light(normal, ray.direction, light)[None], BACKGROUND)
    return jnp.clip(rgb, 0, 1).T, jnp.where(seen, near + step, 0)


def _light(normal: Vector, direction: Vector, light: Array) -> Array:
    """Lambert's law for a light at the camera and one from afar, (p,)."""
    facing = -sum(n * d for n, d in zip(normal, direction, strict=True)) / jnp.sqrt(sum(d * d for d in direction))
    lit = sum(n * towards for n, towards in zip(normal, light, strict=True))
    return AMBIENT + HEADLIGHT * jnp.maximum(facing, 0) + LIGHT * jnp.maximum(lit, 0)
