"""Small valid episodes and data sets of a real scene (both arms, a table, two free objects), made without the simulator."""

from pathlib import Path

import numpy as np

from clamp_jax.data.folders import Writer
from clamp_jax.data.records import Episode
from clamp_jax.data.transforms import GEOM_TYPES
from clamp_jax.geometry import aloha
from clamp_jax.geometry.kinematics import arm_tree
from clamp_jax.structs import JOINT_FREE, Calibration, Geoms, Tree
from experiments.torture.run import calibration

OBJECTS = ("red box", "blue ball")
TASK, INSTRUCTION = "box_lift", "lift the red box"
_ROBOT_BODIES, _ROBOT_QPOS = 21, 16  # world and ten links an arm; six joints and two fingers an arm
_PLANE, _SPHERE, _CAPSULE, _BOX = (GEOM_TYPES[name] for name in ("plane", "sphere", "capsule", "box"))


def scene_tree(objects: int = len(OBJECTS)) -> Tree:
    """World, left arm, right arm, then free bodies; unpadded."""
    arm, columns = arm_tree(), []
    for side, start, first in (("left", 0, 0), ("right", 8, 10)):
        pos, quat, parent = arm.pos[1:].copy(), arm.quat[1:].copy(), arm.parent[1:]
        pos[0], quat[0] = aloha.BASES[side]
        moved = np.where(parent == 0, 0, parent + first)
        columns.append(Tree(moved, pos, quat, arm.joint[1:], arm.axis[1:], arm.anchor[1:], arm.qpos_start[1:] + start))
    free = Tree(
        parent=np.zeros(objects, np.int32),
        pos=np.zeros((objects, 3)),
        quat=np.tile([1.0, 0, 0, 0], (objects, 1)),
        joint=np.full(objects, JOINT_FREE, np.int32),
        axis=np.tile([0.0, 0, 1], (objects, 1)),
        anchor=np.zeros((objects, 3)),
        qpos_start=_ROBOT_QPOS + 7 * np.arange(objects, dtype=np.int32),
    )
    world = Tree(*(x[:1] for x in arm))
    return Tree(*(np.concatenate(x).astype(x[0].dtype) for x in zip(world, *columns, free, strict=True)))


def scene_geoms(objects: int = len(OBJECTS)) -> tuple[np.ndarray, Geoms]:
    """Types and table of a floor, a table, a capsule on each arm's upper arm and forearm, box grippers, and the objects."""
    arms = [(_CAPSULE, (0.04, 0.1, 0), 3), (_CAPSULE, (0.035, 0.1, 0), 5), (_BOX, (0.03, 0.06, 0.03), 7)]
    rows = [(_PLANE, (2, 2, 0.1), 0, (0, 0, -0.75)), (_BOX, (*aloha.TABLE_HALF_SIZE, 0.02), 0, (0, 0, aloha.TABLE_TOP_Z - 0.02))]
    rows += [(kind, size, body + first, (0, 0, 0)) for first in (0, 10) for kind, size, body in arms]
    kinds = [(_BOX, (0.03, 0.03, 0.03)), (_SPHERE, (0.03, 0, 0))]
    rows += [(*kinds[i % 2], _ROBOT_BODIES + i, (0, 0, 0)) for i in range(objects)]
    types, size, body, pos = zip(*rows, strict=True)
    colour = np.random.default_rng(0).uniform(0.1, 0.9, (len(rows), 3))
    quat = np.tile([1.0, 0, 0, 0], (len(rows), 1))
    return np.array(types, np.int32), Geoms(*map(np.array, (size, colour, body, pos, quat)))


def _motion(rng: np.random.Generator, steps: int) -> np.ndarray:
    """Smooth joint states about the home pose, (steps, 14)."""
    rate, shift = rng.uniform(0.3, 1.0, (2, 14))
    time = np.arange(steps)[:, None] / 50
    home = np.tile(aloha.HOME_COMMAND, 2)
    swing = 0.3 * np.sin(2 * np.pi * rate * time + shift)
    swing[:, [6, 13]] = 0.5 + 0.5 * np.sin(rate[[6, 13]] * time)
    return (home + swing).astype(np.float32)


def _qpos(joints: np.ndarray, positions: np.ndarray) -> np.ndarray:
    fingers = aloha.GRIPPER_CLOSED_M + (aloha.GRIPPER_OPEN_M - aloha.GRIPPER_CLOSED_M) * joints
    arms = [[joints[:, i : i + 6], fingers[:, i + 6 : i + 7], fingers[:, i + 6 : i + 7]] for i in (0, 7)]
    quat = np.broadcast_to([1.0, 0, 0, 0], (*positions.shape[:2], 4))
    free = np.concatenate([positions, quat], axis=-1).reshape(len(joints), -1)
    return np.concatenate([*arms[0], *arms[1], free], axis=1).astype(np.float32)


def episode(seed: int = 0, steps: int = 60, *, task: str = TASK, names: tuple[str, ...] = OBJECTS) -> Episode:
    """A state episode: arms swing about home, the first object rises; all of it follows from the seed."""
    rng = np.random.default_rng(seed)
    joints = _motion(rng, steps)
    start = np.concatenate([rng.uniform(-0.2, 0.2, (len(names), 2)), np.full((len(names), 1), aloha.TABLE_TOP_Z + 0.03)], axis=1)
    positions = np.repeat(start[None], steps, axis=0).astype(np.float32)
    positions[:, :1, 2] += np.linspace(0, 0.2, steps, dtype=np.float32)[:, None]
    types, geoms = scene_geoms(len(names))
    return Episode(
        task=task,
        instruction=INSTRUCTION,
        seed=seed,
        joints=joints,
        actions=np.concatenate([joints[1:], joints[-1:]]),
        progress=np.linspace(0, 1, steps, dtype=np.float32),
        object_names=names,
        object_positions=positions,
        qpos=_qpos(joints, positions),
        tree=scene_tree(len(names)),
        geom_types=types,
        geoms=geoms,
    )


def image_episode(seed: int = 0, steps: int = 60, *, task: str = TASK, every: int = 20, size: int = 8) -> Episode:
    """The same episode as a recorded one: random pixels, depth with holes, a calibration that is valid."""
    rng = np.random.default_rng([seed, 1])
    ticks = np.arange(0, steps, every, dtype=np.int32)
    shape = (len(ticks), 4, size, size)
    depth_m = rng.uniform(0.2, 1.5, shape).astype(np.float32) * (rng.random(shape) > 0.1)
    repeated = Calibration(*(np.repeat(x[None], len(ticks), axis=0) for x in calibration(size, size)))
    images = {"ticks": ticks, "rgb": rng.integers(0, 256, (*shape, 3), np.uint8), "depth_m": depth_m, "calibration": repeated}
    state = {"qpos": None, "tree": None, "geom_types": None, "geoms": None}
    return episode(seed, steps, task=task)._replace(kind="image", **state, **images)


def write(directory: Path, episodes: int = 6, *, steps: int = 60, task: str = TASK, kind: str = "state", first_seed: int = 0) -> Path:
    """A finished data set of that many episodes (of slightly different lengths); returns the folder."""
    make = episode if kind == "state" else image_episode
    with Writer(directory, task=task, kind=kind) as writer:
        for i in range(episodes):
            writer.add(make(first_seed + i, steps + i, task=task))
    return directory


def tokenize(text: str, length: int) -> np.ndarray:
    """Tokens of a text for tests: one a byte, cut or padded with 0."""
    tokens = np.frombuffer(text.encode()[:length], np.uint8).astype(np.int32)
    return np.pad(tokens, (0, length - len(tokens)))
