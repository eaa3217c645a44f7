"""The servos of a ViperX 300 as ALOHA uses it, and how its gripper's horn moves the fingers. Numpy is not needed.

Source: the vendor's motor configuration of the vx300s; ids 3 and 5 follow 2 and 4 by their secondary id, turned the other way.
"""

import math
from typing import NamedTuple

from clamp_jax.geometry import aloha

HORN_M, LINK_M = 0.022, 0.036  # of the gripper: radius of the horn, length of the link to a finger's slide
SHUT_M = 0.01844  # slide at which the fingers touch: ALOHA's puppet gripper closed, where our finger position is 0


class ServoSetup(NamedTuple):
    """What a servo has to be set to."""

    joint: str
    id: int
    reversed: bool
    low: int  # ticks
    high: int
    follows: int | None = None  # id of the servo whose commands it takes too


SERVOS = (
    ServoSetup("waist", 1, False, 0, 4095),
    ServoSetup("shoulder", 2, True, 841, 2867),
    ServoSetup("shoulder", 3, False, 841, 2867, follows=2),
    ServoSetup("elbow", 4, True, 898, 3094),
    ServoSetup("elbow", 5, False, 898, 3094, follows=4),
    ServoSetup("forearm_roll", 6, False, 0, 4095),
    ServoSetup("wrist_angle", 7, True, 830, 3504),
    ServoSetup("wrist_rotate", 8, False, 0, 4095),
    ServoSetup("gripper", 9, False, 0, 4095),
)
LEADERS = tuple(servo for servo in SERVOS if servo.follows is None)  # in the order of an arm's action
VELOCITY_LIMIT = 131  # 3.14 rad/s


def slide_m(horn_rad: float) -> float:
    """Where a finger's slide is when the horn stands so: a slider-crank."""
    return HORN_M * math.sin(horn_rad) + math.sqrt(LINK_M**2 - (HORN_M * math.cos(horn_rad)) ** 2)


def horn_rad(slide: float) -> float:
    """The inverse, between the crank's two dead centres (LINK_M -+ HORN_M)."""
    slide = min(max(slide, LINK_M - HORN_M), LINK_M + HORN_M)
    return math.asin(min(max((HORN_M**2 + slide**2 - LINK_M**2) / (2 * HORN_M * slide), -1.0), 1.0))


def gripper_from_horn(rad: float) -> float:
    """0 closed, 1 open, linear in the finger's position and not clipped."""
    finger_m = slide_m(rad) - SHUT_M
    return (finger_m - aloha.GRIPPER_CLOSED_M) / (aloha.GRIPPER_OPEN_M - aloha.GRIPPER_CLOSED_M)


def horn_from_gripper(gripper: float) -> float:
    """The inverse, as far as the fingers go: shut, and the horn stretched."""
    finger_m = aloha.GRIPPER_CLOSED_M + gripper * (aloha.GRIPPER_OPEN_M - aloha.GRIPPER_CLOSED_M)
    return horn_rad(min(max(finger_m + SHUT_M, SHUT_M), LINK_M + HORN_M - 1e-5))
