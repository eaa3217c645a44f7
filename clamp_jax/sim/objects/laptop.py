"""A laptop whose lid closes."""

import mujoco

from clamp_jax.sim.objects.parts import collide, sliding_body
from clamp_jax.sim.robot import BOX, FINGER, PROP, shape

HALF = (0.1565, 0.1105)  # m, half extents seen from above
BASE_HEIGHT, LID_HALF = 0.024, 0.006  # m
HINGE_Y = 0.1025  # m, along the depth
LID_LENGTH = 0.205  # m, from the hinge to the edge
OPEN_RAD = -1.83  # 0 is closed


def add_laptop(spec: mujoco.MjSpec) -> None:
    """A laptop of .313 x .221 x .04 m, hinge at y: bodies "laptop" and "lid"; qpos: x, y, yaw in the world, then the hinge."""
    body = sliding_body(spec, "laptop", mass=1.5, friction=8.0, turns=1.5)
    half_x, half_y = HALF
    shape(body, BOX, (half_x, half_y, BASE_HEIGHT / 2), pos=(0, 0, BASE_HEIGHT / 2), rgb=(0.55, 0.56, 0.58))
    shape(body, BOX, (0.135, 0.050, 0.001), pos=(0, 0.035, BASE_HEIGHT), rgb=(0.10, 0.10, 0.11))
    shape(body, BOX, (0.045, 0.028, 0.001), pos=(0, -0.062, BASE_HEIGHT), rgb=(0.35, 0.36, 0.38))
    lid = body.add_body(name="lid", pos=(0, HINGE_Y, BASE_HEIGHT + LID_HALF))
    hinge = lid.add_joint(name="lid", type=mujoco.mjtJoint.mjJNT_HINGE, axis=(1, 0, 0), range=(OPEN_RAD - 0.1, 0.0))
    # Stiff enough to stand where it is left, and to close without a bang.
    hinge.damping, hinge.frictionloss, hinge.armature = (0.5, 0, 0), 0.45, 0.05  # armature: else dry friction lets it creep
    panel = shape(lid, BOX, (half_x, LID_LENGTH / 2, LID_HALF), pos=(0, -LID_LENGTH / 2, 0), rgb=(0.50, 0.51, 0.53))
    panel.mass = 0.15
    collide(panel, FINGER, PROP)
    shape(lid, BOX, (0.142, 0.088, 0.001), pos=(0, -LID_LENGTH / 2, -LID_HALF), rgb=(0.06, 0.08, 0.16))
