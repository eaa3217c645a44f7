"""The recorder on a fake robot and fake cameras: what is in its files, how it stops, and a session by its keys."""

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
from recorded import CALIBRATION, HOME, SIZE, FakeCameras, FakeRobot, Patient, Person, Pressed, Wave, settings

from clamp_jax.data.folders import Reader
from clamp_jax.data.records import check_episode, encode, encode_frame, frames_of, round_depth
from clamp_jax.deploy.cameras import CameraLost
from clamp_jax.deploy.control import Clock
from clamp_jax.deploy.robots import RobotLost
from clamp_jax.structs import CAMERAS
from data_tools.record import files, keys, packing, sources, store
from data_tools.record.__main__ import main, parse
from data_tools.record.loop import OVER, TIME, head_of, record_episode
from data_tools.record.session import Session
from data_tools.record.stream import RecordingStopped

ROOT = Path(__file__).parents[1]


def record(folder, source=None, *, robot=None, cameras=None, number=7, pressed=(), **changed):
    """One episode into `folder`; (result, source, robot, cameras)."""
    robot, source, cameras = robot or FakeRobot(), source or Wave(), cameras or FakeCameras()
    path, keys_ = folder / f"{number:06d}.episode", Pressed(pressed)
    return record_episode(robot, cameras, source, settings(**changed), keys_, path=path, clock=cameras.clock), source, robot, cameras


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    return record(tmp_path_factory.mktemp("taken"), Wave(40), cameras=FakeCameras(clock=Patient()))


def test_what_is_read_is_what_was_measured_sent_and_seen(taken):
    result, source, robot, cameras = taken
    episode = files.read_episode(result.path)
    check_episode(episode)
    assert (result.ended, result.ticks, result.interventions) == (OVER, 40, {})
    np.testing.assert_array_equal(episode.actions, np.float32(source.wanted))
    np.testing.assert_array_equal(episode.actions, np.float32(robot.commands))
    np.testing.assert_array_equal(episode.joints, np.float32(source.measured[:40]))
    np.testing.assert_allclose(episode.progress, np.arange(40) / 40, atol=1e-7)
    assert (episode.task, episode.instruction, episode.seed, episode.kind) == ("reach", "reach out", 7, "image")
    assert episode.object_names == () and episode.object_positions.shape == (40, 0, 3)
    assert episode.rgb.shape == (result.frames, len(CAMERAS), *SIZE, 3)
    pose = np.float32(CALIBRATION.cameras[CAMERAS[2]].parent_from_camera)
    np.testing.assert_array_equal(episode.calibration.parent_from_camera[0, 2], pose)
    np.testing.assert_array_equal(episode.depth_m, round_depth(episode.depth_m))
    counted = episode.rgb[..., 0].astype(float)  # each camera's frame says its number in both
    np.testing.assert_allclose(episode.depth_m, 0.5 + 1e-4 * counted, atol=1e-6)


def test_images_belong_to_the_tick_whose_joints_are_nearest_in_time(taken):
    found = files.EpisodeFile(taken[0].path)
    measured = found.rows["joints_s"]
    assert len(found.frame_s) == taken[0].frames > 10
    for times, tick in zip(found.frame_s, found.numbers.ticks, strict=True):
        assert tick == found.rows["tick"][np.argmin(np.abs(measured - times.mean()))]
    assert np.all(found.rows["command_s"] >= measured) and np.all(np.abs(measured - 0.02 * found.rows["tick"]) < 0.02)


def test_a_frame_says_its_own_images(taken):
    found, whole = files.EpisodeFile(taken[0].path), files.read_episode(taken[0].path)
    frame = found.frame(0, 3)
    assert frame.tick == whole.ticks[3]
    np.testing.assert_array_equal(frame.rgb, whole.rgb[3])
    with pytest.raises(IndexError, match="which has"):
        found.frame(0, 1000)


def test_every_damaged_byte_is_named_and_a_cut_file_too(taken, tmp_path):
    whole, path = taken[0].path.read_bytes(), tmp_path / "000000.episode"
    rng = np.random.default_rng(0)
    for offset in (0, 17, 30, *rng.integers(0, len(whole), 60), len(whole) - 1):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1 << rng.integers(8)]) + whole[offset + 1 :])
        with pytest.raises(ValueError, match=f"{path} is (damaged|no episode)"):
            files.read_episode(path)
    for length in (0, 10, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"{path} is (damaged|no episode)"):
            files.read_episode(path)
    path.with_suffix(".partial").write_bytes(whole)
    with pytest.raises(ValueError, match="was not finished"):
        files.read_episode(path.with_suffix(".partial"))


def test_a_tick_that_was_missed_keeps_the_last_goal_and_joints_on_the_line(tmp_path):
    class Slow(Wave):
        def command(self, joints, tick):
            if tick == 10:
                time.sleep(0.07)
            return super().command(joints, tick)

    result, source, _, _ = record(tmp_path, Slow(25))
    found = files.EpisodeFile(result.path)
    gap = int(np.argmax(np.diff(found.rows["tick"])))
    before, after = found.rows["tick"][gap], found.rows["tick"][gap + 1]
    assert before == 10 and 12 <= after <= 15 and result.missed == after - before - 1
    assert len(found.numbers.actions) == found.rows["tick"][-1] + 1
    np.testing.assert_array_equal(found.numbers.actions[before:after], np.repeat(found.rows["command"][gap : gap + 1], after - before, 0))
    half = found.numbers.joints[before + 1]
    expected = found.rows["joints"][gap] + (found.rows["joints"][gap + 1] - found.rows["joints"][gap]) / (after - before)
    np.testing.assert_allclose(half, expected, atol=1e-6)


def test_positions_of_named_objects_are_kept(tmp_path):
    at = np.array([[0.1, 0.2, 0.05], [0.0, -0.1, 0.04]])
    result = record_episode(
        FakeRobot(), FakeCameras(), Wave(), settings(object_names=("mug", "plate")), Pressed(), path=tmp_path / "000000.episode",
        positions=lambda: at,
    )  # fmt: skip
    episode = files.read_episode(result.path)
    assert episode.object_names == ("mug", "plate")
    np.testing.assert_array_equal(episode.object_positions[[0, 24]], np.float32([at, at]))


def test_what_safety_changes_is_recorded_as_it_was_sent(tmp_path):
    class Wild(Wave):
        def command(self, joints, tick):
            return None if tick == 20 else HOME + (2.0 if tick == 10 else 0.2 if tick >= 5 else 0.0)

    result, _, robot, _ = record(tmp_path, Wild(), cameras=FakeCameras(clock=Patient()))
    episode = files.read_episode(result.path)
    np.testing.assert_array_equal(episode.actions, np.float32(robot.commands))
    assert np.abs(np.diff(episode.actions[:, :6], axis=0)).max() < 3.14 / 50 + 1e-4
    assert any(cause.startswith("reject jump") or cause.startswith("reject outside") for cause in result.interventions)
    assert any(cause.startswith("clamp") for cause in result.interventions)


@pytest.mark.parametrize(("pressed", "kept"), [(keys.START, True), (keys.QUIT, True), (keys.DROP, False), (keys.STOP, False)])
def test_a_key_ends_an_episode(tmp_path, pressed, kept):
    result, *_ = record(tmp_path, cameras=FakeCameras(clock=Patient()), pressed=[""] * 15 + [pressed])
    assert (result.ended, result.ticks) == (pressed, 15) and (result.path is not None) == kept
    assert [path.name for path in tmp_path.iterdir()] == (["000007.episode"] if kept else [])


def test_time_ends_an_episode(tmp_path):
    result, *_ = record(tmp_path, Wave(1000), seconds=0.3)
    assert (result.ended, result.ticks) == (TIME, 15)


def unplugged(cameras, robot, source):
    after = time.monotonic() + 0.2
    cameras.at = lambda name, number, time_s: min(time_s, after) if name == "wrist_left" else time_s


def lost(cameras, robot, source):
    def fail(name, number, time_s):
        if number > 5:
            raise CameraLost("camera 'overhead' delivers no frames")
        return time_s

    cameras.at = fail


def hangs(cameras, robot, source):
    def wait(name, number, time_s):
        if number > 5:
            time.sleep(0.8)
            raise CameraLost("camera 'worms_eye' delivers no frames: the driver")
        return time_s

    cameras.at = wait


def backwards(cameras, robot, source):
    cameras.at = lambda name, number, time_s: time_s - (0.1 if number > 8 and name == "overhead" else 0)


def ahead(cameras, robot, source):
    cameras.at = lambda name, number, time_s: time_s + (0.1 if number > 8 else 0)


def stands_still(cameras, robot, source):
    robot.before_joints = lambda: time.sleep(0.25 if len(robot.commands) == 10 else 0)


def gone(cameras, robot, source):
    def fail():
        if len(robot.commands) == 10:
            raise RobotLost("left waist: does not answer")

    robot.before_joints = fail


def no_numbers(cameras, robot, source):
    robot.before_joints = lambda: robot.at.fill(np.nan) if len(robot.commands) == 10 else None


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (unplugged, CameraLost, "camera 'wrist_left' has given no new frame for 0.5 s"),
        (lost, CameraLost, "'overhead' delivers no frames"),
        (hangs, CameraLost, "'worms_eye' delivers no frames: the driver"),
        (backwards, RecordingStopped, "camera 'overhead' gave a frame taken 0.[01]\\d* s before its last one"),
        (ahead, RecordingStopped, "s ahead of now; its clock jumped"),
        (stands_still, RecordingStopped, r"the clock went on by 0.\d\d s between two ticks \(tick 11\)"),
        (gone, RobotLost, "left waist: does not answer"),
        (no_numbers, RobotLost, "expected 14 finite numbers"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_goes_wrong_ends_in_words_with_nothing_more_commanded_and_nothing_half_left(tmp_path, fault, error, words):
    record(tmp_path, Wave(10), number=0)
    robot, cameras, source = FakeRobot(), FakeCameras(), Wave(100)
    fault(cameras, robot, source)
    with pytest.raises(error, match=words):
        record(tmp_path, source, robot=robot, cameras=cameras)
    commanded = len(robot.commands)
    time.sleep(0.05)
    assert len(robot.commands) == commanded < 60 and robot.rested == 0
    assert [path.name for path in tmp_path.iterdir()] == ["000000.episode"]
    files.read_episode(tmp_path / "000000.episode")


def test_the_clock_on_the_wall_does_not_matter(tmp_path, monkeypatch):
    jumping = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(jumping)))
    assert record(tmp_path, cameras=FakeCameras(clock=Patient()))[0].ticks == 25


def test_an_episode_too_short_for_an_image_is_not_kept(tmp_path):
    with pytest.raises(RecordingStopped, match="before its first tick"):
        record(tmp_path, Wave(0))
    cameras = FakeCameras(fps=2.5)  # the next image comes 0.4 s after the first
    with pytest.raises(RecordingStopped, match="no image fell into the episode"):
        time.sleep(0.1)
        record(tmp_path, Wave(1), cameras=cameras)
    assert not list(tmp_path.iterdir())


def test_images_of_another_size_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"images are \(6, 8\) pixels, \(8, 8\) were asked for"):
        record(tmp_path, size=(8, 8))
    with pytest.raises(CameraLost, match="'wrist_right' gives no image"):
        record(tmp_path, cameras=FakeCameras(names=CAMERAS[:3]))


def test_a_finished_episode_is_never_written_over(taken):
    with pytest.raises(ValueError, match="is there already"):
        files.EpisodeWriter(taken[0].path, {"object_names": []})


@pytest.fixture
def disk(tmp_path):
    """An empty file system of 2 MB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    tried = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"needs the right to mount a small tmpfs (root has it): {tried.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder, free):
    """A file that leaves so many bytes of a file system free."""
    path = folder / "of_somebody_else"
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    os.truncate(path, path.stat().st_size - free)
    return path


def test_a_full_disk_ends_the_episode_in_words_and_the_next_goes_on_when_there_is_room(disk):
    record(disk, Wave(20), number=0)
    filler, robot = fill(disk, 16384), FakeRobot()
    with pytest.raises(OSError, match=r"000001.partial cannot be written \(No space left on device\); finished episodes are kept"):
        record(disk, Wave(100), robot=robot, number=1)
    assert len(robot.commands) < 100
    assert sorted(path.name for path in disk.iterdir()) == ["000000.episode", "of_somebody_else"]
    files.read_episode(disk / "000000.episode")
    filler.unlink()
    assert record(disk, Wave(20), number=1)[0].ticks == 20


def session(folder, pressed, episodes=2, *, robot=None, said=None):
    """A session of episodes of ten ticks in `folder` by the keys `pressed`; how many are finished at the end."""
    robot, said = robot or FakeRobot(), [] if said is None else said
    with store.Store(folder) as kept:
        begin = functools.partial(contextlib.nullcontext, Wave(10))
        return Session(robot, FakeCameras(), begin, settings(), keys=pressed, store=kept, tell=said.append).run(episodes)


def names(folder):
    return sorted(path.name for path in (folder / store.FOLDER).iterdir() if path.name != ".lock")


def test_a_session_by_its_keys_and_a_dropped_number_is_not_used_again(tmp_path):
    one, said = [keys.START, *[""] * 11], []  # nothing is pressed while the ten ticks pass and the source ends it
    assert session(tmp_path, Pressed([*one, keys.DROP, *one, keys.QUIT]), said=said) == 1
    assert names(tmp_path) == ["000000.dropped", "000001.episode"]
    assert any("000000.dropped: rename it" in line for line in said)
    assert session(tmp_path, Pressed([*one, keys.START])) == 2  # goes on, and with all of them Enter ends it
    assert names(tmp_path) == ["000000.dropped", "000001.episode", "000002.episode"]
    with store.Store(tmp_path) as kept:
        kept.drop(kept.finished()[-1])
        assert kept.next().name == "000003.episode"


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
    robot, clock = FakeRobot(), Clock()
    with sources.guided(robot, Pressed(["", keys.START]), clock, lambda text: None) as source:
        assert source is None and robot.torque
    number = iter(range(1000))
    robot.before_joints = lambda: robot.at.__setitem__(0, 0.001 * next(number))
    with sources.guided(robot, Pressed([keys.HELD]), clock, lambda text: None) as source:
        assert not robot.torque
        pressed = Pressed([""] * 30 + [keys.START])
        result = record_episode(robot, FakeCameras(), source, settings(actions=files.MEASURED), pressed, path=tmp_path / "000000.episode")
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
    path.write_bytes(path.read_bytes()[:-1] + b"?")
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
