"""Generated data sets: the same bytes for the same seed, frames that belong to their commands, nothing half-written."""

import errno
import functools
import os
import resource
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from clamp_jax.data import shards
from clamp_jax.data.folders import META, Reader, Writer
from clamp_jax.sim import randomise, scene, tasks
from clamp_jax.sim.engines.native import Engine
from data_tools import generate

TASK = "drawer_close"
RANDOM = randomise.PHYSICS["random"]


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


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("varied") / TASK
    generate.run(TASK, folder, episodes=5, seed=1, workers=2, variety=RANDOM, tell=_quiet)
    return folder


def test_the_number_of_workers_does_not_change_the_bytes_of_random_physics(varied, tmp_path):
    generate.run(TASK, tmp_path / TASK, episodes=5, seed=1, workers=1, variety=RANDOM, tell=_quiet)
    assert _bytes(varied) == _bytes(tmp_path / TASK)


def test_the_seed_gives_an_episode_of_random_physics_again(varied):
    """Replayed in the scene that its seed draws, and in that one alone, an episode's commands give its states."""
    task, reader, distractors = tasks.get(TASK), Reader(varied), set()
    engine, own = Engine(scene.build(TASK), task, threads=1), scene.build(TASK).model.nq
    for episode in (reader[i] for i in range(len(reader))):
        reset, variant = map(np.asarray, task.reset(jax.random.key(episode.seed)))
        built, qpos0 = randomise.candidate(TASK, reset, RANDOM, episode.seed)
        distractors.add((episode.qpos.shape[1] - own) // 7)
        np.testing.assert_array_equal(episode.qpos[0], qpos0)
        found = [engine.in_scene(each) for each in (built, built._replace(model=_nominal(built)))]
        traces = [np.asarray(each.run(each.start(qpos0[None], variant[None]), episode.actions[None])[1].qpos[0, :-1]) for each in found]
        np.testing.assert_array_equal(episode.qpos[1:], traces[0])
        assert not np.allclose(episode.qpos[1:], traces[1], atol=1e-5)
        assert episode.object_names == scene.build(TASK).object_names, "distractors are not in the text"
    assert len(distractors) > 1
    assert reader.meta["origin"] == generate.Source(TASK, 1, RANDOM).origin()


def _nominal(built):
    names = tuple(name for name in randomise.DISTRACTORS if any(built.model.body(i).name == name for i in range(built.model.nbody)))
    return scene.build(TASK, distractors=names).model


def test_data_begun_in_another_physics_are_not_continued(tmp_path):
    narrow = RANDOM._replace(ranges=RANDOM.ranges._replace(mass=(0.9, 1.1)))
    assert generate._begin(tmp_path, generate.Source(TASK, 5, RANDOM).origin())
    (tmp_path / "episodes-00000.array_record").touch()
    for variety, what in ((narrow, "another ranges"), (generate.NOMINAL, "another physics, ranges, distractors")):
        with pytest.raises(ValueError, match=f"unfinished data set with {what} "):
            generate.run(TASK, tmp_path, episodes=1, seed=5, variety=variety, workers=1, tell=_quiet)


def _three_shards(folder):
    """Three shards with one episode each, made in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "Writer", functools.partial(Writer, shard_episodes=1))
        patch.setattr(generate, "_pool", lambda workers: ThreadPoolExecutor(1))
        generate.run(TASK, folder, episodes=3, seed=5, variety=RANDOM, tell=_quiet)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / TASK
    _three_shards(folder)
    return _bytes(folder)


def test_a_full_disk_is_said_and_leaves_whole_shards_alone(undisturbed, tmp_path, monkeypatch):
    """Array-record writes late: the third shard is found not to be there when it is closed."""
    closed = []

    class Full(shards.ArrayRecordWriter):
        def close(self):
            closed.append(1)
            if len(closed) >= 3:
                raise RuntimeError(f"write() failed: {os.strerror(errno.ENOSPC)}; writing; at byte 4096")
            super().close()

    monkeypatch.setattr(shards, "ArrayRecordWriter", Full)
    message = r"no space left on the disk of .*; what is there is whole \(2 shards\): make room, and the same command goes on"
    with pytest.raises(OSError, match=message):
        _three_shards(tmp_path / TASK)
    left = {path.name for path in (tmp_path / TASK).iterdir()}
    assert left == {"episodes-00000.array_record", "episodes-00001.array_record", generate.BEGUN}
    monkeypatch.setattr(shards, "ArrayRecordWriter", Full.__base__)
    _three_shards(tmp_path / TASK)
    assert _bytes(tmp_path / TASK) == undisturbed


def test_a_file_that_may_not_grow_is_said_and_the_same_command_goes_on(undisturbed, tmp_path):
    """A limit of the operating system, not of a mock: array-record meets a write that fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=r"cannot be written \(.*File too large.*what is there is whole \(0 shards\)"):
            _three_shards(tmp_path / TASK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / TASK).iterdir()) == []
    _three_shards(tmp_path / TASK)
    assert _bytes(tmp_path / TASK) == undisturbed


def test_a_disk_that_is_full_at_the_end_leaves_no_half_written_file(undisturbed, tmp_path, monkeypatch):
    write_text = generate.Path.write_text

    def full(path, text, *more):
        if path.name == f"{META}.tmp":
            write_text(path, text[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_text(path, text, *more)

    monkeypatch.setattr(generate.Path, "write_text", full)
    with pytest.raises(OSError, match=r"no space left .* whole \(3 shards\)"):
        _three_shards(tmp_path / TASK)
    assert {path.suffix for path in (tmp_path / TASK).iterdir()} == {".array_record", ".json"} and not (tmp_path / TASK / META).exists()
    monkeypatch.setattr(generate.Path, "write_text", write_text)
    _three_shards(tmp_path / TASK)
    assert _bytes(tmp_path / TASK) == undisturbed


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
    (folder / generate.BEGUN).write_text(generate.json.dumps(generate.Source(TASK, 5, generate.NOMINAL).origin()))
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
    monkeypatch.setattr(sys, "argv", ["generate", "--tasks", TASK, "--out", "x", "--episodes", "4500", "--dry-run", "--workers", "2"])
    generate.main()
    physics, first, total = capsys.readouterr().out.splitlines()
    assert physics == f"physics: {randomise.told(RANDOM)}" and "masses x 0.7 to 1.4" in physics
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
    monkeypatch.setattr(sys, "argv", ["generate", "--tasks", TASK, "--out", str(tmp_path), "--distractors", "4"])
    with pytest.raises(SystemExit, match="distractors is 4; expected 0 to 3"):
        generate.main()
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
