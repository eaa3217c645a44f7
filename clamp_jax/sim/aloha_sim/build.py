"""The real cell and its objects as a MuJoCo model: robot and table of the public simulator, with the joints of our own scenes."""

from pathlib import Path
from typing import NamedTuple

import mujoco
import numpy as np

from clamp_jax.geometry import aloha
from clamp_jax.sim.aloha_sim import assets
from clamp_jax.sim.aloha_sim.models import MODELS, Model
from clamp_jax.sim.objects.parts import free_body, sliding_body
from clamp_jax.structs import CAMERAS

TIMESTEP_S = 0.002
CAMERA_NAMES = dict(zip(CAMERAS, ("overhead_cam", "worms_eye_cam", "wrist_cam_left", "wrist_cam_right"), strict=True))
DENSITY = 200.0  # kg/m3, the public simulator's for visual meshes
SHOWN = 2  # group of the visual meshes, as published


class Slides(NamedTuple):
    """A container that slides on the table: N of dry friction along x and y, N m about z (None: it does not turn)."""

    friction: float
    turns: float | None = None


SLIDING = {"caddy": Slides(3.0), "rack": Slides(12.0, 2.0)}
_RENAMED = {"link_top_drawer_low": "top_drawer", "link_middle_drawer_low": "middle_drawer", "link_bottom_drawer_low": "bottom_drawer"}


def empty(folder: Path) -> mujoco.MjSpec:
    """Robot, table and frame with this geometry's physics."""
    spec = load_cell(folder)
    set_physics(spec)
    return spec


def load_cell(folder: Path) -> mujoco.MjSpec:
    """The published robot, table and frame, the table and the camera over its edge lifted to where the robot's calibration has them.

    Cameras have our names. What is absent of the visual meshes is left out.
    """
    spec = mujoco.MjSpec.from_file(str(assets.require(folder, assets.SCENE)))
    drop_missing_meshes(spec)
    drop_unseen_textures(spec)
    table, box = spec.body("table"), spec.geom("table")
    top = table.pos[2] + box.pos[2] + box.size[2]
    table.pos = table.pos + [0, 0, aloha.TABLE_TOP_Z - top]
    spec.camera(CAMERA_NAMES["worms_eye"]).pos = aloha.CAMERA_MOUNTS["worms_eye"].pos
    for ours, published in CAMERA_NAMES.items():
        spec.camera(published).name = ours
    for key in list(spec.keys):
        spec.delete(key)
    return spec


def drop_missing_meshes(spec: mujoco.MjSpec) -> list[str]:
    """Take the meshes whose files are absent out of a spec, with the geoms that show them; returns their names."""
    folder = Path(spec.modelfiledir) / spec.meshdir
    missing = [mesh for mesh in spec.meshes if not (folder / mesh.file).is_file()]
    names = [mesh.name for mesh in missing]
    for geom in [geom for geom in spec.geoms if geom.meshname in names]:
        spec.delete(geom)
    for mesh in missing:
        spec.delete(mesh)
    return names


def drop_unseen_textures(spec: mujoco.MjSpec) -> None:
    """Take out the maps of normals and roughness: neither our cameras nor MuJoCo's renderer look at them, and they are large."""
    colour, unseen = int(mujoco.mjtTextureRole.mjTEXROLE_RGB), set()
    for material in spec.materials:
        names = list(material.textures)
        unseen |= {name for role, name in enumerate(names) if name and role != colour}
        material.textures = [name if role == colour else "" for role, name in enumerate(names)]
    for texture in [texture for texture in spec.textures if texture.name in unseen]:
        spec.delete(texture)


def set_physics(spec: mujoco.MjSpec) -> None:
    """The one place of this geometry's physics settings: the published ones."""
    option = spec.option
    option.timestep, option.impratio = TIMESTEP_S, 10.0
    option.solver, option.cone = mujoco.mjtSolver.mjSOL_NEWTON, mujoco.mjtCone.mjCONE_ELLIPTIC
    option.iterations = 100
    spec.visual.map.znear, spec.visual.map.zfar = 0.005, 20.0
    spec.visual.global_.offwidth, spec.visual.global_.offheight = aloha.D405_PIXELS
    spec.stat.extent, spec.stat.center = 1.0, (0.0, 0.0, 0.2)


def add_objects(spec: mujoco.MjSpec, *, folder: Path, names: tuple[str, ...]) -> None:
    """Objects of MODELS, in the order in which they come in qpos."""
    for name in names:
        add_object(spec, folder, name)


def add_object(spec: mujoco.MjSpec, folder: Path, name: str) -> None:
    """An object of MODELS: body `name` with the joints that it has among the primitives.

    Raises FileNotFoundError for a file that is not in the assets folder.
    """
    model = MODELS[name]
    child = load_object(folder, model)
    slides = SLIDING.get(name)
    if slides:
        body = sliding_body(spec, name, mass=0.05, friction=slides.friction, turns=slides.turns)
    else:
        body = free_body(spec, name)
    inner = child.worldbody.first_body()
    inner.name = "model"
    frame = body.add_frame(pos=model.local(np.zeros(3)), quat=(0, 0, 0, 1) if model.turned else (1, 0, 0, 0))
    frame.attach_body(inner, f"{name}/", "")
    if slides:  # its slides carry it
        spec.add_exclude(bodyname1="table", bodyname2=f"{name}/model")
    for part in spec.bodies:
        published = part.name.removeprefix(f"{name}/")
        if part.name != published and published in _RENAMED:
            part.name = _RENAMED[published]


def load_object(folder: Path, model: Model) -> mujoco.MjSpec:
    """A model's spec without a joint of its own; where its visual mesh is absent its collision pieces are shown, and weigh."""
    child = mujoco.MjSpec.from_file(str(assets.require(folder, model.file)))
    missing = drop_missing_meshes(child)
    drop_unseen_textures(child)
    body = child.worldbody.first_body()
    body.pos, body.quat = (0, 0, 0), (1, 0, 0, 0)  # some hang 0.1 m up, to be dropped
    child.delete(body.joints[0])
    if model.scale is not None:
        for mesh in child.meshes:
            mesh.scale = np.full(3, model.scale)
    if missing:
        for geom in child.geoms:
            geom.group, geom.rgba, geom.mass, geom.density = SHOWN, (*model.rgb, 1.0), np.nan, DENSITY
    return child
