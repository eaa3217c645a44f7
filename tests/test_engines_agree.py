"""The tool that compares engines: what it holds, pads, finds and refuses; native beside native is the same to the bit."""

import json

import mujoco
import numpy as np
import pytest

from clamp_jax.sim import engines, scene, tasks
from clamp_jax.sim.engines import native
from clamp_jax.sim.engines.base import Trace
from data_tools import engines_agree, task_rates
from data_tools.engines_agree import Replay


def _episode(seed: int, length: int) -> Replay:
    return Replay(seed, np.full(3, seed, np.float32), seed % 2, np.arange(length * 14, dtype=np.float32).reshape(length, 14) + 1000 * seed)


class Echo:
    """An engine that returns what it is given."""

    def start(self, qpos, variant):
        return qpos, variant

    def run(self, physics, actions):
        return physics, Trace(actions, np.repeat(physics[0][:, None], actions.shape[1], 1), actions[..., 0] > 0, actions[..., 0] < 0)


def test_episodes_of_like_length_go_together_and_hold_their_last_command():
    episodes = [_episode(seed, length) for seed, length in enumerate((9, 2, 7, 3, 8))]
    groups = list(engines_agree.batches(episodes, 3))
    assert [[one.seed for one in group] for group in groups] == [[1, 3, 2], [4, 0]]
    trace = engines_agree.replay(Echo(), groups[1], 3)
    assert trace.qpos.shape == (2, 9, 14)  # the third place was filled up and is not told
    np.testing.assert_array_equal(trace.qpos[0, :8], episodes[4].actions)
    np.testing.assert_array_equal(trace.qpos[0, 8], episodes[4].actions[-1])
    np.testing.assert_array_equal(trace.qvel[:, 0, 0], [4, 0])


@pytest.fixture(scope="module")
def blocks():
    """Model, home state, and the same with a block between the left arm's fingers."""
    model, task = scene.build("block_on_mat").model, tasks.get("block_on_mat")
    home = np.array(task.reset(engines_agree.jax.random.key(0))[0])
    data = mujoco.MjData(model)
    data.qpos[:] = home
    mujoco.mj_forward(model, data)
    touching, joint = home.copy(), model.body(task.objects[0][1]).jntadr[0]
    begin = model.jnt_qposadr[joint]
    touching[begin : begin + 3] = data.geom("left/left_finger_pad").xpos
    return model, home, touching, slice(begin, begin + 3)


def test_the_first_touch_is_of_an_arm_and_a_thing(blocks):
    model, home, touching, _ = blocks
    assert engines_agree.first_touch(model, np.stack([home, home, touching, touching])) == 2
    assert engines_agree.first_touch(model, np.stack([home] * 3)) == 3  # lies on the table, touches no arm


def test_how_far_things_are_apart(blocks):
    model, home, _, position = blocks
    moved, arms = home.copy(), home.copy()
    moved[position] += (0.0, 0.003, 0.004)
    arms[:16] += 0.1
    assert engines_agree.apart_m(model, np.stack([home, home]), np.stack([home, moved])) == pytest.approx(0.005, abs=1e-6)
    assert engines_agree.apart_m(model, home[None], arms[None]) == 0.0
    assert engines_agree.apart_m(model, home[:0], home[:0]) == 0.0


def test_native_agrees_with_itself_and_not_with_limp_fingers(monkeypatch):
    found = engines_agree.measure("drawer_open", "native", 2, 2)
    assert found["same_success"] == found["native_successes"] == found["episodes"] == 2 and found["apart_m"] == 0.0
    assert found["differ"] == [] and 0 < found["fewest_control_steps"] <= 100
    made = engines.make
    monkeypatch.setattr(engines, "make", lambda name, built, task: _limp(built, task) if name == "limp" else made(name, built, task))
    found = engines_agree.measure("drawer_open", "limp", 1, 2)
    assert found["same_success"] == 0 and found["differ"] == [{"seed": 0, "native": True, "other": False}]
    assert found["apart_m"] < 1e-6  # nothing is touched yet


def _limp(built, task):
    return native.Engine(task_rates.without_grip(built), task)


def test_a_run_goes_on_from_what_is_written(monkeypatch, tmp_path, capsys):
    calls, out = [], tmp_path / "agree.json"

    def found(name, settings, limit_s):
        calls.append(name)
        row = {"seed": 0, "native": True, "other": True, "control_steps": 100, "apart_m": 1e-4}
        return {"failed": "not done after 1 s"} if calls == ["drawer_open"] else engines_agree.summary([row, row | {"other": False}])

    monkeypatch.setattr(engines_agree, "apart_process", found)
    arguments = ["--episodes", "2", "--batch", "2", "--json", str(out)]
    assert engines_agree.main(["--tasks", "drawer_open,drawer_close", *arguments]) == 1
    assert engines_agree.main(["--tasks", "drawer_open,drawer_close", *arguments]) == 0
    assert calls == ["drawer_open", "drawer_close", "drawer_open"]
    assert json.loads(out.read_text())["tasks"]["drawer_close"]["same_success"] == 1
    told = capsys.readouterr().out
    assert "drawer_open: not done after 1 s" in told and "drawer_close: same success 1/2 [" in told and "apart 0.10 mm" in told
    assert engines_agree.main(["--tasks", "drawer_open", "--episodes", "3", "--json", str(out)]) == 1
    assert "was made with other settings" in capsys.readouterr().err
    out.write_text("{")
    assert engines_agree.main(["--tasks", "drawer_open", *arguments]) == 1
    assert "is no JSON" in capsys.readouterr().err


def test_bad_arguments_are_refused(capsys):
    assert engines_agree.main(["--tasks", "drawer_opne"]) == 1
    assert engines_agree.main(["--episodes", "0"]) == 1
    told = capsys.readouterr().err
    assert "did you mean 'drawer_open'" in told and "give 1 or more episodes" in told


def test_a_task_that_takes_too_long_is_ended():
    settings = {"engine": "mjx", "episodes": 1, "batch": 1}
    assert engines_agree.apart_process("drawer_open", settings, 0.01) == {"failed": "not done after 0.01 s"}
