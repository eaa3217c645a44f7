"""Forward kinematics against MuJoCo's, and against a loop over bodies."""

import jax
import mujoco
import numpy as np
import pytest

from clamp_jax.geometry import aloha
from clamp_jax.geometry import kinematics as kin
from clamp_jax.structs import JOINT_FIXED, JOINT_FREE, JOINT_HINGE, JOINT_SLIDE, Tree

KINDS = {JOINT_HINGE: mujoco.mjtJoint.mjJNT_HINGE, JOINT_SLIDE: mujoco.mjtJoint.mjJNT_SLIDE, JOINT_FREE: mujoco.mjtJoint.mjJNT_FREE}
body_poses = jax.jit(jax.vmap(kin.body_poses))


def random_model(seed: int, bodies: int) -> tuple[mujoco.MjModel, Tree]:
    """A random tree of every kind of joint, anchors and all, as MuJoCo's model and as a table."""
    rng, spec = np.random.default_rng(seed), mujoco.MjSpec()
    made, kinds = [spec.worldbody], [JOINT_FIXED]
    for _ in range(bodies):
        kind = int(rng.choice([JOINT_FIXED, JOINT_HINGE, JOINT_SLIDE, JOINT_FREE], p=[0.2, 0.4, 0.25, 0.15]))
        parent = spec.worldbody if kind == JOINT_FREE else made[rng.integers(len(made))]
        body = parent.add_body(pos=rng.normal(size=3) * 0.2, quat=rng.normal(size=4))
        body.add_geom(size=[0.01, 0, 0], mass=0.1)
        if kind == JOINT_FREE:
            body.add_freejoint()
        elif kind != JOINT_FIXED:
            body.add_joint(type=KINDS[kind], axis=rng.normal(size=3), pos=rng.normal(size=3) * 0.1)
        made.append(body)
        kinds.append(kind)
    model = spec.compile()
    return model, table(model)


def table(model: mujoco.MjModel) -> Tree:
    n, back = model.nbody, {int(value): key for key, value in KINDS.items()}
    joint, start, axis, anchor = np.zeros(n, np.int32), np.zeros(n, np.int32), np.tile([0.0, 0, 1], (n, 1)), np.zeros((n, 3))
    for j, body in enumerate(model.jnt_bodyid):
        joint[body], start[body] = back[int(model.jnt_type[j])], model.jnt_qposadr[j]
        axis[body], anchor[body] = model.jnt_axis[j], model.jnt_pos[j]
    floats = [x.astype(np.float32) for x in (model.body_pos, model.body_quat, axis, anchor)]
    return Tree(model.body_parentid.astype(np.int32), floats[0], floats[1], joint, floats[2], floats[3], start)


def mujoco_poses(model: mujoco.MjModel, qpos: np.ndarray) -> np.ndarray:
    """world_from_body (t, n, 4, 4) by MuJoCo."""
    data, poses = mujoco.MjData(model), np.tile(np.eye(4), (len(qpos), model.nbody, 1, 1))
    for row, pose in zip(qpos, poses, strict=True):
        data.qpos[:] = row
        mujoco.mj_kinematics(model, data)
        pose[:, :3, :3], pose[:, :3, 3] = data.xmat.reshape(-1, 3, 3), data.xpos
    return poses


def test_random_trees_of_different_shapes_in_one_batch_equal_mujocos():
    made = [random_model(seed, bodies) for seed, bodies in enumerate((3, 17, 24, 24))]
    rng = np.random.default_rng(9)
    rows, entries = max(len(tree.parent) for _, tree in made), max(model.nq for model, _ in made)
    qpos = [rng.normal(size=(1, model.nq)) for model, _ in made]
    padded = np.stack([np.pad(q[0], (0, entries - q.size)) for q in qpos]).astype(np.float32)
    trees = Tree(*(np.stack(column) for column in zip(*(pad(tree, rows) for _, tree in made), strict=True)))
    found = np.asarray(body_poses(trees, padded))
    for i, (model, _) in enumerate(made):
        np.testing.assert_allclose(found[i, : model.nbody], mujoco_poses(model, qpos[i])[0], atol=5e-6)
        np.testing.assert_array_equal(found[i, model.nbody :], np.tile(np.eye(4, dtype=np.float32), (rows - model.nbody, 1, 1)))


def pad(tree: Tree, rows: int) -> Tree:
    """Padding rows, fixed to the world; the quaternion 0 is no rotation."""
    return Tree(*(np.concatenate([x, np.zeros((rows - len(x), *x.shape[1:]), x.dtype)]) for x in tree))


def test_the_real_robot_within_a_hundredth_of_a_millimetre(aloha_sim_assets):
    model = mujoco.MjModel.from_xml_path(str(aloha_sim_assets / "aloha" / "aloha_pbr.xml"))
    data = mujoco.MjData(model)
    qpos = np.random.default_rng(0).uniform(*model.jnt_range.T, (1000, 16))
    calibration = kin.aloha_calibration(48, 64)

    @jax.jit
    @jax.vmap
    def found_poses(row):
        cameras = kin.camera_poses(calibration, kin.joints_from_qpos(row))
        return jax.vmap(kin.body_poses, (None, 0))(kin.arm_tree(), row.reshape(2, 8)), cameras.world_from_camera

    arms, cameras = map(np.asarray, found_poses(qpos.astype(np.float32)))
    bodies = [[model.body(f"{side}/{link.name}").id for link in aloha.ARM] for side in aloha.SIDES]
    wrist = [model.camera(f"wrist_cam_{side}").id for side in aloha.SIDES]
    worst = 0.0
    for i, row in enumerate(qpos):
        data.qpos[:] = row
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)
        found = np.einsum("sij,snj->sni", calibration.world_from_base, arms[i, :, 1:, :, 3])[..., :3]
        worst = max(worst, np.abs(found - data.xpos[np.array(bodies)]).max(), np.abs(cameras[i, 2:, :3, 3] - data.cam_xpos[wrist]).max())
        turned = data.cam_xmat[wrist].reshape(2, 3, 3) * [1, -1, -1]
        assert np.abs(cameras[i, 2:, :3, :3] - turned).max() < 1e-5
    assert worst < 1e-5


def test_gripper_stands_where_upstream_says_at_home():
    joints = np.float32(np.tile([*aloha.HOME[:6], 0.2], 2))
    grippers = np.asarray(jax.jit(kin.gripper_poses)(joints, kin.aloha_calibration(48, 64).world_from_base))
    sites = grippers[:, :3] @ np.array([*aloha.GRIPPER_SITE, 1])
    np.testing.assert_allclose(sites, [[-0.168, -0.019, 0.313], [0.168, -0.019, 0.313]], atol=1e-3)


def test_joints_and_qpos_are_inverse_and_not_clipped():
    joints = np.random.default_rng(0).uniform(-0.5, 1.5, 14).astype(np.float32)
    qpos = np.asarray(kin.qpos_from_joints(joints))
    assert qpos[6] == qpos[7] == pytest.approx(0.002 + 0.035 * joints[6], abs=1e-7)
    np.testing.assert_allclose(kin.joints_from_qpos(np.append(qpos, [5, 5]).astype(np.float32)), joints, atol=1e-5)
