"""The pictures of the real cell, and what is said where something is missing."""

import os
import subprocess
import sys

import frames
import numpy as np
import pytest
from PIL import Image

from clamp_jax.geometry.kinematics import aloha_calibration, joints_from_qpos
from clamp_jax.render.views import default_views
from clamp_jax.structs import HISTORY, Observation
from data_tools import cell_pictures, render_cell

SIZE = 32


def run(monkeypatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["render_cell", *arguments])
    with pytest.raises(SystemExit) as stopped:
        render_cell.main()
    return str(stopped.value.code)


def test_without_assets_it_says_where_to_get_them(monkeypatch, tmp_path):
    monkeypatch.delenv("CLAMP_ALOHA_SIM_ASSETS", raising=False)
    for message in (run(monkeypatch), run(monkeypatch, "--assets", str(tmp_path))):
        assert "git clone https://github.com/google-deepmind/aloha_sim" in message and "\n" not in message


def test_without_gl_it_says_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "aloha").mkdir()
    (tmp_path / "aloha" / "scene_pbr.xml").write_text("<mujoco/>")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(render_cell.ctypes.util, "find_library", lambda name: None)
    message = run(monkeypatch, "--assets", str(tmp_path), "--out", str(tmp_path / "out"))
    assert "libegl1" in message and "\n" not in message and not (tmp_path / "out").exists()


def test_gl_is_chosen_where_it_is_not_set(monkeypatch):
    monkeypatch.setattr(render_cell.ctypes.util, "find_library", lambda name: "found" if name == "OSMesa" else None)
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    render_cell.choose_gl()
    assert os.environ["MUJOCO_GL"] == "glfw"
    monkeypatch.delenv("MUJOCO_GL")
    render_cell.choose_gl()
    assert os.environ["MUJOCO_GL"] == "osmesa"


def test_depth_colours_run_from_near_to_far_and_leave_holes_empty():
    depth = np.linspace(0.5, 1.5, 100, dtype=np.float32)[None]
    depth[0, 50] = 0
    colours = cell_pictures.colour_depth(depth)[0].astype(int)
    assert tuple(colours[0]) == (253, 231, 37) and tuple(colours[-1]) == (68, 1, 84)
    assert tuple(colours[50]) == cell_pictures.EMPTY
    green = np.delete(colours[:, 1], 50)
    assert (np.diff(green) <= 0).all()


def recorded_observation() -> Observation:
    recorded = frames.load("can_opener_in_caddy")
    depth = recorded.frames.depth_m
    rgb = np.stack([np.full((*image.shape, 3), (40 * i + 60, 200, 90), np.uint8) for i, image in enumerate(depth)])  # a colour a camera
    joints = np.asarray(joints_from_qpos(recorded.qpos))
    return Observation(rgb, depth, aloha_calibration(*depth.shape[1:]), joints, np.tile(joints, (HISTORY, 1)), np.ones(HISTORY, bool))


def test_the_cloud_is_drawn_in_its_cameras_colours():
    picture = cell_pictures.draw_cloud(recorded_observation(), default_views(SIZE), (60, 90))
    colours = {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()}
    assert colours <= {cell_pictures.EMPTY, *((40 * i + 60, 200, 90) for i in range(4))} and len(colours) >= 4
    assert (picture == cell_pictures.EMPTY).all(axis=-1).mean() < 0.9


def check_pictures(folder, views: int, size: int) -> None:
    """The three pictures are there, and each view of the strip shows something and leaves something empty."""
    assert sorted(path.name for path in folder.iterdir()) == ["cameras.png", "cloud.png", "five_views.png"]
    strip = np.asarray(Image.open(folder / "five_views.png"))
    assert strip.shape == (2 * size + 4, views * (size + 4) - 4, 3)
    below = strip[size + 4 :]  # xyz, without captions
    for i in range(views):
        view = below[:, i * (size + 4) :][:, :size]
        assert 0.02 < (view != cell_pictures.EMPTY).any(axis=-1).mean() < 0.98


def test_pictures_of_a_recorded_observation(tmp_path):
    cell_pictures.draw(recorded_observation(), SIZE, tmp_path / "out")
    check_pictures(tmp_path / "out", 5, SIZE)


def test_the_real_cell(aloha_sim_assets, tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "")  # so that it is put back
    try:
        render_cell.choose_gl()
    except RuntimeError as error:
        pytest.skip(f"needs GL to render with MuJoCo: {error}")
    command = [sys.executable, "-m", "data_tools.render_cell", "--assets", str(aloha_sim_assets), "--out", str(tmp_path / "cell")]
    subprocess.run([*command, "--size", "64", "--camera", "180", "320"], check=True, timeout=100)
    check_pictures(tmp_path / "cell", 5, 64)
