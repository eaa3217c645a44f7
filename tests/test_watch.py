"""Watching a run's checkpoints: which are evaluated, once each, what is written, and when it ends. The rollouts are stood in for."""

import json

import numpy as np
import pytest

from clamp_jax import checkpoint
from clamp_jax.sim import rollout
from experiments import charts, evaluate, training, watch

SETTINGS = evaluate.Settings(task="drawer_close", trials=4, backend="native", limit_s=1.0)


@pytest.fixture
def run(tmp_path):
    """A run of 40 steps with checkpoints at 10, 15 and 20, which hold nothing, and one that is not finished."""
    (tmp_path / training.CONFIG_FILE).write_text(json.dumps({"train": {"steps": 40}}))
    for step in ("10", "15", "20", "25.orbax-checkpoint-tmp"):
        (tmp_path / checkpoint.FOLDER / step).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def evaluated(monkeypatch):
    """Steps that were rolled out; a step's tens are its successes, and step 15 has been removed meanwhile."""
    seen = []

    def candidate(self, step):
        if step == 15:
            raise checkpoint.CheckpointError("gone")
        return step

    def run_all(candidates, settings):
        (name, step), = candidates.items()
        seen.append(step)
        success = np.arange(settings.trials) < step // 10
        return {name: rollout.Rollout(**dict.fromkeys(rollout.Rollout._fields) | {"success": success, "steps": np.full(4, 25)})}

    monkeypatch.setattr(watch.Watcher, "candidate", candidate)
    monkeypatch.setattr(evaluate, "run_all", run_all)
    return seen


def test_each_checkpoint_is_evaluated_once(run, evaluated, capsys):
    watch.watch(watch.Watcher(run, SETTINGS), 0, once=True)
    assert evaluated == [10, 20] and "step 15 was not evaluated: gone" in capsys.readouterr().err
    lines = [json.loads(line) for line in (run / watch.LINES).read_text().splitlines()]
    assert [(line["step"], line["successes"], line["trials"]) for line in lines] == [(10, 1, 4), (20, 2, 4)]
    assert lines[1]["low"] < 0.5 < lines[1]["high"] and lines[1]["task"] == "drawer_close"
    with (run / watch.LINES).open("a") as file:
        file.write('{"step": 3')  # cut off
    watch.watch(watch.Watcher(run, SETTINGS), 0, once=True)
    assert evaluated == [10, 20]


def test_multiples_and_the_last_step_are_waited_for(run):
    assert watch.waiting(run, 10, [10]) == [20]
    assert watch.waiting(run, 0, [10]) == [15, 20]
    (run / checkpoint.FOLDER / "40").mkdir()
    assert watch.waiting(run, 30, []) == [40]
    assert watch.waiting(run / "nothing", 1, []) == [] and watch.last_step(run / "nothing") is None


def test_it_ends_with_the_runs_last_step_or_its_parent(run, evaluated, monkeypatch):
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        (run / checkpoint.FOLDER / "40").mkdir()

    monkeypatch.setattr(watch.time, "sleep", sleep)
    watch.watch(watch.Watcher(run, SETTINGS), 10, poll_s=3.0)
    assert evaluated == [10, 20, 40] and slept == [3.0]
    (run / training.CONFIG_FILE).write_text(json.dumps({"train": {"steps": 80}}))
    watch.watch(watch.Watcher(run, SETTINGS), 10, parent=-1)
    assert slept == [3.0]


def test_another_setting_is_not_mixed_in(run, evaluated):
    watch.watch(watch.Watcher(run, SETTINGS), 0, once=True)
    with pytest.raises(ValueError, match=r"was made with other settings \(trials\)"):
        watch.Watcher(run, SETTINGS._replace(trials=8))


def test_the_curve_has_a_whisker_for_each_evaluation(run, evaluated):
    watch.watch(watch.Watcher(run, SETTINGS), 0, once=True)
    page = (run / watch.CURVE).read_text()
    assert page.count("<circle") == 2 and "drawer_close: success of 4 trials" in page


def test_intervals_are_drawn_where_they_are():
    chart = charts.interval_chart({"a": [(0, 0.0, 0.0, 0.5), (10, 1.0, 0.5, 1.0)]}, title="t", x_label="x", size=(200, 200))
    assert chart.count("<circle") == 2
    left, right = ('cx="48.0" cy="160.0"', 'cx="172.0" cy="50.0"')  # the frame's corners: 0 at the lower left, 1 at the upper right
    assert left in chart and right in chart
    assert 'x1="48.0" y1="160.0" x2="48.0" y2="105.0"' in chart  # from 0 to 0.5
    assert "nothing was recorded" in charts.interval_chart({}, title="t", x_label="x")


def test_bad_arguments_are_told(run, capsys, tmp_path):
    assert watch.main(["--run", str(run), "--task", "drawer_clos", "--once"]) == 1
    assert "did you mean 'drawer_close'" in capsys.readouterr().err
    assert watch.main(["--run", str(tmp_path / "no"), "--task", "drawer_close", "--once"]) == 1
    assert "holds no run" in capsys.readouterr().err
    assert watch.main(["--run", str(run), "--task", "drawer_close", "--trials", "0"]) == 1
    assert "1 or more trials" in capsys.readouterr().err
