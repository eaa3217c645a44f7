"""The arms as capsules: where they are, how far apart, and that they hold the public model's meshes."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from clamp_jax.deploy import capsules, safety
from clamp_jax.geometry import aloha, kinematics

LIMITS = safety.aloha_limits()
HOME = np.tile(aloha.HOME_COMMAND, 2)


def test_forward_kinematics_is_the_sensors_own():
    rng = np.random.default_rng(0)
    bases = jnp.asarray(np.asarray(kinematics.aloha_calibration(8, 8).world_from_base))
    joints = rng.uniform(LIMITS.low, LIMITS.high, (20, 14))
    expected = jax.jit(jax.vmap(kinematics.gripper_poses, (0, None)))(jnp.asarray(joints, jnp.float32), bases)
    np.testing.assert_allclose(capsules.link_poses(joints)[:, :, 6], expected, atol=2e-6)


def test_every_link_moves_as_in_the_tree():
    """Slow reference: the kinematic tree of geometry, left arm, every body."""
    joints = np.array([0.3, -0.5, 0.8, 0.2, -0.4, 1.0, 0.7])
    finger = 0.002 + 0.7 * 0.035
    in_base = jax.jit(kinematics.body_poses)(kinematics.arm_tree(), jnp.asarray([*joints[:6], finger, finger], jnp.float32))
    found = capsules.link_poses(np.concatenate([joints, HOME[:7]]))[0]
    expected = found[0] @ np.linalg.inv(np.asarray(in_base)[-10]) @ np.asarray(in_base)[-10:]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def brute(one, other, steps=400):
    share = np.linspace(0, 1, steps)[:, None]
    a, b = (segment[0] + share * (segment[1] - segment[0]) for segment in (one, other))
    return np.linalg.norm(a[:, None] - b[None], axis=-1).min()


def test_distance_of_segments_is_that_of_their_nearest_points():
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(2, 150, 2, 3))
    one[:10, 1] = one[:10, 0]  # points
    other[10:30] = one[10:30] + rng.normal(size=(20, 1, 3))  # parallel
    other[30:40, 1] = one[30:40].mean(1) * 2 - other[30:40, 0]  # crossing
    found = capsules.segment_distance(one, other)
    np.testing.assert_allclose(found, [brute(a, b) for a, b in zip(one, other, strict=True)], atol=2e-2)
    assert np.all(found <= [brute(a, b) + 1e-12 for a, b in zip(one, other, strict=True)])
    assert found[30:40].max() < 1e-9
    np.testing.assert_allclose(capsules.segment_distance(other, one), found, atol=1e-12)
    moved = np.array([0.3, -2.0, 1.0])
    np.testing.assert_allclose(capsules.segment_distance(one + moved, other + moved), found, atol=1e-12)


def test_the_bound_is_one():
    joints = np.random.default_rng(3).uniform(LIMITS.low, LIMITS.high, (500, 14))
    axes = capsules.axes_world(capsules.link_poses(joints))
    assert np.all(capsules.arm_clearance_bound(axes) <= capsules.arm_clearance(axes) + 1e-9)


def test_clearance_of_mirrored_arms_is_symmetric():
    """The cell turned by half a turn changes left and right: distances are the same, transposed."""
    left, right = np.random.default_rng(4).uniform(LIMITS.low[:7], LIMITS.high[:7], (2, 7))
    pairs = np.stack([np.concatenate([left, right]), np.concatenate([right, left])])
    one, other = capsules.arm_clearance(capsules.axes_world(capsules.link_poses(pairs)))
    shift = aloha.BASES["left"][0][1] + aloha.BASES["right"][0][1]
    assert shift != 0  # the bases are not at y = 0: turned about the middle between them
    np.testing.assert_allclose(one, other.T, atol=1e-9)


def test_table_clearance_of_the_wrist_of_a_gripper_that_points_down():
    joints = HOME.copy()
    joints[1:5] = -0.3, 0.6, 0.0, np.pi / 2 - 0.3
    poses = capsules.link_poses(joints)
    np.testing.assert_allclose(poses[0, 6, :3, 0], (0, 0, -1), atol=1e-9)
    wrist = [capsule.link for capsule in capsules.CAPSULES].index("wrist_link")
    lowest = poses[0, 5, 2, 3] - capsules.CAPSULES[wrist].end[0] - capsules.RADII[wrist]
    found = capsules.table_clearance(capsules.axes_world(poses))
    np.testing.assert_allclose(found[0, wrist], lowest - aloha.TABLE_TOP_Z, atol=1e-9)


def test_beside_the_table_there_is_no_table():
    joints = HOME.copy()
    joints[:7] = np.pi, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0  # the left arm turned away from the cell
    assert np.isinf(capsules.table_clearance(capsules.axes_world(capsules.link_poses(joints)))[0, -1])


def vertices(model, body):
    """Vertices (n, 3) of a body's meshes in its frame."""
    found = []
    for geom in range(model.ngeom):
        if model.geom_bodyid[geom] == body and model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:
            mesh, turn = model.geom_dataid[geom], np.zeros(9)
            mujoco.mju_quat2Mat(turn, model.geom_quat[geom])
            start = model.mesh_vertadr[mesh]
            found.append(model.mesh_vert[start : start + model.mesh_vertnum[mesh]] @ turn.reshape(3, 3).T + model.geom_pos[geom])
    return np.concatenate(found)


OUTSIDE_M = {  # how far a mesh may reach out of its capsules; the base's plate, bolted beside the table, is a box
    "base_link": 0.085,
    "shoulder_link": 0.02,
    "upper_arm_link": 0.01,
    "upper_forearm_link": 0.005,
    "lower_forearm_link": 0.005,
    "wrist_link": 0.005,
    "gripper_base": 0.02,
    "left_finger_link": 0.01,
    "right_finger_link": 0.01,
}


@pytest.mark.parametrize("link", OUTSIDE_M)
def test_capsules_hold_the_public_models_meshes(aloha_sim_assets, link):
    """No vertex of a link is further outside its capsules than is said here."""
    model = mujoco.MjModel.from_xml_path(str(aloha_sim_assets / "aloha" / "aloha_pbr.xml"))
    points = vertices(model, model.body(f"left/{link}").id)
    outside = np.full(len(points), np.inf)
    for capsule in capsules.CAPSULES:
        if capsule.link == link:
            axis = np.broadcast_to(np.array([capsule.start, capsule.end]), (len(points), 2, 3))
            outside = np.minimum(outside, capsules._point_distance(points, axis) - capsule.radius)
    assert -0.05 < outside.max() <= OUTSIDE_M[link]
