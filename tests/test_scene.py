"""A scene's tables reproduce the MuJoCo model that they were taken from."""

import jax
import mujoco
import numpy as np
import pytest

from clamp_jax.geometry.kinematics import body_poses
from clamp_jax.sim import scene, tasks
from clamp_jax.structs import Capacity

_GEOM = mujoco.mjtGeom
_COLLIDERS = {int(kind) for kind in (_GEOM.mjGEOM_PLANE, _GEOM.mjGEOM_SPHERE, _GEOM.mjGEOM_CAPSULE, _GEOM.mjGEOM_BOX)}
every_task = pytest.mark.parametrize("name", sorted(tasks.TASKS))


@every_task
def test_tree_gives_mujocos_body_poses(name):
    built = scene.build(name)
    model, data, poses = built.model, mujoco.MjData(built.model), jax.jit(body_poses)
    rng = np.random.default_rng(1)
    for _ in range(5):
        data.qpos[:] = rng.normal(size=model.nq).astype(np.float32)
        mujoco.mj_normalizeQuat(model, data.qpos)
        mujoco.mj_kinematics(model, data)
        found = np.asarray(poses(built.tree, data.qpos.astype(np.float32)))
        np.testing.assert_allclose(found[:, :3, 3], data.xpos, atol=1e-5)
        np.testing.assert_allclose(found[:, :3, :3].reshape(-1, 9), data.xmat, atol=1e-5)


@every_task
def test_visible_geoms_are_those_that_the_renderer_draws(name):
    built = scene.build(name)
    model, data = built.model, mujoco.MjData(built.model)
    mujoco.mj_forward(model, data)
    drawn = mujoco.MjvScene(model, maxgeom=500)
    mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, mujoco.MjvCamera(), mujoco.mjtCatBit.mjCAT_ALL, drawn)
    ids = sorted(g.objid for g in drawn.geoms[: drawn.ngeom] if g.objtype == mujoco.mjtObj.mjOBJ_GEOM)
    np.testing.assert_array_equal(built.geom_types, model.geom_type[ids])
    np.testing.assert_allclose(built.geoms.size, model.geom_size[ids].astype(np.float32))
    np.testing.assert_array_equal(built.geoms.body, model.geom_bodyid[ids])


@every_task
def test_geoms_fit_the_default_capacity(name):
    kinds = ("plane", "sphere", "capsule", "cylinder", "box")
    counts = np.bincount(scene.build(name).geom_types, minlength=8)
    for kind in kinds:
        assert counts[int(getattr(_GEOM, f"mjGEOM_{kind.upper()}"))] <= getattr(Capacity(), kind), kind


@every_task
def test_only_shapes_that_mjx_collides_can_touch(name):
    model = scene.build(name).model
    touching = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
    assert set(model.geom_type[touching].tolist()) <= _COLLIDERS
    assert model.numeric("max_contact_points").data[0] == tasks.get(name).contact_slots


@every_task
def test_objects_are_bodies_that_move(name):
    built, task = scene.build(name), tasks.get(name)
    assert built.object_names == tuple(text for text, _ in task.objects)
    for body, (_, expected) in zip(built.object_bodies, task.objects, strict=True):
        assert built.model.body(int(body)).name == expected
        assert built.model.body_subtreemass[body] > 0.0014  # the published pen has 4.3 g, the marker's cap 1.5 g


def test_a_scene_is_built_once():
    assert scene.build("drawer_open") is scene.build("drawer_open")


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no task is called 'drawer_opn'; did you mean 'drawer_open'"):
        scene.build("drawer_opn")
    with pytest.raises(ValueError, match="geometry is 'mesh'"):
        scene.build("drawer_open", geometry="mesh")


def test_a_body_with_two_joints_is_refused():
    spec = mujoco.MjSpec()
    body = spec.worldbody.add_body(name="cart", mass=1.0, inertia=(1, 1, 1), explicitinertial=True)
    for axis in ((1, 0, 0), (0, 1, 0)):
        body.add_joint(type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis)
    with pytest.raises(ValueError, match="'cart' needs more than one"):
        scene.tree_of(spec.compile())
