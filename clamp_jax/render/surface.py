"""RGB-D of meshes, by points on their surfaces: splatted over an image that a ray caster has made of the large flat faces."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, Float

from clamp_jax.geometry.camera import project
from clamp_jax.render.raycast import AMBIENT, HEADLIGHT, LIGHT
from clamp_jax.render.splat import visible_in_views
from clamp_jax.structs import Camera, Surface

LIMIT_PX = 4  # the most that a point reaches in the image, to each side: what is nearer shows its points


def paint(
    surface: Surface,
    world_from_body: Float[ArrayLike, "n 4 4"],
    cameras: Camera,
    rgb: Float[ArrayLike, "k h w 3"],
    depth_m: Float[ArrayLike, "k h w"],
    *,
    radius_m: float,
    light: Float[ArrayLike, "3"],
) -> tuple[Float[Array, "k h w 3"], Float[Array, "k h w"]]:
    """The images with the surface's points in front of what they show (depth 0: nothing), each a square of 2 radius_m.

    surface: points in the frames of `world_from_body`, body -1 for none. A point is lit by its normal, from either side, as the ray
    caster lights a face. What is farther than a point's neighbourhood can show through between two points that are farther
    apart than radius_m in the image: choose it no less than their spacing.
    """
    points, normals = _in_world(surface, jnp.asarray(world_from_body))
    height, width = depth_m.shape[1:]
    valid = jnp.asarray(surface.body) >= 0
    winners = visible_in_views(points, valid, cameras, height=height, width=width, radius_m=radius_m, limit_px=LIMIT_PX)
    painted = []
    for index, (camera, below, behind_m) in zip(winners, _unstack((cameras, rgb, depth_m)), strict=True):
        taken = jnp.maximum(index, 0).reshape(-1)
        place, normal, colour = (_take(rows, taken) for rows in (points, normals, surface.colour))
        near_m = project(camera, place)[1].reshape(height, width)
        lit = jnp.clip(colour * _light(place, normal, camera, jnp.asarray(light))[:, None], 0, 1).reshape(height, width, 3)
        front = (index >= 0) & ((behind_m == 0) | (near_m < behind_m))
        painted.append((jnp.where(front[..., None], lit, below), jnp.where(front, near_m, behind_m)))
    return tuple(jnp.stack(part) for part in zip(*painted, strict=True))


def _in_world(surface: Surface, world_from_body: Array) -> tuple[Array, Array]:
    """Points and normals (n, 3) in the world."""
    taken = jnp.maximum(jnp.asarray(surface.body), 0)
    entry = [[world_from_body[:, row, column].at[taken].get(mode="promise_in_bounds") for column in range(4)] for row in range(3)]
    points, normals = jnp.asarray(surface.point).T, jnp.asarray(surface.normal).T
    moved = [sum(entry[row][i] * points[i] for i in range(3)) + entry[row][3] for row in range(3)]
    turned = [sum(entry[row][i] * normals[i] for i in range(3)) for row in range(3)]
    return jnp.stack(moved, axis=1), jnp.stack(turned, axis=1)


def _take(rows: ArrayLike, taken: Array) -> Array:
    """Rows (m, 3), column by column: a CPU gathers rows of three at half the speed."""
    rows = jnp.asarray(rows)
    return jnp.stack([rows[:, i].at[taken].get(mode="promise_in_bounds") for i in range(3)], axis=1)


def _light(place: Array, normal: Array, camera: Camera, light: Array) -> Array:
    """Lambert's law for a light at the camera and one from afar, (m,); a mesh's wound side is not relied on."""
    towards = jnp.asarray(camera.world_from_camera)[None, :3, 3] - place
    facing = jnp.sum(towards * normal, -1) / jnp.maximum(jnp.sqrt(jnp.sum(towards * towards, -1)), 1e-9)
    lit = jnp.sum(normal * light[None], -1) * jnp.sign(facing)
    return AMBIENT + HEADLIGHT * jnp.abs(facing) + LIGHT * jnp.maximum(lit, 0)


def _unstack(arrays: tuple) -> list[tuple]:
    count = len(arrays[-1])
    return [jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf)[i], arrays) for i in range(count)]
