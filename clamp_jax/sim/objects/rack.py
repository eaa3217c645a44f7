"""A drying rack with slots for dishes that stand on edge."""

import mujoco
import numpy as np

from clamp_jax.sim.objects.parts import collide, sliding_body
from clamp_jax.sim.robot import CAPSULE, CONTAINER, shape

HALF, HEIGHT = (0.1725, 0.224), 0.126  # m
BAR_RADIUS, TINE_RADIUS = 0.004, 0.003
BAR_X, BAR_Z = 0.035, 0.024  # m: the two bars that dishes stand on run along y
TINE_TOP, PITCH, TINES = 0.090, 0.050, 9  # m: height of the tines, from one to the next along y, how many on each bar
SLOTS_Y = tuple(PITCH * (i - (TINES - 2) / 2) for i in range(TINES - 1))  # m, middles of the slots
_WIRE = (0.72, 0.74, 0.76)


def bars() -> tuple[np.ndarray, np.ndarray]:
    """Ends (n, 2, 3) m and radii (n,) of what dishes touch, in the rack's frame: two bars, then the tines on them."""
    ends, y = [], HALF[1] - 0.01
    for x in (-BAR_X, BAR_X):
        ends.append([(x, -y, BAR_Z), (x, y, BAR_Z)])
    for x in (-BAR_X, BAR_X):
        for i in range(TINES):
            along = PITCH * (i - (TINES - 1) / 2)
            ends.append([(x, along, BAR_Z), (x, along, TINE_TOP)])
    return np.array(ends), np.array([BAR_RADIUS] * 2 + [TINE_RADIUS] * (2 * TINES))


def add_rack(spec: mujoco.MjSpec) -> None:
    """A rack of .345 x .448 x .126 m: body "rack", qpos its x, y and yaw in the world; 2.3 kg hold it where it stands."""
    body = sliding_body(spec, "rack", mass=2.3, friction=12.0, turns=2.0)
    for (start, stop), radius in zip(*bars(), strict=True):
        collide(shape(body, CAPSULE, (radius,), fromto=(*start, *stop), rgb=_WIRE), 0, CONTAINER)
    half_x, half_y = HALF[0] - BAR_RADIUS, HALF[1] - BAR_RADIUS
    corners = [(-half_x, -half_y), (half_x, -half_y), (half_x, half_y), (-half_x, half_y)]
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        shape(body, CAPSULE, (BAR_RADIUS,), fromto=(ax, ay, BAR_RADIUS, bx, by, BAR_RADIUS), rgb=_WIRE)
        shape(body, CAPSULE, (BAR_RADIUS,), fromto=(ax, ay, BAR_RADIUS, ax, ay, HEIGHT - BAR_RADIUS), rgb=_WIRE)
    for sign in (-1, 1):
        shape(
            body,
            CAPSULE,
            (BAR_RADIUS,),
            fromto=(sign * half_x, -half_y, HEIGHT - BAR_RADIUS, sign * half_x, half_y, HEIGHT - BAR_RADIUS),
            rgb=_WIRE,
        )
