"""Generated data sets: the same bytes for the same seed, frames that belong to their commands, nothing half-written."""

import functools
import sys

import jax
import numpy as np
import pytest

from clamp_jax.data.records import META, Reader, Writer
from clamp_jax.sim import scene, tasks
from clamp_jax.sim.engines.native import Engine
from data_tools import generate

TASK = "drawer_close"


def _quiet(*_):
    pass


def _bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / TASK
    summary = generate.run(TASK, folder, episodes=2, seed=3, workers=2, tell=_quiet)
    return folder, summary


def test_the_number_of_workers_does_not_change_the_bytes(made, tmp_path):
    generate.run(TASK, tmp_path / TASK, episodes=2, seed=3, workers=1, tell=_quiet)
    assert _bytes(made[0]) == _bytes(tmp_path / TASK)


def test_episodes_are_the_successful_candidates_in_order_of_seed(made):
    folder, summary = made
    reader = Reader(folder)
    seeds = [reader[i].seed for i in range(len(reader))]
    assert len(seeds) == summary["episodes"] == 2 and seeds == sorted(set(seeds)) and seeds[0] >= 3
    assert summary["candidates"] == seeds[-1] - 3 + 1


def test_a_record_holds_each_state_before_its_command(made):
    """Replayed from its first state, an episode's commands give its other states, and success near its end."""
    episode, task = Reader(made[0])[0], tasks.get(TASK)
    engine = Engine(scene.build(TASK), task, threads=1)
    qpos0, variant = map(np.asarray, task.reset(jax.random.key(episode.seed)))
    np.testing.assert_array_equal(episode.qpos[0], qpos0)
    _, trace = engine.run(engine.start(qpos0[None], variant[None]), episode.actions[None])
    np.testing.assert_array_equal(episode.qpos[1:], np.asarray(trace.qpos[0, :-1]))
    assert np.argmax(trace.success[0]) == len(episode.actions) - 1 - generate.AFTER_SUCCESS
    np.testing.assert_allclose(episode.joints[:, :6], episode.qpos[:, :6])
    np.testing.assert_allclose(episode.object_positions[:, 0], episode.qpos[:, 16:19], atol=1e-6)
    assert episode.progress[0] == 0 and episode.progress[-1] == 1 and np.all(np.diff(episode.progress) > 0)


def test_nothing_is_left_of_a_run_that_breaks(tmp_path):
    def breaks(*_):
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        generate.run(TASK, tmp_path / TASK, episodes=2, workers=1, tell=breaks)
    assert list((tmp_path / TASK).iterdir()) == []


def test_a_stopped_run_goes_on_after_its_last_whole_shard(tmp_path, monkeypatch):
    """Stopped in its third shard and taken up again, with another number of workers: the bytes are those of one run."""
    monkeypatch.setattr(generate, "Writer", functools.partial(Writer, shard_episodes=2))
    generate.run(TASK, tmp_path / "whole", episodes=6, seed=5, workers=2, tell=_quiet)

    def stops(done, *_):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate.run(TASK, tmp_path / "stopped", episodes=6, seed=5, workers=2, tell=stops)
    left = {path.name for path in (tmp_path / "stopped").iterdir()}
    assert left == {"episodes-00000.array_record", "episodes-00001.array_record", generate.BEGUN}
    with pytest.raises(ValueError, match="unfinished data set with another seed"):
        generate.run(TASK, tmp_path / "stopped", episodes=6, seed=6, tell=_quiet)
    with pytest.raises(ValueError, match="holds 4 episodes already"):
        generate.run(TASK, tmp_path / "stopped", episodes=3, seed=5, workers=1, tell=_quiet)
    (tmp_path / "stopped" / "episodes-00002.array_record.tmp").write_bytes(b"half")  # as a kill leaves it
    told = []
    generate.run(TASK, tmp_path / "stopped", episodes=6, seed=5, workers=1, tell=lambda *args: told.append(args))
    assert told[0][0] >= 4, "the whole shards were made again"
    assert _bytes(tmp_path / "stopped") == _bytes(tmp_path / "whole")


def test_a_run_that_ended_while_closing_makes_its_short_last_shard_again(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "Writer", functools.partial(Writer, shard_episodes=2))
    folder = tmp_path / TASK
    generate.run(TASK, folder, episodes=3, seed=5, workers=1, tell=_quiet)
    whole = _bytes(folder)
    (folder / META).unlink()
    (folder / generate.BEGUN).write_text(generate.json.dumps({"task": TASK, "seed": 5, "physics": generate.physics_of(TASK)}))
    generate.run(TASK, folder, episodes=3, seed=5, workers=1, tell=_quiet)
    assert _bytes(folder) == whole


def test_a_broken_shard_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "Writer", functools.partial(Writer, shard_episodes=1))

    def stops(done, *_):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate.run(TASK, tmp_path / TASK, episodes=3, seed=5, workers=1, tell=stops)
    shard = tmp_path / TASK / "episodes-00001.array_record"
    shard.write_bytes(shard.read_bytes()[:-200])
    with pytest.raises(ValueError, match="episodes-00001.array_record cannot be read"):
        generate.run(TASK, tmp_path / TASK, episodes=3, seed=5, workers=1, tell=_quiet)


def test_a_dry_run_says_what_it_would_take(capsys, monkeypatch):
    monkeypatch.setattr(generate, "PROBES", 2)
    generate.dry_run([TASK], 4500, 0, 2)
    first, total = capsys.readouterr().out.splitlines()
    assert first.startswith("drawer_close: 4500 episodes of 4500 candidates, ") and "4500 episodes, " in total
    gib = float(first.split(", ")[-1].split()[0])
    assert 0.05 < gib < 1.0


def test_sets_of_tasks_are_named_as_a_whole():
    assert set(generate.named("all")) == set(tasks.TASKS) and generate.named("near,drawer_close") == list(tasks.NEAR)
    with pytest.raises(ValueError, match="did you mean 'mug_on_plate'"):
        generate.named("paper,mug_on_plat")


def test_what_is_asked_wrongly_is_refused(made, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="did you mean 'drawer_close'"):
        generate.run("drawer_cloze", tmp_path, episodes=1)
    with pytest.raises(ValueError, match="episodes is 0; at least one"):
        generate.run(TASK, tmp_path, episodes=0)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds 'notes.txt' and 0 other things"):
        generate.run(TASK, tmp_path, episodes=1)
    before = _bytes(made[0])
    with pytest.raises(ValueError, match="already holds a finished data set"):
        generate.run(TASK, made[0], episodes=1, workers=1, tell=_quiet)
    monkeypatch.setattr(sys, "argv", ["generate", "--tasks", TASK, "--out", str(made[0].parent)])
    with pytest.raises(SystemExit, match="already holds a finished data set"):
        generate.main()
    assert _bytes(made[0]) == before and META in before
