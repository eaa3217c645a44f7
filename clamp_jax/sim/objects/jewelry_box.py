"""The jewelry box: three drawers with knobs."""

import mujoco

from clamp_jax.sim.objects.parts import collide, free_body, hide
from clamp_jax.sim.robot import BOX, CAPSULE, FINGER, SPHERE, TABLE, shape

_WOOD, _DARK_WOOD, _FRONT, _KNOB = (0.45, 0.27, 0.14), (0.32, 0.18, 0.09), (0.72, 0.55, 0.36), (0.90, 0.88, 0.80)

# Jewelry box: frame at the middle of the bottom, drawers open along -y.
DRAWERS = ("top", "middle", "bottom")
DRAWER_HEIGHTS = {"top": 0.068, "middle": 0.040, "bottom": 0.012}  # m, middle of a drawer above the box's frame
DRAWER_TRAVEL = 0.1  # m
BOX_HALF = (0.120, 0.069, 0.04175)  # m, the carcass
KNOB_RADIUS, KNOB_Y = 0.005, -0.080  # m, middle of a knob in its drawer's frame
FRONT_HALF, FRONT_Y = (0.111, 0.0022, 0.0105), -0.0712  # m


def add_jewelry_box(spec: mujoco.MjSpec) -> None:
    """A box with three drawers on a free joint: bodies "jewelry_box" and "<top|middle|bottom>_drawer".

    .240 x .143 x .084 m over all; qpos: 7 of the box, then the slides of top, middle and bottom (0 closed to 0.1 m).
    """
    body = free_body(spec, "jewelry_box")
    half_x, half_y, half_z = BOX_HALF
    for side in (-1, 1):
        shape(body, BOX, (0.004, half_y, half_z), pos=(side * (half_x - 0.004), 0, half_z), rgb=_WOOD)
        shape(body, BOX, (half_x - 0.008, half_y, 0.001), pos=(0, 0, half_z + side * (half_z - 0.001)), rgb=_DARK_WOOD)
    shape(body, BOX, (half_x - 0.008, 0.003, half_z - 0.002), pos=(0, half_y - 0.003, half_z), rgb=_DARK_WOOD)
    solid = shape(body, BOX, BOX_HALF, pos=(0, 0, half_z), name="jewelry_box")
    solid.mass = 0.4072
    collide(hide(solid), TABLE | FINGER)
    for name in DRAWERS:
        _add_drawer(body, name)


def _add_drawer(box: mujoco.MjsBody, name: str) -> None:
    """One drawer with its knob on a stem: a tray for looks; front and knob can be touched."""
    body = box.add_body(name=f"{name}_drawer", pos=(0, 0, DRAWER_HEIGHTS[name]))
    slide = body.add_joint(name=f"{name}_drawer", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=(0, -1, 0), range=(0, DRAWER_TRAVEL))
    slide.damping = (5.0, 0, 0)
    front = shape(body, BOX, FRONT_HALF, pos=(0, FRONT_Y, 0), rgb=_FRONT, name=f"{name}_front")
    front.mass = 0.0187
    collide(front, FINGER)
    knob = shape(body, SPHERE, (KNOB_RADIUS,), pos=(0, KNOB_Y, 0), rgb=_KNOB, name=f"{name}_knob")
    knob.mass = 0.001
    collide(knob, FINGER)
    shape(body, CAPSULE, (0.002,), fromto=(0, FRONT_Y, 0, 0, KNOB_Y, 0), rgb=_KNOB)
    shape(body, BOX, (0.100, 0.057, 0.001), pos=(0, -0.012, -0.0075), rgb=_WOOD)
    shape(body, BOX, (0.100, 0.002, 0.0085), pos=(0, 0.047, 0), rgb=_WOOD)
    for side in (-1, 1):
        shape(body, BOX, (0.003, 0.057, 0.0085), pos=(side * 0.100, -0.012, 0), rgb=_WOOD)
