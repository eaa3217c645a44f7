"""Figures beside metrics.jsonl: what reaches tensorboard's files and wandb, and what is said where they are not installed."""

import sys
from types import SimpleNamespace

import pytest

from experiments.writers import Writers


def test_nothing_is_written_unless_asked_for(tmp_path):
    with Writers(tmp_path) as write:
        write(1, {"loss": 2.0})
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_files_hold_each_figure_of_each_step(tmp_path):
    pytest.importorskip("tensorboardX", reason="needs the extra [tensorboard]")
    from tensorboardX.proto import event_pb2

    with Writers(tmp_path, tensorboard=True) as write:
        write(10, {"loss": 2.0, "t/image_text": 10.0})
        write(20, {"loss": 1.5, "t/image_text": 11.0})
    (path,) = (tmp_path / "tensorboard").iterdir()
    data, found, place = path.read_bytes(), [], 0
    while place < len(data):  # length, its checksum, the event, its checksum
        size = int.from_bytes(data[place : place + 8], "little")
        event = event_pb2.Event.FromString(data[place + 12 : place + 12 + size])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        place += 16 + size
    assert found == [(10, "loss", 2.0), (10, "t/image_text", 10.0), (20, "loss", 1.5), (20, "t/image_text", 11.0)]


def test_wandb_is_told_the_run_and_its_figures(tmp_path, monkeypatch):
    told = []
    run = SimpleNamespace(log=lambda figures, step: told.append((step, figures)), finish=lambda: told.append("finished"))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **about: told.append(about) or run))
    with Writers(tmp_path / "one", wandb="clamp", config={"seed": 3}) as write:
        write(4, {"loss": 1.0})
    about = {"project": "clamp", "name": "one", "id": "one", "resume": "allow", "dir": str(tmp_path / "one"), "config": {"seed": 3}}
    assert told == [about, (4, {"loss": 1.0}), "finished"]


@pytest.mark.parametrize(
    ("options", "match"), [({"tensorboard": True}, r"clamp-jax\[tensorboard\]"), ({"wandb": "x"}, "pip install wandb")]
)
def test_a_library_that_is_not_there_is_named_with_its_cure(tmp_path, monkeypatch, options, match):
    for name in ("tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=match):
        Writers(tmp_path, **options)
