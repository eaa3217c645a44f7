"""What ends a run early, on a loop whose step is one product: signals, bad losses, a save that fails in the background."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from toy_loop import STEPS, ToyBatches, go

from clamp_jax import checkpoint, manifest
from experiments import training
from experiments.stopping import EXIT_CODE, Stopped, TrainingError, Watch


@pytest.mark.parametrize("log_every", [1, 7])
@pytest.mark.parametrize(("bad", "words"), [(np.nan, "gradient_norm, loss not finite"), (1000.0, "loss 1000 is over 10 times 2, the")])
def test_a_bad_loss_stops_the_run_with_its_records_and_keeps_the_last_good_checkpoint(tmp_path, bad, words, log_every):
    """Whether its step is logged or not, and at a step that would be saved."""
    with pytest.raises(TrainingError, match=f"{words}.* at step 30; its batch: data/a episode 39 frame 1, data/b episode 49 frame 2"):
        go(tmp_path / "run", losses=lambda step: bad if step == 30 else 1 + step % 3, log_every=log_every)
    assert checkpoint.load_params(tmp_path / "run").step == 20
    found = json.loads((tmp_path / "run" / "stopped.json").read_text())
    assert found["step"] == 30 and found["records"][1] == {"slot": 1, "data_set": "data/b", "episode": 49, "frame": 2}
    state, told = go(tmp_path / "run", log_every=1)  # the cause is mended
    assert told == list(range(21, STEPS + 1)) and not (tmp_path / "run" / "stopped.json").exists()
    np.testing.assert_array_equal(state.params["policy"]["w"], go(tmp_path / "straight")[0].params["policy"]["w"])


def test_a_leap_is_judged_against_the_losses_of_the_run_before_it_was_taken_up(tmp_path):
    go(tmp_path / "run", stop_at=25)
    with pytest.raises(TrainingError, match="at step 27"):
        go(tmp_path / "run", losses=lambda step: 50.0 if step == 27 else 1.0)
    assert int(go(tmp_path / "run", losses=lambda step: 50.0 if step == 27 else 1.0, factor=0.0)[0].step) == STEPS


def test_a_leap_needs_a_median_and_is_over_the_factor(tmp_path):
    watch = Watch(tmp_path, ToyBatches(), factor=3.0, window=20)
    for step in range(1, 20):
        watch(step, {"loss": 2.0})
    watch(20, {"loss": 100.0})  # the twentieth: 19 before it are too few
    watch(21, {"loss": 6.0})  # three times the median, not over
    watch(22, {"loss": 6.01})
    with pytest.raises(TrainingError, match="loss 6.01 is over 3 times 2"):
        watch.settle()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_with_a_code_of_its_own(tmp_path, number, capsys):
    before = signal.getsignal(number)

    def at(batch):
        if batch == 7:
            os.kill(os.getpid(), number)
            time.sleep(0.2)

    with pytest.raises(Stopped) as left:
        go(tmp_path / "run", at=at)
    assert left.value.code == EXIT_CODE == 75 and signal.getsignal(number) is before
    assert f"stopped by {signal.Signals(number).name} after step 8, which is saved" in capsys.readouterr().out
    assert checkpoint.load_params(tmp_path / "run").step == 8
    state, told = go(tmp_path / "run")
    assert told[0] == 9
    np.testing.assert_array_equal(state.params["policy"]["w"], go(tmp_path / "straight")[0].params["policy"]["w"])


def test_a_signal_while_a_save_runs_lets_it_finish_and_saves_again(tmp_path, monkeypatch):
    write = manifest.write

    def slow(step_folder):
        time.sleep(0.5)
        write(step_folder)

    def at(batch):
        if batch == 5:  # step 5 has begun to be saved
            assert any(checkpoint.UNFINISHED in path.name for path in checkpoint.folder(tmp_path / "run").iterdir())
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)

    monkeypatch.setattr(manifest, "write", slow)
    with pytest.raises(Stopped):
        go(tmp_path / "run", at=at, save_every=5)
    assert sorted(path.name for path in checkpoint.folder(tmp_path / "run").iterdir()) == ["5", "6"]


def test_a_signal_before_the_first_step_leaves_nothing_to_save(tmp_path, monkeypatch):
    begin = training.begin_or_resume

    def signalled(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        return begin(*args, **kwargs)

    monkeypatch.setattr(training, "begin_or_resume", signalled)
    with pytest.raises(Stopped):
        go(tmp_path / "run")
    assert checkpoint.Checkpoints(tmp_path / "run").latest() is None


def test_a_second_signal_leaves_at_once_even_where_python_does_not_run():
    """The main thread waits in the operating system with signals handled; a compilation is like that."""
    code = """
import ctypes, os, signal, sys
from experiments.stopping import Signals
with Signals() as signals:
    print("ready", flush=True)
    wait = ctypes.CDLL(None).poll  # goes on sleeping: C code that Python's handlers cannot interrupt
    while True:
        wait(None, 0, 60_000)
        if signals.asked(0):
            wait(None, 0, 60_000)
"""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert child.poll() is None
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 128 + signal.SIGTERM


def test_a_save_that_fails_in_the_background_ends_the_run_which_goes_on_when_there_is_room(tmp_path, monkeypatch):
    write = manifest.write

    def full(step_folder):
        if step_folder.name.startswith("10."):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(step_folder)

    monkeypatch.setattr(manifest, "write", full)
    with pytest.raises(checkpoint.CheckpointError, match="checkpoint of step 10 could not be written .*step 5 is the last that is there"):
        go(tmp_path / "run", at=lambda number: time.sleep(0.05), save_every=5)
    assert [path.name for path in checkpoint.folder(tmp_path / "run").iterdir()] == ["5"]
    assert training.read_metrics(tmp_path / "run")[-1]["step"] < 15  # it was not left until the next save
    monkeypatch.setattr(manifest, "write", write)
    state, told = go(tmp_path / "run")
    assert told[0] == 6
    np.testing.assert_array_equal(state.params["policy"]["w"], go(tmp_path / "straight")[0].params["policy"]["w"])
