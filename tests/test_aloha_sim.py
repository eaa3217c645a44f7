"""The public simulator's models as a second geometry; most of it needs them, by CLAMP_ALOHA_SIM_ASSETS."""

import shutil

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from clamp_jax import sensors
from clamp_jax.data.folders import Writer
from clamp_jax.data.pipeline import ExampleMaker, open_dataset
from clamp_jax.data.transforms import SIZES, count_geoms
from clamp_jax.geometry import kinematics
from clamp_jax.geometry.aloha import HOME_COMMAND, TABLE_TOP_Z
from clamp_jax.models.tokenizer import Tokenizer
from clamp_jax.sim import engines, experts, randomise, rollout, scene, tasks
from clamp_jax.sim.aloha_sim import assets, build, field
from clamp_jax.sim.aloha_sim.models import MODELS
from clamp_jax.sim.engines.native import Engine
from clamp_jax.sim.robot import control
from clamp_jax.sim.tasks import dining
from clamp_jax.structs import HISTORY
from data_tools import generate, materialise
from experiments.evaluate import padded_scene

FAMILIES = ("screwdriver_in_caddy", "pen_in_container", "plate_on_rack", "drawer_open")  # one of each scene
REST_M = 0.004  # collision pieces are not the boxes that resets are made by


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    """Real scenes are large: those of the other files need no room for them."""
    yield
    scene.build.cache_clear()
    scene._surface.cache_clear()


def reset(task, seed: int):
    return jax.jit(task.reset)(jax.random.key(seed))


@pytest.fixture(autouse=True)
def named(request, monkeypatch):
    if "aloha_sim_assets" in request.fixturenames:
        monkeypatch.setenv(assets.VARIABLE, str(request.getfixturevalue("aloha_sim_assets")))


def test_missing_meshes_are_left_out_with_their_geoms(tmp_path):
    corners = "\n".join(f"v {i & 1} {i >> 1 & 1} {i >> 2}" for i in range(8))
    (tmp_path / "there.obj").write_text(f"{corners}\nf 1 2 3\nf 5 6 7\nf 1 2 5\n")
    (tmp_path / "model.xml").write_text(
        '<mujoco><asset><mesh file="there.obj"/><mesh file="absent.obj"/></asset><worldbody>'
        '<geom type="mesh" mesh="there"/><geom type="mesh" mesh="absent"/><geom size=".1"/></worldbody></mujoco>'
    )
    spec = mujoco.MjSpec.from_file(str(tmp_path / "model.xml"))
    assert build.drop_missing_meshes(spec) == ["absent"]
    model = spec.compile()
    assert (model.ngeom, model.nmesh) == (2, 1)


def test_without_the_models_it_says_where_to_get_them(tmp_path, monkeypatch):
    monkeypatch.delenv(assets.VARIABLE, raising=False)
    for ask in (lambda: assets.find(), lambda: assets.find(tmp_path / "none"), lambda: assets.find(tmp_path)):
        with pytest.raises(FileNotFoundError, match="git clone https://github.com/google-deepmind/aloha_sim"):
            ask()
    with pytest.raises(FileNotFoundError, match="not named"):
        scene.build("drawer_open", "aloha_sim")


def test_a_folder_of_another_layout_is_refused_by_the_file_that_it_lacks(aloha_sim_assets, tmp_path, monkeypatch):
    shutil.copytree(aloha_sim_assets / "aloha", tmp_path / "aloha")
    monkeypatch.setenv(assets.VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match="holds no edr/drawer/model.xml"):
        build.add_objects(build.empty(assets.find()), folder=assets.find(), names=("jewelry_box",))


def test_a_task_without_models_and_an_engine_without_meshes_say_so(aloha_sim_assets):
    with pytest.raises(ValueError, match="block_on_mat.*primitive"):
        tasks.get("block_on_mat", "aloha_sim")
    with pytest.raises(ValueError, match="geometry is 'mesh'"):
        tasks.get("drawer_open", "mesh")
    with pytest.raises(ValueError, match="take warp or native"):
        engines.make("mjx", scene.build("drawer_open", "aloha_sim"), tasks.get("drawer_open", "aloha_sim"))


@pytest.mark.parametrize("name", FAMILIES)
def test_joints_and_frames_are_those_of_the_primitives(aloha_sim_assets, name):
    ours, real = (scene.build(name, kind) for kind in tasks.GEOMETRIES)
    assert (real.model.nq, real.model.nv, real.model.nu) == (ours.model.nq, ours.model.nv, ours.model.nu)
    assert real.object_names == ours.object_names and real.substeps * real.model.opt.timestep == pytest.approx(0.02)
    assert (real.model.jnt_type == ours.model.jnt_type).all() and (real.model.jnt_qposadr == ours.model.jnt_qposadr).all()
    qpos = np.asarray(reset(tasks.get(name), 3)[0])
    places = []
    for built in (ours, real):
        data = mujoco.MjData(built.model)
        data.qpos[:] = qpos
        mujoco.mj_kinematics(built.model, data)
        hands = [data.body(f"{side}/gripper_link").xpos for side in ("left", "right")]
        places.append(np.concatenate([data.xpos[built.object_bodies], hands]))
    assert np.allclose(*places, atol=2e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_reset_stays_where_it_is(aloha_sim_assets, name):
    built, task = scene.build(name, "aloha_sim"), tasks.get(name, "aloha_sim")
    qpos, variant = reset(task, 5)
    data = mujoco.MjData(built.model)
    data.qpos[:], data.ctrl[:] = qpos, control(np.tile(HOME_COMMAND, 2))
    mujoco.mj_forward(built.model, data)
    assert min((contact.dist for contact in data.contact), default=0.0) > -REST_M
    before = data.xpos[built.object_bodies].copy()
    mujoco.mj_step(built.model, data, nstep=250)
    assert np.abs(data.xpos[built.object_bodies] - before).max() < REST_M
    assert not task.success(jnp.asarray(data.qpos, jnp.float32), jnp.asarray(data.qvel, jnp.float32), variant)


def test_tables_hold_every_real_scene(aloha_sim_assets):
    for name, task in tasks.TASKS.items():
        if task.things:
            built = scene.build(name, "aloha_sim")
            assert len(built.tree.parent) <= SIZES.bodies and built.model.nq <= SIZES.qpos
            assert all(count <= room for count, room in zip(count_geoms(built.geom_types), SIZES.geoms, strict=True))


def make_apart(folder, first: str, second: str):
    """Pose of the second in the first -> metres between two objects by MuJoCo, piece by piece; the slow reference."""
    spec = mujoco.MjSpec()
    for name in (first, second):
        child = build.load_object(folder, MODELS[name])
        body = spec.worldbody.add_body(name=name)
        body.mocap = True
        child.worldbody.first_body().name = "model"
        body.add_frame(pos=-np.array(MODELS[name].origin)).attach_body(child.worldbody.first_body(), f"{name}/", "")
    model = spec.compile()
    data = mujoco.MjData(model)
    pieces = [np.flatnonzero((model.geom_contype > 0) & (model.geom_bodyid == model.body(f"{name}/model").id)) for name in (first, second)]

    def apart(pose: np.ndarray) -> float:
        quat = np.zeros(4)
        mujoco.mju_mat2Quat(quat, pose[:3, :3].reshape(-1).astype(float))
        data.mocap_pos[1], data.mocap_quat[1] = pose[:3, 3], quat
        mujoco.mj_kinematics(model, data)
        return min(mujoco.mj_geomDistance(model, data, one, two, 0.05, None) for one in pieces[0] for two in pieces[1])

    return apart


@pytest.mark.parametrize("tip", [0.0, 0.5])
def test_the_gap_is_that_between_the_collision_pieces(aloha_sim_assets, tip):
    """The mug over the plate, upright and tipped, from in it to clear of it, against MuJoCo's distance of convex pieces."""
    between, apart = jax.jit(field.gap(aloha_sim_assets, "plate", "mug")), make_apart(aloha_sim_assets, "plate", "mug")

    def pose(height: float) -> np.ndarray:
        found = np.eye(4, dtype=np.float32)
        found[1:3, 1:3], found[:3, 3] = [[np.cos(tip), -np.sin(tip)], [np.sin(tip), np.cos(tip)]], (0.01, -0.02, height)
        return found

    low, high = -0.05, 0.15
    for _ in range(14):  # the height at which they touch
        middle = (low + high) / 2
        low, high = (middle, high) if apart(pose(middle)) <= 0 else (low, middle)
    for above, slack in ((0.0003, 3e-4), (0.0008, 3e-4), (0.0015, 3e-4), (0.0025, 3e-4)):
        assert float(between(pose(high + above))) == pytest.approx(apart(pose(high + above)), abs=slack)
    assert float(between(pose(high - 0.002))) < 0 and float(between(pose(high + 0.02))) > 0.003


def test_a_mug_that_stands_on_the_plate_succeeds_and_one_beside_it_does_not(aloha_sim_assets):
    task, built = tasks.get("mug_on_plate", "aloha_sim"), scene.build("mug_on_plate", "aloha_sim")
    qpos, variant = reset(task, 0)
    qpos, rest = np.array(qpos), np.zeros(built.model.nv, np.float32)
    success = jax.jit(task.success)
    plate, mug = (slice(dining.QPOS[name], dining.QPOS[name] + 7) for name in ("plate", "mug"))
    assert not success(qpos, rest, variant)
    data = mujoco.MjData(built.model)
    qpos[mug] = [*qpos[plate][:2], TABLE_TOP_Z + 0.02, 1, 0, 0, 0]
    data.qpos[:], data.ctrl[:] = qpos, control(np.tile(HOME_COMMAND, 2))
    mujoco.mj_step(built.model, data, nstep=500)
    stands = data.qpos.astype(np.float32)
    assert success(stands, rest, variant)
    stands[mug.start + 2] += 0.0035  # lifted
    assert not success(stands, rest, variant)
    stands[mug.start + 2] -= 0.0035
    moving = rest.copy()
    moving[dining.QVEL["mug"]] = 0.002
    assert not success(stands, moving, variant)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("screwdriver_in_caddy", "plate_on_rack", "pen_in_container")]


@pytest.mark.parametrize("name", ["drawer_open", *SLOW])
def test_the_expert_does_it_with_the_real_things(aloha_sim_assets, name):
    task, built = tasks.get(name, "aloha_sim"), scene.build(name, "aloha_sim")
    engine, done = Engine(built, task, threads=1), 0
    for seed in range(3):
        qpos, variant = map(np.asarray, reset(task, seed))
        actions = experts.plan(task, built, qpos, int(variant), seed)
        actions = np.concatenate([actions, np.repeat(actions[-1:], 25, 0)])
        done += bool(engine.run(engine.start(qpos[None], variant[None]), actions[None])[1].success.any())
    assert done >= 2


def ray_depth(built: scene.Scene, qpos: np.ndarray, calibration, size: int) -> np.ndarray:
    """Depth (k, h, w) by MuJoCo's own rays against the meshes that are shown, 0 where they meet nothing; the slow reference."""
    model, data = built.model, mujoco.MjData(built.model)
    data.qpos[:] = qpos
    mujoco.mj_forward(model, data)
    cameras = kinematics.camera_poses(calibration, kinematics.joints_from_qpos(jnp.asarray(qpos)))
    shown, found = np.array([1, 1, 1, 0, 0, 0], np.uint8), []
    for intrinsics, pose in zip(np.asarray(cameras.intrinsics), np.asarray(cameras.world_from_camera, float), strict=True):
        u, v = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
        local = np.stack([(u - intrinsics[2]) / intrinsics[0], (v - intrinsics[3]) / intrinsics[1], np.ones_like(u)], -1).reshape(-1, 3)
        length = np.linalg.norm(local, axis=1)
        ways = (local / length[:, None]) @ pose[:3, :3].T
        geom, distance = np.zeros(len(ways), np.int32), np.zeros(len(ways))
        mujoco.mj_multiRay(model, data, pose[:3, 3].copy(), ways.reshape(-1), shown, 1, -1, geom, distance, None, len(ways), 10.0)
        found.append(np.where(geom >= 0, distance / length, 0.0).reshape(size, size))
    return np.array(found)


@pytest.mark.timeout(300)  # points on real meshes, and what sees them is compiled
def test_the_cameras_see_what_rays_meet(aloha_sim_assets):
    """Points are 1.5 to 4 mm apart and as wide, so edges of things are off by that; else depth is that of the meshes."""
    size, built, task = 64, scene.build("can_opener_in_caddy", "aloha_sim"), tasks.get("can_opener_in_caddy", "aloha_sim")
    qpos, calibration = np.asarray(reset(task, 1)[0]), kinematics.aloha_calibration(size, size)
    state, capacity = padded_scene(built)
    sense = rollout.make_sense(state, calibration, sensors.preset("upstream", size)._replace(capacity=capacity))
    past, keys = (np.zeros((1, HISTORY, 14)), np.zeros((1, HISTORY), bool)), jax.random.split(jax.random.key(0), 1)
    seen = sense(qpos[None, None], *past, keys, keys)
    depth_m, exact_m = np.asarray(seen.depth_m[0]), ray_depth(built, qpos, calibration, size)
    near = (exact_m > 0) & (exact_m < 3.0)
    assert (depth_m[near] > 0).mean() > 0.98 and (depth_m[~near] == 0).mean() > 0.95
    off = np.abs(depth_m - exact_m)
    assert [(off[k][near[k]] < 0.01).mean() > 0.85 for k in range(4)] == [True] * 4 and np.median(off[near]) < 0.002
    rgb = np.asarray(seen.rgb[0, 0], float)
    assert (rgb[..., 2] > rgb[..., 0] + 60).sum() > 5  # the blue caddy


@pytest.mark.timeout(300)  # points on real meshes, and what sees them is compiled
def test_generated_states_become_images(aloha_sim_assets, tmp_path):
    variety = randomise.variety("random", 2, "aloha_sim")
    made = next(found for seed in range(5) if (found := generate.attempt_episode("drawer_open", seed, variety).episode) is not None)
    origin = generate.Source("drawer_open", 0, variety).origin()
    with Writer(tmp_path / "states", task="drawer_open", origin=origin) as writer:
        writer.add(made)
    states = open_dataset(tmp_path / "states")
    with pytest.raises(ValueError, match="data_tools.materialise"):
        ExampleMaker(Tokenizer().encode, calibration=kinematics.aloha_calibration(16, 16)).example_at(states, 0, 0)
    materialise.materialise_all(tmp_path / "states", tmp_path / "images", every=200, config=sensors.clean(64), seed=0)
    image = open_dataset(tmp_path / "images").image((0, 0))
    names, _ = randomise.distractors(scene.build("drawer_open", "aloha_sim"), made.qpos[0, :26], variety, made.seed)
    built = scene.build("drawer_open", "aloha_sim", names)
    assert made.qpos.shape[1] == built.model.nq == 26 + 7 * len(names)
    exact_m = ray_depth(built, made.qpos[0], kinematics.aloha_calibration(64, 64), 64)
    near = (exact_m > 0) & (exact_m < 1.9)
    assert (np.abs(image.depth_m - exact_m)[near] < 0.01).mean() > 0.8
