"""Points on meshes, painted over what the ray caster sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clamp_jax.geometry.camera import pinhole
from clamp_jax.geometry.transforms import look_at
from clamp_jax.render.raycast import LIGHT_DIRECTION, raycast
from clamp_jax.render.surface import paint
from clamp_jax.structs import Capacity, Geoms, Surface

SIZE, SPHERE_M = 48, 0.12
EYES = ((0.5, 0.1, 0.3), (-0.3, -0.4, 0.2))
NOWHERE = np.zeros((2, SIZE, SIZE), np.float32)


def cameras():
    poses = jnp.stack([look_at(np.float32(eye), np.float32((0, 0, 0)), np.float32((0, 0, 1))) for eye in EYES])
    return pinhole(jnp.tile(jnp.array([60.0, 60.0, SIZE / 2, SIZE / 2]), (2, 1)), poses)


def ball(count: int = 60_000, body: int = 1) -> Surface:
    """Points spread evenly on a sphere by Fibonacci's spiral, red."""
    i = np.arange(count)
    z, turn = 1 - (2 * i + 1) / count, i * np.pi * (3 - np.sqrt(5))
    normal = np.stack([np.sqrt(1 - z * z) * np.cos(turn), np.sqrt(1 - z * z) * np.sin(turn), z], 1).astype(np.float32)
    colour = np.tile(np.float32([0.8, 0.2, 0.1]), (count, 1))
    spacing = SPHERE_M * np.sqrt(4 * np.pi / count)
    return Surface(SPHERE_M * normal, normal, colour, np.full(count, spacing, np.float32), np.full(count, body, np.int32))


def moved(x: float) -> np.ndarray:
    """The world and a body at x, turned by a quarter about z."""
    bodies = np.tile(np.eye(4, dtype=np.float32), (2, 1, 1))
    bodies[1, :2, :2], bodies[1, 0, 3] = [[0, -1], [1, 0]], x
    return bodies


def drawn(surface: Surface, bodies: np.ndarray, rgb=None, depth_m=NOWHERE):
    rgb = np.zeros((2, SIZE, SIZE, 3), np.float32) if rgb is None else rgb
    return [np.asarray(image) for image in painted(surface, bodies, rgb, depth_m)]


@jax.jit
def painted(surface, bodies, rgb, depth_m):
    return paint(surface, bodies, cameras(), rgb, depth_m, light=LIGHT_DIRECTION)


def cast(x: float):
    size, colour = jnp.array([[SPHERE_M, 0, 0]]), jnp.array([[0.8, 0.2, 0.1]])
    geoms = Geoms(size, colour, body=jnp.array([1], jnp.int32), pos=jnp.zeros((1, 3)), quat=jnp.eye(4)[:1])
    options = {"height": SIZE, "width": SIZE, "capacity": Capacity(0, 1, 0, 0, 0), "far": 10.0}
    found = jax.jit(lambda pose: raycast(pose, geoms, cameras(), **options))(moved(x)[1:])
    return [np.asarray(image) for image in found[:2]]


@pytest.mark.parametrize("x", [0.0, 0.07])
def test_a_ball_of_points_looks_like_a_ball(x):
    """As the ray caster's: points 1.7 mm apart stand for squares as large, so the outline is off by less than a pixel of 9 mm."""
    rgb, depth_m = drawn(ball(), moved(x))
    rgb_ray, depth_ray = cast(x)
    both = (depth_m > 0) & (depth_ray > 0)
    assert both.sum() > 0.99 * (depth_ray > 0).sum() and (depth_m > 0).sum() < 1.06 * (depth_ray > 0).sum()
    nearer = (depth_ray - depth_m)[both]
    assert np.median(np.abs(nearer)) < 0.0015 and np.quantile(nearer, 0.95) < 0.01 and np.quantile(nearer, 0.02) > -0.002
    if x == 0.0:
        middle = depth_m[:, SIZE // 2, SIZE // 2]
        assert np.allclose(middle, np.linalg.norm(EYES, axis=1) - SPHERE_M, atol=0.001)
    assert np.median(np.abs(rgb - rgb_ray)[both]) < 0.02


def test_the_nearer_of_point_and_pixel_is_seen():
    behind, before = (np.full((2, SIZE, SIZE), depth, np.float32) for depth in (3.0, 0.1))
    grey = np.full((2, SIZE, SIZE, 3), 0.5, np.float32)
    alone = drawn(ball(), moved(0.0))[1]
    rgb, depth_m = drawn(ball(), moved(0.0), grey, behind)
    assert (depth_m == np.where(alone > 0, alone, 3.0)).all() and ((rgb == 0.5).all(-1) == (alone == 0)).all()
    rgb, depth_m = drawn(ball(), moved(0.0), grey, before)
    assert (depth_m == 0.1).all() and (rgb == 0.5).all()


def test_empty_slots_are_not_seen():
    surface = ball()
    half = surface._replace(body=np.where(np.arange(len(surface.body)) % 2, -1, 1).astype(np.int32))
    kept = jax.tree.map(lambda column: column[::2], surface)
    for one, two in zip(drawn(half, moved(0.0)), drawn(kept, moved(0.0)), strict=True):
        assert (one == two).all()
