"""RGB-D of meshes, by points on their surfaces: splatted over an image that a ray caster has made of the large flat faces."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, Float

from clamp_jax.geometry.camera import project
from clamp_jax.render.raycast import AMBIENT, HEADLIGHT, LIGHT
from clamp_jax.render.splat import visible
from clamp_jax.structs import Camera, Surface

SPREAD_M, LIMIT_PX = 0.0015, 4  # half size of a point in the image, of a fine surface; and the most that it takes, to each side


def paint(
    surface: Surface,
    world_from_body: Float[ArrayLike, "n 4 4"],
    cameras: Camera,
    rgb: Float[ArrayLike, "k h w 3"],
    depth_m: Float[ArrayLike, "k h w"],
    *,
    light: Float[ArrayLike, "3"],
) -> tuple[Float[Array, "k h w 3"], Float[Array, "k h w"]]:
    """The images with the surface's points in front of what they show (depth 0: nothing).

    surface: points in the frames of `world_from_body`, body -1 for none. A pixel shows the nearest point whose square covers its
    middle, so what is smaller than a pixel does not swell to one; a near point spreads over several pixels. It is lit by its
    normal, from either side, as the ray caster lights a face.
    """
    points, normals = _in_world(surface, jnp.asarray(world_from_body))
    height, width = depth_m.shape[1:]
    there, painted = jnp.asarray(surface.body) >= 0, []
    for camera, below, behind_m in _unstack((cameras, rgb, depth_m)):
        valid = there & _covers(camera, points, jnp.asarray(surface.radius))
        index = visible(points, valid, camera, height=height, width=width, radius_m=SPREAD_M, limit_px=LIMIT_PX)
        taken = jnp.maximum(index, 0).reshape(-1)
        place, normal, colour = (_take(rows, taken) for rows in (points, normals, surface.colour))
        near_m = project(camera, place)[1].reshape(height, width)
        lit = jnp.clip(colour * _light(place, normal, camera, jnp.asarray(light))[:, None], 0, 1).reshape(height, width, 3)
        front = (index >= 0) & ((behind_m == 0) | (near_m < behind_m))
        painted.append((jnp.where(front[..., None], lit, below), jnp.where(front, near_m, behind_m)))
    return tuple(jnp.stack(part) for part in zip(*painted, strict=True))


def _covers(camera: Camera, points: Array, radius: Array) -> Array:
    """Whether a point's square, seen from the front, covers the middle of its pixel, (n,)."""
    pixels, z = project(camera, points)
    focal = jnp.asarray(camera.intrinsics)
    return jnp.all(jnp.stack([jnp.abs(pixels[:, i] % 1.0 - 0.5) * z <= radius * focal[i] for i in range(2)]), axis=0)


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
