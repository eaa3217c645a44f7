"""The virtual cameras see what they are there for, and ride where they should."""

import jax
import numpy as np
import pytest

from clamp_jax.geometry import aloha
from clamp_jax.geometry.camera import project
from clamp_jax.geometry.kinematics import aloha_calibration, gripper_poses
from clamp_jax.geometry.transforms import compose, pose
from clamp_jax.render.views import default_views, orthographic_views, view_cameras
from clamp_jax.structs import VIEWS

SIZE = 64
CONFIGS = {"perspective": default_views(SIZE), "orthographic": orthographic_views(SIZE)}
HOME = np.float32(np.tile([*aloha.HOME[:6], 0.5], 2))
cameras_of = jax.jit(view_cameras, static_argnums=0)
grippers_of = jax.jit(lambda joints: gripper_poses(joints, aloha_calibration(SIZE, SIZE).world_from_base))
seen_by = jax.jit(jax.vmap(project, (0, None)))
x, y = aloha.TABLE_HALF_SIZE
TABLE = np.float32([[sx * x, sy * y, aloha.TABLE_TOP_Z] for sx in (-1, 1) for sy in (-1, 1)])


@pytest.mark.parametrize("kind", CONFIGS)
def test_fixed_views_see_the_whole_table_and_both_grippers(kind):
    config, grippers = CONFIGS[kind], np.asarray(grippers_of(HOME))
    uv, depth_m = map(np.asarray, seen_by(cameras_of(config, grippers), np.concatenate([TABLE, grippers[:, :3, 3]])))
    fixed = len(config.fixed)
    assert (depth_m[:fixed] > config.near_m).all()
    assert (uv[:fixed] > 0).all() and (uv[:fixed] < SIZE).all()
    spread = np.ptp(uv[:fixed, :4], axis=1).max(axis=1)  # the table fills a good part of the image
    assert (spread > SIZE / 2).all()


def test_wrist_views_ride_and_look_at_their_own_fingertips():
    config, grippers = CONFIGS["perspective"], np.asarray(grippers_of(HOME))
    cameras = cameras_of(config, grippers)
    tips = (grippers[:, :3] @ np.array([*aloha.GRIPPER_SITE, 1])).astype(np.float32)
    uv, depth_m = map(np.asarray, seen_by(cameras, tips))
    for side, view in enumerate((VIEWS.index("wrist_left"), VIEWS.index("wrist_right"))):
        assert np.abs(uv[view, side] - SIZE / 2).max() < SIZE / 10 and 0.1 < depth_m[view, side] < 0.4
        forward = np.asarray(cameras.world_from_camera)[view, :3, 2]
        assert forward @ grippers[side, :3, 0] > 0.7  # along the gripper's x
        eye = np.linalg.inv(grippers[side])[:3] @ np.asarray(cameras.world_from_camera)[view, :, 3]
        assert eye[0] < 0 < eye[2]  # from behind and above


def test_a_motion_of_the_grippers_moves_the_wrist_views_alone():
    config, grippers = CONFIGS["perspective"], grippers_of(HOME)
    motion = jax.jit(pose)(np.float32([[0.1, 0, 0.2], [0, 0.3, 0]]), np.float32([[1, 0.2, 0, 0], [1, 0, 0.5, 0.1]]))
    before = np.asarray(cameras_of(config, grippers).world_from_camera)
    after = np.asarray(cameras_of(config, jax.jit(compose)(motion, grippers)).world_from_camera)
    np.testing.assert_array_equal(after[:3], before[:3])
    np.testing.assert_allclose(after[3:], np.asarray(motion) @ before[3:], atol=1e-6)


def test_orthographic_views_are_the_faces_of_a_cube():
    config = CONFIGS["orthographic"]
    low, high = np.float32([-0.7, -0.7, -0.35]), np.float32([0.7, 0.7, 1.05])
    corners = np.float32([[(low, high)[i][0], (low, high)[j][1], (low, high)[k][2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    cameras = cameras_of(config, grippers_of(HOME))
    uv, _ = map(np.asarray, seen_by(cameras, corners))
    assert np.asarray(cameras.orthographic).all()
    np.testing.assert_allclose(uv.min(axis=1), np.zeros((5, 2)), atol=1e-3)
    np.testing.assert_allclose(uv.max(axis=1), np.full((5, 2), SIZE), atol=1e-3)
    east = {"top": (1, 0), "front": (1, 0), "back": (-1, 0), "left": (0, -1), "right": (0, 1)}  # world x, y along image u
    for name, pose_of in zip(config.names, np.asarray(cameras.world_from_camera), strict=True):
        np.testing.assert_allclose(pose_of[:2, 0], east[name], atol=1e-6)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_crop_keeps_table_and_bases_and_no_floor(kind):
    low, high = np.array(CONFIGS[kind].low), np.array(CONFIGS[kind].high)
    kept = [*TABLE, *(pos for pos, _ in aloha.BASES.values()), (0, 0, 0.5)]
    assert all((low <= point).all() and (point <= high).all() for point in np.array(kept))
    assert low[2] >= 0 and hash(CONFIGS[kind]) == hash(CONFIGS[kind]._replace())
