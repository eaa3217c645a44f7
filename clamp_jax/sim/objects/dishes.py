"""Plate, bowl, cup and mug, a pen and a banana: eight-sided dishes of flat walls, so that fingers can hold a rim."""

from typing import NamedTuple

import mujoco
import numpy as np

from clamp_jax.sim.objects.parts import collide, free_body, hide
from clamp_jax.sim.robot import BOX, CAPSULE, CONTAINER, CYLINDER, FINGER, PROP, SPHERE, TABLE, shape

SIDES = 8
FLOOR_HALF = 0.002  # m, half the thickness of a dish's floor
FOOT_RADIUS = 0.004  # m
RING_RADIUS = 0.003  # m, of the edges that meet a rack


class Dish(NamedTuple):
    """A dish whose frame is at the middle of its bottom; extents in m, from outside to outside of two walls twice a radius."""

    rim: float  # radius at the top
    foot: float  # radius at the bottom
    height: float
    mass: float  # kg: the YCB set's for plate, bowl and mug
    rgb: tuple[float, float, float]
    wall: float = 0.003  # half thickness


DISHES = {
    "plate": Dish(0.105, 0.090, 0.025, 0.279, (0.80, 0.30, 0.24)),
    "bowl": Dish(0.122, 0.080, 0.086, 0.147, (0.86, 0.36, 0.30)),
    "cup": Dish(0.045, 0.041, 0.107, 0.100, (0.93, 0.93, 0.90)),
    "mug": Dish(0.047, 0.047, 0.083, 0.118, (0.78, 0.12, 0.12)),
    # at 0.7 of their size, for the rack
    "small_plate": Dish(0.092, 0.088, 0.022, 0.096, (0.80, 0.30, 0.24), 0.007),  # a broad rim, for fingers to hold it level by
    "small_bowl": Dish(0.057, 0.038, 0.040, 0.050, (0.86, 0.36, 0.30)),
}
MUG_HANDLE = (0.065, 0.006)  # m, distance of the handle's bar from the mug's axis, its radius: .118 m over all
PEN_HALF = (0.006, 0.0925, 0.005)  # m, half extents; the pen lies along y
BANANA_HALF, BANANA_RADIUS = (0.056, 0.0905, 0.020), 0.020


class Walls(NamedTuple):
    """The boxes of a dish in its frame: its sides, then its floor."""

    centre: np.ndarray  # (w, 3) m
    rotation: np.ndarray  # (w, 3, 3)
    half: np.ndarray  # (w, 3) m


def walls(dish: Dish) -> Walls:
    """The flat walls, x of a box outward, z up along it, and the square floor within them."""
    lean = np.arctan2(dish.rim - dish.foot, dish.height)
    turn = 2 * np.pi * np.arange(SIDES) / SIDES
    middle = (dish.rim + dish.foot) / 2 - dish.wall / np.cos(lean)
    centre = np.stack([middle * np.cos(turn), middle * np.sin(turn), np.full(SIDES, dish.height / 2)], 1)
    tilt = _about("y", lean)
    width = (0.75 * dish.rim + 0.25 * dish.foot) * np.tan(np.pi / SIDES)
    half = np.tile([dish.wall, width, np.hypot(dish.height, dish.rim - dish.foot) / 2], (SIDES, 1))
    side = (dish.foot - 2 * dish.wall) / np.sqrt(2)
    return Walls(
        np.concatenate([centre, [(0, 0, FLOOR_HALF)]]),
        np.concatenate([np.stack([_about("z", angle) @ tilt for angle in turn]), np.eye(3)[None]]),
        np.concatenate([half, [(side, side, FLOOR_HALF)]]),
    )


def feet(dish: Dish) -> np.ndarray:
    """Centres (8, 3) m of the spheres that a dish stands or lies on, in its frame: four at the bottom, four at the rim."""
    corners = [(x, y) for x in (-1, 1) for y in (-1, 1)]
    levels = ((0.8 * (dish.foot - dish.wall), FOOT_RADIUS), (dish.rim - FOOT_RADIUS, dish.height - FOOT_RADIUS))
    return np.array([(x * reach / np.sqrt(2), y * reach / np.sqrt(2), z) for reach, z in levels for x, y in corners])


def rings(dish: Dish) -> np.ndarray:
    """Ends (16, 2, 3) m of the edges' centre lines round bottom and rim, in the dish's frame."""
    corners = 2 * np.pi * (np.arange(SIDES + 1) + 0.5) / SIDES
    lines = []
    for radius, z in ((dish.foot, RING_RADIUS), (dish.rim, dish.height - RING_RADIUS)):
        reach = (radius - RING_RADIUS) / np.cos(np.pi / SIDES)
        points = np.stack([reach * np.cos(corners), reach * np.sin(corners), np.full(SIDES + 1, z)], 1)
        lines.append(np.stack([points[:-1], points[1:]], 1))
    return np.concatenate(lines)


def _about(axis: str, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]] if axis == "y" else [[c, -s, 0], [s, c, 0], [0, 0, 1]])


def add_dish(spec: mujoco.MjSpec, name: str, *, meets: int = 0, ringed: bool = False) -> mujoco.MjsBody:
    """A dish on a free joint: body `name`. Fingers and what is put in it meet its walls, the table meets its feet.

    meets: what the feet touch besides the table (CONTAINER for a mug that goes on a plate); ringed: its edges meet a rack.
    """
    dish, body = DISHES[name], free_body(spec, name)
    boxes = walls(dish)
    for centre, rotation, half in zip(*boxes, strict=True):
        quat = np.zeros(4)
        mujoco.mju_mat2Quat(quat, rotation.reshape(-1))
        box = shape(body, BOX, tuple(half), pos=centre, quat=quat, rgb=dish.rgb)
        box.mass = dish.mass / len(boxes.half)
        collide(box, FINGER, CONTAINER)
    # The floor is seen as a disc, and no finger reaches it before the table; the tines of a rack do.
    collide(hide(box), CONTAINER if ringed else 0, PROP if ringed else CONTAINER)
    shape(body, CYLINDER, (dish.foot - dish.wall, FLOOR_HALF), pos=(0, 0, FLOOR_HALF), rgb=dish.rgb)
    for centre in feet(dish):
        collide(hide(shape(body, SPHERE, (FOOT_RADIUS,), pos=centre)), TABLE | meets, PROP)
    if ringed:
        for start, stop in rings(dish):
            collide(hide(shape(body, CAPSULE, (RING_RADIUS,), fromto=(*start, *stop))), CONTAINER, PROP)
    return body


def add_mug(spec: mujoco.MjSpec) -> None:
    """The mug, .118 x .094 x .083 m, with a handle at x."""
    body, dish = add_dish(spec, "mug", meets=CONTAINER), DISHES["mug"]
    x, radius = MUG_HANDLE
    bar = shape(body, CAPSULE, (radius,), fromto=(x, 0, 0.020, x, 0, 0.063), rgb=dish.rgb)
    collide(bar, FINGER, CONTAINER)
    for z in (0.020, 0.063):
        shape(body, CAPSULE, (radius,), fromto=(dish.rim, 0, z, x, 0, z), rgb=dish.rgb)


def add_pen(spec: mujoco.MjSpec) -> None:
    """A pen of .012 x .185 x .010 m along y, of two bars side by side so that it does not roll; body "pen".

    Fingers meet a hidden box with upright sides: two round things lying so low would squeeze each other out.
    """
    body, (half_x, half_y, radius) = free_body(spec, "pen", PEN_HALF[2]), PEN_HALF
    for sign in (-1, 1):
        x, y = sign * (half_x - radius), half_y - radius
        bar = shape(body, CAPSULE, (radius,), fromto=(x, -y, 0, x, y, 0), rgb=(0.10, 0.16, 0.42))
        bar.mass = 0.00215
        collide(bar, TABLE | CONTAINER)
    collide(hide(shape(body, BOX, PEN_HALF)), FINGER)


def add_banana(spec: mujoco.MjSpec) -> None:
    """A banana of .112 x .181 x .040 m, bent towards x; body "banana"."""
    body, (half_x, half_y, _), radius = free_body(spec, "banana", BANANA_RADIUS), BANANA_HALF, BANANA_RADIUS
    x, y = half_x - radius, half_y - radius
    points = [(-x, -y, 0), (x, -0.030, 0), (x, 0.030, 0), (-x, y, 0)]
    for start, stop in zip(points, points[1:], strict=False):
        piece = shape(body, CAPSULE, (radius,), fromto=(*start, *stop), rgb=(0.90, 0.78, 0.20))
        piece.mass = 0.022
        collide(piece, TABLE | FINGER | CONTAINER)
