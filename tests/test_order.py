"""The global order of records: one function of (seed, step), cut among processes, without two frames of a trajectory in a batch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import synthetic
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from clamp_jax.data.folders import IMAGES_OF, Reader
from clamp_jax.data.pipeline import Batches, Dataset, ExampleMaker, open_dataset
from experiments import training
from experiments.configs import shared

MAKER = ExampleMaker(synthetic.tokenize, text_length=96, calibration=synthetic.calibration(8, 8))


class Counted(Reader):
    """A data set of which nothing is there but its numbers."""

    def __init__(self, name: str, count: int, kind: str, images_of: str = ""):
        self.directory, self.kind, self.task, self.fingerprint = Path(name), kind, "none", f"hash of {name}"
        self.ticks = self.frames = 3 + np.arange(count, dtype=np.int32) % 7
        self.meta = {"cameras": [4, 8, 8], "origin": {IMAGES_OF: images_of} if images_of else {}}


@st.composite
def mixtures(draw):
    """Data sets as (count, kind, weight, name of the states that they are images of), a batch that they can fill, and a seed."""
    sets, count, of = [], 0, ""
    for i in range(draw(st.integers(1, 4))):
        images = i > 0 and draw(st.booleans())
        count, of = (count, of) if images else (draw(st.integers(16, 60)), f"set {i}")
        kind = "image" if images else draw(st.sampled_from(("state", "image")))
        sets.append((count, kind, draw(st.sampled_from((1, 1.5, 2))), of if images else ""))
    return sets, draw(st.integers(8, 16)), draw(st.integers(0, 2**31 - 1))


def make(sets, batch, seed, process=(0, 1)):
    datasets = []
    for i, (count, kind, weight, of) in enumerate(sets):
        datasets.append(Dataset(Counted(f"set {i}", count, kind, f"hash of {of}" if of else ""), np.arange(count), weight=weight))
    return Batches(datasets, MAKER, batch=batch, seed=seed, process=process)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(mixtures(), st.integers(0, 10**6))
def test_no_batch_has_two_frames_of_a_trajectory_and_each_is_a_function_of_seed_and_step(mixture, first):
    batches = make(*mixture)
    recordings = {d.reader.fingerprint: d.reader.trajectories for d in batches.datasets}
    frames = {d.reader.fingerprint: d.reader.frames for d in batches.datasets}
    steps = [*range(first, first + 40)]  # the borders of several epochs: the longest has 60 steps of one slot
    whole = {step: batches.record_ids(step) for step in steps}
    for ids in whole.values():
        assert [found.slot for found in ids] == list(range(mixture[1]))
        assert len({(recordings[found.fingerprint], found.episode) for found in ids}) == len(ids)
        assert all(0 <= found.frame < frames[found.fingerprint][found.episode] for found in ids)
    again = make(*mixture)
    assert all(again.record_ids(step) == whole[step] for step in reversed(steps))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(mixtures(), st.sampled_from((1, 2, 4)), st.integers(0, 10**6))
def test_process_p_has_rows_p_of_every_count(mixture, count, step):
    whole = make(*mixture)
    kinds = {d.reader.fingerprint: d.kind for d in whole.datasets}
    try:
        parts = [make(*mixture, process=(p, count)).record_ids(step, own=True) for p in range(count)]
    except ValueError as error:
        assert f"cannot be shared by {count} processes" in str(error)
        return
    ids = whole.record_ids(step)
    for p, part in enumerate(parts):
        expected = [[found for found in ids if kinds[found.fingerprint] == kind][p::count] for kind in ("state", "image")]
        assert part == expected[0] + expected[1]
    assert sorted(found for part in parts for found in part) == ids


def test_every_trajectory_of_an_epoch_has_one_turn_in_sets_that_share_them():
    batches = make([(12, "state", 1, ""), (12, "image", 1, "set 0")], 4, 5)
    for epoch in range(4):
        rows = [row.episode for step in range(3 * epoch, 3 * epoch + 3) for row in batches.rows(step)]
        assert sorted(rows) == list(range(12))


def test_ids_name_what_the_examples_are_made_of(tmp_path):
    folders = [synthetic.write(tmp_path / "lift", 6), synthetic.write(tmp_path / "seen", 6, kind="image", first_seed=50)]
    batches = Batches([open_dataset(folder) for folder in folders], MAKER, batch=4, seed=2)
    readers = {reader.fingerprint: reader for reader in map(Reader, folders)}
    batch, ids = batches.batch_at(9), batches.record_ids(9)
    for row, found in enumerate(ids[:2]):
        expected = readers[found.fingerprint][found.episode].joints[found.frame]
        np.testing.assert_array_equal(batch.states.joints[row], expected)
    for row, found in enumerate(ids[2:]):
        expected = readers[found.fingerprint].frame(found.episode, found.frame).rgb
        np.testing.assert_array_equal(batch.images.observation.rgb[row], expected)
    text = str(ids[0])
    assert text == f"lift@{Reader(folders[0]).fingerprint[:12]} episode {ids[0].episode} frame {ids[0].frame}"


_PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[2])
from clamp_jax.data.pipeline import Batches, open_dataset
batches = Batches([open_dataset(sys.argv[1])], None, batch=4, seed=3, process=(int(sys.argv[3]), 2))
print(json.dumps([batches.record_ids(step, own=True) for step in (0, 7, 123456)]))
"""


def test_real_processes_find_the_same_order(tmp_path):
    folder = synthetic.write(tmp_path, 9)
    whole = Batches([open_dataset(folder)], MAKER, batch=4, seed=3)
    command = [sys.executable, "-c", _PROGRAM, str(folder), str(Path(__file__).parents[1])]
    running = [subprocess.Popen([*command, str(p)], stdout=subprocess.PIPE, text=True) for p in range(2)]
    for p, process in enumerate(running):
        found = json.loads(process.communicate()[0])
        assert found == [[list(found) for found in whole.record_ids(step)[p::2]] for step in (0, 7, 123456)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": 0.95}, "holding out 0.95 of 6 trajectories leaves none to train on"),
        ({"held_out": 1.0}, "held-out fraction is 1.0; expected 0 <= fraction < 1"),
        ({"weights": (0.0,)}, "weight is 0.0; expected a positive number"),
        ({"weights": (float("nan"),)}, "weight is nan; expected a positive number"),
        ({"weights": (float("inf"),)}, "weight is inf; expected a positive number"),
        ({"weights": (1.0, 2.0)}, "config.data.weights has 2 numbers for 1 data sets"),
        ({}, "6 slots in a batch of 6 but 5 trajectories; .*lower the batch, or make more trajectories"),
        ({"paths": ()}, "config.data.paths is empty"),
    ],
)
def test_nothing_to_train_on_is_refused_in_words(tmp_path, changes, message):
    section = shared.data((str(synthetic.write(tmp_path, 6)),))
    section.update(changes)
    with pytest.raises(ValueError, match=message):
        training.open_batches(section, tiny.spec().networks, batch=6, seed=0)
