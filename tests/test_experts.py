"""Experts: kinematics against MuJoCo, the soft servos made to follow, and demonstrations that succeed."""

import functools

import jax
import mujoco
import numpy as np
import pytest

from clamp_jax.geometry import aloha
from clamp_jax.sim import experts, scene, tasks
from clamp_jax.sim.engines.native import Engine
from clamp_jax.sim.experts import clearance, ik, motion
from clamp_jax.sim.robot import control
from clamp_jax.sim.tasks.drawer_open import BOX_QPOS

every_side = pytest.mark.parametrize("side", aloha.SIDES)
every_task = pytest.mark.parametrize("name", sorted(tasks.TASKS))


def _random_joints(count, seed=0):
    return np.random.default_rng(seed).uniform(ik.LIMITS[:, 0], ik.LIMITS[:, 1], (count, 6))


@every_side
def test_forward_is_mujocos_gripper_site(side):
    model = scene.build("drawer_close").model
    data, first = mujoco.MjData(model), 8 * aloha.SIDES.index(side)
    joints = _random_joints(50)
    for row, found in zip(joints, ik.forward(side, joints)[0], strict=True):
        data.qpos[first : first + 6] = row
        mujoco.mj_kinematics(model, data)
        link = data.body(f"{side}/gripper_link")
        rotation = link.xmat.reshape(3, 3)
        np.testing.assert_allclose(found[:3, 3], link.xpos + rotation @ aloha.GRIPPER_SITE, atol=1e-6)
        np.testing.assert_allclose(found[:3, :3], rotation, atol=1e-6)


@every_side
def test_jacobian_is_the_slope_of_forward(side):
    joints, step = _random_joints(5, seed=1), 1e-6
    jacobian = ik.forward(side, joints)[1]
    for column in range(6):
        nudge = step * np.eye(6)[column]
        high, low = (ik.forward(side, joints + sign * nudge)[0] for sign in (1, -1))
        np.testing.assert_allclose(jacobian[:, :3, column], (high - low)[:, :3, 3] / (2 * step), atol=1e-6)
        turn = ik.rotation_vector(high[:, :3, :3] @ np.swapaxes(low[:, :3, :3], 1, 2)) / (2 * step)
        np.testing.assert_allclose(jacobian[:, 3:, column], turn, atol=1e-6)


@every_side
@pytest.mark.parametrize("y", [-0.15, 0.0, 0.15])
def test_solve_reaches_vertical_grasps_within_the_limits(side, y):
    sign = 1 if side == "right" else -1
    target = ik.tool_pose((0.2 * sign, y, 0.05), (0, 0, -1), (0, -sign, 0))
    joints = ik.solve(side, target)
    assert np.all((joints >= ik.LIMITS[:, 0]) & (joints <= ik.LIMITS[:, 1]))
    np.testing.assert_allclose(ik.forward(side, joints[None])[0][0], target, atol=6e-3)
    np.testing.assert_allclose(ik.forward(side, joints[None])[0][0][:3, 3], target[:3, 3], atol=ik.TOLERANCE_M)


def test_solve_refuses_what_is_out_of_reach():
    with pytest.raises(ik.IKError, match="left arm does not reach .* short at best"):
        ik.solve("left", ik.tool_pose((0.6, 0.0, 0.05), (0, 0, -1), (0, 1, 0)))


def test_rotation_about_and_rotation_vector_are_inverse():
    vectors = np.random.default_rng(2).uniform(-1.7, 1.7, size=(20, 3))  # shorter than pi
    np.testing.assert_allclose(ik.rotation_vector(np.stack([ik.rotation_about(v) for v in vectors])), vectors, atol=1e-9)


def test_minimum_jerk_is_symmetric_and_ends_at_one():
    way = motion.minimum_jerk(50)
    assert way[-1] == 1
    np.testing.assert_allclose(way[:-1] + way[-2::-1], 1, atol=1e-12)


def test_between_is_a_straight_line():
    start = ik.tool_pose((0.1, 0.0, 0.3), (0, 0, -1), (1, 0, 0))
    stop = ik.tool_pose((0.1, 0.2, 0.1), (0, 0, -1), (0, 1, 0))
    poses = motion.between(start, stop)
    np.testing.assert_allclose(poses[-1], stop, atol=1e-12)
    way = (poses[:, :3, 3] - start[:3, 3]) @ (stop - start)[:3, 3]
    np.testing.assert_allclose(np.cross(poses[:, :3, 3] - start[:3, 3], (stop - start)[:3, 3]), 0, atol=1e-12)
    assert np.all(np.diff(way) > 0)


@every_side
def test_feedforward_holds_the_site_where_it_is_planned(side):
    """The servos alone hang by a centimetre or more (gains of the published model); fed forward they do not."""
    model = scene.build("drawer_close").model
    first, column = 8 * aloha.SIDES.index(side), 7 * aloha.SIDES.index(side)
    qpos0 = np.asarray(tasks.get("drawer_close").reset(jax.random.key(0))[0], float)
    sign = 1 if side == "right" else -1
    joints = ik.solve(side, ik.tool_pose((0.15 * sign, 0.25, 0.2), (0, 0, -1), (0, -sign, 0)))
    qpos0[first : first + 6] = joints
    drop = {}
    for fed in (False, True):
        action = np.tile(aloha.HOME_COMMAND, 2)
        action[column : column + 6] = joints + fed * motion.feedforward(model, side, qpos0, np.tile(joints, (3, 1)))[0]
        data = mujoco.MjData(model)
        data.qpos[:], data.ctrl[:] = qpos0, control(action)
        mujoco.mj_step(model, data, nstep=500)
        site = ik.forward(side, data.qpos[None, first : first + 6])[0][0, :3, 3]
        drop[fed] = np.linalg.norm(site - ik.forward(side, joints[None])[0][0, :3, 3])
    assert drop[False] > 0.01 and drop[True] < 0.002


@functools.cache
def _setup(name):
    task, built = tasks.get(name), scene.build(name)
    return task, built, Engine(built, task, threads=1), jax.jit(task.reset)


@every_task
def test_demonstrations_succeed(name):
    task, built, engine, reset = _setup(name)
    done = []
    for seed in range(3):
        qpos0, variant = map(np.asarray, reset(jax.random.key(seed)))
        actions = experts.plan(task, built, qpos0, int(variant), seed)
        _, trace = engine.run(engine.start(qpos0[None], variant[None]), actions[None])
        done.append(bool(trace.success.any()))
    assert sum(done) >= 2, done


@every_task
def test_plans_keep_the_contract(name):
    """The same seed gives the same commands, another seed others; commands are in the table's range and start from home."""
    task, built, _, reset = _setup(name)
    qpos0, variant = map(np.asarray, reset(jax.random.key(1)))
    first, again, other = (experts.plan(task, built, qpos0, int(variant), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert len(first) != len(other) or not np.allclose(first, other)
    low, high = aloha.WORKING_RANGE.T
    assert first.dtype == np.float32 and np.all((first >= low - 1e-6) & (first <= high + 1e-6))
    np.testing.assert_allclose(first[0], np.tile(aloha.HOME_COMMAND, 2), atol=0.1)
    assert np.abs(np.diff(first[:, :6], axis=0)).max() < 0.2, "a joint's target jumps"


def test_the_arm_that_does_nothing_holds_its_home_command():
    task, built, _, reset = _setup("drawer_close")
    qpos0, _ = map(np.asarray, reset(jax.random.key(0)))
    actions = experts.plan(task, built, qpos0, 0, 0)
    still = [np.allclose(actions[:, 7 * i : 7 * i + 7], aloha.HOME_COMMAND) for i in (0, 1)]
    assert sorted(still) == [False, True]


def test_plan_refuses_what_it_cannot_do():
    task, built, _, reset = _setup("drawer_close")
    qpos0 = np.array(reset(jax.random.key(0))[0])
    qpos0[BOX_QPOS] = 3.0
    with pytest.raises(experts.PlanError, match="no arm reaches the bottom drawer: right arm"):
        experts.plan(task, built, qpos0, 0, 0)


def _there_and_back(side, qpos0, tempo):
    """An arm's script: forward over the table and home."""
    sign = 1 if side == "right" else -1
    script = motion.Script(side, qpos0, tempo=tempo)
    script.reach(ik.tool_pose((0.2 * sign, 0.1, 0.15), (0, 0, -1), (0, -sign, 0)), 1.03, hold_s=0.11)
    return script


def test_a_script_waits_until_the_other_is_there():
    _, _, _, reset = _setup("marker_remove_lid")
    qpos0 = np.asarray(reset(jax.random.key(0))[0])
    slow, quick = _there_and_back("left", qpos0, 0.5), _there_and_back("right", qpos0, 1.1)
    lengths = [len(motion.trajectory(script.start, script.moves)[0]) for script in (slow, quick)]
    assert [slow.ticks, quick.ticks] == [length - 1 for length in lengths] and quick.ticks < slow.ticks
    joints, gripper, ticks = quick.joints, quick.gripper, slow.ticks
    assert slow.wait_for(quick).ticks == ticks and quick.wait_for(slow).ticks == ticks
    path, fingers = motion.trajectory(quick.start, quick.moves)
    np.testing.assert_array_equal(fingers[lengths[1] - 1 :], gripper)
    np.testing.assert_allclose(path[lengths[1] + 4 :], np.tile(joints, (len(path) - lengths[1] - 4, 1)))


def test_together_is_each_arm_by_itself():
    _, built, _, reset = _setup("marker_remove_lid")
    qpos0 = np.asarray(reset(jax.random.key(0))[0], float)
    left, right = _there_and_back("left", qpos0, 1.1), _there_and_back("right", qpos0, 0.9).home(1.0)
    alone = [motion.commands(built.model, script, qpos0) for script in (left, right)]
    for scripts in ((left, right), (right, left)):
        found = motion.together(built.model, scripts, qpos0)
        assert len(found) == len(alone[1]) > len(alone[0])
        np.testing.assert_array_equal(found[:, 7:], alone[1][:, 7:])
        np.testing.assert_array_equal(found[: len(alone[0]), :7], alone[0][:, :7])
        np.testing.assert_array_equal(found[len(alone[0]) :, :7], np.tile(alone[0][-1, :7], (len(found) - len(alone[0]), 1)))


def test_room_between_the_arms_is_that_of_their_fingers_or_the_most_asked_for():
    """Both grippers straight down with fingers in one line: between the middles of the grippers, less what the fingers take."""
    _, built, _, reset = _setup("marker_remove_lid")
    qpos0 = np.asarray(reset(jax.random.key(0))[0], float)
    scripts = []
    for side, x in (("left", -0.12), ("right", 0.12)):
        site = ik.tool_pose((x, 0.1, 0.15), (0, 0, -1), (1, 0, 0))
        scripts.append(motion.Script(side, qpos0).reach(site, 1.0, gripper=1.0))
    fingers = 2 * (aloha.GRIPPER_OPEN_M - 0.0079 + 0.014)
    assert clearance.between_arms(built.model, scripts, 0.3) <= 0.24 - fingers + 1e-3
    assert clearance.between_arms(built.model, scripts, 0.02) == 0.02
    lone = motion.Script("left", qpos0).reach(ik.tool_pose((-0.2, 0.1, 0.15), (0, 0, -1), (0, 1, 0)), 1.0)
    assert clearance.between_arms(built.model, [lone], 0.05) == 0.05
    poses = {side: ik.tool_pose((0, 0, 0.15), (x, 0, -1), (0, x, 0)) for side, x in (("left", 1), ("right", -1))}
    met = [motion.Script(side, qpos0).reach(pose, 1.0) for side, pose in poses.items()]
    assert clearance.between_arms(built.model, met, 0.05) == clearance.between_arms(built.model, met[::-1], 0.05) < 0.01
