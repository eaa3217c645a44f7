"""What the tasks at the laid table share: six things in six regions, and which of them overlap or touch."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, Int, Key

from clamp_jax.geometry.transforms import compose, invert, pose, transform
from clamp_jax.sim.distance import sphere_to_box
from clamp_jax.sim.objects.dishes import BANANA_HALF, DISHES, FOOT_RADIUS, PEN_HALF, add_banana, add_dish, add_mug, add_pen, feet, walls
from clamp_jax.sim.overlap import boxes_overlap
from clamp_jax.sim.tasks.base import HOME_QPOS, Task
from clamp_jax.sim.tasks.placing import NUMBERS, first_apart, free_pose, six_places, standing

Point = tuple[float, float, float]
Boxes = tuple[tuple[Point, Point], ...]  # centre and half size in a container's frame, m

# Published: a pen stands in the cup if it reaches from its floor to above its rim.
IN_CUP: Boxes = (((0.0, 0.0, 0.016), (0.028, 0.028, 0.015)), ((0.0, 0.0, 0.15), (0.06, 0.06, 0.010)))
# In our bowl's frame at the middle of its bottom; the published centre, (-.026, -.068, .053), is in the mesh's frame, which
# stands off the bowl's middle by about (-.022, -.070).
IN_BOWL: Boxes = (((-0.004, 0.002, 0.053), (0.03, 0.03, 0.015)),)
HALVES = {"pen": PEN_HALF, "banana": BANANA_HALF}

NAMES = ("plate", "bowl", "cup", "mug", "pen", "banana")  # in this order in qpos; the first three share a row
HEIGHTS = {"plate": 0.0, "bowl": 0.0, "cup": 0.0, "mug": 0.0, "pen": PEN_HALF[2], "banana": BANANA_HALF[2]}  # m, of the frames
QPOS = {name: 16 + 7 * i for i, name in enumerate(NAMES)}
QVEL = {name: 16 + 6 * i for i, name in enumerate(NAMES)}

# What each thing covers of the table, as discs in its frame: x, y, radius (m).
DISCS = [(name, (0.0, 0.0, DISHES[name].rim)) for name in ("plate", "bowl", "cup", "mug")]
DISCS += [("mug", (0.060, 0.0, 0.012))]
DISCS += [("pen", (0.0, y, 0.012)) for y in np.linspace(-0.085, 0.085, 9)]
DISCS += [("banana", (x, y, 0.032)) for x, y in ((-0.030, -0.065), (0.020, -0.025), (0.020, 0.025), (-0.030, 0.065))]
_CLEARANCE = 0.005  # m


def build(spec: mujoco.MjSpec) -> None:
    """Plate, bowl, cup, mug, pen and banana; qpos after the robot: 7 for each of NAMES."""
    for name in ("plate", "bowl", "cup"):
        add_dish(spec, name)
    add_mug(spec)
    add_pen(spec)
    add_banana(spec)


def reset(key: Key[Array, ""]) -> tuple[Float[Array, " q"], Int[Array, ""]]:
    """Six things in six regions, all turned by one yaw, any; qpos (58,) and variant 0."""
    return first_apart(_draw, _apart, key), jnp.int32(0)


def _draw(key: Key[Array, ""]) -> Float[Array, " q"]:
    numbers = jax.random.uniform(key, (NUMBERS + 1,))
    yaw = jnp.pi * (2 * numbers[NUMBERS] - 1)
    places = six_places(numbers[:NUMBERS])
    things = [standing(place, HEIGHTS[name], yaw) for name, place in zip(NAMES, places, strict=True)]
    return jnp.concatenate([jnp.asarray(HOME_QPOS), *things])


def _apart(qpos: Float[Array, " q"]) -> Bool[Array, ""]:
    owner = np.array([NAMES.index(name) for name, _ in DISCS])
    local = jnp.array([(x, y, 0.0) for _, (x, y, _) in DISCS], qpos.dtype)
    radius = jnp.array([disc[2] for _, disc in DISCS], qpos.dtype)
    frames = qpos[16:].reshape(len(NAMES), 7)[owner]
    centres = jax.vmap(transform)(pose(frames[:, :3], frames[:, 3:]), local)[:, :2]
    first, second = np.triu_indices(len(DISCS), 1)
    other = owner[first] != owner[second]
    first, second = first[other], second[other]
    gap = jnp.sqrt(jnp.sum((centres[first] - centres[second]) ** 2, -1)) - radius[first] - radius[second]
    return jnp.all(gap > _CLEARANCE)


def overlaps(qpos: Float[ArrayLike, " q"], thing: str, container: str, boxes: Boxes) -> Bool[Array, ""]:
    """Whether the oriented box round a thing overlaps all the boxes, upright in the frame of a container."""
    return in_boxes(free_pose(qpos, QPOS[container]), free_pose(qpos, QPOS[thing]), HALVES[thing], boxes)


def in_boxes(world_from_container: Array, world_from_thing: Array, half: Point, boxes: Boxes) -> Bool[Array, ""]:
    """The same of poses; half: of the box round the thing, m."""
    found = []
    for centre, size in boxes:
        world_from_box = compose(world_from_container, pose(jnp.array(centre, jnp.float32), jnp.array([1.0, 0, 0, 0])))
        box_from_thing = compose(invert(world_from_box), world_from_thing)
        found.append(boxes_overlap(box_from_thing, jnp.array(size, jnp.float32), jnp.array(half, jnp.float32)))
    return jnp.all(jnp.stack(found))


def first_from_second(qpos: Float[ArrayLike, " q"], first: str, second: str) -> Float[Array, "4 4"]:
    """Pose of one thing in the frame of another."""
    return compose(invert(free_pose(qpos, QPOS[first])), free_pose(qpos, QPOS[second]))


def plate_to_mug(plate_from_mug: Float[ArrayLike, "4 4"]) -> Float[Array, ""]:
    """Metres between the mug's feet and the plate's walls and floor."""
    centres = transform(plate_from_mug, jnp.asarray(feet(DISHES["mug"]), jnp.float32))
    boxes = [jnp.asarray(part, jnp.float32) for part in walls(DISHES["plate"])]
    one = jax.vmap(sphere_to_box, in_axes=(None, None, 0, 0, 0))
    return jnp.min(jax.vmap(one, in_axes=(0, None, None, None, None))(centres, FOOT_RADIUS, *boxes))


def task(name: str, instruction: str, success: object, named: tuple[str, ...], pair: tuple[str, str] | None = None) -> Task:
    """A task at the laid table; `named` are the objects of the text that come first."""
    others = tuple(thing for thing in NAMES if thing not in named)
    spoken = {"cup": "white cup", "mug": "red mug"}
    return Task(
        name=name,
        objects=tuple((spoken.get(thing, thing), thing) for thing in (*named, *others)),
        instructions=(instruction,),
        horizon_s=30.0,
        build=build,
        reset=reset,
        success=success,
        things=NAMES,
        pair=pair,
        contact_slots=40,
    )
