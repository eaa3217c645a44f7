"""Batches: a pure function of (seed, step), one frame of a trajectory at most, and the right numbers in every slot."""

import itertools

import jax
import numpy as np
import pytest
import synthetic

from clamp_jax.data.caches import Cache, held_bytes
from clamp_jax.data.folders import Reader, Writer
from clamp_jax.data.pipeline import (
    Batches,
    Dataset,
    ExampleMaker,
    example_keys,
    fill,
    make_batches,
    open_dataset,
    slots_by_weight,
    split,
    stack,
)
from clamp_jax.sensors import Delays
from clamp_jax.structs import HISTORY

LENGTH = 96


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    kinds = (("states", 11, "state"), ("more", 7, "state"), ("images", 9, "image"))
    return {name: synthetic.write(folder / name, n, task=name, kind=kind, first_seed=100 * n) for name, n, kind in kinds}


@pytest.fixture(scope="module")
def mixture(folders):
    return [open_dataset(folders["images"]), open_dataset(folders["states"], weight=2), open_dataset(folders["more"])]


def maker(**options):
    return ExampleMaker(synthetic.tokenize, text_length=LENGTH, calibration=synthetic.calibration(8, 8), **options)


def leaves(batch):
    batch = batch._replace(keys=jax.random.key_data(batch.keys))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(batch)]


def assert_equal(found, expected):
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_any_start_and_any_number_of_threads_give_the_same_batches(mixture):
    batches = Batches(mixture, maker(), batch=8, seed=3)
    options = {"batch": 8, "seed": 3, "tokenize": synthetic.tokenize, "text_length": LENGTH, "calibration": synthetic.calibration(8, 8)}
    for start, threads in ((0, 1), (2, 4)):
        stream = make_batches(mixture, start_step=start, threads=threads, **options)
        for step, batch in zip(range(start, 5), stream, strict=False):
            assert_equal(batch, batches.batch_at(step))
    other = Batches(mixture, maker(), batch=8, seed=4).batch_at(0)
    assert not np.array_equal(other.states.joints, batches.batch_at(0).states.joints)


def test_a_batch_never_holds_two_frames_of_a_trajectory_and_an_epoch_none_twice(mixture):
    batches, seen = Batches(mixture, maker(), batch=8, seed=0), {}
    assert batches.slots.tolist() == [4, 2, 2] and [d.reader.task for d in batches.datasets] == ["states", "more", "images"]
    for step in range(60):
        rows = batches.rows(step)
        assert [row.slot for row in rows] == list(range(8))
        assert len({(row.dataset, row.episode) for row in rows}) == 8
        for row in rows:
            per_epoch = len(batches.datasets[row.dataset].episodes) // batches.slots[row.dataset]
            seen.setdefault((row.dataset, step // per_epoch), []).append(row.episode)
            assert 0 <= row.frame < batches.datasets[row.dataset].frames(row.episode)
    assert all(len(set(episodes)) == len(episodes) for episodes in seen.values())
    assert {e for (d, _), episodes in seen.items() if d == 0 for e in episodes} == set(range(11)), "every trajectory has its turn"


def test_frames_are_drawn_over_the_whole_episode(folders):
    batches = Batches([open_dataset(folders["states"])], maker(), batch=8, seed=0)
    frames = np.array([row.frame for step in range(200) for row in batches.rows(step)])
    assert set(range(60)) <= set(frames.tolist()) and abs(np.mean(frames) - 32) < 2


@pytest.mark.parametrize(
    ("weights", "batch", "expected"),
    [((1, 1, 1), 8, [3, 3, 2]), ((0.7, 0.2, 0.1), 10, [7, 2, 1]), ((5, 1), 4, [3, 1]), ((1, 2, 3), 32, [5, 11, 16]), ((1,), 5, [5])],
)
def test_slots_by_largest_remainder(weights, batch, expected):
    assert slots_by_weight(weights, batch).tolist() == expected


def test_an_example_holds_its_frame_what_came_before_and_what_follows(mixture):
    batches = Batches(mixture, maker(), batch=8, seed=1)
    batch, rows = batches.batch_at(5), batches.rows(5)
    for row in rows:
        dataset = batches.datasets[row.dataset]
        episode, is_state = dataset.reader[row.episode], dataset.kind == "state"
        example = jax.tree.map(lambda x, i=row.slot: x[i], batch.states) if is_state else None
        if not is_state:
            example = jax.tree.map(lambda x, i=row.slot - 6: x[i], batch.images)
            frame = dataset.reader.frame(row.episode, row.frame)
            np.testing.assert_array_equal(example.observation.rgb, frame.rgb)
            np.testing.assert_array_equal(example.observation.depth_m, frame.depth_m)
        tick = row.frame if is_state else int(episode.ticks[row.frame])
        sensed = example if is_state else example.observation
        np.testing.assert_array_equal(sensed.joints, episode.joints[tick])
        np.testing.assert_array_equal(example.target.actions[0], episode.actions[tick])
        np.testing.assert_array_equal(sensed.past_actions[-1], episode.actions[tick - 1] if tick else 0)
        assert sensed.past_mask.sum() == min(tick, HISTORY)
        text = bytes(example.labels.tokens[example.labels.tokens > 0].astype(np.uint8)).decode()
        assert text.startswith("lift the red box, red box (")
        assert text.endswith(f"task progress {min(int(episode.progress[tick] * 100 + 1e-4), 99)}")
        assert example.labels.trajectory == [0, 11, 18][row.dataset] + row.episode
        if is_state:
            np.testing.assert_array_equal(example.scene.qpos[:30], episode.qpos[tick])


@pytest.mark.parametrize("tick", [0, 3, 12, 40])
def test_late_sensors_show_an_earlier_world_and_all_else_is_of_now(mixture, tick):
    states = next(d for d in mixture if d.kind == "state")
    now, late = (maker(**options).example_at(states, 2, tick) for options in ({}, {"delays": Delays(image=15, joint=5)}))
    earlier, measured = (maker().example_at(states, 2, max(tick - delay, 0)) for delay in (15, 5))
    for found, expected in ((late.scene, earlier.scene), (late.joints, measured.joints), (late[3:], now[3:])):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(a, b)
    assert tick == 0 or (late.scene.qpos != now.scene.qpos).any()


def test_recorded_images_are_as_late_as_they_were_recorded(mixture):
    images = next(d for d in mixture if d.kind == "image")
    now, late = (maker(**options).example_at(images, 2, 2) for options in ({}, {"delays": Delays(image=15, joint=5)}))
    for a, b in zip(jax.tree.leaves(late), jax.tree.leaves(now), strict=True):
        np.testing.assert_array_equal(a, b)


def test_keys_are_the_fold_of_seed_step_and_global_index():
    keys = example_keys(7, 12, np.array([0, 3, 9]))
    step_key = jax.random.fold_in(jax.random.key(7), 12)
    expected = [jax.random.key_data(jax.random.fold_in(step_key, i)) for i in (0, 3, 9)]
    np.testing.assert_array_equal(jax.random.key_data(keys), np.stack(expected))


def test_processes_share_the_rows_of_one_batch(mixture):
    whole = Batches(mixture, maker(), batch=8, seed=0).batch_at(3)
    parts = [Batches(mixture, maker(), batch=8, seed=0, process=(p, 2)).batch_at(3) for p in range(2)]
    for p, part in enumerate(parts):
        for name in ("states", "images"):
            for a, b in zip(jax.tree.leaves(getattr(part, name)), jax.tree.leaves(getattr(whole, name)), strict=True):
                np.testing.assert_array_equal(a, b[p::2])
        own = np.concatenate([np.arange(6)[p::2], np.arange(6, 8)[p::2]])
        np.testing.assert_array_equal(jax.random.key_data(part.keys), jax.random.key_data(whole.keys)[own])


def test_order_of_objects_is_shuffled_on_demand(folders):
    datasets = [open_dataset(folders["states"])]
    orders = []
    for shuffled in (False, True):
        batches = Batches(datasets, maker(), batch=8, seed=0, shuffle_objects=shuffled)
        tokens = np.concatenate([batches.batch_at(step).states.labels.tokens for step in range(3)])
        texts = [bytes(row[row > 0].astype(np.uint8)).decode() for row in tokens]
        orders.append({text.index("blue ball (") > text.index("red box (") for text in texts})
    assert orders == [{True}, {True, False}]


def test_held_out_trajectories_are_never_trained_on(folders):
    for count, fraction in itertools.product((2, 11, 100), (0.05, 0.1, 0.4)):
        train, held = split(count, fraction)
        assert sorted([*train, *held]) == list(range(count)) and len(held) == max(1, round(count * fraction))
    train, held = (open_dataset(folders["states"], part=part, held_out=0.3) for part in ("train", "held_out"))
    rows = [row for step in range(40) for row in Batches([train], maker(), batch=4, seed=0).rows(step)]
    assert {row.episode for row in rows} == set(train.episodes) and not {row.episode for row in rows} & set(held.episodes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 32}, "states has 16 slots in a batch of 32 but 11 trajectories; .*lower the batch"),
        ({"batch": 1}, "no slot in a batch of 1"),
        ({"batch": 8, "seed": -1}, "seed is -1; expected"),
        ({"batch": 8, "process": (0, 4)}, "6 state examples a batch cannot be shared by 4 processes"),
    ],
)
def test_what_cannot_be_filled_is_refused(mixture, options, message):
    with pytest.raises(ValueError, match=message):
        Batches(mixture, maker(), **{"seed": 0, **options})


def test_wrong_data_sets_are_refused(folders, tmp_path):
    states = open_dataset(folders["states"])
    with pytest.raises(ValueError, match="given twice"):
        Batches([states, open_dataset(folders["states"])], maker(), batch=4, seed=0)
    with pytest.raises(ValueError, match="needs the calibration of the cell"):
        Batches([states], ExampleMaker(synthetic.tokenize, text_length=LENGTH), batch=4, seed=0).batch_at(0)
    with Writer(tmp_path, task="tiny", kind="image") as writer:
        writer.add(synthetic.image_episode(0, task="tiny", size=4))
    with pytest.raises(ValueError, match=r"images differ in cameras or size .*\[4, 8, 8\]"):
        Batches([open_dataset(folders["images"]), open_dataset(tmp_path)], maker(), batch=2, seed=0)
    with pytest.raises(ValueError, match="no trajectory is left"):
        Dataset(Reader(folders["states"]), [])
    with pytest.raises(ValueError, match="weight is 0"):
        open_dataset(folders["states"], weight=0)
    with pytest.raises(ValueError, match="part of .* is 'test'"):
        open_dataset(folders["states"], part="test")
    with pytest.raises(ValueError, match="leaves none to train on"):
        split(1, 0.5)
    with pytest.raises(ValueError, match="no data set was given"):
        Batches([], maker(), batch=4, seed=0)


def test_the_cache_keeps_no_more_than_its_bytes():
    made = []
    cache = Cache(lambda n: made.append(n) or np.zeros(100, np.uint8), 250)
    for n in (0, 1, 0, 2, 0, 1):
        assert len(cache(n)) == 100
    assert made == [0, 1, 2, 1] and cache._bytes == 200


def test_the_cache_counts_what_a_view_keeps_from_being_freed():
    record = bytes(1000)
    low, high = (np.frombuffer(record, np.uint8, 10, start) for start in (0, 500))
    assert held_bytes((low, high.reshape(2, 5), np.zeros((3, 3)), "a name")) == 1000 + 72


def test_rows_are_filled_as_they_come_and_are_those_of_stack(mixture):
    batches = Batches(mixture, maker(), batch=8, seed=3)
    rows = batches.rows(2)
    for kind, found in (("state", batches.batch_at(2).states), ("image", batches.batch_at(2).images)):
        expected = stack([batches._example(2, row) for row in rows if batches.datasets[row.dataset].kind == kind])
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    assert fill(iter(()), 0) is None


@pytest.mark.parametrize("other", [np.zeros(1), np.zeros(2, np.float32), None, {"x": np.zeros(2)}])
def test_examples_that_differ_or_are_too_few_fill_no_batch(other):
    with pytest.raises(ValueError, match="example 1 of a batch holds .* the first"):
        fill([np.zeros(2), other], 2)
    with pytest.raises(ValueError, match="1 examples came where 2 were expected"):
        fill([np.zeros(2)], 2)
