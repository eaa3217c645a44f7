"""The ray caster against MuJoCo: its renderer's frames, its exact rays, and what must not change an image."""

import frames
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from clamp_jax.geometry import camera as cam
from clamp_jax.geometry.transforms import compose, look_at, pose
from clamp_jax.observe import geom_poses
from clamp_jax.render.raycast import AMBIENT, BACKGROUND, raycast
from clamp_jax.render.shapes import SHAPES, Ray
from clamp_jax.structs import Camera, Capacity, Geoms, SceneState

TYPES = [getattr(mujoco.mjtGeom, f"mjGEOM_{name}") for name in ("PLANE", "SPHERE", "CAPSULE", "CYLINDER", "BOX")]
ONE_EACH = Capacity(1, 1, 1, 1, 1)
DOWN = np.float32([[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2], [0, 0, 0, 1]])  # from (0, 0, 2), image up is world y
make_poses = jax.jit(geom_poses)


@jax.jit
def cast_recorded(world_from_geom, geoms, cameras):
    return raycast(world_from_geom, geoms, cameras, height=60, width=80, capacity=frames.CAPACITY, far=19.0)


def draw(recorded: frames.Recorded) -> tuple[np.ndarray, ...]:
    geoms = recorded.scene.geoms
    return tuple(map(np.asarray, cast_recorded(make_poses(recorded.scene), geoms, recorded.frames.cameras)))


def check_depth(recorded: frames.Recorded) -> None:
    """Within 1 mm on 99.5 % of pixels, 3 px round every change of geom left out; and few disagree there."""
    _, found, _ = draw(recorded)
    error = np.abs(found - recorded.frames.depth_m)
    inner = np.stack([frames.away_from_changes(geom) for geom in recorded.frames.geom])
    assert inner.mean() > 0.3
    assert (error[inner] < 1e-3).mean() > 0.995
    assert (error < 1e-3).mean() > 0.99


@pytest.mark.parametrize("name", frames.SCENES)
def test_depth_equals_mujocos_renderer_in_recorded_frames(name):
    check_depth(frames.load(name))


def test_depth_equals_mujocos_renderer_now(tmp_path):
    path = frames.record(tmp_path / "frames.npz")
    for name in frames.SCENES:
        check_depth(frames.load(name, path))


def test_slots_are_the_geoms_that_mujoco_shows():
    recorded = frames.load("shapes")
    _, _, slot = draw(recorded)
    colour = np.where(slot[..., None] >= 0, recorded.scene.geoms.colour[slot], -1)
    with np.load(frames.FIXTURES / "frames.npz") as archive:
        table = archive["shapes/geoms/colour"]
    expected = np.where(recorded.frames.geom[..., None] >= 0, table[recorded.frames.geom], -1)
    assert (np.abs(colour - expected).max(axis=-1) < 1e-6).mean() > 0.99


def rays_at(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Origins about 0.6 m off and directions (not of unit length) that mostly pass near the middle."""
    origin = rng.normal(size=(count, 3))
    origin *= 0.6 / np.linalg.norm(origin, axis=1, keepdims=True)
    return origin, (rng.normal(size=(count, 3)) * 0.08 - origin) * rng.uniform(0.5, 2, (count, 1))


@pytest.mark.parametrize("shape", range(5), ids=[type(shape).__name__ for shape in SHAPES])
def test_shapes_equal_mujocos_exact_rays(shape):
    rng = np.random.default_rng(shape)
    origin, direction = rays_at(rng, 400)
    origin[:20] = rng.uniform([-0.12, -0.12, 0.4], [0.12, 0.12, 0.6], (20, 3))
    direction[:20] = [0, 0, -1]  # along an axis
    if shape == 0:  # MuJoCo's rays, unlike its renderer, miss a plane from behind
        direction *= np.sign(origin[:, 2:]) * [0, 0, 1] + [1, 1, 0]
        origin[:, 2] = np.abs(origin[:, 2])
    size = np.array([0.12, 0.09, 0.07])
    expected, normals = np.full(400, np.inf), np.zeros((400, 3))
    for i in range(400):
        t = mujoco.mju_rayGeom(np.zeros(3), np.eye(3).reshape(-1), size, origin[i], direction[i], TYPES[shape], normals[i])
        expected[i] = t if t >= 0 else np.inf
    ray = Ray(*(tuple(np.float32(part).T) for part in (origin, direction)))
    sides = tuple(np.float32(size)[:, None])
    found = np.asarray(jax.jit(SHAPES[shape].meet)(ray, sides))
    hit = np.isfinite(expected)
    assert 100 < hit.sum() < 400 or shape == 0
    agree = np.isfinite(found) == hit
    assert agree.mean() > 0.995  # a ray that grazes may fall on either side
    both = hit & np.isfinite(found)
    np.testing.assert_allclose(found[both], expected[both], atol=2e-5)
    height, normal = jax.jit(SHAPES[shape].surface)(ray.at(jnp.where(both, found, 1)), sides)
    assert np.abs(np.asarray(height)[both]).max() < 2e-6
    normal = np.stack(normal, -1)[both]
    assert (np.abs(normal - normals[both]).max(axis=1) < 2e-3).mean() > 0.99


def one_each(**changes) -> tuple[np.ndarray, Geoms]:
    """A plane at z = 0 and one of each other type at z = 0.2, in a row along x; capsule and cylinder upright."""
    x = np.float32([0, -0.6, -0.2, 0.2, 0.6])
    geoms = Geoms(
        size=np.float32([[0, 0, 0], [0.1, 0, 0], [0.05, 0.1, 0], [0.1, 0.05, 0], [0.1, 0.1, 0.03]]),
        colour=np.float32(np.linspace(0.2, 0.9, 15).reshape(5, 3)),
        body=np.zeros(5, np.int32),
        pos=np.stack([x, np.zeros(5), [0, 0.2, 0.2, 0.2, 0.2]], -1).astype(np.float32),
        quat=np.tile(np.float32([1, 0, 0, 0]), (5, 1)),
    )._replace(**changes)
    return np.asarray(jax.jit(pose)(geoms.pos, geoms.quat)), geoms


def look_down(world_from_geom, geoms, world_from_camera=DOWN):
    return _look(world_from_geom, geoms, world_from_camera)


@jax.jit
def _look(world_from_geom, geoms, world_from_camera):
    camera = cam.stack([cam.pinhole(np.float32([40, 20, 40, 10]), world_from_camera)])
    images = raycast(world_from_geom, geoms, camera, height=20, width=80, capacity=ONE_EACH, far=5.0)
    return jax.tree.map(lambda image: image[0], images)


def test_known_depths_from_above():
    _, depth, slot = map(np.asarray, look_down(*one_each()))
    below = {0: 2.0, 3: 1.75, 4: 1.77}  # the plane, and the tops of the flat ones
    for i, expected in below.items():
        column = int(40 + 40 * (0.0 if i == 0 else one_each()[1].pos[i, 0]) / expected)
        assert slot[10, column] == i
        assert depth[10, column] == pytest.approx(expected, abs=1e-6)


def test_an_empty_slot_and_what_lies_beyond_far_or_round_the_camera_are_not_seen():
    body = np.int32([0, 0, 0, 0, -1])
    _, _, slot = look_down(*one_each(body=body))
    assert set(np.unique(slot)) == {0, 1, 2, 3}
    pos = one_each()[1].pos.copy()
    pos[0, 2], pos[4] = -4, DOWN[:3, 3]  # the plane too far off, the box about the camera
    rgb, depth, slot = map(np.asarray, look_down(*one_each(pos=pos)))
    assert set(np.unique(slot)) == {-1, 1, 2, 3}
    assert (depth[slot < 0] == 0).all() and (rgb[slot < 0] == BACKGROUND).all()


def test_a_plane_with_a_size_is_finite_and_seen_from_both_sides():
    size = one_each()[1].size.copy()
    size[0] = [0.5, 0.3, 0.1]
    world_from_geom, geoms = one_each(size=size, body=np.int32([0, -1, -1, -1, -1]))
    _, depth, _ = map(np.asarray, look_down(world_from_geom, geoms))
    rows, columns = np.nonzero(depth)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (30, 49, 7, 12)  # half sizes 40 * 0.5 / 2 and 20 * 0.3 / 2 px
    up = DOWN * np.float32([1, -1, -1, 1])[None] * np.float32([[1], [1], [1], [1]])
    up[2, 3] = -2
    _, from_below, _ = map(np.asarray, look_down(world_from_geom, geoms, up))
    np.testing.assert_array_equal(from_below, depth)


def test_a_common_rigid_motion_leaves_the_image_but_for_its_light():
    world_from_geom, geoms = one_each()
    motion = jax.jit(pose)(np.float32([0.3, -0.2, 0.5]), np.float32([0.7, 0.1, -0.5, 0.3]))
    moved = jax.jit(jax.vmap(compose, (None, 0)))(motion, np.concatenate([world_from_geom, DOWN[None]]))
    _, depth, slot = map(np.asarray, look_down(world_from_geom, geoms))
    _, depth_moved, slot_moved = map(np.asarray, look_down(moved[:5], geoms, moved[5]))
    same = slot == slot_moved
    assert same.mean() > 0.995
    np.testing.assert_allclose(depth[same], depth_moved[same], atol=1e-4)


def test_the_order_of_geoms_of_a_type_changes_only_slots():
    recorded = frames.load("shapes")
    rgb, depth, slot = draw(recorded)
    start, stop = frames.CAPACITY.total - frames.CAPACITY.box, frames.CAPACITY.total
    order = np.concatenate([np.arange(start), np.arange(start, stop)[::-1]])
    scene = recorded.scene._replace(geoms=Geoms(*(column[order] for column in recorded.scene.geoms)))
    rgb_turned, depth_turned, slot_turned = draw(recorded._replace(scene=scene))
    same = np.where(slot < 0, -1, order[slot_turned]) == slot
    assert same.mean() > 0.999  # two surfaces within 2^-15 of a depth go to the lower slot
    np.testing.assert_allclose(depth[same], depth_turned[same], atol=1e-6)
    np.testing.assert_allclose(rgb[same], rgb_turned[same], atol=1e-5)


def test_faces_of_a_box_are_told_apart_and_none_is_dark():
    _, geoms = one_each(body=np.int32([-1, -1, -1, -1, 0]), pos=np.zeros((5, 3), np.float32), colour=np.ones((5, 3), np.float32))
    world_from_geom = np.tile(np.eye(4, dtype=np.float32), (5, 1, 1))
    camera = jax.jit(look_at)(*np.float32([[0.4, 0.4, 0.4], [0, 0, 0], [0, 0, 1]]))
    rgb, depth, _ = map(np.asarray, look_down(world_from_geom, geoms, camera))
    point = np.asarray(jax.jit(cam.unproject)(cam.pinhole(np.float32([40, 20, 40, 10]), camera), depth))
    half = geoms.size[4]
    levels = [rgb[(depth > 0) & (np.abs(point[..., i] - half[i]) < 1e-4)].mean() for i in range(3)]
    assert min(levels) > AMBIENT and np.diff(np.sort(levels)).min() > 0.02


def test_a_table_of_another_capacity_is_refused():
    world_from_geom, geoms = one_each()
    camera = Camera(np.float32([[40, 20, 40, 10]]), DOWN[None], np.zeros(1, bool))
    with pytest.raises(ValueError, match="geom table has 5 rows, expected 6 of Capacity"):
        raycast(world_from_geom, geoms, camera, height=20, width=80, capacity=Capacity(2, 1, 1, 1, 1), far=5.0)


def test_padding_is_not_seen():
    recorded = frames.load("drawer_open")
    scene: SceneState = recorded.scene
    _, _, slot = draw(recorded)
    assert (scene.geoms.body[slot[slot >= 0]] >= 0).all()
