"""Stages of a run: done once, done again when what they depend on changed, taken up after a stop; and the demo they make."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from experiments import demo
from experiments.configs import demo as demo_config
from experiments.stages import StageError, Stages


class Count:
    """Work that counts how often it was done and leaves a file."""

    def __init__(self, path):
        self.path, self.times = path, 0

    def __call__(self):
        self.times += 1
        self.path.mkdir(exist_ok=True)
        (self.path / str(self.times)).write_text("x")
        return {"times": self.times}


def chain(run, first, second, episodes=3):
    lines = []
    found = Stages(run, lines.append)
    found.do("data", first, inputs={"episodes": episodes}, outputs=["data"])
    found.do("train", second, inputs={"steps": 5}, after=["data"], outputs=["train"])
    return found, lines


def test_a_second_run_does_nothing(tmp_path):
    first, second = Count(tmp_path / "data"), Count(tmp_path / "train")
    chain(tmp_path, first, second)
    found, lines = chain(tmp_path, first, second)
    assert (first.times, second.times) == (1, 1)
    assert found.results == {"data": {"times": 1}, "train": {"times": 1}}
    assert all("nothing has changed" in line for line in lines)


def test_a_change_runs_the_stage_and_all_after_it_from_nothing(tmp_path):
    first, second = Count(tmp_path / "data"), Count(tmp_path / "train")
    chain(tmp_path, first, second)
    chain(tmp_path, first, second, episodes=4)
    assert (first.times, second.times) == (2, 2)
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["2"], "what the first try wrote is gone"


def test_an_output_that_is_gone_is_made_again(tmp_path):
    first, second = Count(tmp_path / "data"), Count(tmp_path / "train")
    chain(tmp_path, first, second)
    (tmp_path / "train" / "1").unlink()
    (tmp_path / "train").rmdir()
    chain(tmp_path, first, second)
    assert (first.times, second.times) == (1, 2)


def test_a_failure_names_stage_and_log_and_the_next_run_continues_there(tmp_path):
    first, second = Count(tmp_path / "data"), Count(tmp_path / "train")

    def fails():
        raise RuntimeError("out of paper\nmore")

    with pytest.raises(StageError, match=r"stage train failed: RuntimeError: out of paper\n  log: .*train.log"):
        chain(tmp_path, first, fails)
    assert "RuntimeError: out of paper" in (tmp_path / "logs" / "train.log").read_text()
    chain(tmp_path, first, second)
    assert (first.times, second.times) == (1, 1)


def test_what_libraries_say_goes_to_the_log(tmp_path):
    def work():
        subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('from below')"], check=True)
        return {}

    Stages(tmp_path, str).do("speak", work, inputs={})
    assert "from below" in (tmp_path / "logs" / "speak.log").read_text()


@pytest.mark.parametrize(("steps", "kept"), [(5, True), (6, False)])
def test_an_unfinished_stage_is_resumed_only_with_the_same_inputs(tmp_path, steps, kept):
    partial = tmp_path / "train" / "half"

    def stops():
        partial.parent.mkdir()
        partial.write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path, str).do("train", stops, inputs={"steps": 5}, outputs=["train"], resumable=True)
    seen = []
    again = Stages(tmp_path, str)
    again.do("train", lambda: {"half": seen.append(partial.exists())}, inputs={"steps": steps}, resumable=True, outputs=["train"])
    assert seen == [kept]


def test_a_broken_stamp_counts_as_not_done(tmp_path):
    first, second = Count(tmp_path / "data"), Count(tmp_path / "train")
    chain(tmp_path, first, second)
    (tmp_path / "stages" / "train.json").write_text('{"inputs": ')
    chain(tmp_path, first, second)
    assert (first.times, second.times) == (1, 2)


def test_an_evaluation_that_hangs_is_repeated_with_native_mujoco(tmp_path, monkeypatch):
    tried = []

    def evaluate_with(run, backend):
        tried.append(backend)
        if backend == "mjx":
            raise subprocess.TimeoutExpired("evaluate", 1)
        return {"backend": backend}

    monkeypatch.setattr(demo, "evaluate_with", evaluate_with)
    config = demo_config.get_config("small").unlock()
    config.backend = "mjx"
    found = demo.evaluate(demo.Demo(config, tmp_path, Console(quiet=True)))
    assert tried == ["mjx", "native"]
    assert found["backend"] == "native" and "took too long" in found["fallback"]


def test_on_a_cpu_the_demo_is_evaluated_in_native_mujoco(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "evaluate_with", lambda run, backend: {"backend": backend})
    assert demo.evaluate(demo.Demo(demo_config.get_config("large"), tmp_path, Console(quiet=True))) == {"backend": "native"}


@pytest.mark.parametrize(("cores", "batches", "parts"), [(1, (32,), 1), (2, (32, 32), 2), (4, (4, 6), 2), (6, (32,), 4), (64, (32, 32), 8)])
def test_a_cpu_is_split_into_parts_that_batches_divide_by(cores, batches, parts):
    assert demo.fitting_devices(cores, *batches) == parts


def test_every_size_of_the_demo_can_be_trained_and_measured():
    for size in demo_config.SIZES:
        config = demo_config.get_config(size)
        assert min(config.drawer_open_episodes, config.can_opener_episodes) >= config.pretrain_batch / 2
        assert config.drawer_close_episodes >= config.finetune_batch
        assert config.held_out_episodes >= config.pool
        settings = demo.training(demo.pretrain_config, config, [])
        assert settings.data.held_out == 0 and settings.data.capacity.box >= 40
    assert demo_config.get_config("large").trials >= 64 and "policy_pretrained" in demo_config.get_config("large").policies
    with pytest.raises(ValueError, match="expected one of debug, small, large"):
        demo_config.get_config("tiny")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_demo_runs_and_a_second_run_does_nothing(tmp_path):
    command = [sys.executable, "-m", "experiments.demo", "--size", "debug", "--out", str(tmp_path / "demo")]
    for _ in range(2):
        run = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("nothing has changed") == 12 and "begins" not in run.stdout
    found = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert set(found["success"]) == {"clamp", "hold_still"} and set(found["retrieval"]) == {"image_text", "text_action", "image_action"}
    assert found["robot_episode"]["completed"] and found["latency_ms"]["p50"] > 0
    assert (tmp_path / "demo" / "report.html").stat().st_size > 50_000
