"""Blocks, a mat to put them on, and a crate too wide to grasp."""

import mujoco

from clamp_jax.sim.objects.parts import collide, free_body, hide, sliding_body
from clamp_jax.sim.robot import BOX, CONTAINER, FINGER, PROP, SPHERE, TABLE, shape

BLOCK_HALF = 0.0225  # m
MAT_HALF = 0.06  # m
CRATE_HALF = (0.045, 0.045, 0.035)  # m
_CORNER = 0.004  # m, radius of the spheres that a block stands on
COLOURS = {"red": (0.80, 0.12, 0.12), "blue": (0.12, 0.25, 0.75), "green": (0.20, 0.55, 0.25)}
COLOURS |= {"yellow": (0.88, 0.72, 0.10), "purple": (0.45, 0.18, 0.55)}  # of no task: distractors


def add_block(spec: mujoco.MjSpec, colour: str) -> None:
    """A cube of 45 mm on a free joint, body "<colour>_block", its frame in the middle; its corners meet table and other blocks."""
    body = free_body(spec, f"{colour}_block", BLOCK_HALF)
    box = shape(body, BOX, (BLOCK_HALF,) * 3, rgb=COLOURS[colour])
    box.mass = 0.05
    collide(box, FINGER, CONTAINER)
    reach = BLOCK_HALF - _CORNER
    for x in (-reach, reach):
        for y in (-reach, reach):
            for z in (-reach, reach):
                collide(hide(shape(body, SPHERE, (_CORNER,), pos=(x, y, z))), TABLE | CONTAINER, PROP)


def add_mat(spec: mujoco.MjSpec) -> None:
    """A square of .12 m that is seen and not touched: body "mat", qpos its x and y in the world."""
    body = sliding_body(spec, "mat", mass=0.2, friction=5.0)
    shape(body, BOX, (MAT_HALF, MAT_HALF, 0.0005), pos=(0, 0, 0.0005), rgb=COLOURS["green"])


def add_crate(spec: mujoco.MjSpec) -> None:
    """A crate of .09 x .09 x .07 m that slides on the table: body "crate", qpos its x and y in the world."""
    body = sliding_body(spec, "crate", mass=0.3, friction=1.5)
    half_x, half_y, half_z = CRATE_HALF
    collide(shape(body, BOX, CRATE_HALF, pos=(0, 0, half_z), rgb=(0.72, 0.52, 0.30)), FINGER, CONTAINER)
    for z in (0.012, 0.058):
        shape(body, BOX, (half_x + 0.001, half_y + 0.001, 0.004), pos=(0, 0, z), rgb=(0.45, 0.30, 0.16))
