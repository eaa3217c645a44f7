"""The tool that counts successes: what is done by pushing is done without a grip, what needs a grasp is not."""

import json
import sys

import numpy as np
import pytest

from clamp_jax.sim import randomise, scene, tasks
from data_tools import task_rates


def test_experts_succeed_and_limp_fingers_only_where_nothing_is_grasped():
    assert [task_rates.attempt("drawer_open", behaviour, 0) for behaviour in ("expert", "limp")] == [True, False]
    assert [task_rates.attempt("drawer_close", behaviour, 0) for behaviour in ("expert", "limp")] == [True, True]


def test_neither_holding_still_nor_random_actions_open_a_drawer():
    assert not task_rates.attempt("drawer_open", "hold_still", 0) and not task_rates.attempt("drawer_open", "random", 0)
    task = tasks.get("drawer_open")
    random = task_rates.random_actions(task, None, None, 0, 7)
    assert random.shape == (1000, 14) and np.ptp(random, axis=0).min() > 0.9
    np.testing.assert_array_equal(random, task_rates.random_actions(task, None, None, 0, 7))


def test_without_grip_leaves_the_scene_as_it_is():
    built = scene.build("drawer_open")
    limp = task_rates.without_grip(built).model
    grippers = [limp.actuator(f"{side}/gripper").id for side in ("left", "right")]
    assert not limp.actuator_gainprm[grippers].any() and built.model.actuator_gainprm[grippers, 0].all()
    assert np.delete(limp.actuator_gainprm, grippers, 0).any(axis=1).all()


def test_an_unknown_task_is_named(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["task_rates", "--tasks", "drawer_opens"])
    with pytest.raises(SystemExit, match="did you mean 'drawer_open'"):
        task_rates.main()


def test_the_numbers_are_written(monkeypatch, tmp_path, capsys):
    out = tmp_path / "deep" / "rates.json"
    monkeypatch.setattr(task_rates, "attempt", lambda name, behaviour, seed, variety: behaviour == "expert" and seed != 1)
    monkeypatch.setattr(task_rates, "ProcessPoolExecutor", _Here)
    monkeypatch.setattr(sys, "argv", ["task_rates", "--tasks", "drawer_open,drawer_close", "--seeds", "4", "--json", str(out)])
    task_rates.main()
    found = json.loads(out.read_text())
    assert found["drawer_open"]["expert"]["successes"] == 3 and found["drawer_open"]["limp"]["trials"] == 50
    assert "limp" not in found["drawer_close"] and found["drawer_close"]["hold_still"]["successes"] == 0
    assert "drawer_open: expert 3/4 [" in capsys.readouterr().out


def test_behaviours_are_counted_in_the_physics_that_is_named(monkeypatch, capsys):
    def attempt(name, behaviour, seed, variety):
        return variety == randomise.PHYSICS["random"] and behaviour == "expert"

    monkeypatch.setattr(task_rates, "attempt", attempt)
    monkeypatch.setattr(task_rates, "ProcessPoolExecutor", _Here)
    arguments = ["task_rates", "--tasks", "drawer_open", "--seeds", "4", "--behaviours", "expert"]
    for physics, done in (("random", 4), ("nominal", 0)):
        monkeypatch.setattr(sys, "argv", [*arguments, "--physics", physics])
        task_rates.main()
        out = capsys.readouterr().out
        assert f"drawer_open: expert {done}/4 [" in out and "hold_still" not in out


class _Here:
    """A pool that works in this process."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, function, values, chunksize=1):
        return [function(value) for value in values]
