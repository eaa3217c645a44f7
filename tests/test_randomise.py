"""Randomised physics: what is drawn and what stays, what it does to motion, and distractors that are in nobody's way."""

import collections
import functools
import itertools

import jax
import mujoco
import numpy as np
import pytest

from clamp_jax.data.transforms import SIZES, check_sizes, count_geoms
from clamp_jax.geometry.aloha import HOME_COMMAND, TABLE_TOP_Z
from clamp_jax.sim import randomise, scene, tasks
from clamp_jax.sim.engines import native
from clamp_jax.sim.objects.blocks import BLOCK_HALF
from clamp_jax.sim.objects.dishes import PEN_HALF
from clamp_jax.sim.objects.distractors import DISTRACTORS
from clamp_jax.sim.randomise import PHYSICS, Ranges
from clamp_jax.sim.robot import control
from clamp_jax.structs import Capacity
from experiments.configs import shared

HOLD = np.concatenate([HOME_COMMAND, HOME_COMMAND])
HOLD_CTRL = np.asarray(control(HOLD.astype(np.float32)))
GRAVITY = 9.81
every_task = pytest.mark.parametrize("name", sorted(tasks.TASKS))


@functools.cache
def _resets(name: str, count: int = 24) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(tasks.get(name).reset))(jax.vmap(jax.random.key)(np.arange(count)))[0])


def _drawn(name: str, seed: int, ranges: Ranges = PHYSICS["random"].ranges) -> mujoco.MjModel:
    return randomise.randomise(scene.build(name), ranges, np.random.default_rng(seed)).model


def _bytes(model: mujoco.MjModel) -> bytes:
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer.tobytes()


@every_task
def test_nominal_physics_is_the_scenes_own(name):
    built, qpos0 = randomise.candidate(name, _resets(name)[0], PHYSICS["nominal"], 0)
    assert _bytes(built.model) == _bytes(scene.build(name).model)
    np.testing.assert_array_equal(qpos0, _resets(name)[0])


def test_a_seed_draws_one_physics_and_another_seed_another():
    assert _bytes(_drawn("mug_on_plate", 3)) == _bytes(_drawn("mug_on_plate", 3)) != _bytes(_drawn("mug_on_plate", 4))


def test_factors_are_in_their_ranges_and_those_of_a_thing_go_together():
    """The box with its drawers is one thing; every factor comes near both ends of its range, and halves are as likely."""
    model, found = scene.build("drawer_open").model, collections.defaultdict(list)
    ids = [model.body(f"{part}_drawer").id for part in ("top", "middle", "bottom")]
    box, dofs = model.body("jewelry_box").id, slice(22, 25)
    pad = model.geom("left/left_finger_pad").id
    for seed in range(200):
        drawn = _drawn("drawer_open", seed)
        masses = drawn.body_mass[[box, *ids]] / model.body_mass[[box, *ids]]
        found["mass"].append(masses[0])
        np.testing.assert_allclose(masses, masses[0])
        np.testing.assert_allclose(drawn.body_inertia[[box, *ids]], masses[0] * model.body_inertia[[box, *ids]])
        damping = drawn.dof_damping[dofs] / model.dof_damping[dofs]
        found["joints"].append(damping[0])
        np.testing.assert_allclose(damping, damping[0])
        found["friction"].append(drawn.geom("jewelry_box").friction[0])
        found["finger_friction"].append(drawn.geom_friction[pad, 0] / model.geom_friction[pad, 0])
        assert drawn.geom("table").friction[0] <= drawn.geom("jewelry_box").friction[0], "the table would hide the box's friction"
    for name, (low, high) in PHYSICS["random"].ranges._asdict().items():
        values = np.array(found[name])
        assert low <= values.min() < low + 0.05 * (high - low) and high - 0.05 * (high - low) < values.max() <= high, name
        assert 0.4 < np.mean(values < np.sqrt(low * high)) < 0.6, name


@pytest.mark.parametrize("name", ("can_opener_in_caddy", "laptop_close"))
def test_the_robot_stays_and_what_is_derived_from_masses_follows(name):
    model, drawn = scene.build(name).model, _drawn(name, 5)
    robot = [body for body in range(model.nbody) if model.body(body).name.startswith(("left/", "right/"))]
    dofs = np.isin(model.dof_bodyid, robot)
    for field in ("body_mass", "body_inertia", "body_ipos", "body_pos", "body_quat"):
        np.testing.assert_array_equal(getattr(drawn, field)[robot], getattr(model, field)[robot], err_msg=field)
    for field in ("dof_damping", "dof_frictionloss", "dof_armature"):
        np.testing.assert_array_equal(getattr(drawn, field)[dofs], getattr(model, field)[dofs], err_msg=field)
    for field in ("actuator_gainprm", "actuator_biasprm", "jnt_actfrcrange", "geom_size", "geom_pos", "geom_contype", "geom_conaffinity"):
        np.testing.assert_array_equal(getattr(drawn, field), getattr(model, field), err_msg=field)
    assert not np.allclose(drawn.body_mass[~np.isin(np.arange(model.nbody), robot)][1:], model.body_mass[len(robot) + 1 :])
    for body in range(drawn.nbody):  # subtrees by walking up from every body
        below = [child for child in range(drawn.nbody) if body in _ancestors(drawn, child)]
        np.testing.assert_allclose(drawn.body_subtreemass[body], drawn.body_mass[below].sum())


def _ancestors(model: mujoco.MjModel, body: int) -> set[int]:
    found = {body}
    while body:
        body = int(model.body_parentid[body])
        found.add(body)
    return found


def test_the_inverse_weight_of_a_free_body_is_of_its_new_mass():
    model, drawn = scene.build("stack_blocks").model, _drawn("stack_blocks", 1)
    for name in ("red_block", "blue_block"):
        first = drawn.joint(name).dofadr[0]
        np.testing.assert_allclose(drawn.dof_invweight0[first : first + 3], 1 / drawn.body(name).mass[0], rtol=1e-6)
        assert abs(drawn.body(name).mass[0] / model.body(name).mass[0] - 1) > 0.01


@pytest.mark.parametrize("friction", (0.6, 1.0, 1.4))
@pytest.mark.parametrize("mass", (0.7, 1.4))
def test_a_pen_slides_down_a_slope_steeper_than_its_friction_whatever_its_mass(friction, mass):
    """Gravity leans along the pen by a slope 6 % under or over the coefficient: it stays, or slides."""
    model = _drawn("hand_over_pen", 0, Ranges((mass, mass), (friction, friction), (1.0, 1.0), (1.0, 1.0)))
    speeds = []
    for slope in (0.94 * friction, 1.06 * friction):
        data = mujoco.MjData(model)
        data.qpos[:], data.ctrl[:] = _resets("hand_over_pen")[0], HOLD_CTRL
        data.qpos[model.joint("pen").qposadr[0] :][:7] = (0.0, -0.1, TABLE_TOP_Z + PEN_HALF[2], 1, 0, 0, 0)
        model.opt.gravity[:] = GRAVITY * np.array([0.0, slope, -1.0]) / np.hypot(slope, 1.0)
        mujoco.mj_step(model, data, nstep=75)  # 0.3 s
        speeds.append(data.qvel[model.joint("pen").dofadr[0] + 1])
    expected = 0.3 * GRAVITY * 0.06 * friction / np.hypot(1.06 * friction, 1.0)
    assert abs(speeds[0]) < 0.01 and speeds[1] == pytest.approx(expected, rel=0.3)


def test_a_drawer_that_runs_more_stiffly_is_opened_less_by_the_same_push():
    opened = []
    for factor in (0.7, 1.4):
        model = _drawn("drawer_open", 0, Ranges((1.0, 1.0), (1.0, 1.0), (1.0, 1.0), (factor, factor)))
        data, dof = mujoco.MjData(model), model.joint("bottom_drawer").dofadr[0]
        data.qpos[:], data.qvel[dof] = _resets("drawer_open")[0], 1.0
        mujoco.mj_step(model, data, nstep=100)
        opened.append(data.joint("bottom_drawer").qpos[0])
    assert opened[0] / opened[1] == pytest.approx(2.0, rel=0.15)  # a damped slide goes m v / d, whatever the box does


@every_task
def test_distractors_lie_clear_of_everything(name):
    """Distances of MuJoCo's own between geoms, where placing goes by outlines."""
    own, counts, places = scene.build(name).model, collections.Counter(), []
    for seed in range(12):
        built, qpos0 = randomise.candidate(name, _resets(name)[seed], PHYSICS["random"], seed)
        model, data = built.model, mujoco.MjData(built.model)
        np.testing.assert_array_equal(qpos0[: own.nq], _resets(name)[seed])
        data.qpos[:] = qpos0
        mujoco.mj_forward(model, data)
        of_distractors = model.geom_bodyid[data.contact.geom].max(axis=1, initial=0) >= own.nbody  # the marker's own cap is squeezed on
        assert np.all(data.contact.dist[of_distractors] > -1e-4)
        counts[model.nbody - own.nbody] += 1
        feet = [model.body(f"{side}/base_link").id for side in ("left", "right")]
        lying = [body for body in range(1, model.nbody) if body in feet or not model.body(body).name.startswith(("left/", "right/"))]
        for body in range(own.nbody, model.nbody):
            places.append(data.xpos[body, :2])
            for other in set(lying) - set(range(body, model.nbody)):
                assert _between(model, data, body, other) > randomise.CLEAR_M - 1e-6, (seed, model.body(body).name, model.body(other).name)
    assert len(counts) >= 3 and max(counts) <= randomise.MOST_DISTRACTORS
    assert np.all(np.array(places) >= randomise.AREA_LOW) and np.all(np.array(places) <= randomise.AREA_HIGH)


def _between(model: mujoco.MjModel, data: mujoco.MjData, one: int, two: int) -> float:
    geoms = [np.flatnonzero(model.geom_bodyid == body) for body in (one, two)]
    far, points = 0.2, np.zeros(6)
    return min((mujoco.mj_geomDistance(model, data, a, b, far, points) for a, b in itertools.product(*geoms)), default=far)


@pytest.mark.parametrize("name", ("can_opener_in_caddy", "pen_in_container", "stack_blocks"))
def test_distractors_rest_where_they_lie(name):
    candidates = (randomise.candidate(name, _resets(name)[seed], PHYSICS["random"], seed) for seed in range(24))
    built, qpos0 = next(each for each in candidates if len(each[1]) >= _nq(name) + 14)
    engine = native.Engine(scene.build(name), tasks.get(name), threads=1).in_scene(built)
    physics, trace = engine.run(engine.start(qpos0[None], np.zeros(1, np.int32)), np.tile(HOLD, (1, 50, 1)))
    np.testing.assert_allclose(physics.qpos[0], qpos0, atol=2e-3)
    assert trace.qpos.shape[2] == len(qpos0) and not trace.success.any()


def _nq(name: str) -> int:
    return scene.build(name).model.nq


def test_a_distractor_meets_the_tasks_things_and_other_distractors():
    """A block dropped onto a mug, into a bowl and onto another distractor comes to rest on it, not in the table's place of it."""
    built = scene.build("mug_on_plate", distractors=("yellow_block", "thumb_drive"))
    data = mujoco.MjData(built.model)
    data.qpos[: _nq("mug_on_plate")] = _resets("mug_on_plate")[0]
    for below, rises in (("mug", 0.0), ("bowl", 0.0), ("thumb_drive", 0.005)):
        data.qpos[_nq("mug_on_plate") :] = [0.0, 0.0, TABLE_TOP_Z + BLOCK_HALF, 1, 0, 0, 0, 0.0, -0.05, TABLE_TOP_Z + 0.0065, 1, 0, 0, 0]
        data.qvel[:] = 0
        block, place = built.model.joint("yellow_block").qposadr[0], data.qpos[built.model.joint(below).qposadr[0] :][:2].copy()
        data.qpos[block : block + 3] = (*place, TABLE_TOP_Z + 0.09 + BLOCK_HALF)
        data.ctrl[:] = HOLD_CTRL
        mujoco.mj_step(built.model, data, nstep=150)
        assert data.qpos[block + 2] > TABLE_TOP_Z + BLOCK_HALF + rises - 1e-3, below


@every_task
def test_the_tasks_addresses_stay(name):
    built, own = scene.build(name, distractors=randomise.kinds(scene.build(name))), scene.build(name)
    for joint in range(own.model.njnt):
        found = built.model.joint(own.model.joint(joint).name)
        assert (found.qposadr[0], found.dofadr[0]) == (own.model.jnt_qposadr[joint], own.model.jnt_dofadr[joint])
    np.testing.assert_array_equal(built.object_bodies, own.object_bodies)
    assert built.object_names == own.object_names and not set(built.object_names) & set(DISTRACTORS) - set(own.object_names)


def test_success_is_decided_by_the_tasks_own_things():
    """The can opener lies in the left compartment: with distractors about, one of them in it, that is success as without."""
    name = "can_opener_in_caddy"
    qpos0 = _resets(name)[0].copy()
    qpos0[18:25] = (*(qpos0[16:18] + (-0.040, 0.0)), TABLE_TOP_Z + 0.0265, *np.sqrt([0.5, 0, 0, 0.5]))
    engine = native.Engine(scene.build(name), tasks.get(name), threads=1)
    pen = [0.0, -0.02, TABLE_TOP_Z + 0.005, 1, 0, 0, 0]
    drive = [*(qpos0[16:18] + (0.040, 0.0)), TABLE_TOP_Z + BLOCK_HALF, 1, 0, 0, 0]
    around = engine.in_scene(scene.build(name, distractors=("yellow_block", "pen")))
    for variant, expected in ((0, True), (1, False)):
        for each, start in ((engine, qpos0), (around, np.concatenate([qpos0, drive, pen]))):
            _, trace = each.run(each.start(start[None], np.array([variant])), np.tile(HOLD, (1, 25, 1)))
            assert bool(trace.success[0, -1]) is expected


@every_task
def test_any_three_distractors_fit_the_tables(name):
    own = scene.build(name)
    kinds = randomise.kinds(own)
    full = scene.build(name, distractors=kinds)
    of = {kind: np.asarray(full.geom_types)[full.geoms.body == full.model.body(kind).id] for kind in kinds}
    for three in itertools.combinations(kinds, randomise.MOST_DISTRACTORS):
        geoms = np.concatenate([own.geom_types, *(of[kind] for kind in three)])
        check_sizes(own.model.nbody + 3, own.model.nq + 21, count_geoms(geoms), SIZES)
    assert sum(map(len, of.values())) + len(own.geom_types) == len(full.geom_types)


def test_the_tables_of_training_are_those_of_the_records():
    data = shared.data()
    assert (data.bodies, data.qpos, Capacity(**data.capacity)) == SIZES


def test_what_is_asked_wrongly_is_refused():
    with pytest.raises(ValueError, match="physics is 'wild'; expected one of nominal, random"):
        randomise.variety("wild")
    with pytest.raises(ValueError, match="distractors is 4; expected 0 to 3"):
        randomise.variety("random", 4)
    with pytest.raises(ValueError, match="no distractor is called 'sofa'; there are yellow_block"):
        scene.build("drawer_open", distractors=("sofa",))
    with pytest.raises(ValueError, match="holds 'pen' already"):
        scene.build("hand_over_pen", distractors=("pen",))


def test_a_variety_is_told():
    assert randomise.told(PHYSICS["nominal"]) == "nominal, no distractors"
    assert "masses x 0.7 to 1.4, friction x 0.8 to 1.25, " in randomise.told(PHYSICS["random"])
    assert randomise.told(randomise.variety("nominal", 2)) == "nominal, 0 to 2 distractors"
