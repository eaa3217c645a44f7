"""The contact sheet: what it shows is what the record holds, and without matplotlib it says so in one line."""

import sys

import jax
import numpy as np
import pytest
import synthetic

from clamp_jax.data.pipeline import open_dataset
from clamp_jax.structs import CAMERAS
from data_tools import view

SIZE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("view") / "images", 2, kind="image")


@pytest.fixture
def views_by_hand(monkeypatch):
    """Views of one colour in place of rendered ones: what is tested here is the sheet."""
    image = np.zeros((5, SIZE, SIZE, 4), np.float32)
    image[..., 0] = 1
    monkeypatch.setattr(jax, "jit", lambda f, **_: (lambda *a, **k: image))


def _sheet_with(picture: view.Picture, out) -> np.ndarray:
    from matplotlib.image import imread

    view.draw_sheet([picture], synthetic.episode(0).actions, "title", out)
    return np.round(imread(out)[..., :3] * 255).astype(int)


def test_pictures_are_frames_spread_over_the_episode(folder, views_by_hand):
    found = view.pictures(open_dataset(folder), 1, 3, SIZE)
    recorded = synthetic.image_episode(1, 61)
    assert [picture.tick for picture in found] == [0, 20, 60]
    for picture, i in zip(found, (0, 1, 3), strict=True):
        np.testing.assert_array_equal(picture.observation.rgb, recorded.rgb[i])
        assert picture.prompt.startswith("lift the red box, red box (")
    with pytest.raises(ValueError, match="episode is 2; .* has 2"):
        view.pictures(open_dataset(folder), 2, 3, SIZE)


def test_each_camera_is_drawn_in_its_own_colour(folder, views_by_hand, tmp_path):
    picture = view.pictures(open_dataset(folder), 0, 1, SIZE)[0]
    colours = np.array([[255, 0, 254], [3, 250, 7], [9, 8, 244], [250, 240, 5]], np.uint8)
    rgb = np.broadcast_to(colours[:, None, None], (len(CAMERAS), SIZE, SIZE, 3))
    sheet = _sheet_with(picture._replace(observation=picture.observation._replace(rgb=rgb)), tmp_path / "sheet.png")
    rows = [np.mean(np.nonzero(np.all(sheet == colour, axis=-1))[0]) for colour in colours]
    assert rows == sorted(rows), "cameras stand in their order, downwards"
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_without_matplotlib_it_says_what_to_install(folder, views_by_hand, tmp_path, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit, match=r"needs matplotlib; install it with: pip install 'clamp-jax\[viz\]'"):
        view.main(["--data", str(folder), "--out", str(tmp_path / "sheet.png"), "--size", str(SIZE)])
    with pytest.raises(SystemExit, match="holds no finished data set"):
        view.main(["--data", str(tmp_path), "--out", str(tmp_path / "sheet.png")])
    assert not list(tmp_path.iterdir())
