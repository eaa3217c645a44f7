"""An episode in 3D in the browser, by viser: the cameras' cloud, their frustums, the grippers and the crop box, tick by tick."""

import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from clamp_jax.geometry import aloha, camera, kinematics
from clamp_jax.geometry.transforms import matrix_to_quat
from clamp_jax.render.views import CROP_HIGH, CROP_LOW
from clamp_jax.structs import CAMERAS, CONTROL_HZ, Observation
from data_tools.view_episode import Picture, Sight

HOST = "127.0.0.1"  # this machine alone: who else should see it forwards the port
BEAT_S = 0.1  # how often the player looks at its buttons
BEAT_TICKS = round(BEAT_S * CONTROL_HZ)
POINT_M, LINE_M, FRUSTUM_M = 0.006, 0.004, 0.08
COLOUR = (220, 120, 20)  # of frustums and of the crop box


class Poses(NamedTuple):
    """Rigid transforms to the world, one a row."""

    pos: np.ndarray  # (n, 3) m
    quat: np.ndarray  # (n, 4) wxyz


class Shown(NamedTuple):
    """What stands in the browser at one tick, in the world frame."""

    points_world: np.ndarray  # (n, 3) m, one for each measured pixel, camera after camera
    colours: np.ndarray  # (n, 3) uint8
    inside: np.ndarray  # (n,) bool, within the crop box
    cameras: Poses  # (k,) OpenCV axes
    fov_rad: np.ndarray  # (k,) from top to bottom
    aspect: np.ndarray  # (k,) width over height, in metres, not in pixels
    images: np.ndarray  # (k, h, w, 3) uint8
    grippers: Poses  # left, right


def shown(picture: Picture, low: tuple[float, ...] = CROP_LOW, high: tuple[float, ...] = CROP_HIGH) -> Shown:
    """What is shown of a picture; the crop box spans from `low` to `high` (m, world), its sides belong to it."""
    points, *placed = jax.tree.map(np.asarray, _place(picture.observation))
    measured = np.asarray(picture.observation.depth_m) > 0
    points_world = points[measured]
    inside = np.all((points_world >= np.float32(low)) & (points_world <= np.float32(high)), axis=1)
    lenses = lens(np.asarray(picture.observation.calibration.intrinsics), *measured.shape[1:])
    cameras, grippers = (Poses(pose[:, :3, 3], quat) for pose, quat in placed)
    return Shown(points_world, picture.rgb[measured], inside, cameras, *lenses, picture.rgb, grippers)


def lens(intrinsics: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Field of view (k,) rad from top to bottom and aspect (k,) of cameras with intrinsics (k, 4) in pixels, square or not."""
    fx, fy = intrinsics.T[:2]
    return 2 * np.arctan(height / (2 * fy)), (width / fx) / (height / fy)


@jax.jit
def _place(observation: Observation) -> tuple[Any, ...]:
    """Points of all pixels (k, h, w, 3), then matrices and quaternions of the cameras and of the grippers."""
    cameras = kinematics.camera_poses(observation.calibration, observation.joints)
    grippers = kinematics.gripper_poses(observation.joints, observation.calibration.world_from_base)
    poses = [(matrix, matrix_to_quat(matrix[:, :3, :3])) for matrix in (cameras.world_from_camera, grippers)]
    return jax.vmap(camera.unproject)(cameras, observation.depth_m), *poses


class Player:
    """The nodes and the buttons of one episode on a viser server; `update`, and so one thread alone, draws what they ask for."""

    def __init__(self, server: Any, sight: Sight):
        self._server, self._sight, self._state, self.playing = server, sight, None, False
        self._prompt = server.gui.add_markdown("")
        self.slider = server.gui.add_slider("tick", min=0, max=max(1, sight.ticks - 1), step=1, initial_value=0)
        self._button = server.gui.add_button("play")
        self._button.on_click(lambda _: self.press())
        self.cropped = server.gui.add_checkbox("points in the crop box alone", True)
        self._add_box()
        first = shown(sight.at(0))
        self._cloud = server.scene.add_point_cloud("/cloud", first.points_world, first.colours, point_size=POINT_M, precision="float32")
        self._frustums = [self._add_frustum(first, i) for i in range(len(CAMERAS))]
        axes = {"axes_length": 0.08, "axes_radius": 0.004}
        self._grippers = [server.scene.add_frame(f"/grippers/{side}", **axes) for side in aloha.SIDES]
        self.update()

    @property
    def port(self) -> int:
        return self._server.get_port()

    def _add_box(self) -> None:
        """The crop box, as its twelve edges."""
        low, high = np.float32(CROP_LOW), np.float32(CROP_HIGH)
        at = np.array(list(itertools.product((0, 1), repeat=3)))
        edges = np.float32([(a, b) for a, b in itertools.combinations(at, 2) if np.abs(a - b).sum() == 1])
        self._server.scene.add_line_segments("/crop", low + edges * (high - low), COLOUR, thickness=LINE_M)

    def _add_frustum(self, first: Shown, i: int) -> Any:
        name, lens = f"/cameras/{CAMERAS[i]}", (float(first.fov_rad[i]), float(first.aspect[i]))
        looks = {"scale": FRUSTUM_M, "thickness": LINE_M, "color": COLOUR}
        return self._server.scene.add_camera_frustum(name, *lens, image=first.images[i], **looks)

    def press(self) -> None:
        """The button: play, from the start again at the end, or pause."""
        self.playing = not self.playing
        if self.playing and self.slider.value >= self._last:
            self.slider.value = 0

    @property
    def _last(self) -> int:
        return self._sight.ticks - 1

    def update(self) -> None:
        """Go on if playing, to the end and no further; show another tick or another part of the cloud if that is asked for."""
        if self.playing:
            self.slider.value = min(self.slider.value + BEAT_TICKS, self._last)
            self.playing = self.slider.value < self._last
        self._button.label = "pause" if self.playing else "play"
        state = (min(self.slider.value, self._last), self.cropped.value)
        if state != self._state:
            self._state = state
            self._show(*state)

    def _show(self, tick: int, cropped: bool) -> None:
        now = shown(self._sight.at(tick))
        chosen = now.inside if cropped else np.ones_like(now.inside)
        with self._server.atomic():
            self._cloud.points, self._cloud.colors = now.points_world[chosen], now.colours[chosen]
            for i, frustum in enumerate(self._frustums):
                frustum.position, frustum.wxyz, frustum.image = now.cameras.pos[i], now.cameras.quat[i], now.images[i]
            for i, frame in enumerate(self._grippers):
                frame.position, frame.wxyz = now.grippers.pos[i], now.grippers.quat[i]
            self._prompt.content = f"{tick / CONTROL_HZ:.2f} s: {self._sight.prompt(tick)}"

    def run(self) -> None:
        """Update on and on, in real time where drawing is fast enough."""
        while True:
            begin = time.monotonic()
            self.update()
            time.sleep(max(0.0, BEAT_S - (time.monotonic() - begin)))


@contextlib.contextmanager
def open_player(sight: Sight, port: int) -> Iterator[Player]:
    """A player on a server of its own, at `port` or the next that is free; it is closed at the end."""
    import viser

    sight.at(0)  # compiles: nobody should be let in before there is something to see
    server = viser.ViserServer(host=HOST, port=port, label="clamp-jax", verbose=False)
    try:
        server.initial_camera.position, server.initial_camera.look_at = (0.4, -1.3, 1.0), (0.0, 0.0, 0.15)
        yield Player(server, sight)
    finally:
        server.stop()
