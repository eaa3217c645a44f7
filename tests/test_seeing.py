"""What is shown of a run: the step is traced where it is asked for, the watcher lives as long as the run, the log goes elsewhere too."""

import json
import sys
from types import SimpleNamespace

import jax
import pytest

from experiments import seeing, training, watch


def opened(tmp_path, asked):
    return seeing.open_run(asked, tmp_path, {}, None, None)


def test_nothing_asked_for_is_nothing_done(tmp_path):
    step = object()
    with opened(tmp_path, seeing.NOTHING) as run:
        assert run.traced(step) is step
        run.write(1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("calls", "told"), [(30, ["start", "stop"]), (12, ["start", "stop"]), (5, [])])
def test_some_calls_of_the_step_are_traced_and_a_trace_is_always_ended(tmp_path, monkeypatch, calls, told):
    done, seen = [], []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: seen.append(("start", len(done), folder)))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: seen.append(("stop", len(done))))
    with opened(tmp_path, seeing.NOTHING._replace(profile="trace")) as run:
        step = run.traced(lambda state: done.append(state) or state)
        assert [step(i) for i in range(calls)] == list(range(calls))
    assert [entry[0] for entry in seen] == told
    if calls == 30:
        assert seen == [("start", 9, "trace"), ("stop", 15)]


class Watcher:
    def __init__(self):
        self.events = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.events.append("waited for")

    def terminate(self):
        self.events.append("ended")


def test_the_watcher_is_waited_for_and_ended_when_the_run_fails(tmp_path, monkeypatch):
    started = []

    def start(*arguments, **options):
        started.append((arguments, options, Watcher()))
        return started[-1][2]

    monkeypatch.setattr(watch, "start", start)
    asked = seeing.NOTHING._replace(evaluate="drawer_close", evaluate_every=100, evaluate_trials=7)
    with opened(tmp_path, asked):
        assert started[0][:2] == ((tmp_path, "drawer_close"), {"trials": 7, "every": 100})
    assert started[0][2].events == ["waited for"]
    with pytest.raises(SystemExit), opened(tmp_path, asked):
        raise SystemExit(75)
    assert started[1][2].events == ["ended", "waited for"]


def test_what_cannot_be_shown_is_refused_before_a_run_begins(monkeypatch):
    for name in ("tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match="--tensorboard needs the package tensorboardX"):
        seeing.check(seeing.NOTHING._replace(tensorboard=True))
    with pytest.raises(ValueError, match="--wandb needs the package wandb"):
        seeing.check(seeing.NOTHING._replace(wandb="x"))
    with pytest.raises(ValueError, match="did you mean 'drawer_close'"):
        seeing.check(seeing.NOTHING._replace(evaluate="drawer_clos"))
    with pytest.raises(ValueError, match="--evaluate_trials 0"):
        seeing.check(seeing.NOTHING._replace(evaluate="drawer_close", evaluate_trials=0))


def test_a_line_of_the_log_is_written_elsewhere_too(tmp_path):
    written = []
    log = training.Log(tmp_path, first=0, of=9, batch=4, tell=lambda progress: None, write=lambda *line: written.append(line))
    log(3, {"loss": 2.0}, SimpleNamespace(steps=3, seconds=6.0, waited=0.6))
    line = json.loads((tmp_path / training.METRICS_FILE).read_text())
    assert written == [(3, {name: value for name, value in line.items() if name != "step"})]
    assert line["samples_per_s"] == 2.0
