"""The stand-in robot against the published model, and its own analytic properties."""

import mujoco
import numpy as np
import pytest

from clamp_jax.geometry import aloha
from clamp_jax.sim import robot, scene
from clamp_jax.structs import CAMERAS

_CAMERAS_UPSTREAM = {"wrist_left": "wrist_cam_left", "wrist_right": "wrist_cam_right"}


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    scene.set_physics(spec)
    robot.add_robot(spec)
    return spec.compile()


@pytest.fixture(scope="module")
def upstream(aloha_sim_assets) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(aloha_sim_assets / "aloha" / "aloha_pbr.xml"))


def _home(model: mujoco.MjModel, finger: float) -> mujoco.MjData:
    data = mujoco.MjData(model)
    arm = np.append(aloha.HOME[:6], [finger, finger])
    data.qpos[:] = np.concatenate([arm, arm])
    mujoco.mj_forward(model, data)
    return data


@pytest.mark.parametrize("side", aloha.SIDES)
def test_fingers_meet_at_the_gripper_site(model, side):
    data = _home(model, robot.FINGERTIPS_MEET)
    pads = [model.geom(f"{side}/{finger}_pad").id for finger in ("left_finger", "right_finger")]
    link = data.body(f"{side}/gripper_link")
    centres = (data.geom_xpos[pads] - link.xpos) @ link.xmat.reshape(3, 3)
    assert mujoco.mj_geomDistance(model, data, *pads, 1.0, None) == pytest.approx(0.0, abs=1e-4)
    np.testing.assert_allclose(centres.mean(0), (0.116, 0.0, 0.0), atol=5e-3)  # 34 mm behind the site at x = .15
    assert centres[0, 1] < 0 < centres[1, 1]
    opened = _home(model, robot.FINGERTIPS_MEET + 0.01)
    assert mujoco.mj_geomDistance(model, opened, *pads, 1.0, None) == pytest.approx(0.02, abs=1e-4)


def test_home_is_where_the_home_command_holds_the_arms(model):
    data = _home(model, aloha.HOME[6])
    start = data.qpos.copy()
    data.ctrl[:] = robot.control(np.concatenate([aloha.HOME_COMMAND, aloha.HOME_COMMAND]))
    mujoco.mj_step(model, data, nstep=500)
    np.testing.assert_allclose(data.qpos, start, atol=2e-3)


def test_control_maps_the_gripper_linearly_and_leaves_the_arm():
    actions = np.array([np.full(14, value) for value in (0.0, 0.5, 1.0)])
    targets = robot.control(actions)
    np.testing.assert_allclose(targets[:, [6, 13]], np.array([[0.002], [0.0195], [0.037]]) * np.ones((1, 2)), atol=1e-7)
    arm = np.delete(np.arange(14), [6, 13])
    np.testing.assert_array_equal(targets[:, arm], actions[:, arm])


def test_grippers_follow_the_command_to_both_ends(model):
    for gripper, expected in ((1.0, 0.037), (0.0, robot.FINGERTIPS_MEET)):
        data = _home(model, 0.02)
        data.ctrl[:] = robot.control(np.concatenate([np.append(aloha.HOME_COMMAND[:6], gripper)] * 2))
        mujoco.mj_step(model, data, nstep=500)
        np.testing.assert_allclose(data.qpos[[6, 7, 14, 15]], expected, atol=1e-3)


def test_cameras_look_out_of_their_housings(model):
    """The nearest thing along each camera's axis is no part of the camera: it is centimetres away."""
    data = _home(model, aloha.HOME[6])
    for name in CAMERAS:
        camera, hit = data.camera(name), np.zeros(1, np.int32)
        forward = -camera.xmat.reshape(3, 3)[:, 2]
        distance = mujoco.mj_ray(model, data, camera.xpos, forward, None, 1, -1, hit)
        assert distance == -1 or distance > 0.05, (name, model.geom(hit[0]).name, distance)


def test_dynamics_are_the_published_ones(model, upstream):
    for name in (f"{side}/{link.name}" for side in aloha.SIDES for link in aloha.ARM):
        ours, theirs = model.body(name), upstream.body(name)
        for field in ("mass", "inertia", "ipos", "iquat", "pos", "quat"):
            np.testing.assert_allclose(getattr(ours, field), getattr(theirs, field), atol=1e-6, err_msg=f"{name} {field}")
    assert [model.joint(j).name for j in range(16)] == [upstream.joint(j).name for j in range(16)]
    assert [model.actuator(a).name for a in range(14)] == [upstream.actuator(a).name for a in range(14)]
    fields = "jnt_type jnt_axis jnt_range jnt_actfrcrange dof_damping dof_armature dof_frictionloss actuator_ctrlrange actuator_trnid"
    for field in fields.split():
        np.testing.assert_allclose(getattr(model, field), getattr(upstream, field), atol=1e-6, err_msg=field)
    for field in ("actuator_gainprm", "actuator_biasprm"):
        np.testing.assert_allclose(getattr(model, field), getattr(upstream, field), atol=1e-6, err_msg=field)
    np.testing.assert_array_equal(model.eq_data[:, :5], upstream.eq_data[:, :5])  # right finger = left finger


def test_bodies_stand_where_the_published_model_has_them(model, upstream):
    rng = np.random.default_rng(0)
    ours, theirs = mujoco.MjData(model), mujoco.MjData(upstream)
    for _ in range(20):
        ours.qpos[:] = theirs.qpos[:] = rng.uniform(-1, 1, model.nq)
        mujoco.mj_kinematics(model, ours), mujoco.mj_kinematics(upstream, theirs)
        np.testing.assert_allclose(ours.xpos, theirs.xpos, atol=1e-6)
        np.testing.assert_allclose(ours.xmat, theirs.xmat, atol=1e-6)


@pytest.mark.parametrize("name", ("wrist_left", "wrist_right"))
def test_wrist_cameras_are_the_published_ones(model, upstream, name):
    ours, theirs = model.camera(name).id, upstream.camera(_CAMERAS_UPSTREAM[name]).id
    for field in ("cam_pos", "cam_quat", "cam_resolution", "cam_sensorsize", "cam_intrinsic"):
        np.testing.assert_allclose(getattr(model, field)[ours], getattr(upstream, field)[theirs], atol=1e-6, err_msg=field)
