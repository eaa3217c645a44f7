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


def brute(one, other, steps=150):
    share = np.linspace(0, 1, steps)[:, None]
    a, b = (segment[0] + share * (segment[1] - segment[0]) for segment in (one, other))
    return np.linalg.norm(a[:, None] - b[None], axis=-1).min()


def test_distance_of_segments_is_that_of_their_nearest_points():
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(2, 120, 2, 3))
    one[:10, 1] = one[:10, 0]  # points
    other[5:10, 1] = other[5:10, 0]
    other[10:30] = one[10:30] + rng.normal(size=(20, 1, 3))  # parallel
    other[30:40, 1] = one[30:40].mean(1) * 2 - other[30:40, 0]  # crossing
    other[40:50] = one[40:50, ::-1] + 1e-9 * rng.normal(size=(10, 2, 3)) + rng.normal(size=(10, 1, 3))  # all but parallel
    found, expected = capsules.segment_distance(one, other), np.array([brute(a, b) for a, b in zip(one, other, strict=True)])
    np.testing.assert_allclose(found, expected, atol=3e-2)
    assert np.all(found <= expected + 1e-9)
    assert found[30:40].max() < 1e-9
    np.testing.assert_allclose(capsules.segment_distance(other, one), found, atol=1e-9)
    shift = np.array([0.3, -2.0, 1.0])
    np.testing.assert_allclose(capsules.segment_distance(one + shift, other + shift), found, atol=1e-9)


def test_chosen_pairs_are_as_far_apart_as_among_all():
    axes = capsules.axes_world(capsules.link_poses(np.random.default_rng(5).uniform(LIMITS.low, LIMITS.high, (3, 4, 14))))
    row, left, right = np.array([0, 2, 3]), np.array([9, 1, 4]), np.array([2, 6, 9])
    np.testing.assert_allclose(
        capsules.pair_clearance(axes, row, left, right), capsules.arm_clearance(axes)[:, row, left, right], atol=1e-12
    )


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


def test_a_part_that_hangs_over_the_edge_is_as_low_as_where_it_leaves_the_table():
    """Slow reference: many points of each axis, those over the table made larger by the radius."""
    rng = np.random.default_rng(6)
    centre = rng.uniform((-0.9, -0.6, 0.0), (0.9, 0.6, 0.3), (300, 2, len(capsules.CAPSULES), 3))
    axes = centre[..., None, :] + rng.uniform(-0.3, 0.3, (*centre.shape[:-1], 2, 3))
    axes[:50, ..., 1, 0] = axes[:50, ..., 0, 0]  # along y or, of half of them, upright
    axes[:25, ..., 1, 1] = axes[:25, ..., 0, 1]
    found = capsules.table_clearance(axes)
    points = axes[..., None, 0, :] + np.linspace(0, 1, 400)[:, None] * (axes[..., 1, :] - axes[..., 0, :])[..., None, :]
    over = np.all(np.abs(points[..., :2]) <= np.array(aloha.TABLE_HALF_SIZE) + capsules.RADII[:, None, None], axis=-1)
    lowest = np.where(over, points[..., 2], np.inf).min(-1) - capsules.RADII - aloha.TABLE_TOP_Z
    moving = ~capsules.STILL
    assert 0.02 < np.isinf(found[..., moving]).mean() < 0.5 and np.isinf(found[..., ~moving]).all()
    grazed = np.isinf(lowest) & np.isfinite(found)  # less of it is over the table than lies between two points
    assert grazed[..., moving].mean() < 0.005
    np.testing.assert_allclose(found[..., moving][~grazed[..., moving]], lowest[..., moving][~grazed[..., moving]], atol=3e-3)
    hung = np.all(np.abs(axes[..., :2]) <= np.array(aloha.TABLE_HALF_SIZE) + capsules.RADII[:, None, None], axis=-1).any(-1)
    assert (np.isfinite(found) & ~hung).sum() > 20  # across a corner: neither end is over the table


def test_beside_the_table_there_is_no_table():
    joints = HOME.copy()
    joints[:7] = np.pi, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0  # the left arm turned away from the cell
    assert np.isinf(capsules.table_clearance(capsules.axes_world(capsules.link_poses(joints)))[0, -1])


def surface(model, body):
    """Points (n, 3) all over a body's meshes, in its frame: vertices and points within the triangles."""
    found, rng = [], np.random.default_rng(0)
    for geom in range(model.ngeom):
        if model.geom_bodyid[geom] == body and model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:
            mesh, turn = model.geom_dataid[geom], np.zeros(9)
            mujoco.mju_quat2Mat(turn, model.geom_quat[geom])
            start, faces = model.mesh_vertadr[mesh], model.mesh_faceadr[mesh]
            vertices = model.mesh_vert[start : start + model.mesh_vertnum[mesh]]
            corners = vertices[model.mesh_face[faces : faces + model.mesh_facenum[mesh]]]
            within = np.einsum("kc,fci->kfi", rng.dirichlet((1, 1, 1), 3), corners).reshape(-1, 3)
            found.append(np.concatenate([vertices, within]) @ turn.reshape(3, 3).T + model.geom_pos[geom])
    return np.concatenate(found)


OUTSIDE_M = {  # how far a mesh may reach out of its capsules: the millimetre above what is measured
    "base_link": 0.009,
    "shoulder_link": 0.0,
    "upper_arm_link": 0.007,
    "upper_forearm_link": 0.001,
    "lower_forearm_link": 0.0,
    "wrist_link": 0.0,
    "gripper_base": 0.006,
    "left_finger_link": 0.001,
    "right_finger_link": 0.001,
}


@pytest.fixture(scope="module")
def public_model(aloha_sim_assets):
    return mujoco.MjModel.from_xml_path(str(aloha_sim_assets / "aloha" / "aloha_pbr.xml"))


@pytest.mark.parametrize("side", aloha.SIDES)
@pytest.mark.parametrize("link", OUTSIDE_M)
def test_capsules_hold_the_public_models_meshes(public_model, link, side):
    """No point of a link is further outside its capsules than is said here, and they are no larger than they must be."""
    points = surface(public_model, public_model.body(f"{side}/{link}").id)
    parts = [capsule for capsule in capsules.CAPSULES if capsule.link == link]
    depth = [capsules.segment_distance(np.stack([points, points], 1), np.array([[part.start, part.end]])) - part.radius for part in parts]
    outside = np.min(depth, axis=0).max()
    assert OUTSIDE_M[link] - 0.005 < outside <= OUTSIDE_M[link]
    for part in parts:  # each end's cap is needed: it reaches no further past the mesh than a fist
        along = np.array(part.end) - part.start
        reach = points @ (along / np.linalg.norm(along))
        ends = np.dot([part.start, part.end], along / np.linalg.norm(along))
        assert max(ends[1] + part.radius - reach.max(), reach.min() - ends[0] + part.radius) < 0.065


def test_every_link_with_a_mesh_has_a_capsule(public_model):
    """Of what moves with the arm; the leader's handles and the frame stand still."""
    named = {public_model.body(body).name for body in public_model.geom_bodyid[public_model.geom_type == mujoco.mjtGeom.mjGEOM_MESH]}
    assert {name.split("/")[1] for name in named if "/" in name} == {capsule.link for capsule in capsules.CAPSULES}
