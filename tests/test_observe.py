"""From a simulated state to an observation, from an observation to views, and what is refused at the door."""

import frames
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree

from clamp_jax import observe
from clamp_jax.geometry.camera import project
from clamp_jax.geometry.kinematics import aloha_calibration, gripper_poses, joints_from_qpos
from clamp_jax.render.views import default_views, orthographic_views, view_cameras
from clamp_jax.structs import HISTORY, Observation, SceneState

HEIGHT, WIDTH, VIEW = 60, 80, 48
CLEAN = observe.SensorConfig(HEIGHT, WIDTH, frames.CAPACITY, far_m=5.0)
VIEWS = default_views(VIEW)
KEY = jax.random.key(0)
NAMES = frames.SCENES[1:]
ROWS, ENTRIES = 40, 80  # every scene's tree and qpos are padded to these, as in a batch of several tasks
sense_one = jax.jit(observe.sense, static_argnames="config")
render = jax.jit(observe.render_views, static_argnames="config")


def pad(scene: SceneState) -> SceneState:
    tree = jax.tree.map(lambda x: np.concatenate([x, np.zeros((ROWS - len(x), *x.shape[1:]), x.dtype)]), scene.tree)
    return scene._replace(tree=tree, qpos=np.pad(scene.qpos, (0, ENTRIES - len(scene.qpos))))


def example(name: str = "drawer_open") -> tuple:
    """What sense takes, of a recorded scene."""
    recorded = frames.load(name)
    joints = np.asarray(joints_from_qpos(recorded.qpos))
    past = np.tile(joints, (HISTORY, 1)), np.ones(HISTORY, bool)
    return pad(recorded.scene), aloha_calibration(HEIGHT, WIDTH), joints, *past


def sense(key=KEY, name: str = "drawer_open", **changes) -> Observation:
    return jax.tree.map(np.asarray, sense_one(*example(name), config=CLEAN._replace(**changes), key=key))


@pytest.fixture(scope="module")
def exact() -> Observation:
    return sense()


@pytest.mark.parametrize("name", NAMES)
def test_exact_sensors_see_what_mujoco_renders(name, exact):
    observation = exact if name == "drawer_open" else sense(name=name)
    recorded = frames.load(name).frames
    inner = np.stack([frames.away_from_changes(geom) for geom in recorded.geom])
    assert (np.abs(observation.depth_m - recorded.depth_m)[inner] < 1e-3).mean() > 0.995
    observe.check_observation(observation)


def test_exact_sensors_use_no_randomness(exact):
    other = sense(jax.random.key(7))
    jax.tree.map(np.testing.assert_array_equal, exact, other)


def test_noise_holes_range_and_looks(exact):
    noisy = sense(depth_noise_m=0.01, dropout=0.1, near_m=0.2, far_m=1.0, colour_jitter=0.2, light_jitter=0.3)
    within = (exact.depth_m >= 0.2) & (exact.depth_m < 1.0)
    kept = noisy.depth_m > 0
    assert not (kept & ~within).any() and within.sum() > 2000
    assert kept[within].mean() == pytest.approx(0.9, abs=0.03)
    z = exact.depth_m[kept]
    scaled = (noisy.depth_m[kept] - z) / (0.01 * z**2)  # the noise grows with the square of depth
    assert scaled.std() == pytest.approx(1, abs=0.06) and abs(scaled.mean()) < 0.06
    near = z < np.median(z)
    assert scaled[near].std() == pytest.approx(scaled[~near].std(), abs=0.1)
    seen = exact.depth_m > 0
    assert np.abs(noisy.rgb.astype(int) - exact.rgb)[seen].mean() > 3
    np.testing.assert_array_equal(noisy.rgb[~seen], exact.rgb[~seen])


def test_jittered_cameras_move_the_images_and_not_the_calibration(exact):
    other = sense(camera_jitter_m=0.005, camera_jitter_rad=0.005)
    jax.tree.map(np.testing.assert_array_equal, other.calibration, exact.calibration)
    both = (other.depth_m > 0) & (exact.depth_m > 0)
    moved = np.abs(other.depth_m - exact.depth_m)[both]
    assert 5e-4 < np.median(moved) < 0.03
    again = sense(jax.random.key(1), camera_jitter_m=0.005, camera_jitter_rad=0.005)
    assert (again.depth_m != other.depth_m).any()


def test_images_stand_at_the_true_joints_and_the_observation_holds_the_measured(exact):
    scene, calibration, joints, *past = example()
    measured = joints + np.float32(0.1)
    observation = sense_one(scene, calibration, measured, *past, config=CLEAN, key=KEY)
    np.testing.assert_array_equal(observation.joints, measured)
    np.testing.assert_array_equal(observation.depth_m, exact.depth_m)


def test_samples_of_different_tasks_stand_in_one_batch(exact):
    @jax.jit
    def batched(arguments, keys):
        observation = jax.vmap(lambda one, key: observe.sense(*one, config=CLEAN, key=key))(arguments, keys)
        return observation, jax.vmap(lambda o, key: observe.render_views(o, VIEWS, key))(observation, keys)

    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *(example(name) for name in NAMES))
    observation, views = batched(batch, jax.random.split(KEY, 2))
    np.testing.assert_allclose(observation.depth_m[0], exact.depth_m, atol=2e-6)
    np.testing.assert_allclose(observation.depth_m[1], sense(name=NAMES[1]).depth_m, atol=2e-6)
    single = np.asarray(render(exact, config=VIEWS, key=KEY))
    assert (np.abs(views[0] - single).max(axis=-1) < 1e-5).mean() > 0.99


@jax.jit
def cropped_and_projected(observation: Observation, views: jax.Array):
    """The whole cropped cloud, and where the five views' points project in their own views."""
    points, valid = observe.cloud(observation, VIEWS, KEY)
    cameras = view_cameras(VIEWS, gripper_poses(observation.joints, observation.calibration.world_from_base))
    return points, valid, *jax.vmap(project)(cameras, views[..., 1:].reshape(len(views), -1, 3))


@pytest.mark.parametrize("points", [0, 2000], ids=["all", "subsampled"])
def test_every_pixel_of_a_view_is_a_cropped_point_in_its_place(points, exact):
    views = np.asarray(render(exact, config=VIEWS._replace(points=points), key=KEY))
    every, valid, uv, depth = map(np.asarray, cropped_and_projected(exact, views))
    shown = views[..., 0] > 0
    assert shown.reshape(5, -1).sum(axis=1).min() > 30 and not views[~shown].any()
    xyz = views[shown][:, 1:]
    assert (xyz >= np.float32(VIEWS.low)).all() and (xyz <= np.float32(VIEWS.high)).all()
    distance, _ = cKDTree(every[valid]).query(xyz)
    assert distance.max() < 1e-6
    rows, columns = np.mgrid[:VIEW, :VIEW].reshape(2, -1)
    inside = (np.floor(uv) == np.stack([columns, rows], -1)).all(axis=-1)[shown.reshape(5, -1)]
    assert inside.mean() > 0.99
    np.testing.assert_allclose(views[..., 0][shown], depth[shown.reshape(5, -1)], atol=1e-5)
    if points:
        assert len(np.unique(xyz, axis=0)) <= points < valid.sum()


def test_orthographic_views_show_the_table_flat(exact):
    views = np.asarray(render(exact, config=orthographic_views(VIEW), key=KEY))
    top = views[0]
    table = np.abs(top[..., 3] - 0.030) < 0.001
    assert table.sum() > 200
    np.testing.assert_allclose(top[table][:, 0], 1.05 - 0.030, atol=1e-3)  # from the top face of the cube


def test_the_order_of_cameras_does_not_matter(exact):
    order = np.array([2, 0, 3, 1])
    fields = {field: getattr(exact.calibration, field)[order] for field in ("intrinsics", "parent_from_camera", "mount")}
    turned = exact._replace(rgb=exact.rgb[order], depth_m=exact.depth_m[order], calibration=exact.calibration._replace(**fields))
    views, again = (np.asarray(render(observation, config=VIEWS, key=KEY)) for observation in (exact, turned))
    np.testing.assert_allclose(views[..., 0], again[..., 0], atol=1e-5)
    assert (views == again).all(axis=-1).mean() > 0.99  # points of equal depth: the table from straight above


def test_an_absent_camera_adds_nothing(exact):
    depth = exact.depth_m.copy()
    depth[1:] = 0
    views = np.asarray(render(exact._replace(depth_m=depth), config=VIEWS, key=KEY))
    full = np.asarray(render(exact, config=VIEWS, key=KEY))
    assert 0 < (views[..., 0] > 0).sum() < (full[..., 0] > 0).sum()
    blind = render(exact._replace(depth_m=np.zeros_like(depth)), config=VIEWS, key=KEY)
    assert not np.asarray(blind).any()


def broken(observation: Observation, **changes) -> Observation:
    return observation._replace(**changes)


def with_calibration(observation: Observation, **changes) -> Observation:
    return observation._replace(calibration=observation.calibration._replace(**changes))


def spoil(array: np.ndarray, index: tuple, value: float) -> np.ndarray:
    array = np.array(array)
    array[index] = value
    return array


REFUSED = {
    "camera 'wrist_right' is missing: rgb holds 3 images, expected 4": lambda o: broken(o, rgb=o.rgb[:3]),
    "camera 'wrist_left', 'wrist_right' is missing: depth_m holds 2": lambda o: broken(o, depth_m=o.depth_m[:2]),
    "rgb has shape .*of one moment": lambda o: broken(o, rgb=o.rgb[None]),
    "rgb is float32.*expected uint8": lambda o: broken(o, rgb=o.rgb.astype(np.float32)),
    "rgb is \\(60, 80\\) pixels and depth_m \\(30, 80\\)": lambda o: broken(o, depth_m=o.depth_m[:, ::2]),
    "depth of camera 'overhead' is uint16, expected float32 metres.*0.0001": lambda o: broken(o, depth_m=o.depth_m.astype(np.uint16)),
    "depth of camera 'worms_eye' is not finite at 1 pixels": lambda o: broken(o, depth_m=spoil(o.depth_m, (1, 2, 3), np.nan)),
    "depth of camera 'wrist_left' falls to -0.5 m": lambda o: broken(o, depth_m=spoil(o.depth_m, (2, 0, 0), -0.5)),
    "parent_from_camera of camera 'overhead' is no rigid transform": lambda o: with_calibration(
        o, parent_from_camera=spoil(o.calibration.parent_from_camera, (0, 0, 0), 1.5)
    ),
    "world_from_base of the right arm is no rigid transform": lambda o: with_calibration(
        o, world_from_base=spoil(o.calibration.world_from_base, (1, 3, 3), 0)
    ),
    "calibration.intrinsics has shape \\(3, 4\\), expected \\(4, 4\\)": lambda o: with_calibration(
        o, intrinsics=o.calibration.intrinsics[:3]
    ),
    "intrinsics of camera 'overhead' are": lambda o: with_calibration(o, intrinsics=spoil(o.calibration.intrinsics, (0, 0), 0)),
    "mount of camera 'wrist_left' is 5": lambda o: with_calibration(o, mount=spoil(o.calibration.mount, (2,), 5)),
    "joints is not finite, first at \\[3\\]": lambda o: broken(o, joints=spoil(o.joints, (3,), np.inf)),
    "joints is float32\\[12\\], expected float32\\[14\\]": lambda o: broken(o, joints=o.joints[:12]),
    "past_actions is not finite, first at \\[4, 5\\]": lambda o: broken(o, past_actions=spoil(o.past_actions, (4, 5), np.nan)),
    "past_mask is float32": lambda o: broken(o, past_mask=o.past_mask.astype(np.float32)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_observations_are_refused(message, exact):
    with pytest.raises(ValueError, match=message):
        observe.check_observation(REFUSED[message](exact))


def test_presets_are_static_and_differ_only_in_spread():
    spread = {"depth_noise_m", "dropout", "colour_jitter", "light_jitter", "camera_jitter_m", "camera_jitter_rad"}
    clean, noisy = observe.clean(64)._asdict(), observe.noisy(64)._asdict()
    assert hash(observe.noisy(64)) == hash(observe.noisy(64))
    assert {field for field in clean if clean[field] != noisy[field]} == spread and not any(clean[field] for field in spread)
    assert jnp.isfinite(jnp.asarray([noisy[field] for field in spread])).all()
