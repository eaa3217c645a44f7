"""Sheet and film: they show what the record holds, at the tick they name; what is wrong is said in one line and nothing is left behind."""

import shutil
import sys

import jax
import numpy as np
import pytest
import recorded
import synthetic

from clamp_jax import observe
from clamp_jax.data.pipeline import open_dataset
from clamp_jax.geometry.kinematics import aloha_calibration
from clamp_jax.structs import CAMERAS
from data_tools import generate, view, view_episode, view_panels
from data_tools.record import packing
from experiments import pictures

SIZE = 8
CELL = 96  # smaller than people like it, and sooner drawn


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("view") / "images", 2, kind="image")


@pytest.fixture(autouse=True)
def small_cells(monkeypatch):
    monkeypatch.setattr(view_panels, "CELL", CELL)


@pytest.fixture
def views_by_hand(monkeypatch):
    """Views of one colour in place of rendered ones: what is tested is what stands around them."""
    image = np.zeros((5, SIZE, SIZE, 4), np.float32)
    image[..., 0] = 1
    monkeypatch.setattr(view_episode, "_views", lambda observation, size: image)


def _run(*arguments):
    view.main([*map(str, arguments), "--size", str(SIZE)])


def _read(path) -> np.ndarray:
    from matplotlib.image import imread

    return np.round(imread(path)[..., :3] * 255).astype(np.uint8)


def _rows_of(sheet: np.ndarray, rgb: np.ndarray, camera: int) -> list[int]:
    """Rows at which a camera's picture stands in its column of the sheet, pixel by pixel."""
    shown, left = rgb.repeat(CELL // SIZE, 0).repeat(CELL // SIZE, 1), camera * (CELL + view_panels.GAP)
    band = sheet[:, left : left + CELL]
    starts = np.flatnonzero((band == shown[0]).all((1, 2)))
    return [row for row in starts.tolist() if np.array_equal(band[row : row + CELL], shown)]


# ---- what is seen at a tick ------------------------------------------------------------------------------------------


def test_pictures_are_frames_spread_over_the_episode(folder, views_by_hand):
    found = view_episode.Sight(open_dataset(folder), 1, SIZE).spread(3)
    recorded = synthetic.image_episode(1, 61)
    assert [picture.tick for picture in found] == [0, 20, 60]
    for picture, i in zip(found, (0, 1, 3), strict=True):
        np.testing.assert_array_equal(picture.rgb, recorded.rgb[i])
        assert picture.prompt.startswith("lift the red box, red box (")
    with pytest.raises(ValueError, match="episode is 2; .* has 2, from 0 to 1"):
        view_episode.Sight(open_dataset(folder), 2, SIZE)


def test_a_tick_shows_the_newest_picture_that_was_taken_by_then(folder, views_by_hand):
    sight = view_episode.Sight(open_dataset(folder), 0, SIZE)
    assert [sight.frame_of(tick) for tick in (0, 19, 20, 39, 59)] == [0, 0, 1, 1, 2]
    sight.numbers = sight.numbers._replace(ticks=np.array([5, 20, 40]))
    assert sight.frame_of(0) == 0, "before the first picture there is no other"
    assert [sight.prompt(tick).rsplit(" ", 1)[1] for tick in (0, 59)] == ["0", "99"]


def test_a_recorded_episode_is_seen_as_its_data_set_is(views_by_hand, tmp_path):
    (tmp_path / "episodes").mkdir()
    path = recorded.written(tmp_path / "episodes", np.tile(recorded.HOME, (10, 1)), frames=4)
    alone, packed = (view_episode.Sight(view.open_all(each)[0], 0, SIZE) for each in (path, packing.pack(tmp_path)))
    for one, other in zip(alone.spread(3), packed.spread(3), strict=True):
        assert (one.tick, one.prompt) == (other.tick, other.prompt)
        jax.tree.map(np.testing.assert_array_equal, one.observation, other.observation)
    _run(path, "--out", tmp_path / "out", "--no-film", "--frames", "2")
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["reach-0.png"]
    with pytest.raises(SystemExit, match="view: .* is damaged"):
        path.write_bytes(path.read_bytes()[:-1])
        _run(path)


def test_a_screen_is_given_the_light_that_was_computed():
    found = view_episode.for_screen(np.array([0, 55, 56, 255], np.uint8))
    np.testing.assert_array_equal(found, [0, 126, 128, 255])  # 127.5 is half, and 0.5^2.2 = 0.2176 of the light, 55.5 of 255


# ---- the sheet -------------------------------------------------------------------------------------------------------


def test_the_sheet_holds_every_cameras_pixels_in_their_order(folder, views_by_hand, tmp_path, capsys):
    _run(folder, "--out", tmp_path, "--episode", "1", "--frames", "3", "--no-film")
    assert capsys.readouterr().out == f"{tmp_path / 'box_lift-1.png'}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["box_lift-1.png"]
    sheet, recorded = _read(tmp_path / "box_lift-1.png"), synthetic.image_episode(1, 61).rgb
    rows = [[_rows_of(sheet, recorded[i, k], k) for k in range(len(CAMERAS))] for i in (0, 1, 3)]
    assert all(len(found) == 1 and found == row[0] for row in rows for found in row), "the cameras of a tick side by side, once"
    assert rows[0][0] < rows[1][0] < rows[2][0], "ticks downwards"


def test_the_sheet_of_a_state_shows_what_the_sensors_draw(tmp_path):
    folder = synthetic.write(tmp_path / "states", 1)
    _run(folder, "--out", tmp_path / "out", "--frames", "1", "--no-film")
    sight = view_episode.Sight(open_dataset(folder), 0, SIZE)
    example = sight._maker.example_at(sight.dataset, 0, 0)
    rest = (aloha_calibration(SIZE, SIZE), example.joints, example.past_actions, example.past_mask)
    drawn = view_episode._sense(example.scene, *rest, config=observe.clean(SIZE), key=jax.random.key(7))  # exact: no randomness
    sheet = _read(tmp_path / "out" / "box_lift-0.png")
    for k in range(len(CAMERAS)):
        assert len(np.unique(np.asarray(drawn.rgb[k]).reshape(-1, 3), axis=0)) > 1, "the camera sees something"
        assert len(_rows_of(sheet, view_episode.for_screen(np.asarray(drawn.rgb[k])), k)) == 1
    assert (sight.at(0).views[..., 0] > 0).any(axis=(1, 2)).all(), "so do the views"


@pytest.mark.parametrize("shape, inner", [((8, 8), (12, 12)), ((3, 6), (6, 12)), ((24, 12), (12, 6)), ((480, 848), (7, 12))])
def test_a_picture_of_any_size_fills_its_cell_one_way(shape, inner):
    found = view_panels.fit(np.full((*shape, 3), 200, np.uint8), 12)
    filled = np.argwhere((found == 200).all(axis=2))
    assert found.shape == (12, 12, 3)
    assert tuple(np.ptp(filled, axis=0) + 1) == inner
    assert np.abs(filled.mean(axis=0) - 5.5).max() <= 0.5


def test_a_reduced_picture_is_the_mean_of_its_blocks():
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    found = view_panels.fit(image, 8)  # a fourth
    slow = [[image[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].reshape(-1, 3).mean(0) for j in range(8)] for i in range(6)]
    np.testing.assert_allclose(found[1:7], slow, atol=1)


def test_a_line_is_broken_where_the_next_word_does_not_fit():
    assert view_panels._broken("put it on the incomprehensible rack", 9, len) == ["put it on", "the", "incomprehensible", "rack"]
    assert view_panels._broken("", 9, len) == [""]


# ---- the curves ------------------------------------------------------------------------------------------------------


def test_the_line_stands_at_its_tick_and_nothing_else_changes():
    curves = view_panels.Curves(synthetic.episode(0).actions, 160, 700)
    assert curves.image.shape == (160, 700, 3)
    columns = np.array([curves.columns(tick) for tick in range(60)])
    expected = np.linspace(columns[0], columns[-1], 60)
    assert np.abs(columns - expected).max() <= 1 and np.all(np.diff(columns[::3], axis=0) > 0)
    for tick in (0, 30, 59):
        changed = np.flatnonzero((curves.at([tick]) != curves.image).any(axis=(0, 2)))
        assert set(changed) <= {column + i for column in columns[tick] for i in (0, 1)} and len(changed) >= 3


def test_a_step_of_an_action_is_drawn_at_its_tick_in_its_arm():
    actions = np.zeros((100, 14), np.float32)
    actions[50:, 7] = 1  # the right arm's waist, the first colour; at 0 the others lie over it
    curves = view_panels.Curves(actions, 200, 800)
    first = (np.abs(curves.image.astype(int) - [31, 119, 180]) < 40).all(axis=2)
    drawn = np.flatnonzero(first[:, : curves.columns(99)[1]].any(axis=0))
    assert abs(drawn.min() - curves.columns(50)[1]) <= 3 and curves.columns(99)[1] - drawn.max() <= 2
    level = np.flatnonzero(first[:, curves.columns(75)[1]])
    zero = np.flatnonzero((curves.image[:, curves.columns(25)[1]] < 200).any(axis=1) & (np.arange(200) > level.max() + 20))
    assert len(level) and len(zero), "1 stands above 0"


# ---- the film --------------------------------------------------------------------------------------------------------


def _decode(path) -> tuple[list[np.ndarray], float]:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)], float(stream.average_rate)


def _line(frame: np.ndarray, end: int) -> float:
    """Column of the red line in the left arm's curves, which end at column `end`."""
    part = frame[-view_panels.FILM_CURVES // 2 :, : end + 3].astype(int)
    red = (part[..., 0] > 150) & (part[..., 1] < 90) & (part[..., 2] < 90)
    return float(np.argmax(red.sum(axis=0)))


def test_the_film_runs_in_real_time_with_a_line_that_moves(folder, views_by_hand, tmp_path):
    _run(folder, "--out", tmp_path, "--episode", "1", "--frames", "1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["box_lift-1.mp4", "box_lift-1.png"]
    frames, rate = _decode(tmp_path / "box_lift-1.mp4")
    assert (len(frames), rate) == (31, 25), "61 ticks at 50 Hz, every second one"
    sight = view_episode.Sight(open_dataset(folder), 1, SIZE)
    curves = view_panels.Curves(sight.numbers.actions, view_panels.FILM_CURVES, frames[0].shape[1])
    expected = [curves.columns(2 * i)[0] for i in range(31)]
    assert np.abs(np.array([_line(frame, expected[-1]) for frame in frames]) - expected).max() <= 2
    cameras = np.stack([frame[view_panels.STRIP : view_panels.STRIP + CELL, :CELL].astype(int) for frame in frames])
    change = np.abs(np.diff(cameras, axis=0)).mean(axis=(1, 2, 3))
    assert (np.flatnonzero(change > 20) + 1).tolist() == [10, 20, 30], "new pictures at ticks 20, 40 and 60"


def test_a_film_that_breaks_off_leaves_nothing(tmp_path):
    def frames():
        for _ in range(100):  # more than an encoder holds back
            yield np.zeros((16, 16, 3), np.uint8)
        raise ValueError("the record is damaged")

    with pytest.raises(ValueError, match="the record is damaged"):
        pictures.film(frames(), tmp_path / "a.mp4", 25)
    assert not list(tmp_path.iterdir())


# ---- which data sets -------------------------------------------------------------------------------------------------


def test_each_data_set_of_a_folder_is_drawn(views_by_hand, tmp_path, capsys):
    for name, task in (("a", "box_lift"), ("b", "ball_lift")):
        synthetic.write(tmp_path / "data" / name, 2, kind="image", task=task)
    (tmp_path / "data" / "c").mkdir()
    (tmp_path / "data" / "c" / generate.BEGUN).write_text("{}")
    _run(tmp_path / "data", "--out", tmp_path / "out", "--episode", "0,1", "--frames", "1", "--no-film")
    assert "left out, not finished: c" in capsys.readouterr().err
    names = [f"{task}-{episode}.png" for task in ("ball_lift", "box_lift") for episode in (0, 1)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


def test_two_data_sets_of_one_task_do_not_overwrite_each_other(views_by_hand, tmp_path):
    for name in ("train", "held_out"):
        synthetic.write(tmp_path / "data" / name, 1, kind="image")
    _run(tmp_path / "data", "--out", tmp_path / "out", "--frames", "1", "--no-film")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["held_out-0.png", "train-0.png"]


# ---- what is wrong ---------------------------------------------------------------------------------------------------


def _damage(folder):
    """Overwrite half of the episodes' shard; its length stays."""
    shard = folder / "episodes-00000.array_record"
    content = shard.read_bytes()
    shard.write_bytes(bytes(len(content) // 2) + content[len(content) // 2 :])


WRONG = {
    "nothing there": (lambda data: shutil.rmtree(data), [], "is not a folder; give a data set's"),
    "an empty folder": (lambda data: [path.unlink() for path in data.iterdir()], [], "holds no finished data set, nor does a folder in it"),
    "unfinished": (lambda data: (data / "meta.json").unlink(), [], r"is not finished \(meta.json is missing\)"),
    "a changed meta.json": (lambda data: (data / "meta.json").write_text("{}"), [], "meta.json is damaged"),
    "a lost shard": (lambda data: (data / "frames-00000.array_record").unlink(), [], "frames-00000.array_record has None bytes"),
    "a damaged shard": (_damage, [], "episodes-00000.array_record cannot be read at record"),
    "no such episode": (None, ["--episode", "0,9"], "episode is 9; .* has 2, from 0 to 1"),
    "a negative episode": (None, ["--episode", "-1"], "episode is -1"),
    "two in 3D": (None, ["--3d", "--episode", "0,1"], "--3d shows one episode of one data set, these are 2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_and_nothing_is_written(case, folder, views_by_hand, tmp_path):
    spoil, options, message = WRONG[case]
    shutil.copytree(folder, tmp_path / "data")
    if spoil:
        spoil(tmp_path / "data")
    with pytest.raises(SystemExit, match=f"^view: .*{message}"):
        _run(tmp_path / "data", "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_an_unfinished_data_set_in_a_folder_is_named(tmp_path):
    (tmp_path / "drawer_open").mkdir()
    (tmp_path / "drawer_open" / "episodes-00000.array_record.tmp").touch()
    with pytest.raises(SystemExit, match="holds no finished data set.*; not finished: drawer_open"):
        _run(tmp_path)


def test_a_folder_that_cannot_be_written_to_is_named(folder, views_by_hand, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("here already")
    with pytest.raises(SystemExit, match="view: --out .*file/out cannot be made .*; name another folder"):
        _run(folder, "--out", tmp_path / "file" / "out")
    monkeypatch.setattr(view.os, "access", lambda *_: False)  # a test that runs as root may write everywhere
    with pytest.raises(SystemExit, match="view: --out .* cannot be written to"):
        _run(folder, "--out", tmp_path / "shut")
    assert not list((tmp_path / "shut").iterdir())


@pytest.mark.parametrize("option", [("--episode", "one"), ("--frames", "0"), ("--size", "-4"), ("--port", "70000")])
def test_options_that_mean_nothing_are_refused(option, folder, capsys):
    with pytest.raises(SystemExit):
        view.main([str(folder), *option])
    assert f"argument {option[0]}: '{option[1]}'" in capsys.readouterr().err


NEEDS = {"matplotlib": ([], "viz"), "av": ([], "viz"), "viser": (["--3d"], "viz3d")}


@pytest.mark.parametrize("module", NEEDS)
def test_what_is_not_installed_is_named_with_its_extra(module, folder, views_by_hand, tmp_path, monkeypatch):
    options, extra = NEEDS[module]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit, match=rf"needs {module}; install it with: pip install 'clamp-jax\[{extra}\]'"):
        _run(folder, "--out", tmp_path / "out", *options)
    assert not list(tmp_path.iterdir())
