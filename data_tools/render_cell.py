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
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from clamp_jax.geometry import aloha
from clamp_jax.structs import CAMERAS, HISTORY, Camera, Observation

if TYPE_CHECKING:
    import mujoco

ASSETS_HINT = (
    "git clone https://github.com/google-deepmind/aloha_sim, then name its aloha_sim/assets folder by --assets or CLAMP_ALOHA_SIM_ASSETS"
)
GL_HINT = "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri (EGL), or libosmesa6 (OSMesa, in software)"
CAMERA_NAMES = dict(zip(CAMERAS, ("overhead_cam", "worms_eye_cam", "wrist_cam_left", "wrist_cam_right"), strict=True))
ARM_STATE = np.array([0.0, -0.80, 1.05, 0.0, 0.15, 0.0, 0.6])  # both arms over the table, grippers half open, looking down


class Tool(NamedTuple):
    """An object on the table; scale is what the public tasks use (their extents over the meshes')."""

    folder: str
    scale: float
    place: tuple[float, float, float]  # x, y (m), yaw (rad)


TOOLS = (
    Tool("gso/Sterilite_Caddy_Blue_Sky_17_58_x_12_58_x_9_14", 0.51, (0.0, 0.15, 0.0)),
    Tool("gso/Granimals_20_Wooden_ABC_Blocks_Wagon", 0.81, (0.22, -0.14, 0.5)),  # its mesh is a can opener's
    Tool("gso/Craftsman_Grip_Screwdriver_Phillips_Cushion", 1.0, (-0.27, 0.14, 1.0)),
    Tool("gso/Magnifying_Glassassrt", 1.0, (0.26, 0.14, -0.6)),
    Tool("gso/Kingston_DT4000MR_G2_Management_Ready_USB_64GB", 0.91, (0.02, -0.15, 0.8)),
    Tool("gso/Diamond_Visions_Scissors_Red", 1.0, (-0.23, -0.15, -0.8)),
)


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


def find_assets(assets: str | None) -> Path:
    """The folder of the models; raises FileNotFoundError with where to get them."""
    if not assets:
        raise FileNotFoundError(f"the models of the cell are not named; {ASSETS_HINT}")
    folder = Path(assets).expanduser()
    if not (folder / "aloha" / "scene_pbr.xml").is_file():
        raise FileNotFoundError(f"{folder} holds no aloha/scene_pbr.xml; {ASSETS_HINT}")
    return folder


def drop_missing_meshes(spec: "mujoco.MjSpec") -> list[str]:
    """Takes the meshes whose files are absent out of a spec, with the geoms that show them; returns their names."""
    folder = Path(spec.modelfiledir) / spec.meshdir
    missing = [mesh for mesh in spec.meshes if not (folder / mesh.file).is_file()]
    names = [mesh.name for mesh in missing]
    for geom in [geom for geom in spec.geoms if geom.meshname in names]:
        spec.delete(geom)
    for mesh in missing:
        spec.delete(mesh)
    return names


def build_cell(assets: Path, virtual: tuple[str, ...] = ()) -> tuple["mujoco.MjModel", "mujoco.MjData"]:
    """The real cell with tools on its table, the arms at ARM_STATE, kinematics done; `virtual` names free cameras to place."""
    import mujoco

    spec = mujoco.MjSpec.from_file(str(assets / "aloha" / "scene_pbr.xml"))
    missing = drop_missing_meshes(spec)
    if missing:
        print(f"not in {assets}, left out: {', '.join(missing)}", file=sys.stderr)
    _raise_table(spec)
    for i, tool in enumerate(TOOLS):
        _add_tool(spec, assets, tool, f"tool{i}/")
    for name in virtual:
        spec.worldbody.add_camera(name=name)
    spec.visual.global_.offwidth, spec.visual.global_.offheight = aloha.D405_PIXELS
    model = spec.compile()
    data = mujoco.MjData(model)
    finger = aloha.GRIPPER_CLOSED_M + (aloha.GRIPPER_OPEN_M - aloha.GRIPPER_CLOSED_M) * ARM_STATE[6]
    data.qpos[:16] = np.tile([*ARM_STATE[:6], finger, finger], 2)
    mujoco.mj_forward(model, data)
    return model, data


def _raise_table(spec: "mujoco.MjSpec") -> None:
    """Lifts the table and the camera over its edge by the 11 mm that the scene file has them lower than the robot's calibration."""
    table, box = spec.body("table"), spec.geom("table")
    top = table.pos[2] + box.pos[2] + box.size[2]
    table.pos = table.pos + [0, 0, aloha.TABLE_TOP_Z - top]
    spec.camera(CAMERA_NAMES["worms_eye"]).pos = aloha.CAMERA_MOUNTS["worms_eye"].pos


def _add_tool(spec: "mujoco.MjSpec", assets: Path, tool: Tool, prefix: str) -> None:
    """Attaches a tool's looks to the table top; its collision pieces stay away, nothing moves here."""
    import mujoco

    child = mujoco.MjSpec.from_file(str(assets / tool.folder / "model.xml"))
    drop_missing_meshes(child)
    shown = {geom.meshname for geom in child.geoms if geom.classname.name.startswith("visual")}
    for geom in [geom for geom in child.geoms if geom.meshname not in shown]:
        child.delete(geom)
    for joint in child.joints:
        child.delete(joint)
    for mesh in list(child.meshes):
        if mesh.name in shown:
            mesh.scale = [tool.scale] * 3
        else:
            child.delete(mesh)
    x, y, yaw = tool.place
    frame = spec.worldbody.add_frame(pos=[x, y, aloha.TABLE_TOP_Z], quat=[np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)])
    body = child.worldbody.first_body()
    body.pos = [0, 0, 0]  # some hang 0.1 m up, to be dropped
    frame.attach_body(body, prefix, "")


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

    rgb, depth_m, _ = render(model, data, list(CAMERA_NAMES.values()), size)
    joints = np.asarray(joints_from_qpos(np.float32(data.qpos)))
    return Observation(rgb, depth_m, aloha_calibration(*size), joints, np.tile(joints, (HISTORY, 1)), np.ones(HISTORY, bool))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", default=os.environ.get("CLAMP_ALOHA_SIM_ASSETS"), help="aloha_sim/assets of a clone of aloha_sim")
    parser.add_argument("--out", type=Path, default=Path("runs/cell"), help="folder for the pictures")
    parser.add_argument("--size", type=int, default=224, help="pixels of a view's side")
    parser.add_argument("--camera", type=int, nargs=2, default=(360, 640), metavar=("HEIGHT", "WIDTH"), help="pixels of a camera")
    arguments = parser.parse_args()
    try:
        assets = find_assets(arguments.assets)
        choose_gl()
    except (FileNotFoundError, RuntimeError) as error:
        sys.exit(str(error))
    from data_tools.cell_pictures import draw

    model, data = build_cell(assets)
    for path in draw(observe_cell(model, data, tuple(arguments.camera)), arguments.size, arguments.out):
        print(path)


if __name__ == "__main__":
    main()
