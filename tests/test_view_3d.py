"""The 3D view: points, colours, lenses and poses of a tick worked out by hand; the buttons; a real server where viser is there."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import synthetic

from clamp_jax.data.pipeline import open_dataset
from clamp_jax.structs import CAMERAS, Calibration, Observation
from data_tools import view_3d, view_episode

# At zero joints the arm is stretched along x: the lengths of aloha.ARM added up by hand.
GRIPPER_FROM_BASE = np.array([0.05955 + 0.2 + 0.1 + 0.069744, 0.0, 0.079 + 0.04805 + 0.3])


def _pose(pos, axes=(1, 1, 1)) -> np.ndarray:
    found = np.diag([*axes, 1.0])
    found[:3, 3] = pos
    return found.astype(np.float32)


def _picture() -> view_episode.Picture:
    """Overhead camera 1 m over the origin looking down, the left wrist's in its gripper's frame, two without depth; 8 x 8 pixels."""
    down = (1, -1, -1)
    poses = np.stack([_pose((0, 0, 1), down), _pose((0, -1, 0)), _pose((0, 0, 0)), _pose((0, 0, 0))])
    intrinsics = np.tile(np.float32([8, 16, 4, 4]), (4, 1))
    bases = np.stack([_pose((-0.469, -0.019, 0.02)), _pose((0.469, -0.019, 0.02), (-1, -1, 1))])
    calibration = Calibration(intrinsics, poses, np.array([0, 0, 1, 2], np.int32), bases)
    depth_m = np.zeros((4, 8, 8), np.float32)
    depth_m[0, 3, 3], depth_m[0, 5, 7], depth_m[2, 4, 5] = 0.5, 1.5, 0.25
    rgb = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    empty = np.zeros((50, 14), np.float32), np.zeros(50, bool)
    observation = Observation(rgb, depth_m, calibration, np.zeros(14, np.float32), *empty)
    return view_episode.Picture(0, "a prompt", observation, np.zeros((5, 8, 8, 4), np.float32), rgb)


def test_points_stand_where_the_cameras_saw_them():
    found = view_3d.shown(_picture())
    # pixel (row i, column j): x = (j + 0.5 - 4) / 8 z, y = (i + 0.5 - 4) / 16 z; the overhead camera turns y and z round
    overhead = [(-0.0625 * 0.5, 0.03125 * 0.5, 1 - 0.5), (0.4375 * 1.5, -0.09375 * 1.5, 1 - 1.5)]
    wrist = np.array([-0.469, -0.019, 0.02]) + GRIPPER_FROM_BASE + np.array([0.1875, 0.03125, 1]) * 0.25
    np.testing.assert_allclose(found.points_world, [*overhead, wrist], atol=1e-6)
    rgb = _picture().rgb
    np.testing.assert_array_equal(found.colours, [rgb[0, 3, 3], rgb[0, 5, 7], rgb[2, 4, 5]])
    assert found.inside.tolist() == [True, False, True], "the second lies below the box"


def test_the_sides_of_the_crop_box_belong_to_it():
    first = view_3d.shown(_picture()).points_world[0]
    low, high = tuple(map(float, first - 1)), tuple(map(float, first))
    assert view_3d.shown(_picture(), low, high).inside.tolist() == [True, False, False]
    assert not view_3d.shown(_picture(), low, (*high[:2], high[2] - 1e-3)).inside.any()


def test_lenses_and_poses_are_those_of_the_calibration():
    found = view_3d.shown(_picture())
    np.testing.assert_allclose(found.fov_rad, np.full(4, 2 * np.arctan(4 / 16)), rtol=1e-6)  # four pixels above the centre
    np.testing.assert_allclose(found.aspect, np.full(4, 2), rtol=1e-6)  # a pixel is twice as wide as high
    grippers = np.array([[-0.469, -0.019, 0.02], [0.469, -0.019, 0.02]]) + GRIPPER_FROM_BASE * [[1, 1, 1], [-1, -1, 1]]
    np.testing.assert_allclose(found.grippers.pos, grippers, atol=1e-6)
    np.testing.assert_allclose(np.abs(found.grippers.quat), [[1, 0, 0, 0], [0, 0, 0, 1]], atol=1e-6)  # the right arm faces the left
    np.testing.assert_allclose(found.cameras.pos, [(0, 0, 1), (0, -1, 0), *grippers], atol=1e-6)
    np.testing.assert_allclose(np.abs(found.cameras.quat[:2]), [[0, 1, 0, 0], [1, 0, 0, 0]], atol=1e-6)  # half a turn about x


def test_a_lens_is_measured_from_top_to_bottom():
    fov_rad, aspect = view_3d.lens(np.float32([[300, 240, 0, 0], [480, 240, 0, 0]]), 480, 1200)
    np.testing.assert_allclose(fov_rad, [np.pi / 2] * 2, rtol=1e-6)  # 240 pixels up at a focal length of 240
    np.testing.assert_allclose(aspect, [(1200 / 300) / 2, (1200 / 480) / 2], rtol=1e-6)


class Recorder:
    """Stands for a viser server: every node and button is a plain object with the values that it was given."""

    def __init__(self):
        self.nodes, self.scene, self.gui, self.atomic = {}, self, self, contextlib.nullcontext

    def _node(self, name, **values):
        self.nodes[name] = SimpleNamespace(**values)
        return self.nodes[name]

    def add_markdown(self, content):
        return self._node("prompt", content=content)

    def add_slider(self, label, **values):
        return self._node(label, value=values["initial_value"], **values)

    def add_button(self, label):
        return self._node("button", label=label, on_click=lambda act: self.nodes.update(act=act))

    def add_checkbox(self, label, value):
        return self._node("cropped", value=value)

    def add_line_segments(self, name, points, colour, **looks):
        return self._node(name, points=points)

    def add_point_cloud(self, name, points, colours, **looks):
        return self._node(name, points=points, colors=colours)

    def add_camera_frustum(self, name, fov, aspect, **looks):
        return self._node(name, fov=fov, aspect=aspect, **looks)

    def add_frame(self, name, **looks):
        return self._node(name, **looks)


@pytest.fixture
def sight(tmp_path, monkeypatch):
    monkeypatch.setattr(view_episode, "_views", lambda observation, size: np.zeros((5, size, size, 4), np.float32))
    return view_episode.Sight(open_dataset(synthetic.write(tmp_path / "images", 1, kind="image")), 0, 8)


def test_the_buttons_choose_what_is_shown(sight):
    server = Recorder()
    player, nodes = view_3d.Player(server, sight), server.nodes
    assert nodes["tick"].max == 59 and nodes["prompt"].content.startswith("0.00 s: lift the red box")
    player.slider.value, player.cropped.value = 41, False
    player.update()
    now = view_3d.shown(sight.at(41))
    np.testing.assert_array_equal(nodes["/cloud"].points, now.points_world)
    np.testing.assert_array_equal(nodes["/cloud"].colors, now.colours)
    np.testing.assert_array_equal(nodes["/cameras/wrist_left"].image, synthetic.image_episode(0).rgb[2, 2])
    np.testing.assert_array_equal(nodes["/grippers/right"].position, now.grippers.pos[1])
    assert nodes["prompt"].content.startswith("0.82 s")
    player.cropped.value = True
    player.update()
    np.testing.assert_array_equal(nodes["/cloud"].points, now.points_world[now.inside])
    assert 0 < now.inside.sum() < len(now.inside)


def test_playing_goes_on_to_the_end_and_from_there_to_the_start(sight):
    server = Recorder()
    player = view_3d.Player(server, sight)
    player.slider.value = 52
    server.nodes["act"](None)
    ticks = []
    for _ in range(4):
        player.update()
        ticks.append((player.slider.value, server.nodes["button"].label))
    assert ticks == [(57, "pause"), (59, "play"), (59, "play"), (59, "play")]
    server.nodes["act"](None)
    player.update()
    assert player.slider.value == view_3d.BEAT_TICKS and player.playing
    server.nodes["act"](None)
    player.update()
    assert player.slider.value == view_3d.BEAT_TICKS, "a pause stays where it is"


def test_the_crop_box_has_its_twelve_edges(sight):
    server = Recorder()
    view_3d.Player(server, sight)
    edges = server.nodes["/crop"].points
    low, high = edges.min(axis=(0, 1)), edges.max(axis=(0, 1))
    assert edges.shape == (12, 2, 3) and (low == np.float32(view_3d.CROP_LOW)).all() and (high == np.float32(view_3d.CROP_HIGH)).all()
    assert sorted((edges[:, 0] != edges[:, 1]).sum(axis=0).tolist()) == [4, 4, 4], "four along each axis"
    assert (edges[:, 0] != edges[:, 1]).sum() == 12 and len(np.unique(edges.reshape(12, 6), axis=0)) == 12


def test_a_server_starts_holds_the_nodes_and_is_closed_again(sight):
    pytest.importorskip("viser", reason="needs the extra viz3d")
    with view_3d.open_player(sight, 8765) as player:
        names = ["/cloud", "/crop", *(f"/cameras/{name}" for name in CAMERAS), "/grippers/left", "/grippers/right"]
        nodes = {name: player._server.scene.get_handle_by_name(name) for name in names}
        assert None not in nodes.values()
        now = view_3d.shown(sight.at(0))
        np.testing.assert_array_equal(nodes["/cloud"].points, now.points_world[now.inside])
        player.slider.value = 20
        player.update()
        np.testing.assert_allclose(nodes["/cameras/wrist_left"].position, view_3d.shown(sight.at(20)).cameras.pos[2])
        port = player.port
    with view_3d.open_player(sight, port) as player:
        assert player.port == port, "the first server has let go of it"
