"""A cell without hardware: the simulator's arms on bases that are not as drawn, boards painted into images as a lens would show them."""

import cv2
import numpy as np

from clamp_jax.deploy.calibration import CellCalibration, base_from_gripper, nominal, world_from_camera
from clamp_jax.deploy.projection import INTEGER_CENTRES, directions, invert, pixel_centres
from clamp_jax.geometry import aloha
from data_tools.calibrate.boards import HELD, TABLE, WORLD_FROM_TABLE, paint
from data_tools.calibrate.poses import HOME
from data_tools.calibrate.station import Image
from data_tools.calibrate.trials import SIZE, Faults, Hidden, measure_joints

GREY_NOISE = 4.0  # of 255, of each pixel
BLUR_PX = 0.6  # of a lens in focus
BACKGROUND = 120.0


class SimulatedStation:
    """A Station of a hidden cell; `arms` False leaves the arms and the table out, which is a hundred times as fast."""

    def __init__(self, hidden: Hidden, seed: int, *, faults: Faults = Faults(), arms: bool = True):  # noqa: B008 - immutable
        self._rng, self._faults = np.random.default_rng(seed), faults
        self._joints, self._holder = HOME, ""
        self._see = Painter(hidden, self._rng, arms=arms)
        self.cell = self._see.cell

    def joints(self) -> np.ndarray:
        return measure_joints(self._joints[None], self._rng, self._faults)[0]

    def go(self, joints: np.ndarray) -> None:
        self._joints = joints

    def hold(self, side: str) -> None:
        self._holder = side

    def wait(self, text: str) -> None:
        """Nobody is here."""

    def frames(self) -> dict[str, Image]:
        return self._see(self._joints, self._holder)


class Painter:
    """What the cameras of a hidden cell see of the boards, the arms and the table; `cell` is where all truly is."""

    def __init__(self, hidden: Hidden, rng: np.random.Generator, *, size: tuple[int, int] = SIZE, arms: bool = True):
        """Images of `size` (height, width), for which the hidden optics are."""
        self._hidden, self._rng, self._size = hidden, rng, size
        cameras = {
            name: camera._replace(parent_from_camera=hidden.unknowns.cameras[name], distortion=hidden.optics[name].distortion)
            for name, camera in nominal(*size).cameras.items()
        }
        self.cell = CellCalibration(cameras, hidden.unknowns.bases)
        self._draw = Arms(self.cell, size) if arms else None

    def __call__(self, joints: np.ndarray, holder: str) -> dict[str, Image]:
        """By camera, at true joints (14,), the plate in the gripper of `holder` ("": nowhere)."""
        drawn = self._draw(joints) if self._draw else {}
        return {name: self._image(name, joints, holder, drawn.get(name)) for name in self.cell.cameras}

    def _image(self, name: str, joints: np.ndarray, holder: str, drawn: tuple[np.ndarray, np.ndarray] | None) -> Image:
        camera = self.cell.cameras[name]
        optics = camera.intrinsics, camera.distortion
        if drawn is None:
            depth_m, rgb = np.zeros(self._size), np.full((*self._size, 3), BACKGROUND)
        else:
            rgb, depth_m = (through_lens(part, optics) for part in drawn)
        camera_from_world = invert(world_from_camera(self.cell, name, joints))
        boards = [(TABLE, WORLD_FROM_TABLE)]
        if holder:
            gripper = (self.cell.world_from_base @ base_from_gripper(joints))[aloha.SIDES.index(holder)]
            boards.append((HELD, gripper @ self._hidden.unknowns.held[holder]))
        for board, pose in boards:
            grey = np.zeros(self._size)
            shown = paint(grey, board, camera_from_world @ pose, optics, depth_m=depth_m)
            rgb[shown] = grey[shown][:, None]
        noisy = cv2.GaussianBlur(rgb, (0, 0), BLUR_PX) + GREY_NOISE * self._rng.normal(size=rgb.shape)
        return Image(np.clip(np.round(noisy), 0, 255).astype(np.uint8), *optics, serial=f"simulated-{name}")


def through_lens(image: np.ndarray, optics: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """A pinhole's image (h, w) or (h, w, 3) as a lens with the same intrinsics shows it, by the nearest pixel."""
    rays = directions(pixel_centres(*image.shape[:2]), *optics)
    fx, fy, cx, cy = optics[0]
    source = np.stack([fx * rays[:, 0] + cx, fy * rays[:, 1] + cy], -1) - INTEGER_CENTRES
    return cv2.remap(
        image, source.reshape(*image.shape[:2], 2).astype(np.float32), None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
    )


class Arms:
    """The simulator's arms and table, seen by a cell's cameras without their lenses."""

    def __init__(self, cell: CellCalibration, size: tuple[int, int] = SIZE, task: str = "stack_blocks"):
        """The scene of a task without its objects."""
        import jax

        from clamp_jax.data.transforms import pad_geoms
        from clamp_jax.render.raycast import raycast
        from clamp_jax.sensors import SIGHT_M
        from clamp_jax.sim import scene
        from clamp_jax.structs import Capacity

        built = scene.build(task)
        names = [built.model.body(i).name for i in range(built.model.nbody)]
        self._side = np.array([next((i for i, side in enumerate(aloha.SIDES) if name.startswith(f"{side}/")), -1) for name in names])
        kept = (self._side[built.geoms.body] >= 0) | (built.geoms.body == 0)
        geoms = jax.tree.map(lambda column: column[kept], built.geoms)
        self._geoms = pad_geoms(built.geom_types[kept], geoms, Capacity())
        self._tree, self._entries, self._cell = built.tree, built.model.nq, cell
        self._cast = jax.jit(lambda *a: raycast(*a, height=size[0], width=size[1], capacity=Capacity(), far=SIGHT_M))

    def __call__(self, joints: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By camera: colours (h, w, 3) 0..255 and depth (h, w) m, exact."""
        from clamp_jax.geometry import kinematics
        from clamp_jax.geometry.camera import pinhole

        names = list(self._cell.cameras)
        poses = np.stack([world_from_camera(self._cell, name, joints) for name in names])
        intrinsics = np.stack([self._cell.cameras[name].intrinsics for name in names])
        qpos = np.zeros(self._entries, np.float32)
        qpos[:16] = kinematics.qpos_from_joints(np.float32(joints))
        rgb, depth_m, _ = self._cast(self._geom_poses(qpos), self._geoms, pinhole(intrinsics, poses))
        return {name: (np.float64(rgb[i]) * 255, np.float64(depth_m[i])) for i, name in enumerate(names)}

    def _geom_poses(self, qpos: np.ndarray) -> np.ndarray:
        """(g, 4, 4) world_from_geom, the arms on this cell's bases."""
        from clamp_jax.observe import geom_poses
        from clamp_jax.structs import SceneState

        poses = np.asarray(geom_poses(SceneState(qpos, self._tree, self._geoms)), np.float64)
        moved = self._cell.world_from_base @ invert(nominal(1, 1).world_from_base)
        side = self._side[np.maximum(self._geoms.body, 0)]
        return np.where((side >= 0)[:, None, None], moved[np.maximum(side, 0)] @ poses, poses).astype(np.float32)
