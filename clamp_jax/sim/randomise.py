"""What concerns physics in a demonstration: masses, friction, and distractors. Poses are the tasks' resets.

All is drawn from a candidate's seed alone. The expert plans in the nominal scene and knows nothing of it; what it then fails
to do is no demonstration.
"""

import copy
from collections.abc import Iterator
from typing import NamedTuple

import mujoco
import numpy as np

from clamp_jax.geometry import aloha
from clamp_jax.sim import scene
from clamp_jax.sim.aloha_sim.models import MODELS
from clamp_jax.sim.objects.distractors import DISTRACTORS
from clamp_jax.sim.scene import Scene

Range = tuple[float, float]


class Ranges(NamedTuple):
    """Least and greatest factor of a quantity, drawn so that a factor and its inverse are equally likely.

    Ours, all of them: as wide as experts stand that plan without knowing (docs/tasks.md counts them). The robot's masses,
    joints and gains stay: it is one robot, known better than what lies before it.
    """

    mass: Range = (0.7, 1.4)  # of a thing with its inertia, as between an empty and a filled one; ours
    friction: Range = (0.8, 1.25)  # of a thing on the table (1.0) and, the rougher counts, on another thing; ours
    finger_friction: Range = (0.9, 1.1)  # of both hands' rubber (1.5); narrower: what slips out of the hand teaches nothing; ours
    joints: Range = (0.7, 1.4)  # damping and dry friction of drawers, hinges and what slides on the table; ours


class Variety(NamedTuple):
    """How much one demonstration differs from another beside its poses."""

    ranges: Ranges
    distractors: int  # at most so many of them
    geometry: str = "primitive"  # of tasks.GEOMETRIES


MOST_DISTRACTORS = 3  # room that the tables of `data/transforms.py` have beside the largest scene
PHYSICS = {"nominal": Variety(Ranges(*[(1.0, 1.0)] * len(Ranges._fields)), 0), "random": Variety(Ranges(), MOST_DISTRACTORS)}

# Where distractors may lie: over what both arms reach and somewhat beyond. Ours.
AREA_LOW, AREA_HIGH = np.array([-0.40, -0.28]), np.array([0.40, 0.28])  # m, x and y
CLEAR_M = 0.03  # between a distractor's disc and the outline of whatever else lies there; ours: an open finger fits between
TRIES = 50  # places of one distractor; without room it is left out
_STREAM = 0x9D7  # sets these numbers apart from those of the experts' motion, which come from the same seed
_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)


def variety(physics: str, distractors: int | None = None, geometry: str = "primitive") -> Variety:
    """The variety of that name; distractors: at most so many instead. Raises ValueError for another name or number."""
    if physics not in PHYSICS:
        raise ValueError(f"physics is {physics!r}; expected one of {', '.join(PHYSICS)}")
    found = PHYSICS[physics]._replace(geometry=geometry)
    if distractors is None:
        return found
    if not 0 <= distractors <= MOST_DISTRACTORS:
        raise ValueError(f"distractors is {distractors}; expected 0 to {MOST_DISTRACTORS}, as many as the tables have room for")
    return found._replace(distractors=distractors)


def told(variety: Variety) -> str:
    """The variety for a reader."""
    names = {"mass": "masses", "friction": "friction", "finger_friction": "the fingers' friction", "joints": "what slides and turns"}
    found = [f"{names[name]} x {low:g} to {high:g}" for name, (low, high) in variety.ranges._asdict().items() if low < high]
    return ", ".join([*(found or ["nominal"]), f"0 to {variety.distractors} distractors" if variety.distractors else "no distractors"])


def candidate(task_name: str, qpos0: np.ndarray, variety: Variety, seed: int) -> tuple[Scene, np.ndarray]:
    """The scene in which a candidate is tried and its state at rest (q,) float32, from the task's reset and the seed alone."""
    built = scene.build(task_name, variety.geometry)
    names, poses = distractors(built, qpos0, variety, seed)
    if names:
        built = scene.build(task_name, variety.geometry, names)
    factors = np.random.default_rng([_STREAM, seed, 1])
    return randomise(built, variety.ranges, factors), np.concatenate([qpos0, *poses]).astype(np.float32)


def distractors(built: Scene, qpos0: np.ndarray, variety: Variety, seed: int) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Names and poses (7,) of a candidate's distractors."""
    return scatter(built, qpos0, variety.distractors, np.random.default_rng([_STREAM, seed, 0]))


def randomise(built: Scene, ranges: Ranges, rng: np.random.Generator) -> Scene:
    """The scene with a changed copy of its model: fingers, then thing by thing in the order of bodies."""
    model = copy.deepcopy(built.model)
    fingers = [model.body(f"{side}/{finger}_finger_link").id for side in aloha.SIDES for finger in ("left", "right")]
    model.geom_friction[np.isin(model.geom_bodyid, fingers)] *= _draw(ranges.finger_friction, rng)
    # MuJoCo takes the rougher of two surfaces: with the table as smooth as the smoothest thing, the thing's own counts.
    model.geom_friction[model.geom("table").id] *= min(1.0, ranges.friction[0])
    for bodies in _things(model):
        mass, friction, joints = (_draw(each, rng) for each in (ranges.mass, ranges.friction, ranges.joints))
        model.body_mass[bodies] *= mass
        model.body_inertia[bodies] *= mass
        model.geom_friction[np.isin(model.geom_bodyid, bodies)] *= friction
        dofs = np.isin(model.dof_bodyid, bodies)
        model.dof_damping[dofs] *= joints
        model.dof_frictionloss[dofs] *= joints
    mujoco.mj_setConst(model, mujoco.MjData(model))  # what MuJoCo derives from masses
    return built._replace(model=model)


def _draw(between: Range, rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(between))))


def _things(model: mujoco.MjModel) -> Iterator[np.ndarray]:
    """Bodies of each thing that moves and is not the robot's: a box with its drawers is one."""
    for root in np.unique(model.body_rootid[1:]):
        bodies = np.flatnonzero(model.body_rootid == root)
        if model.body_dofnum[bodies].any() and not model.body(root).name.startswith(tuple(f"{side}/" for side in aloha.SIDES)):
            yield bodies


def scatter(built: Scene, qpos0: np.ndarray, most: int, rng: np.random.Generator) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Names and poses (7,) of 0 to `most` distractors, clear of what lies there and of one another.

    Names are in the order of DISTRACTORS, so that few scenes differ.
    """
    there, placed = outlines(built, qpos0), {}
    for name in rng.permutation(kinds(built))[: rng.integers(most + 1)]:
        discs = [(*pose[:2], DISTRACTORS[other].radius) for other, pose in placed.items()]
        places, yaw = rng.uniform(AREA_LOW, AREA_HIGH, (TRIES, 2)), rng.uniform(-np.pi, np.pi)
        free = np.flatnonzero(gaps(places, there, discs) > DISTRACTORS[name].radius + CLEAR_M)
        if len(free):
            height = aloha.TABLE_TOP_Z + DISTRACTORS[name].height
            placed[str(name)] = np.array([*places[free[0]], height, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])
    names = tuple(name for name in DISTRACTORS if name in placed)
    return names, [placed[name] for name in names]


def kinds(built: Scene) -> tuple[str, ...]:
    """The distractors that a task may have: none of a kind that it has itself, since "the pen" is one."""
    own = {built.model.body(body).name for body in range(built.model.nbody)}
    there = DISTRACTORS if built.geometry == "primitive" else MODELS
    return tuple(name for name in DISTRACTORS if name in there and name not in own)


class Outline(NamedTuple):
    """A rectangle on the table."""

    axes: np.ndarray  # (2, 2) its directions in columns
    low: np.ndarray  # (2,) m along them
    high: np.ndarray


def outlines(built: Scene, qpos0: np.ndarray) -> list[Outline]:
    """What the task's things and the arms' feet cover of the table: for each body a rectangle along its x round all its geoms."""
    model, data = built.model, mujoco.MjData(built.model)
    data.qpos[:] = qpos0
    mujoco.mj_kinematics(model, data)
    feet = [np.array([model.body(f"{side}/base_link").id]) for side in aloha.SIDES]
    found = []
    for body in np.concatenate([*feet, *_things(model)]):
        geoms = np.flatnonzero(model.geom_bodyid == body)
        if len(geoms):
            middle, half = model.geom_aabb[geoms, None, :3], model.geom_aabb[geoms, None, 3:]
            corners = np.einsum("gij,gcj->gci", data.geom_xmat[geoms].reshape(-1, 3, 3), middle + _CORNERS * half)
            found.append(_outline((corners + data.geom_xpos[geoms, None])[..., :2].reshape(-1, 2), data.xmat[body, [0, 3]]))
    return found


def _outline(points: np.ndarray, along: np.ndarray) -> Outline:
    x, y = along / np.linalg.norm(along)
    axes = np.array([(x, -y), (y, x)])
    return Outline(axes, (points @ axes).min(0), (points @ axes).max(0))


def gaps(places: np.ndarray, there: list[Outline], discs: list[tuple[float, float, float]]) -> np.ndarray:
    """Metres from each place (n, 2) to the nearest of rectangles and discs (x, y, radius), (n,)."""
    found = [np.full(len(places), np.inf)]
    for axes, low, high in there:
        local = places @ axes
        found.append(np.linalg.norm(np.maximum(0.0, np.maximum(low - local, local - high)), axis=1))
    found += [np.hypot(places[:, 0] - x, places[:, 1] - y) - radius for x, y, radius in discs]
    return np.min(found, axis=0)
