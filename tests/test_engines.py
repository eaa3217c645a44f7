"""Native MuJoCo, MJX and Warp step the same physics; a run does not depend on how it is cut, batched or threaded."""

import jax
import mujoco
import numpy as np
import pytest

from clamp_jax.geometry.aloha import HOME_COMMAND
from clamp_jax.sim import engines, env, scene, tasks
from clamp_jax.sim.engines import native
from clamp_jax.sim.engines.base import OverflowedError

TASK = "drawer_close"
BATCH = 2  # the one MJX shape of the tests


def _states(count: int) -> tuple[np.ndarray, np.ndarray]:
    qpos, variant = jax.jit(jax.vmap(tasks.get(TASK).reset))(jax.random.split(jax.random.key(5), 4))
    return np.asarray(qpos)[:count], np.asarray(variant)[:count]


def _motion(count: int, steps: int) -> np.ndarray:
    """Both arms swing about home and open their grippers, without touching anything; each environment differently."""
    rng = np.random.default_rng(6)
    size = rng.uniform(-0.3, 0.3, (count, 1, 14))
    size[..., [6, 13]] = rng.uniform(0.3, 1.0, (count, 1, 2))
    phase = np.sin(np.linspace(0, np.pi / 2, steps))[None, :, None]
    return np.concatenate([HOME_COMMAND, HOME_COMMAND])[None, None] + size * phase


@pytest.fixture(scope="module")
def engine() -> native.Engine:
    return native.Engine(scene.build(TASK), tasks.get(TASK), threads=2)


@pytest.fixture(scope="module")
def mjx_engine():
    return engines.make("mjx", scene.build(TASK), tasks.get(TASK))


def test_a_run_in_pieces_is_the_same_run(engine):
    start, actions = engine.start(*_states(3)), _motion(3, 20)
    whole, trace = engine.run(start, actions)
    middle, first = engine.run(start, actions[:, :7])
    end, second = engine.run(middle, actions[:, 7:])
    np.testing.assert_array_equal(np.concatenate([first.qpos, second.qpos], 1), trace.qpos)
    for ours, theirs in zip(end, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(end.time, 0.4, atol=1e-6)


def test_threads_and_batches_change_nothing(engine):
    states, actions = _states(4), _motion(4, 10)
    _, together = engine.run(engine.start(*states), actions)
    single = native.Engine(engine.scene, engine.task, threads=1)
    for row in range(4):
        _, alone = single.run(single.start(states[0][row : row + 1], states[1][row : row + 1]), actions[row : row + 1])
        np.testing.assert_array_equal(alone.qpos[0], together.qpos[row])


def test_native_is_mujocos_own_stepping(engine):
    """Against the obvious loop: 5 steps of 4 ms an action."""
    (qpos, variant), actions = _states(1), _motion(1, 5)
    _, trace = engine.run(engine.start(qpos, variant), actions)
    data = mujoco.MjData(engine.scene.model)
    data.qpos[:] = qpos[0]
    for action, found in zip(actions[0].astype(np.float32), trace.qpos[0], strict=True):
        data.ctrl[:] = action
        data.ctrl[[6, 13]] = 0.002 + 0.035 * action[[6, 13]]
        for _ in range(5):
            mujoco.mj_step(engine.scene.model, data)
        np.testing.assert_allclose(found, data.qpos, atol=1e-6)


def test_success_in_the_trace_is_the_tasks(engine):
    qpos, variant = _states(2)
    qpos = qpos.copy()
    qpos[1, -1] = 0.0  # closed already
    _, trace = engine.run(engine.start(qpos, variant), _motion(2, 30))
    assert trace.success[:, -1].tolist() == [False, True]
    expected = jax.jit(jax.vmap(jax.vmap(engine.task.success, (0, 0, None))))(trace.qpos, trace.qvel, variant)
    np.testing.assert_array_equal(trace.success, expected)


def _agreed(engine, other, ticks):
    """Traces of the same swing in both, once bodies are where they are in the first and success is the same."""
    states, actions = _states(BATCH), _motion(BATCH, ticks)
    _, expected = engine.run(engine.start(*states), actions)
    _, found = other.run(other.start(*states), actions)
    poses = [_body_positions(engine.scene.model, np.asarray(trace.qpos)) for trace in (expected, found)]
    assert np.abs(poses[0] - poses[1]).max() < 2e-3
    np.testing.assert_array_equal(found.success, expected.success)
    return expected, found


@pytest.mark.timeout(900)
def test_mjx_agrees_with_native_before_contact(engine, mjx_engine):
    _agreed(engine, mjx_engine, 50)


@pytest.mark.timeout(900)
def test_mjx_environments_do_not_see_each_other(mjx_engine):
    (qpos, variant), actions = _states(BATCH), _motion(BATCH, 3)
    _, trace = mjx_engine.run(mjx_engine.start(qpos, variant), actions)
    _, swapped = mjx_engine.run(mjx_engine.start(qpos[::-1], variant[::-1]), actions[::-1])
    np.testing.assert_allclose(trace.qpos, swapped.qpos[::-1], atol=1e-5)


@pytest.fixture(scope="module")
def warp_engine():
    pytest.importorskip("warp", reason="needs the [warp] extra")
    return engines.make("warp", scene.build(TASK), tasks.get(TASK))


@pytest.mark.timeout(900)
def test_warp_agrees_with_native_before_contact(engine, warp_engine):
    expected, found = _agreed(engine, warp_engine, 20)
    assert not np.any(found.overflow) and not expected.overflow.any()


@pytest.mark.timeout(900)
def test_warp_environments_do_not_see_each_other_and_a_run_can_be_cut(warp_engine):
    (qpos, variant), actions = _states(BATCH), _motion(BATCH, 4)
    start = warp_engine.start(qpos, variant)
    whole, trace = warp_engine.run(start, actions)
    _, swapped = warp_engine.run(warp_engine.start(qpos[::-1], variant[::-1]), actions[::-1])
    np.testing.assert_allclose(trace.qpos, swapped.qpos[::-1], atol=1e-5)
    middle, _ = warp_engine.run(start, actions[:, :1])
    end, _ = warp_engine.run(middle, actions[:, 1:])
    np.testing.assert_allclose(end.qpos, whole.qpos, atol=1e-5)
    np.testing.assert_allclose(end.time, 0.08, atol=1e-6)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("contacts", "rows"), ((1, 200), (64, 5)))
def test_contacts_that_warp_has_no_slot_for_are_told(monkeypatch, contacts, rows):
    pytest.importorskip("warp", reason="needs the [warp] extra")
    monkeypatch.setattr(scene, "warp_capacity", lambda model: (contacts, rows))
    short = engines.make("warp", scene.build(TASK), tasks.get(TASK))
    with pytest.raises(OverflowedError, match="ran out of contact slots in 'drawer_close' .environment 0, control step 0"):
        short.run(short.start(*_states(BATCH)), _motion(BATCH, 1))


def test_without_warp_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(env.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'clamp-jax\[warp\]'"):
        engines.make("warp", scene.build(TASK), tasks.get(TASK))


@pytest.mark.parametrize(("cone", "rows"), (("pyramidal", 6), ("elliptic", 4)))
def test_room_for_contacts_grows_with_what_can_touch(cone, rows):
    """A plane and two spheres touch, one of condim 4; a third touches nothing and has a limit and dry friction."""
    shapes = "".join(f'<body pos="0 0 {z}"><freejoint/><geom size=".1" condim="{dim}"/></body>' for z, dim in ((1, 3), (2, 4)))
    passive = '<body pos="3 0 1"><joint range="-1 1" limited="true" frictionloss="1"/><geom size=".1" contype="0" conaffinity="0"/></body>'
    world = f'<worldbody><geom type="plane" size="1 1 1"/>{shapes}{passive}</worldbody>'
    model = mujoco.MjModel.from_xml_string(f'<mujoco><option cone="{cone}"/>{world}</mujoco>')
    assert scene.warp_capacity(model) == (2 * 3 + 32, 2 + rows * (2 * 3 + 32))


def _body_positions(model: mujoco.MjModel, qpos: np.ndarray) -> np.ndarray:
    """World positions (b, t, n, 3) of all bodies."""
    data, found = mujoco.MjData(model), []
    for row in qpos.reshape(-1, qpos.shape[-1]):
        data.qpos[:] = row
        mujoco.mj_kinematics(model, data)
        found.append(data.xpos.copy())
    return np.stack(found).reshape(*qpos.shape[:2], -1, 3)


@pytest.mark.parametrize(
    ("qpos", "variant", "message"),
    (
        (np.zeros((2, 25)), np.zeros(2, int), r"expected \(environments, 26\)"),
        (np.zeros((2, 26)), np.zeros(3, int), r"variant has shape \(3,\); expected \(2,\)"),
        (np.full((2, 26), np.nan), np.zeros(2, int), "environment 0 holds a number that is not finite"),
    ),
)
def test_bad_states_are_refused(engine, qpos, variant, message):
    with pytest.raises(ValueError, match=message):
        engine.start(qpos, variant)


def test_bad_actions_and_backends_are_refused(engine):
    start = engine.start(*_states(2))
    with pytest.raises(ValueError, match=r"expected \(2, steps, 14\)"):
        engine.run(start, np.zeros((2, 5, 7)))
    with pytest.raises(ValueError, match="actions of environment 1"):
        engine.run(start, np.stack([np.zeros((5, 14)), np.full((5, 14), np.inf)]))
    with pytest.raises(ValueError, match="backend is 'cuda'; expected one of native, mjx"):
        engines.make("cuda", engine.scene, engine.task)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mjx_lets_a_tool_land_without_throwing_the_others():
    """MJX solves all contacts together: with too few iterations one landing tool sends the others flying."""
    name = "can_opener_in_caddy"
    engine = engines.make("mjx", scene.build(name), tasks.get(name))
    qpos, variant = jax.jit(jax.vmap(tasks.get(name).reset))(jax.random.split(jax.random.key(8), BATCH))
    dropped = np.array(qpos)
    dropped[:, 20] += 0.05  # the can opener's height
    physics, _ = engine.run(engine.start(dropped, variant), np.tile(np.concatenate([HOME_COMMAND, HOME_COMMAND]), (BATCH, 50, 1)))
    np.testing.assert_allclose(physics.qpos[:, 25:], qpos[:, 25:], atol=1e-3)
    np.testing.assert_allclose(physics.qpos[:, 20], qpos[:, 20], atol=2e-3)
