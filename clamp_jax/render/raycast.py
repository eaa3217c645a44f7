"""RGB-D images of primitive geoms by exact ray casting: what the simulated cameras see, where there is no renderer.

Every geom of a type meets every pixel in one array (geoms, pixels), with the rays in the geom's frame; the nearest geom is
the minimum of the depth's bits with the geom's slot in the low bits, and the winner's depth and normal are then computed
again in full. No loop over geoms and no scatter: fast on CPUs, and TPUs can do it. Faces are seen from outside only, as
in a renderer that culls back faces.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float, Int

from clamp_jax.geometry.camera import pixel_rays
from clamp_jax.geometry.transforms import compose, invert
from clamp_jax.render.shapes import SHAPES, Ray
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
    with half sizes is finite, a half size of 0 reaches to infinity; planes are seen from their front.
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
    slot = _nearest(matrix, geoms, direction, frame)
    geom_light = jnp.sum(world_from_geom[:, :3, :3] * light[None, :, None], axis=1)
    rows = jnp.concatenate([matrix.reshape(-1, 12), geoms.size, geom_light, geoms.colour], axis=1)
    rgb, depth_m = _surface(rows, slot, direction, frame)
    shape = (frame.height, frame.width)
    return rgb.reshape(*shape, 3), depth_m.reshape(shape), slot.reshape(shape)


def _ray(matrix: Array, direction: Array) -> Ray:
    """Rays of camera directions (3, ...) in geoms' frames, matrix (3, 4, ...) is geom_from_camera."""
    x, y, z = direction
    return Ray(tuple(row[3] for row in matrix), tuple(row[0] * x + row[1] * y + row[2] * z for row in matrix))


def _nearest(matrix: Array, geoms: Geoms, direction: Array, frame: _Frame) -> Array:
    """Slot of the nearest geom that each ray meets, -1 for none; of two within 2^-15 of a depth the lower slot."""
    bits = max(1, (frame.capacity.total - 1).bit_length())
    best = jnp.full(direction.shape[1], _MISS, jnp.uint32)
    for shape, block in zip(SHAPES, frame.blocks(), strict=True):
        if block.start == block.stop:
            continue
        ray = _ray(jnp.moveaxis(matrix[block], 0, -1)[..., None], direction[:, None, :])
        depth_m = shape.meet(ray, tuple(geoms.size[block, i, None] for i in range(3)))
        hit = (depth_m > NEAR_M) & (depth_m < frame.far) & (geoms.body[block] >= 0)[:, None]
        key = jax.lax.bitcast_convert_type(depth_m, jnp.uint32) >> bits << bits
        slot = jnp.arange(block.start, block.stop, dtype=jnp.uint32)[:, None]
        best = jnp.minimum(best, jnp.min(jnp.where(hit, key | slot, _MISS), axis=0))
    return jnp.where(best < _MISS, (best & np.uint32((1 << bits) - 1)).astype(jnp.int32), -1)


def _surface(rows: Array, slot: Array, direction: Array, frame: _Frame) -> tuple[Array, Array]:
    """Shaded rgb (p, 3) and exact depth (p,) of the geoms in the slots, from one row of numbers a geom."""
    row = rows[jnp.maximum(slot, 0)].T
    ray, size, light, colour = _ray(row[:12].reshape(3, 4, -1), direction), tuple(row[12:15]), row[15:18], row[18:21]
    depth_m, normal = jnp.zeros(slot.shape), (jnp.zeros(slot.shape),) * 3
    for shape, block in zip(SHAPES, frame.blocks(), strict=True):
        mine = (slot >= block.start) & (slot < block.stop)
        met = jnp.where(mine, shape.meet(ray, size), 0)
        depth_m = jnp.where(mine, met, depth_m)
        normal = tuple(jnp.where(mine, new, old) for new, old in zip(shape.normal(ray.at(met), size), normal, strict=True))
    seen = slot >= 0
    rgb = jnp.where(seen[None], colour * _light(normal, ray.direction, light)[None], BACKGROUND)
    return jnp.clip(rgb, 0, 1).T, jnp.where(seen, depth_m, 0)


def _light(normal: tuple, direction: tuple, light: Array) -> Array:
    """Lambert's law for a light at the camera and one from afar, (p,)."""

    def cosine(a, b):
        length = jnp.sqrt(sum(x * x for x in a))
        return jnp.maximum(sum(x * y for x, y in zip(a, b, strict=True)) / jnp.maximum(length, 1e-12), 0)

    towards_camera = tuple(-d for d in direction)
    headlight = cosine(normal, towards_camera) / jnp.sqrt(sum(d * d for d in direction))
    return AMBIENT + HEADLIGHT * headlight + LIGHT * cosine(normal, tuple(light))
