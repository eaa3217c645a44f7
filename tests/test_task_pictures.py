"""The picture of the tasks shows what their experts do."""

import sys

import numpy as np
import pytest

from clamp_jax.sim import tasks
from data_tools import task_pictures


def test_states_are_a_reset_and_a_success():
    before, after = task_pictures.states("drawer_open", 0)
    task, rest = tasks.get("drawer_open"), np.zeros(25, np.float32)
    assert not task.success(before, rest, 0) and task.success(after.astype(np.float32), rest, 0)


def test_rows_are_filled_up(monkeypatch):
    monkeypatch.setattr(task_pictures, "pair", lambda name, seed: np.full((2, 2, 3), len(name), np.uint8))
    found = list(task_pictures.rows(["a", "bb", "ccc", "dddd"], 0))
    assert [[int(image[0, 0, 0]) for image in row] for row in found] == [[1, 2, 3], [4, 255, 255]]


def test_an_unknown_task_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["task_pictures", "--tasks", "mug", "--out", str(tmp_path / "x.png")])
    with pytest.raises(SystemExit, match="no task is called 'mug'; did you mean"):
        task_pictures.main()
