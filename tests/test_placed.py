"""The double buffer: while the caller works with a value, the next one is taken and placed, and none after it."""

import threading
from types import SimpleNamespace
from unittest import mock

import pytest

from clamp_jax.data.placed import Placed
from experiments import training

PATIENCE_S = 60  # a thread that never comes is an error; no test passes by waiting


class Log:
    """What was placed, and a way to wait until something is."""

    def __init__(self, count: int):
        self.done, self.events = [threading.Event() for _ in range(count + 1)], []

    def place(self, value: int) -> str:
        self.events.append(f"placed {value}")
        self.done[value].set()
        return f"on device {value}"


def test_the_next_value_is_there_before_it_is_asked_for_and_no_other():
    log = Log(5)
    placed = Placed(iter(range(5)), log.place)
    for n in range(5):
        assert next(placed) == f"on device {n}"
        if n < 4:
            assert log.done[n + 1].wait(PATIENCE_S), "nothing is placed while the caller works"
        log.events.append(f"worked with {n}")
        assert not log.done[min(n + 2, 5)].is_set(), "more than one value ahead takes the devices' memory"
    assert list(placed) == [] == list(placed)
    expected = ["placed 0"] + [event for n in range(4) for event in (f"placed {n + 1}", f"worked with {n}")] + ["worked with 4"]
    assert log.events == expected


@pytest.mark.parametrize("where", ["source", "place"])
def test_an_error_comes_where_its_value_would_have(where):
    def source():
        yield 0
        yield 1
        if where == "source":
            raise OSError("the shard has gone")
        yield 2

    def place(value):
        if value == 2:
            raise OSError("the shard has gone")
        return value

    placed = Placed(source(), place)
    assert [next(placed), next(placed)] == [0, 1]
    with pytest.raises(OSError, match="the shard has gone"):
        next(placed)
    assert list(placed) == []


def test_what_is_closed_makes_nothing_more_and_leaves_no_thread():
    before, log = set(threading.enumerate()), Log(9)
    placed = Placed(iter(range(9)), log.place)
    assert next(placed) == "on device 0"
    placed.close()
    assert len(log.events) <= 2 and list(placed) == []
    assert set(threading.enumerate()) <= before


def test_training_has_the_next_batch_on_the_devices_before_the_step_ends(monkeypatch):
    """The step of batch n does not return until batch n + 1 is placed: a loop that places afterwards would never come to an end."""
    log, steps = Log(6), []
    monkeypatch.setattr(training.parallel, "shard", lambda batch, on: log.place(batch))

    def step(state, batch):
        number = state.step + 1
        assert batch == f"on device {number}"
        assert number == 6 or log.done[number + 1].wait(PATIENCE_S)
        steps.append(number)
        return SimpleNamespace(step=number), {"loss": 0.0}

    saved, train = [], SimpleNamespace(save_every=3, log_every=2)
    batches = SimpleNamespace(iterate=lambda first, stop_step, threads: iter(range(first + 1, stop_step + 1)))
    watch, signals = mock.MagicMock(), SimpleNamespace(asked=lambda step: "")
    about = {"batches": batches, "on": None, "train": train, "threads": 1, "log": lambda *_: None}
    about |= {"watch": watch, "store": mock.MagicMock(), "signals": signals}
    state = training.loop(step, SimpleNamespace(step=2), stop_at=6, save=lambda state: saved.append(state.step), **about)
    assert state.step == 6 and steps == [3, 4, 5, 6] and saved == [3, 6]
