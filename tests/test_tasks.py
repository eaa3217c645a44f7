"""Resets lie in the published ranges, states at rest stay there, and success turns where the rules say."""

import functools

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from clamp_jax.geometry.aloha import HOME_COMMAND, TABLE_TOP_Z
from clamp_jax.sim import scene, tasks
from clamp_jax.sim.engines import native
from clamp_jax.sim.experts import ik
from clamp_jax.sim.objects import dishes, marker
from clamp_jax.sim.objects import rack as rack_object
from clamp_jax.sim.tasks import caddy, dining, placing

HOLD = np.concatenate([HOME_COMMAND, HOME_COMMAND])
every_task = pytest.mark.parametrize("name", sorted(tasks.TASKS))


@functools.cache
def _resets(name: str) -> tuple[np.ndarray, np.ndarray]:
    """500 initial states of a task."""
    qpos, variant = jax.jit(jax.vmap(tasks.get(name).reset))(jax.random.split(jax.random.key(0), 500))
    return np.asarray(qpos), np.asarray(variant)


@functools.cache
def _success(name: str):
    return jax.jit(tasks.get(name).success)


@every_task
def test_holding_still_moves_nothing_and_does_not_succeed(name):
    engine = native.Engine(scene.build(name), tasks.get(name))
    qpos, variant = (values[:16] for values in _resets(name))
    physics, trace = engine.run(engine.start(qpos, variant), np.tile(HOLD, (16, 50, 1)))
    assert not trace.success.any()
    np.testing.assert_allclose(physics.qpos, qpos, atol=2e-3)
    assert np.abs(physics.qvel[:, 16:]).max() < 1e-3


@pytest.mark.parametrize("name", ("drawer_open", "drawer_close"))
def test_the_jewelry_box_is_anywhere_in_its_range(name):
    qpos, variant = _resets(name)
    position, yaw = qpos[:, 16:18], 2 * np.arctan2(qpos[:, 22], qpos[:, 19])
    assert np.abs(position).max() <= 0.15 and np.abs(yaw).max() <= np.pi / 4
    assert np.ptp(position, axis=0).min() > 0.28 and np.ptp(yaw) > 1.5
    low, high = (0.0, 0.0) if name == "drawer_open" else (0.07, 0.1)
    assert qpos[:, -1].min() >= low and qpos[:, -1].max() <= high
    assert not variant.any() and not qpos[:, 23:25].any()


def test_tools_share_the_published_regions():
    qpos, variant = _resets("can_opener_in_caddy")
    places = {"caddy": qpos[:, 16:18]}
    places |= {name: qpos[:, 18 + 7 * i : 20 + 7 * i] for i, name in enumerate(caddy.NAMES)}
    rows = {name: np.where(place[:, 1] > 0, 0, 1) for name, place in places.items()}
    columns = {name: np.digitize(place[:, 0], (-0.1, 0.1)) for name, place in places.items()}
    for name, place in places.items():
        low, high = placing.ROWS_Y[rows[name]].T
        assert ((low <= place[:, 1]) & (place[:, 1] <= high)).all(), name
        low, high = placing.COLUMNS_X[columns[name]].T
        assert ((low <= place[:, 0]) & (place[:, 0] <= high)).all(), name
    for group in (caddy.SHARED_ROW, caddy.OTHER_ROW):
        assert (np.ptp(np.stack([rows[name] for name in group]), axis=0) == 0).all()
        assert (np.sort(np.stack([columns[name] for name in group]), 0) == np.arange(3)[:, None]).all()
    assert (rows["caddy"] != rows["can_opener"]).all()
    assert 0.4 < rows["caddy"].mean() < 0.6 and 0.4 < variant.mean() < 0.6


@pytest.mark.parametrize(
    ("slide", "opened", "closed"),
    ((0.0, False, True), (0.0099, False, True), (0.0101, False, False), (0.0499, False, False), (0.0501, True, False)),
)
def test_drawers_succeed_beyond_their_thresholds(slide, opened, closed):
    qpos, _ = _resets("drawer_open")
    state = jnp.asarray(qpos[0]).at[-1].set(slide)
    for name, expected in (("drawer_open", opened), ("drawer_close", closed)):
        success = _success(name)
        assert bool(success(state, jnp.zeros(25), 0)) is expected
        for component in range(16, 19):  # the box's linear velocity
            assert bool(success(state, jnp.zeros(25).at[component].set(-0.99e-3), 0)) is expected
            assert not bool(success(state, jnp.zeros(25).at[component].set(-1.01e-3), 0))
        others = jnp.ones(25).at[16:19].set(0.0)
        assert bool(success(state, others, 0)) is expected


def _in_caddy(qpos: np.ndarray, name: str, offset: tuple[float, float, float]) -> np.ndarray:
    """A tool turned along y with its middle at an offset (m) from the caddy's frame."""
    start, qpos = 18 + 7 * caddy.NAMES.index(name), qpos.copy()
    qpos[start : start + 3] = np.append(qpos[16:18], TABLE_TOP_Z) + np.array(offset)
    qpos[start + 3 : start + 7] = np.sqrt([0.5, 0, 0, 0.5])
    return qpos


# The compartments' boxes span x +-(.017 to .047), y +-.047, z -.035 to .015; the can opener's half size along y is .077.
@pytest.mark.parametrize(
    ("offset", "left", "right"),
    (
        ((-0.040, 0.0, 0.0265), True, False),
        ((0.040, 0.0, 0.0265), False, True),
        ((0.0, 0.0, 0.0265), True, True),
        ((-0.0684, 0.0, 0.0265), True, False),
        ((-0.0686, 0.0, 0.0265), False, False),
        ((-0.032, 0.0, 0.0414), True, False),
        ((-0.032, 0.0, 0.0416), False, False),
        ((-0.032, 0.1239, 0.0265), True, False),
        ((-0.032, 0.1241, 0.0265), False, False),
    ),
)
def test_the_can_opener_succeeds_in_its_compartment(offset, left, right):
    qpos = _in_caddy(_resets("can_opener_in_caddy")[0][0], "can_opener", offset)
    found = [bool(_success("can_opener_in_caddy")(qpos, np.zeros(48, np.float32), variant)) for variant in (0, 1)]
    assert found == [left, right]


def test_another_tool_in_a_compartment_or_motion_spoils_it():
    qpos = _in_caddy(_resets("can_opener_in_caddy")[0][0], "can_opener", (-0.040, 0.0, 0.0265))
    rest = np.zeros(48, np.float32)
    for x, expected in ((0.0349 + 0.017, False), (0.0105 + 0.0471, True)):  # the thumb drive's half size across is .0105
        spoilt = _in_caddy(qpos, "thumb_drive", (x, 0.0, 0.0065))
        assert bool(_success("can_opener_in_caddy")(spoilt, rest, 0)) is expected
    linear = [16, 17, *(18 + 6 * tool + axis for tool in range(5) for axis in range(3))]
    for component in range(48):
        moving = rest.copy()
        moving[component] = 1.01e-3
        assert bool(_success("can_opener_in_caddy")(qpos, moving, 0)) is (component not in linear), component


# At the laid table and at the rack.

LEVEL = np.float32([1, 0, 0, 0])


def _put(qpos: np.ndarray, start: int, pos: tuple[float, float, float], quat: np.ndarray = LEVEL) -> np.ndarray:
    """A free body whose qpos begins at `start`, put at a place (m) in the world."""
    qpos = qpos.copy()
    qpos[start : start + 3], qpos[start + 3 : start + 7] = pos, quat
    return qpos


def _about(axis: tuple[float, float, float], angle: float) -> np.ndarray:
    x, y, z, w = Rotation.from_rotvec(angle * np.array(axis)).as_quat()
    return np.float32([w, x, y, z])


def test_sets_do_not_overlap_and_are_all_there_is():
    sets = (tasks.PAPER, tasks.NEAR, tasks.FAR)
    assert len(tasks.PAPER) == 6 and len(tasks.NEAR) + len(tasks.FAR) >= 10
    assert sum(map(len, sets)) == len(tasks.TASKS) and set().union(*sets) == set(tasks.TASKS)


def test_the_laid_table_has_its_rows():
    qpos, variant = _resets("pen_in_container")
    things = qpos[:, 16:].reshape(-1, 6, 7)
    rows = np.where(things[:, :, 1] > 0, 0, 1)
    assert (rows[:, :3] == rows[:, :1]).all() and (rows[:, 3:] == rows[:, 3:4]).all() and (rows[:, 0] != rows[:, 3]).all()
    low, high = placing.ROWS_Y[rows][..., 0], placing.ROWS_Y[rows][..., 1]
    assert ((low <= things[:, :, 1]) & (things[:, :, 1] <= high)).all()
    columns = np.digitize(things[:, :, 0], (-0.1, 0.1))
    for row in (slice(0, 3), slice(3, 6)):
        assert (np.sort(columns[:, row], 1) == np.arange(3)).all()
    yaw = 2 * np.arctan2(things[:, :, 6], things[:, :, 3])
    np.testing.assert_allclose(yaw, np.repeat(yaw[:, :1], 6, 1), atol=1e-5)  # one for all
    assert np.ptp(yaw) > 6 and 0.4 < rows[:, 0].mean() < 0.6 and not variant.any()


# The boxes in the cup's frame: z .001 to .031 within .028 of the axis, and z .14 to .16.
@pytest.mark.parametrize(
    ("lower_end", "lean", "x", "expected"),
    (
        (0.005, 0.0, 0.0, True),
        (0.0309, 0.0, 0.0, True),
        (0.0311, 0.0, 0.0, False),
        (-0.0449, 0.0, 0.0, True),  # the upper end at .1401
        (-0.0451, 0.0, 0.0, False),
        (0.005, 0.0, 0.0339, True),
        (0.005, 0.0, 0.0341, False),
    ),
)
def test_the_pen_succeeds_from_the_cups_floor_to_above_its_rim(lower_end, lean, x, expected):
    qpos = _put(_resets("pen_in_container")[0][0], dining.QPOS["cup"], (0.1, 0.0, TABLE_TOP_Z))
    qpos = _put(qpos, dining.QPOS["pen"], (0.1 + x, 0.0, TABLE_TOP_Z + lower_end + 0.0925), _about((1, 0, 0), np.pi / 2 + lean))
    success, rest = _success("pen_in_container"), np.zeros(52, np.float32)
    assert bool(success(qpos, rest, 0)) is expected
    for thing, spoils in (("pen", True), ("cup", True), ("bowl", False)):
        rest = np.zeros(52, np.float32)
        rest[dining.QVEL[thing] + 1] = 1.01e-3
        assert bool(success(qpos, rest, 0)) is (expected and not spoils)


@pytest.mark.parametrize(("offset", "expected"), ((0.0499, True), (0.0511, False), (0.02, True)))
def test_the_banana_succeeds_in_the_middle_of_the_bowl(offset, expected):
    # Turned along x its half size along y is .056; the box of success reaches to y .032 in the bowl's frame.
    qpos = _put(_resets("banana_in_bowl")[0][0], dining.QPOS["bowl"], (0.1, 0.0, TABLE_TOP_Z))
    place = (0.1, offset + 0.0375, TABLE_TOP_Z + 0.05)
    qpos = _put(qpos, dining.QPOS["banana"], place, _about((0, 0, 1), np.pi / 2))
    assert bool(_success("banana_in_bowl")(qpos, np.zeros(52, np.float32), 0)) is expected


@pytest.mark.parametrize(("gap", "expected"), ((0.0, True), (0.0009, True), (0.0011, False)))
def test_the_mug_succeeds_within_a_millimetre_of_the_plate(gap, expected):
    qpos = _put(_resets("mug_on_plate")[0][0], dining.QPOS["plate"], (0.1, 0.0, TABLE_TOP_Z))
    qpos = _put(qpos, dining.QPOS["mug"], (0.1, 0.0, TABLE_TOP_Z + 0.004 + gap))
    success, rest = _success("mug_on_plate"), np.zeros(52, np.float32)
    assert bool(success(qpos, rest, 0)) is expected
    rest[dining.QVEL["plate"]] = 1.01e-3
    assert not bool(success(qpos, rest, 0))


@pytest.mark.parametrize("name", ("plate_on_rack", "bowl_on_rack"))
def test_rack_and_dish_are_in_their_ranges(name):
    qpos, _ = _resets(name)
    x, y, yaw = qpos[:, 16:19].T
    assert np.abs(x).max() <= 0.1 and y.min() >= 0.18 and y.max() <= 0.25 and np.abs(np.degrees(yaw) + 90).max() <= 3.7
    assert qpos[:, 19].min() >= 0 and qpos[:, 19].max() <= 0.25 and qpos[:, 20].min() >= -0.2 and qpos[:, 20].max() <= 0
    assert np.ptp(qpos[:, 19]) > 0.2 and np.ptp(qpos[:, 20]) > 0.1 and np.ptp(x) > 0.18


@pytest.mark.parametrize(("raised", "gap", "expected"), ((True, 0.0005, True), (True, 0.0015, False), (False, 0.0, False)))
def test_the_plate_succeeds_where_it_touches_the_rack_off_the_table(raised, gap, expected):
    """Upright over the two bars, its lower edge between them; or lying on the table against a bar's end."""
    qpos = _resets("plate_on_rack")[0][0].copy()
    qpos[16:19] = (0.0, 0.2, -np.pi / 2)
    dish = dishes.DISHES["small_plate"]
    if raised:  # flat on the tines' tops: its lower ring is over them
        place = (0.0, 0.2, TABLE_TOP_Z + rack_object.TINE_TOP + rack_object.TINE_RADIUS + gap)
        lower = np.asarray(dishes.rings(dish))[:8].reshape(-1, 3)
        over = [np.abs(lower[:, 0]).max(), np.abs(lower[:, 1]).max()]
        assert min(over) > 0.05
        place = (rack_object.PITCH / 2 + 0.0, 0.2 + dish.foot - dishes.RING_RADIUS - rack_object.BAR_X, place[2])
    else:
        place = (0.0, 0.2 - rack_object.HALF[0] - dish.rim, TABLE_TOP_Z)
    found = _success("plate_on_rack")(_put(qpos, 19, place), np.zeros(25, np.float32), 0)
    assert bool(found) is expected


# Far from the paper's scenes: a state on each side of every threshold.


def _succeeds(name: str, qpos: np.ndarray, moving: dict[int, float] | None = None) -> bool:
    qvel = np.zeros(scene.build(name).model.nv, np.float32)
    for component, speed in (moving or {}).items():
        qvel[component] = speed
    return bool(_success(name)(qpos, qvel, 0))


@pytest.mark.parametrize(
    ("x", "y", "height", "expected"),
    (
        (0.0, 0.0, 0.0, True),
        (0.0599, -0.0599, 0.0, True),
        (0.0601, 0.0, 0.0, False),
        (0.0, -0.0601, 0.0, False),
        (0.0, 0.0, 0.0049, True),
        (0.0, 0.0, 0.0051, False),
    ),
)
def test_the_block_succeeds_on_the_mat(x, y, height, expected):
    qpos = _resets("block_on_mat")[0][0].copy()
    qpos[16:18] = (0.1, 0.05)
    qpos = _put(qpos, 18, (0.1 + x, 0.05 + y, TABLE_TOP_Z + 0.0225 + height))
    assert _succeeds("block_on_mat", qpos) is expected
    assert not _succeeds("block_on_mat", qpos, {19: 1.01e-3})


@pytest.mark.parametrize(
    ("off", "step", "expected"),
    ((0.0, 0.045, True), (0.0224, 0.045, True), (0.0226, 0.045, False), (0.0, 0.0489, True), (0.0, 0.0491, False), (0.0, 0.0409, False)),
)
def test_the_red_block_succeeds_on_the_blue_one(off, step, expected):
    qpos = _put(_resets("stack_blocks")[0][0], 23, (0.1, 0.0, TABLE_TOP_Z + 0.0225))
    qpos = _put(qpos, 16, (0.1, off, TABLE_TOP_Z + 0.0225 + step))
    assert _succeeds("stack_blocks", qpos) is expected
    for component in (16, 22):  # of the red one, of the blue one
        assert not _succeeds("stack_blocks", qpos, {component: -1.01e-3})


@pytest.mark.parametrize(("x", "y", "expected"), ((0.0299, -0.0299, True), (0.0301, 0.0, False), (0.0, 0.0301, False)))
def test_the_crate_succeeds_over_the_mat(x, y, expected):
    qpos = _resets("push_crate")[0][0].copy()
    qpos[16:20] = (0.1, 0.05, 0.1 + x, 0.05 + y)
    assert _succeeds("push_crate", qpos) is expected
    assert not _succeeds("push_crate", qpos, {19: 1.01e-3}) and _succeeds("push_crate", qpos, {16: 1.0}) is expected


@pytest.mark.parametrize(("hinge", "expected"), ((-0.0099, True), (-0.0101, False), (-1.83, False)))
def test_the_laptop_succeeds_closed(hinge, expected):
    qpos = _resets("laptop_close")[0][0].copy()
    qpos[19] = hinge
    assert _succeeds("laptop_close", qpos) is expected
    assert not _succeeds("laptop_close", qpos, {17: 1.01e-3}) and _succeeds("laptop_close", qpos, {19: 1.0}) is expected


@pytest.mark.parametrize("thing", ("banana", "pen"))
def test_what_is_handed_over_starts_on_the_right_and_ends_in_its_container(thing):
    name = f"hand_over_{thing}"
    qpos, _ = _resets(name)
    assert qpos[:, 16].max() <= -0.12 and qpos[:, 16].min() >= -0.18 and qpos[:, 23].min() >= 0.12 and qpos[:, 23].max() <= 0.18
    container = _put(qpos[0], 16, (-0.15, 0.0, TABLE_TOP_Z))
    if thing == "banana":
        inside = _put(container, 23, (-0.15, 0.0, TABLE_TOP_Z + 0.05))
    else:
        inside = _put(container, 23, (-0.15, 0.0, TABLE_TOP_Z + 0.1), _about((1, 0, 0), np.pi / 2))
    assert not _succeeds(name, qpos[0]) and _succeeds(name, inside)
    assert not _succeeds(name, inside, {16: 1.01e-3}) and not _succeeds(name, inside, {23: 1.01e-3})


def test_blocks_crate_and_mat_start_apart():
    for name, first, second, least, most in (
        ("block_on_mat", 16, 18, 0.14, 9),
        ("stack_blocks", 16, 23, 0.14, 9),
        ("push_crate", 16, 18, 0.1, 0.25),
    ):
        qpos, _ = _resets(name)
        way = np.linalg.norm(qpos[:, first : first + 2] - qpos[:, second : second + 2], axis=1)
        assert way.min() >= least - 1e-6 and way.max() <= most + 1e-6, name
        assert np.ptp(qpos[:, first]) > 0.35 and np.ptp(qpos[:, first + 1]) > 0.28


def test_the_marker_lies_anywhere_in_its_range_with_its_cap_on():
    qpos, variant = _resets("marker_remove_lid")
    place, yaw = qpos[:, 16:18], 2 * np.arctan2(qpos[:, 22], qpos[:, 19])
    assert place.min() >= -0.2 and place.max() <= 0.225 and np.ptp(place, axis=0).min() > 0.41 and np.ptp(yaw) > 6 and not variant.any()
    along = np.stack([-np.sin(yaw), np.cos(yaw)], 1)
    np.testing.assert_allclose(qpos[:, 23:25], place + 0.067 * along, atol=1e-6)
    np.testing.assert_array_equal(qpos[:, 25:30], qpos[:, 18:23])
    np.testing.assert_allclose(qpos[:, 18], TABLE_TOP_Z + 0.0109, atol=1e-6)


def _parted(*, beside: float = 0.0, ahead: float = 0.0, cap_up: float = 0.0, marker_up: float = 0.0) -> np.ndarray:
    """A marker along y and its cap: 7 cm beside, or `beside` (m) between their sides, or `ahead` (m) beyond the body's end."""
    qpos = _put(_resets("marker_remove_lid")[0][0], 16, (0.0, 0.0, TABLE_TOP_Z + 0.0109 + marker_up))
    x, y = (0.0, 0.07285 + 0.01385 + ahead) if ahead else ((beside or 0.07) + 0.0218, 0.0)  # the body ends at .05315 + .0197
    return _put(qpos, 23, (x, y, TABLE_TOP_Z + 0.0109 + cap_up))


@pytest.mark.parametrize(
    ("where", "expected"),
    (
        ({}, True),
        ({"beside": 0.0501}, True),
        ({"beside": 0.0499}, False),
        ({"ahead": 0.0501}, True),
        ({"ahead": 0.0499}, False),
        ({"cap_up": 0.0009}, True),
        ({"cap_up": 0.0011}, False),
        ({"marker_up": 0.0009}, True),
        ({"marker_up": 0.0011}, False),
    ),
)
def test_the_marker_succeeds_apart_from_its_cap_both_on_the_table(where, expected):
    qpos = _parted(**where)
    assert _succeeds("marker_remove_lid", qpos) is expected
    assert not _succeeds("marker_remove_lid", qpos, {17: 1.01e-3}) and not _succeeds("marker_remove_lid", qpos, {22: -1.01e-3})
    assert _succeeds("marker_remove_lid", qpos, {19: 1.0}) is expected  # turning is no motion


def test_a_cap_that_stands_on_its_end_is_on_the_table():
    qpos = _put(_parted(), 23, (0.1, 0.0, TABLE_TOP_Z + marker.CAP_HALF), _about((1, 0, 0), np.pi / 2))
    assert _succeeds("marker_remove_lid", qpos)


def _to_fingers(qpos: np.ndarray) -> float:
    """Metres from marker and cap to the nearest finger, MuJoCo's."""
    model = scene.build("marker_remove_lid").model
    data, boxes = mujoco.MjData(model), model.geom_type == mujoco.mjtGeom.mjGEOM_BOX
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    things = np.flatnonzero(boxes & np.isin(model.geom_bodyid, [model.body(name).id for name in ("marker", "cap")]))
    pads = [model.geom(f"{side}/{finger}_finger_pad").id for side in ("left", "right") for finger in ("left", "right")]
    return min(mujoco.mj_geomDistance(model, data, pad, thing, 1.0, None) for pad in pads for thing in things)


@pytest.mark.parametrize(("thing", "y", "half"), (("cap", 0.0, 0.0109), ("barrel", 0.04, 0.0109), ("plug", 0.068, 0.006)))
@pytest.mark.parametrize("side", ("left", "right"))
def test_a_marker_that_a_finger_touches_is_not_let_go(side, thing, y, half):
    """Open fingers, straight down, the outside of one of them beside cap, barrel or plug."""
    found, start, outside = [], 8 * ("left", "right").index(side), 0.03 - 0.0079 + 0.014
    for gap in (0.0007, 0.0013):
        qpos = _parted(beside=0.12)
        qpos[start + 6 : start + 8] = 0.03
        x = qpos[23] - half - gap - outside if thing == "cap" else half + gap + outside
        target = ik.tool_pose((x, y, TABLE_TOP_Z + 0.004), (0, 0, -1), (1 if side == "left" else -1, 0, 0))
        qpos[start : start + 6] = ik.solve(side, target)
        assert _to_fingers(qpos) == pytest.approx(gap, abs=2.5e-4)
        found.append(_succeeds("marker_remove_lid", qpos))
    assert found == [False, True]
