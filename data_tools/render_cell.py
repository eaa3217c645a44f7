"""Render the real ALOHA 2 cell with tools on its table, and what CLAMP's input makes of it, as PNGs.

    python -m data_tools.render_cell --assets <aloha_sim clone>/aloha_sim/assets --out runs/cell

The models are those of google-deepmind/aloha_sim (--assets, or CLAMP_ALOHA_SIM_ASSETS). MuJoCo's own renderer makes RGB-D
of the four cameras; unproject, merge, crop and splat make the five views. It writes cameras.png (colour and depth),
cloud.png (the merged, cropped cloud from a camera that was not used) and five_views.png (depth, and xyz below it).
"""

import argparse
import ctypes.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clamp_jax.geometry import aloha
from clamp_jax.sim.aloha_sim import assets
from clamp_jax.structs import CAMERAS, HISTORY, Camera, Observation

if TYPE_CHECKING:
    import mujoco

GL_HINT = "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri (EGL), or libosmesa6 (OSMesa, in software)"
ARM_STATE = np.array([0.0, -0.80, 1.05, 0.0, 0.15, 0.0, 0.6])  # both arms over the table, grippers half open, looking down


# What stands on the table and where: x, y (m), yaw (rad).
PLACES = {
    "caddy": (0.0, 0.15, 0.0),
    "can_opener": (0.22, -0.14, 0.5),
    "screwdriver": (-0.27, 0.14, 1.0 + np.pi),
    "magnifier": (0.26, 0.14, -0.6),
    "thumb_drive": (0.02, -0.15, 0.8),
    "scissors": (-0.23, -0.15, -0.8),
}


def choose_gl() -> None:
    """Sets MUJOCO_GL to what this machine has, before mujoco is imported; leaves it alone where it is set.

    Raises RuntimeError with what to install where there is neither EGL nor OSMesa.
    """
    if os.environ.get("MUJOCO_GL"):
        return
    found = [gl for gl, library in (("egl", "EGL"), ("osmesa", "OSMesa")) if ctypes.util.find_library(library)]
    if not found:
        raise RuntimeError(f"no EGL and no OSMesa on this machine to render with; install one: {GL_HINT}")
    os.environ["MUJOCO_GL"] = found[0]


def build_cell(folder: Path, virtual: tuple[str, ...] = ()) -> tuple["mujoco.MjModel", "mujoco.MjData"]:
    """The real cell with tools on its table, the arms at ARM_STATE, kinematics done; `virtual` names free cameras to place."""
    import mujoco

    from clamp_jax.sim.aloha_sim import build

    spec = build.empty(folder)
    build.add_objects(spec, folder=folder, names=tuple(PLACES))
    for name in virtual:
        spec.worldbody.add_camera(name=name)
    model = spec.compile()
    data = mujoco.MjData(model)
    finger = aloha.GRIPPER_CLOSED_M + (aloha.GRIPPER_OPEN_M - aloha.GRIPPER_CLOSED_M) * ARM_STATE[6]
    data.qpos[:16] = np.tile([*ARM_STATE[:6], finger, finger], 2)
    data.qpos[16:] = np.concatenate([_place(name, *place) for name, place in PLACES.items()])
    mujoco.mj_forward(model, data)
    return model, data


def _place(name: str, x: float, y: float, yaw: float) -> tuple[float, ...]:
    """qpos of a thing that stands on the table."""
    from clamp_jax.sim.objects.caddy import TOOLS

    if name not in TOOLS:  # it slides
        return x, y
    return x, y, aloha.TABLE_TOP_Z + TOOLS[name][2], np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)


def place_camera(model: "mujoco.MjModel", name: str, camera: Camera, height: int) -> None:
    """Stands a free camera of the model where a pinhole with square pixels and a centred axis is; kinematics follow."""
    import mujoco

    body = model.camera(name)
    quat = np.zeros(4)
    pose = np.asarray(camera.world_from_camera, np.float64)
    mujoco.mju_mat2Quat(quat, (pose[:3, :3] * [1, -1, -1]).reshape(-1))
    body.pos[:], body.quat[:] = pose[:3, 3], quat
    body.fovy[:] = np.degrees(2 * np.arctan(height / 2 / float(np.asarray(camera.intrinsics)[1])))


def render(model: "mujoco.MjModel", data: "mujoco.MjData", names: list[str], size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """MuJoCo's rgb (k, h, w, 3) uint8, depth (k, h, w) m with 0 where nothing is, geom ids (-1 nothing) of cameras by name."""
    import mujoco

    frames = []
    with mujoco.Renderer(model, *size) as renderer:
        for name in names:
            renderer.update_scene(data, camera=name)
            rgb = renderer.render().copy()
            renderer.enable_depth_rendering()
            depth_m = renderer.render().copy()
            renderer.disable_depth_rendering()
            renderer.enable_segmentation_rendering()
            geom = renderer.render()[..., 0].copy()
            renderer.disable_segmentation_rendering()
            frames.append((rgb, np.where(geom >= 0, depth_m, 0).astype(np.float32), geom))
    return tuple(np.stack(part) for part in zip(*frames, strict=True))


def observe_cell(model: "mujoco.MjModel", data: "mujoco.MjData", size: tuple[int, int]) -> Observation:
    """The observation of the cell by its four cameras, with the calibration that the robot's own table gives."""
    from clamp_jax.geometry.kinematics import aloha_calibration, joints_from_qpos

    rgb, depth_m, _ = render(model, data, list(CAMERAS), size)
    joints = np.asarray(joints_from_qpos(np.float32(data.qpos)))
    return Observation(rgb, depth_m, aloha_calibration(*size), joints, np.tile(joints, (HISTORY, 1)), np.ones(HISTORY, bool))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", help=f"aloha_sim/assets of a clone of aloha_sim; default: {assets.VARIABLE}")
    parser.add_argument("--out", type=Path, default=Path("runs/cell"), help="folder for the pictures")
    parser.add_argument("--size", type=int, default=224, help="pixels of a view's side")
    parser.add_argument("--camera", type=int, nargs=2, default=(360, 640), metavar=("HEIGHT", "WIDTH"), help="pixels of a camera")
    arguments = parser.parse_args()
    try:
        folder = assets.find(arguments.assets)
        choose_gl()
    except (FileNotFoundError, RuntimeError) as error:
        sys.exit(str(error))
    from data_tools.cell_pictures import draw

    model, data = build_cell(folder)
    for path in draw(observe_cell(model, data, tuple(arguments.camera)), arguments.size, arguments.out):
        print(path)


if __name__ == "__main__":
    main()
