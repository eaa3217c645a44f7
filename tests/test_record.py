"""One episode on a fake robot and fake cameras: what is in its file, how it ends, and what stops it."""

import time

import numpy as np
import pytest
from recorded import CALIBRATION, HOME, SIZE, FakeCameras, FakeRobot, Pressed, Wave, fill, record, settings, small_disk

from clamp_jax.data.records import check_episode, round_depth
from clamp_jax.deploy.cameras import CameraLost
from clamp_jax.deploy.robots import RobotLost
from clamp_jax.structs import CAMERAS
from data_tools.record import files, keys
from data_tools.record.loop import OVER, TIME, record_episode
from data_tools.record.stream import RecordingStopped, TooShort


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk") as folder:
        yield folder


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    return record(tmp_path_factory.mktemp("taken"), Wave(40))


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
    cameras = FakeCameras()

    class Slow(Wave):
        def command(self, joints, tick):
            if tick == 10:
                cameras.clock.leap(0.082)
            return super().command(joints, tick)

    result, source, _, _ = record(tmp_path, Slow(25), cameras=cameras)
    found = files.EpisodeFile(result.path)
    gap = int(np.argmax(np.diff(found.rows["tick"])))
    before, after = found.rows["tick"][gap], found.rows["tick"][gap + 1]
    assert (before, after, result.missed) == (10, 14, 3)  # up to 15 ms after the tick, and 82
    assert len(found.numbers.actions) == found.rows["tick"][-1] + 1
    np.testing.assert_array_equal(found.numbers.actions[before:after], np.repeat(found.rows["command"][gap : gap + 1], after - before, 0))
    half = found.numbers.joints[before + 1]
    expected = found.rows["joints"][gap] + (found.rows["joints"][gap + 1] - found.rows["joints"][gap]) / (after - before)
    np.testing.assert_allclose(half, expected, atol=1e-6)


def test_positions_of_named_objects_are_kept(tmp_path):
    at = np.array([[0.1, 0.2, 0.05], [0.0, -0.1, 0.04]])
    cameras, about, path = FakeCameras(), settings(object_names=("mug", "plate")), tmp_path / "000000.episode"
    result = record_episode(FakeRobot(), cameras, Wave(), about, Pressed(), path=path, clock=cameras.clock, positions=lambda: at)
    episode = files.read_episode(result.path)
    assert episode.object_names == ("mug", "plate")
    np.testing.assert_array_equal(episode.object_positions[[0, 24]], np.float32([at, at]))


def test_what_safety_changes_is_recorded_as_it_was_sent(tmp_path):
    class Wild(Wave):
        def command(self, joints, tick):
            return None if tick == 20 else HOME + (2.0 if tick == 10 else 0.2 if tick >= 5 else 0.0)

    result, _, robot, _ = record(tmp_path, Wild())
    episode = files.read_episode(result.path)
    np.testing.assert_array_equal(episode.actions, np.float32(robot.commands))
    assert np.abs(np.diff(episode.actions[:, :6], axis=0)).max() < 3.14 / 50 + 1e-4
    assert any(cause.startswith("reject jump") or cause.startswith("reject outside") for cause in result.interventions)
    assert any(cause.startswith("clamp") for cause in result.interventions)


@pytest.mark.parametrize(("pressed", "kept"), [(keys.START, True), (keys.QUIT, True), (keys.DROP, True), (keys.STOP, False)])
def test_a_key_ends_an_episode(tmp_path, pressed, kept):
    result, *_ = record(tmp_path, pressed=[""] * 15 + [pressed])
    assert (result.ended, result.ticks) == (pressed, 15) and (result.path is not None) == kept
    assert [path.name for path in tmp_path.iterdir()] == (["000007.episode"] if kept else [])


def test_time_ends_an_episode(tmp_path):
    result, *_ = record(tmp_path, Wave(1000), seconds=0.3)
    assert (result.ended, result.ticks) == (TIME, 15)


def unplugged(cameras, robot, source):
    after = cameras.clock.now() + 0.2
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
            cameras.clock.looked = np.inf  # time goes on without them
            time.sleep(0.8)
            raise CameraLost("camera 'worms_eye' delivers no frames: the driver")
        return time_s

    cameras.at = wait


def backwards(cameras, robot, source):
    cameras.at = lambda name, number, time_s: time_s - (0.1 if number > 8 and name == "overhead" else 0)


def ahead(cameras, robot, source):
    cameras.at = lambda name, number, time_s: time_s + (0.1 if number > 8 else 0)


def stands_still(cameras, robot, source):
    robot.before_joints = lambda: cameras.clock.leap(0.25) if len(robot.commands) == 10 else None


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
    assert record(tmp_path)[0].ticks == 25


def test_an_episode_too_short_for_an_image_is_not_kept(tmp_path):
    with pytest.raises(TooShort, match="before its first tick"):
        record(tmp_path, Wave(0))
    cameras = FakeCameras(fps=2.5)  # the next image comes 0.4 s after the first
    with pytest.raises(TooShort, match="no image fell into the episode"):
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
