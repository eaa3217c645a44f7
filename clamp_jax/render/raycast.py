"""RGB-D images of primitive geoms by exact ray casting: what the simulated cameras see, where there is no renderer.

Geoms are culled against tiles of pixels (tiles.py). The tiles that have most to do stand first, some of them are worked on
at once, and each meets its own next geom until none is left: its rays are taken into the geom's frame, and where the geom
is the nearest so far, depth, slot and shading are kept. No scatter, and nothing that could overflow. Solids are seen from
outside only, as in MuJoCo's renderer, which culls back faces.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float, Int

from clamp_jax.geometry.transforms import compose, invert
from clamp_jax.render import tiles
from clamp_jax.render.shapes import SHAPES, Ray, Vector
from clamp_jax.structs import Camera, Capacity, Geoms

BACKGROUND = 0.5  # grey of a pixel without a hit
AMBIENT, HEADLIGHT, LIGHT = 0.25, 0.4, 0.35  # shares of the light: everywhere, from the camera, directed
LIGHT_DIRECTION = np.array([0.36, -0.48, 0.8], np.float32)  # unit, towards the directed light, in the world: tells the faces of a box apart
NEAR_M = 0.01
CHUNK = 128  # tiles at once on a CPU, at most an eighth of them: their rays stay in its cache, and few wait for others

_MISS = np.uint32(0x7F800000)  # bits of +inf


class _Frame(NamedTuple):
    """What is static in an image."""

    height: int
    width: int
    capacity: Capacity
    far: float


class _Seen(NamedTuple):
    """What the rays of some tiles (t, p) have met so far."""

    key: Array  # uint32, depth's bits with the slot in the low ones; of two within 2^-15 of a depth the lower slot is taken
    depth_m: Array
    light: Array  # on what is seen, by which its colour is scaled


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
    touched = _touched(world_from_geom, table, cameras, frame)
    known = _known(world_from_geom, table, cameras, light)
    order = jnp.argsort(-jnp.sum(touched, axis=1))
    size = min(CHUNK, -(-len(order) // 8)) if jax.default_backend() == "cpu" else len(order)
    waiting = _chunks(tiles.words(touched, capacity)[order], size)
    seen = jax.lax.map(lambda chunk: _look(*chunk, known, cameras.intrinsics, frame), (_chunks(order, size), waiting))
    back = jnp.argsort(order)

    def image(pixels: Array) -> Array:
        pixels = pixels.reshape(-1, pixels.shape[-1])[back].reshape(k, -1, tiles.SIDE**2)
        return jax.vmap(lambda each: tiles.join(each, height, width))(pixels)

    hit = (seen.key != _MISS) & (seen.depth_m < far)
    slot = jnp.where(hit, (seen.key & _low(capacity)).astype(jnp.int32), -1)
    colours = [table.colour[:, i].at[jnp.maximum(slot, 0)].get(mode="promise_in_bounds") for i in range(3)]
    rgb = [image(jnp.where(hit, jnp.clip(colour * seen.light, 0, 1), BACKGROUND)) for colour in colours]
    return jnp.stack(rgb, axis=-1), image(jnp.where(hit, seen.depth_m, 0.0)), image(slot)


def _chunks(rows: Array, size: int) -> Array:
    """(c, size, ...): rows cut into chunks, the last one filled up with zeros: tile 0, with no geom to meet."""
    missing = -len(rows) % size
    return jnp.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1)).reshape(-1, size, *rows.shape[1:])


def _known(world_from_geom: Array, geoms: Geoms, cameras: Camera, light: Array) -> Array:
    """(k, g, 18): of each geom as each camera sees it, geom_from_camera (12), size, the light in its frame."""
    matrix = _relative(invert(world_from_geom)[None], cameras.world_from_camera[:, None])[..., :3, :]
    geom_light = jnp.sum(world_from_geom[:, :3, :3] * light[None, :, None], axis=1)
    fixed = jnp.concatenate([geoms.size, geom_light], axis=1)
    return jnp.concatenate([matrix.reshape(*matrix.shape[:2], 12), jnp.broadcast_to(fixed[None], (len(matrix), *fixed.shape))], axis=-1)


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


def _low(capacity: Capacity) -> np.uint32:
    """The bits of a key that hold the slot."""
    return np.uint32((1 << max(1, (capacity.total - 1).bit_length())) - 1)


def _look(tile: Array, waiting: Array, known: Array, intrinsics: Array, frame: _Frame) -> _Seen:
    """What the rays of a chunk of tiles meet; `waiting` (t, words) are the geoms each may see, as bits."""
    rows, columns = tiles.grid(frame.height, frame.width)
    camera, place = tile // (rows * columns), tile % (rows * columns)
    direction = tiles.directions(intrinsics[camera], place // columns, place % columns)
    zero = jnp.zeros_like(direction[0])
    seen = _Seen(jnp.full(zero.shape, _MISS, jnp.uint32), zero, zero)
    for word, (index, first, _) in enumerate(tiles.spans(frame.capacity)):
        left = waiting[:, word]

        def meet(carry: tuple[Array, _Seen], index: int = index, first: int = first) -> tuple[Array, _Seen]:
            left, seen = carry
            lowest = left & (~left + 1)
            slot = first + jax.lax.population_count(jnp.maximum(lowest, 1) - 1).astype(jnp.int32)
            return left ^ lowest, _meet(index, (slot, left != 0), known[camera, slot].T[:, :, None], direction, seen, frame)

        _, seen = jax.lax.while_loop(lambda carry: jnp.any(carry[0] != 0), meet, (left, seen))
    return seen


def _meet(index: int, geom: tuple[Array, Array], known: Array, direction: Array, seen: _Seen, frame: _Frame) -> _Seen:
    """One geom of a type for each tile: slot (t,) and whether there is one, and what is known of it (18, t, 1)."""
    (slot, live), low = geom, _low(frame.capacity)
    size, light = (tuple(known[i : i + 3]) for i in (12, 15))
    ray = _ray(known[:12].reshape(3, 4, *known.shape[1:]), direction)
    depth_m = SHAPES[index].meet(ray, size)
    key = jax.lax.bitcast_convert_type(depth_m, jnp.uint32) & ~low | slot[:, None].astype(jnp.uint32)
    wins = live[:, None] & (depth_m > NEAR_M) & (depth_m < jnp.inf) & (key < seen.key)
    depth_m = jnp.where(wins, depth_m, 1.0)
    light = _light(SHAPES[index].surface(ray.at(depth_m), size)[1], ray.direction, light)
    new = _Seen(key, depth_m, light)
    return jax.tree.map(lambda new, old: jnp.where(wins, new, old), new, seen)


def _light(normal: Vector, direction: Vector, light: Vector) -> Array:
    """Lambert's law for a light at the camera and one from afar."""
    facing = -sum(n * d for n, d in zip(normal, direction, strict=True)) / jnp.sqrt(sum(d * d for d in direction))
    lit = sum(n * towards for n, towards in zip(normal, light, strict=True))
    return AMBIENT + HEADLIGHT * jnp.maximum(facing, 0) + LIGHT * jnp.maximum(lit, 0)
