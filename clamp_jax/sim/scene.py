"""A task's scene: the MuJoCo model, its kinematic tree and its visible geoms as tables."""

import functools
from typing import NamedTuple

import mujoco
import numpy as np

from clamp_jax.sim import robot, tasks
from clamp_jax.sim.aloha_sim import assets, surface
from clamp_jax.sim.aloha_sim import build as real
from clamp_jax.sim.objects.distractors import add_distractors
from clamp_jax.structs import CONTROL_HZ, JOINT_FIXED, JOINT_FREE, JOINT_HINGE, JOINT_SLIDE, Geoms, Surface, Tree

ROBOT_QPOS = 16  # left 6 joints and 2 fingers, right the same; objects come after
TIMESTEP_S = 0.004

# Pairs of each kind of shapes (planes apart) that MJX looks at, nearest first: all of the drawers', and the caddy's near a tool.
MAX_GEOM_PAIRS = 16

_JOINT_KINDS = {
    int(mujoco.mjtJoint.mjJNT_FREE): JOINT_FREE,
    int(mujoco.mjtJoint.mjJNT_HINGE): JOINT_HINGE,
    int(mujoco.mjtJoint.mjJNT_SLIDE): JOINT_SLIDE,
}


class Scene(NamedTuple):
    """Everything about a task's world that does not change during an episode."""

    name: str
    geometry: str  # of tasks.GEOMETRIES
    model: mujoco.MjModel
    tree: Tree  # numpy; row i is the model's body i
    geom_types: np.ndarray  # (g,) int32, mujoco.mjtGeom
    geoms: Geoms  # numpy, visible geoms only, not padded
    distractors: tuple[str, ...]
    object_names: tuple[str, ...]
    object_bodies: np.ndarray  # (o,) int32, row of the tree of each named object

    @property
    def substeps(self) -> int:
        """Physics steps in one control step."""
        return round(1 / (CONTROL_HZ * self.model.opt.timestep))


@functools.cache
def build(task_name: str, geometry: str = "primitive", distractors: tuple[str, ...] = ()) -> Scene:
    """The scene of a task, built once; geometry: "primitive" (boxes, capsules, spheres, cylinders) or "aloha_sim".

    distractors: names of things that are none of the task's business; they come last in bodies, qpos and qvel, so that the
    task's addresses stay. Raises ValueError for an unknown task (with the nearest name), geometry or distractor,
    FileNotFoundError for models that are not there.
    """
    task = tasks.get(task_name, geometry)
    spec = _empty() if geometry == "primitive" else real.empty(assets.find())
    spec.modelname = task_name
    task.build(spec)
    if geometry == "primitive":
        add_distractors(spec, distractors)
    else:
        real.add_objects(spec, folder=assets.find(), names=distractors)
    spec.add_numeric(name="max_geom_pairs", data=[MAX_GEOM_PAIRS])
    spec.add_numeric(name="max_contact_points", data=[task.contact_slots])
    model = spec.compile()
    names = tuple(name for name, _ in task.objects)
    bodies = np.array([model.body(body).id for _, body in task.objects], np.int32)
    return Scene(task_name, geometry, model, tree_of(model), *geoms_of(model), distractors, names, bodies)


def _empty() -> mujoco.MjSpec:
    """Robot and table of primitives."""
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    set_physics(spec)
    robot.add_robot(spec)
    return spec


def set_physics(spec: mujoco.MjSpec) -> None:
    """The one place of this geometry's physics settings, the same for native MuJoCo and MJX.

    Ours: a pyramidal cone keeps grasps with few Newton iterations, an elliptic one breaks them. With 4 iterations an object
    that lands throws the others off the table in MJX (it solves all contacts together); 10 and a tolerance that float32
    reaches cost nothing more, since most steps end early. With impratio 5 a pen of 4 g creeps through the fingers at 5 mm/s
    and falls in one of ten episodes; with 20 it stays.
    """
    option = spec.option
    option.timestep = TIMESTEP_S
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.solver, option.cone = mujoco.mjtSolver.mjSOL_NEWTON, mujoco.mjtCone.mjCONE_PYRAMIDAL
    # with a line search shorter than 10, dry friction (the caddy) buzzes at 9 mm/s for ever
    option.iterations, option.ls_iterations, option.tolerance, option.impratio = 10, 12, 1e-6, 20.0
    spec.visual.headlight.ambient, spec.visual.headlight.diffuse = (0.35, 0.35, 0.35), (0.6, 0.6, 0.6)
    spec.visual.headlight.specular = (0.0, 0.0, 0.0)
    spec.visual.map.znear, spec.visual.map.zfar = 0.005, 20.0
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1280, 720
    spec.stat.extent, spec.stat.center = 1.0, (0.0, 0.0, 0.2)


def tree_of(model: mujoco.MjModel) -> Tree:
    """The kinematic tree of a model as numpy arrays, row i for body i.

    Raises ValueError for a body with more than one joint or a ball joint, which the table has no place for.
    """
    n = model.nbody
    kind, axis, anchor, start = np.full(n, JOINT_FIXED, np.int32), np.tile([0.0, 0.0, 1.0], (n, 1)), np.zeros((n, 3)), np.zeros(n, np.int32)
    for j in range(model.njnt):
        body, joint = model.jnt_bodyid[j], int(model.jnt_type[j])
        if kind[body] != JOINT_FIXED or joint not in _JOINT_KINDS:
            raise ValueError(f"body {model.body(body).name!r} needs more than one hinge, slide or free joint; put bodies between them")
        kind[body], start[body] = _JOINT_KINDS[joint], model.jnt_qposadr[j]
        axis[body], anchor[body] = model.jnt_axis[j], model.jnt_pos[j]
    pos, quat = model.body_pos.astype(np.float32), model.body_quat.astype(np.float32)
    return Tree(model.body_parentid.astype(np.int32), pos, quat, kind, axis.astype(np.float32), anchor.astype(np.float32), start)


def surface_of(scene: Scene) -> Surface | None:
    """Points on the scene's meshes, numpy; None where there are none. Scenes that differ in physics alone have the same."""
    return None if scene.geometry == "primitive" else _surface(scene.name, scene.geometry, scene.distractors)


@functools.cache
def _surface(*name: object) -> Surface:
    return surface.surface_of(build(*name).model)


def geoms_of(model: mujoco.MjModel) -> tuple[np.ndarray, Geoms]:
    """Types (g,) int32 and table of the primitive geoms that MuJoCo's renderer shows (groups 0 to 2).

    The box of a table top that is shown as a mesh is among them, in the texture's mean colour: a face so large has no holes.
    """
    is_shown, colour = (model.geom_group <= 2) & (model.geom_type != mujoco.mjtGeom.mjGEOM_MESH), model.geom_rgba[:, :3].copy()
    top = surface.table_colour(model)
    if top is not None:
        table = model.geom("table").id
        is_shown[table], colour[table] = True, top
    shown = np.flatnonzero(is_shown)
    table = Geoms(
        size=model.geom_size[shown].astype(np.float32),
        colour=colour[shown].astype(np.float32),
        body=model.geom_bodyid[shown].astype(np.int32),
        pos=model.geom_pos[shown].astype(np.float32),
        quat=model.geom_quat[shown].astype(np.float32),
    )
    return model.geom_type[shown].astype(np.int32), table


def warp_capacity(model: mujoco.MjModel) -> tuple[int, int]:
    """Contacts and constraint rows that Warp keeps for each environment; it flags what does not fit (Trace.overflow).

    Ours: two points for each shape that can touch and 32 more, with as many rows as such contacts can have, beside those of
    equalities, dry friction and joint limits. Experts and random actions need half of it in scenes of primitives, where a
    box has four points, and a third with meshes, of whose many convex pieces few touch anything; memory is what more costs.
    """
    touching = int(np.sum((model.geom_contype | model.geom_conaffinity) != 0))
    widest = max(1, *model.geom_condim, *model.pair_dim)
    each = widest if model.opt.cone == mujoco.mjtCone.mjCONE_ELLIPTIC else max(1, 2 * (widest - 1))
    contacts = 2 * touching + 32
    others = 6 * model.neq + np.sum(model.dof_frictionloss > 0) + np.sum(model.jnt_limited != 0)
    return contacts, int(others + contacts * each)
