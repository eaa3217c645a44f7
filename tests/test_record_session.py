"""A session of recording by its keys, its folder, its sources, the data set of it, and the command, on a fake robot."""

import contextlib
import functools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import synthetic
from recorded import CALIBRATION, HOME, FakeCameras, FakeRobot, Patient, Person, Pressed, Wave, fill, record, settings, small_disk

from clamp_jax.data.folders import Reader
from clamp_jax.data.records import encode, encode_frame, frames_of
from clamp_jax.structs import CAMERAS
from data_tools.record import files, keys, packing, sources, store
from data_tools.record.__main__ import main, parse
from data_tools.record.loop import head_of, record_episode
from data_tools.record.session import Session

ROOT = Path(__file__).parents[1]


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk") as folder:
        yield folder


def session(folder, pressed, episodes=2, *, robot=None, said=None):
    """A session of episodes of ten ticks in `folder` by the keys `pressed`; how many are finished at the end."""
    robot, said = robot or FakeRobot(), [] if said is None else said
    with store.Store(folder) as kept:
        begin = functools.partial(contextlib.nullcontext, Wave(10))
        cameras = FakeCameras()
        made = Session(robot, cameras, begin, settings(), keys=pressed, store=kept, tell=said.append, clock=cameras.clock)
        return made.run(episodes)


def names(folder):
    return sorted(path.name for path in (folder / store.FOLDER).iterdir() if path.name != ".lock")


def test_a_session_by_its_keys_and_a_dropped_number_is_not_used_again(tmp_path):
    one, said = [keys.START, *[""] * 11], []  # nothing is pressed while the ten ticks pass and the source ends it
    assert session(tmp_path, Pressed([*one, keys.DROP, *one, keys.QUIT]), said=said) == 1
    assert names(tmp_path) == ["000000.dropped", "000001.episode"]
    assert any("000000.dropped: rename it" in line for line in said)
    assert session(tmp_path, Pressed([*one, keys.START])) == 2  # goes on, and with all of them Enter ends it
    assert names(tmp_path) == ["000000.dropped", "000001.episode", "000002.episode"]
    over_at_once, dropped_while_it_runs = [keys.START, keys.START], [keys.START, *[""] * 8, keys.DROP]
    assert session(tmp_path, Pressed([*over_at_once, *dropped_while_it_runs, keys.QUIT]), 3) == 2
    assert names(tmp_path)[3:] == ["000003.dropped"]
    assert session(tmp_path, Pressed([keys.DROP, keys.DROP, keys.DROP, keys.QUIT]), said=said) == 0 and said[-2] == "there is none to drop"
    with store.Store(tmp_path) as kept:
        assert kept.next().name == "000004.episode"


def test_nobody_there_means_one_after_the_other(tmp_path):
    assert session(tmp_path, keys.Nobody(), 3) == 3


def test_a_stop_ends_the_session_without_the_running_episode(tmp_path):
    asked = []
    robot = FakeRobot()
    robot.before_joints = lambda: asked.append(1) if len(robot.commands) == 15 else None
    assert session(tmp_path, keys.Stoppable(keys.Nobody(), lambda: bool(asked)), 5, robot=robot) == 1
    assert names(tmp_path) == ["000000.episode"]


def test_what_a_kill_left_is_named_and_removed_and_two_recordings_do_not_meet(tmp_path):
    (tmp_path / store.FOLDER).mkdir()
    (tmp_path / store.FOLDER / "000004.partial").write_bytes(b"clamp")
    with store.Store(tmp_path) as kept:
        assert [path.name for path in kept.removed] == ["000004.partial"] and names(tmp_path) == []
        with pytest.raises(ValueError, match="in use by another recording"):
            store.Store(tmp_path)
    store.Store(tmp_path).__exit__()


def test_servos_that_want_to_hear_of_us_do_so_while_the_disk_takes_its_time(tmp_path, monkeypatch):
    sync, heard, robot = os.fsync, [], FakeRobot()
    robot.before_joints = lambda: heard.append(time.monotonic())
    monkeypatch.setattr(os, "fsync", lambda descriptor: (time.sleep(0.4), sync(descriptor)))
    assert record(tmp_path, robot=robot)[0].ticks == 25 and time.monotonic() - heard[-1] < 0.1
    assert np.diff(heard).max() < 0.2


def test_a_folder_has_one_kind_of_episodes(tmp_path):
    session(tmp_path, keys.Nobody(), 1)
    with store.Store(tmp_path) as kept:
        kept.check(settings())
        with pytest.raises(ValueError, match="has task 'reach', 'stack' would be recorded; .*another --out"):
            kept.check(settings(task="stack"))


def test_leaders_are_followed_from_where_they_are(tmp_path):
    robot, person = FakeRobot(), Person(HOME + 0.3)
    with sources.led(robot, person, Pressed(), lambda text: None) as source:
        np.testing.assert_allclose(robot.at, person.at, atol=1e-9)
        steps = np.diff(np.stack([HOME, *robot.commands]), axis=0)
        assert np.abs(steps).max() * 50 < 0.41
        np.testing.assert_array_equal(source.command(robot.joints(), 0), person.at)
    with pytest.raises(sources.UnsafeWay, match="not safe: .* after .* % of it"):
        with sources.led(robot, Person(HOME + 3.0), Pressed(), lambda text: None):
            pass
    with sources.led(robot, person, Pressed([keys.STOP]), lambda text: None) as source:
        assert source is None


def test_guided_arms_lose_their_torque_after_a_confirmation_alone_and_an_action_is_what_is_measured_a_tick_later(tmp_path):
    robot, clock = FakeRobot(), Patient()
    with sources.guided(robot, Pressed(["", keys.START]), clock, lambda text: None) as source:
        assert source is None and robot.torque
    number = iter(range(1000))
    robot.before_joints = lambda: robot.at.__setitem__(0, 0.001 * next(number))
    with sources.guided(robot, Pressed([keys.HELD]), clock, lambda text: None) as source:
        assert not robot.torque
        pressed = Pressed([""] * 30 + [keys.START])
        about, cameras, path = settings(actions=files.MEASURED), FakeCameras(), tmp_path / "000000.episode"
        result = record_episode(robot, cameras, source, about, pressed, path=path, clock=cameras.clock)
    assert robot.torque and not robot.commands
    episode = files.read_episode(result.path)
    np.testing.assert_array_equal(episode.actions[:-1], episode.joints[1:])
    np.testing.assert_array_equal(episode.actions[-1], episode.joints[-1])
    assert np.all(np.diff(episode.joints[:, 0]) > 0) and len(episode.joints) == 30


def test_the_same_episodes_give_the_same_data_set_and_it_is_replaced_whole(tmp_path):
    session(tmp_path, keys.Nobody(), 2)
    out = packing.pack(tmp_path)
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert packing.pack(tmp_path) == out and {path.name: path.read_bytes() for path in out.iterdir()} == first
    reader = Reader(out)
    reader.verify()
    for index, path in enumerate(store.finished(tmp_path / store.FOLDER)):
        whole, packed = files.read_episode(path), reader.read_images(index)
        np.testing.assert_array_equal(packed.rgb, whole.rgb)
        np.testing.assert_array_equal(packed.depth_m, whole.depth_m)
        np.testing.assert_array_equal(packed.actions, whole.actions)
    assert reader.meta["origin"]["calibrations"] == [CALIBRATION.id] and reader.meta["origin"]["cameras"] == list(CAMERAS)
    path = store.finished(tmp_path / store.FOLDER)[1]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{path} is damaged"):
        packing.pack(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data", store.FOLDER]
    assert {each.name: each.read_bytes() for each in out.iterdir()} == first
    path.unlink()
    packing.pack(tmp_path)
    assert len(Reader(out)) == 1


def test_a_packed_data_set_is_what_a_writer_makes_of_the_same_episodes(tmp_path):
    reference = Reader(synthetic.write(tmp_path / "reference", 2, kind="image"))
    (tmp_path / store.FOLDER).mkdir()
    for number in range(2):
        episode = reference.read_images(number)
        about = settings(task=episode.task, instruction=episode.instruction, object_names=episode.object_names, size=episode.rgb.shape[2:4])
        writer = files.EpisodeWriter(tmp_path / store.FOLDER / f"{number:06d}.episode", head_of(about, episode.seed))
        for tick, rows in enumerate(zip(episode.joints, episode.actions, episode.object_positions, strict=True)):
            writer.tick(tick, 0.02 * tick, 0.02 * tick, *rows)
        for frame in frames_of(episode):
            writer.frame(np.zeros(len(CAMERAS)), frame)
        writer.finish({"frames": episode.ticks.tolist()})
    packed = Reader(packing.pack(tmp_path))
    for number in range(2):
        progress = np.arange(packed.ticks[number]) / packed.ticks[number]  # a recorder does not know how far along a tick is
        expected = encode(reference[number]._replace(progress=progress))
        assert encode(packed[number]) == expected
        for frame in range(packed.frames[number]):
            assert encode_frame(packed.frame(number, frame)) == encode_frame(reference.frame(number, frame))


def test_a_data_set_that_does_not_fit_leaves_the_one_before(disk):
    (disk / store.FOLDER).mkdir()
    record(disk / store.FOLDER, Wave(20), number=0)
    before = {path.name: path.read_bytes() for path in packing.pack(disk).iterdir()}
    filler = fill(disk, 16384)
    with pytest.raises(OSError, match="cannot be written"):
        packing.pack(disk)
    assert {path.name: path.read_bytes() for path in (disk / packing.DATA).iterdir()} == before
    assert not (disk / "data.new").exists()
    filler.unlink()
    packing.pack(disk)


def test_a_folder_that_is_no_data_set_is_not_replaced(tmp_path):
    with pytest.raises(ValueError, match="holds no finished episode"):
        packing.pack(tmp_path)
    session(tmp_path, keys.Nobody(), 1)
    (tmp_path / packing.DATA).mkdir()
    with pytest.raises(ValueError, match="holds no finished data set; move it away"):
        packing.pack(tmp_path)


def test_a_room_is_what_the_files_need(tmp_path):
    each = settings(seconds=0.5)
    size = record(tmp_path, Wave(1000), seconds=0.5)[0].path.stat().st_size
    needed = store.room(each, 3, tmp_path)
    assert size < needed.episode < size + 12 * 4096 + 4096
    assert needed.rest == 3 * needed.episode and needed.enough
    assert not store.room(each._replace(seconds=1e9), 3, tmp_path).enough
    whole = store.room(each._replace(size=(224, 224), images_hz=10.0, seconds=40.0), 50, tmp_path)
    assert re.fullmatch(r"50 episodes of at most 0.3\d GiB, 18.\d\d GiB in all; .* GiB are free", whole.words(50))


def test_keys_of_a_terminal_are_taken_one_by_one_and_the_terminal_is_as_before():
    import pty
    import termios

    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    with keys.Terminal(slave) as terminal:
        assert terminal.take() == ""
        os.write(master, b"x\nd")
        found = []
        end = time.monotonic() + 2
        while len(found) < 3 and time.monotonic() < end:
            found += [terminal.take()] if keys.select.select([slave], [], [], 0.01)[0] else []
        assert found == ["", keys.START, keys.DROP]
        assert termios.tcgetattr(slave) != before
        os.write(master, b"q")
        terminal.clear()
        assert terminal.take() == ""
    assert termios.tcgetattr(slave) == before
    os.close(master), os.close(slave)


def command(*words):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    run = [sys.executable, "-m", "data_tools.record", *words]
    return subprocess.run(run, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)


def test_the_command_records_and_packs_and_says_what_it_will_need(tmp_path):
    task = ["--task", "wave", "--instruction", "wave", "--seconds", "0.4", "--size", "16", "--images-hz", "20"]
    done = command("--cell", "recorded:cell", "--out", str(tmp_path), "--episodes", "2", "--pack", *task)
    assert done.returncode == 0, done.stderr
    assert re.search(r"record: 2 episodes of at most 0.00 GiB, .* are free, with the data set", done.stdout)
    assert "record: 2 finished episodes" in done.stdout and len(Reader(tmp_path / "data")) == 2
    refused = command("--cell", "recorded:cell", "--out", str(tmp_path), "--source", "guided", *task)
    assert refused.returncode == 1 and refused.stderr.startswith("record: ") and len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 2, "give --cell and --task to record, or --pack alone"),
        (["--cell", "x.toml", "--task", "nothing"], 2, "give its --instruction and --seconds"),
        (["--cell", "no.toml", "--task", "mug_on_plate"], 1, "record: cannot read no.toml"),
        (["--pack"], 1, "holds no finished episode"),
        (["--cell", "recorded:cell", "--task", "mug_on_plate", "--source", "guided"], 1, "has no|needs a person at a terminal"),
        (["--cell", "recorded:cell", "--task", "mug_on_plate", "--episodes", "100000000"], 1, "too little room"),
    ],
)
def test_bad_input_ends_in_one_line(tmp_path, capsys, monkeypatch, words, code, told):
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        try:
            found = main([*words, "--out", str(tmp_path)])
        except SystemExit as left:
            found = left.code
    assert found == code and re.search(told, capsys.readouterr().err.splitlines()[-1])


def test_a_task_of_the_paper_brings_its_sentence_and_its_horizon():
    from data_tools.record.__main__ import settings_of

    args = parse(["--cell", "x", "--task", "mug_on_plate", "--out", "y"])
    found = settings_of(args, type("Cell", (), {"calibration": CALIBRATION}))
    assert (found.instruction, found.seconds, found.size, found.images_hz) == ("put the red mug on the plate", 40.0, (224, 224), 10.0)
