"""Culling of geoms against tiles: it must not change a pixel, and must leave most geoms out."""

import frames
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clamp_jax.geometry.camera import pixel_rays
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
    for found, expected in zip(culled, everything, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_most_geoms_of_a_real_scene_are_culled():
    recorded = frames.load("drawer_open")
    geoms, cameras = recorded.scene.geoms, recorded.frames.cameras
    place = geom_poses(recorded.scene)
    frame = raycast._Frame(60, 80, frames.CAPACITY, 9.0)
    seen = np.asarray(raycast._touched(place, jax.tree.map(jnp.asarray, geoms), jax.tree.map(jnp.asarray, cameras), frame))
    assert seen.mean() < 0.25 * (np.asarray(geoms.body) >= 0).mean()


@pytest.mark.parametrize(("count", "chunk"), [(0, 4), (5, 4), (8, 4), (37, 64)])
def test_every_pair_is_visited_once(count, chunk):
    found = np.zeros((7, 9), bool)
    found.reshape(-1)[np.random.default_rng(0).permutation(63)[:count]] = True

    def visit(state, tile, geom, live):
        return state.at[tile, geom].add(live.astype(jnp.int32))

    visited = jax.jit(lambda found: tiles.over_pairs(found, visit, jnp.zeros((7, 9), jnp.int32), chunk))(found)
    np.testing.assert_array_equal(visited, found)


def test_split_and_join_are_inverse():
    camera = jax.tree.map(lambda leaf: leaf[0], eyes(0))
    image = pixel_rays(camera, 32, 48)[1]
    cut = tiles.split(image)
    assert cut.shape == (24, 64, 3)
    np.testing.assert_array_equal(tiles.join(cut[..., 0], 30, 41), image[:30, :41, 0])
