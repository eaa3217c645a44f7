"""Culling of geoms against tiles: it must not change a pixel, and must leave most geoms out."""

import frames
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clamp_jax.geometry.camera import pinhole, pixel_rays
from clamp_jax.geometry.transforms import look_at, pose
from clamp_jax.observe import geom_poses
from clamp_jax.render import raycast, tiles
from clamp_jax.structs import Camera, Capacity, Geoms

CROWD = Capacity(plane=2, sphere=6, capsule=6, cylinder=6, box=6)


def crowd(seed: int) -> tuple[np.ndarray, Geoms]:
    """Geoms of all types and sizes around the origin, some in one another, one of each type left empty."""
    rng, count = np.random.default_rng(seed), CROWD.total
    quat = rng.normal(size=(count, 4))
    place = pose(np.float32(rng.uniform(-0.5, 0.5, (count, 3))), np.float32(quat / np.linalg.norm(quat, axis=1, keepdims=True)))
    size = rng.uniform(0.005, 0.25, (count, 3)).astype(np.float32)
    size[0] = 0  # a plane without end
    body = np.zeros(count, np.int32)
    body[np.cumsum(CROWD)[1:] - 1] = -1
    colour = rng.uniform(0, 1, (count, 3)).astype(np.float32)
    where = {"pos": np.zeros((count, 3), np.float32), "quat": np.tile(np.float32([1, 0, 0, 0]), (count, 1))}
    return np.asarray(place), Geoms(size=size, colour=colour, body=body, **where)


def eyes(seed: int) -> Camera:
    """Three cameras with anisotropic pixels: far off, close by, and in the middle of the crowd."""
    rng = np.random.default_rng(seed)
    places = [look_at(np.float32(rng.normal(size=3) * far), np.zeros(3, np.float32), np.float32([0, 0, 1])) for far in (1.5, 0.6, 0.05)]
    return Camera(np.float32([[40, 55, 22, 14]] * 3), np.stack(places), np.zeros(3, bool))


def draw(place: np.ndarray, geoms: Geoms, cameras: Camera) -> tuple[np.ndarray, ...]:
    height, width = 27, 45  # no whole tiles
    cast = jax.jit(lambda *scene: raycast.raycast(*scene, height=height, width=width, capacity=CROWD, far=9.0))
    return jax.device_get(cast(place, geoms, cameras))


@pytest.mark.parametrize("seed", range(6))
def test_culling_changes_no_pixel(seed, monkeypatch):
    scene = (*crowd(seed), eyes(seed))
    culled = draw(*scene)
    monkeypatch.setattr(tiles, "touched", lambda matrix, *_: jnp.ones((4 * 6, matrix.shape[0]), bool))
    everything = draw(*scene)
    assert len(np.unique(culled[2])) > 8
    np.testing.assert_array_equal(culled[2], everything[2])
    for found, expected in zip(culled, everything, strict=True):  # rounding alone: the compiler may fuse otherwise
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_most_geoms_of_a_real_scene_are_culled():
    recorded = frames.load("drawer_open")
    geoms, cameras = recorded.scene.geoms, recorded.frames.cameras
    place = geom_poses(recorded.scene)
    frame = raycast._Frame(60, 80, frames.CAPACITY, 9.0)
    seen = np.asarray(raycast._touched(place, jax.tree.map(jnp.asarray, geoms), jax.tree.map(jnp.asarray, cameras), frame))
    assert seen.mean() < 0.25 * (np.asarray(geoms.body) >= 0).mean()


def test_words_hold_every_mark():
    capacity = Capacity(plane=1, sphere=0, capsule=33, cylinder=2, box=70)
    spans = list(tiles.spans(capacity))
    assert [(first, count) for _, first, count in spans] == [(0, 1), (1, 32), (33, 1), (34, 2), (36, 32), (68, 32), (100, 6)]
    found = np.random.default_rng(0).random((9, capacity.total)) < 0.4
    words = np.asarray(jax.jit(lambda found: tiles.words(found, capacity))(found))
    assert words.shape == (9, len(spans))
    for word, (_, first, count) in enumerate(spans):
        marks = (words[:, word, None] >> np.arange(32, dtype=np.uint32)) & 1
        np.testing.assert_array_equal(marks[:, :count], found[:, first : first + count])
        assert not marks[:, count:].any()


def test_tiles_cover_the_image():
    rows, columns = tiles.grid(30, 41)
    row, column = (each.reshape(-1) for each in np.indices((rows, columns)))
    intrinsics = np.tile(np.float32([40, 55, 22, 14]), (rows * columns, 1))
    rays = jax.jit(tiles.directions)(intrinsics, np.int32(row), np.int32(column))
    camera = pinhole(intrinsics[0], np.eye(4, dtype=np.float32))
    expected = np.asarray(jax.jit(lambda camera: pixel_rays(camera, 30, 41))(camera)[1])
    for axis in range(3):
        np.testing.assert_allclose(tiles.join(rays[axis], 30, 41), expected[..., axis], rtol=1e-6)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_chunks_change_no_pixel(backend, monkeypatch):
    scene = (*crowd(1), eyes(1))
    expected = draw(*scene)
    monkeypatch.setattr(raycast.jax, "default_backend", lambda: backend)
    monkeypatch.setattr(raycast, "CHUNK", 1)
    for found, one in zip(draw(*scene), expected, strict=True):
        np.testing.assert_allclose(found, one, rtol=1e-6, atol=1e-6)
