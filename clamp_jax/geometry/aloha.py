"""ALOHA 2 in numbers: the arms' kinematic chain, joint limits, gripper map and the four cameras. Numpy only.

Source: the published model of the cell (google-deepmind/aloha_sim, Apache-2.0); the two arms differ in the pose of
their base alone. Everything that needs the robot (simulator, sensors, artifact, safety) reads it here.
"""

from typing import NamedTuple

import numpy as np

from clamp_jax.structs import MOUNT_LEFT, MOUNT_RIGHT, MOUNT_WORLD


class Link(NamedTuple):
    """One body of an arm, relative to its parent link, with at most one joint at its origin."""

    name: str
    parent: int  # index into ARM; -1 is the base's frame of reference, the world
    pos: tuple[float, float, float]  # m
    quat: tuple[float, float, float, float]  # wxyz, normalised when read
    joint: str | None  # name of the joint, None for a rigid link
    axis: tuple[float, float, float]  # unit axis; the fingers' slides move along it


def _euler_xyz(x: float, y: float, z: float) -> tuple[float, float, float, float]:
    """Quaternion wxyz of intrinsic rotations about x, then y, then z (MuJoCo's default `euler`), rad."""
    (cx, cy, cz), (sx, sy, sz) = np.cos([x / 2, y / 2, z / 2]), np.sin([x / 2, y / 2, z / 2])
    return (
        float(cx * cy * cz - sx * sy * sz),
        float(sx * cy * cz + cx * sy * sz),
        float(cx * sy * cz - sx * cy * sz),
        float(cx * cy * sz + sx * sy * cz),
    )


_X, _Y, _Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
_UNIT = (1.0, 0.0, 0.0, 0.0)

# The base's own pose is BASES[side]; every other link is the same for both arms.
ARM: tuple[Link, ...] = (
    Link("base_link", -1, (0.0, 0.0, 0.0), _UNIT, None, _Z),
    Link("shoulder_link", 0, (0.0, 0.0, 0.079), _UNIT, "waist", _Z),
    Link("upper_arm_link", 1, (0.0, 0.0, 0.04805), _UNIT, "shoulder", _Y),
    Link("upper_forearm_link", 2, (0.05955, 0.0, 0.3), _UNIT, "elbow", _Y),
    Link("lower_forearm_link", 3, (0.2, 0.0, 0.0), _UNIT, "forearm_roll", _X),
    Link("wrist_link", 4, (0.1, 0.0, 0.0), _UNIT, "wrist_angle", _Y),
    Link("gripper_link", 5, (0.069744, 0.0, 0.0), _UNIT, "wrist_rotate", _X),
    Link("gripper_base", 6, (0.035, 0.0, 0.0), _euler_xyz(0.0, 1.57, -1.57), None, _Z),
    Link("left_finger_link", 7, (0.0191, -0.0141637, 0.0211727), (1.0, -1.0, -1.0, 1.0), "left_finger", (0.0, 0.0, -1.0)),
    Link("right_finger_link", 7, (-0.0191, -0.0141637, 0.0211727), (1.0, 1.0, 1.0, 1.0), "right_finger", (0.0, 0.0, -1.0)),
)
ARM_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")  # order of the action
SIDES = ("left", "right")
BASES = {"left": ((-0.469, -0.019, 0.02), (1.0, 0.0, 0.0, 0.0)), "right": ((0.469, -0.019, 0.02), (0.0, 0.0, 0.0, 1.0))}
GRIPPER_SITE = (0.15, 0.0, 0.0)  # m, in gripper_link: between the fingertips; the fingers close along its y

# rad; the waist's command is held to +-pi/2 upstream, its joint is not
JOINT_LIMITS = np.array(
    [[-3.14158, 3.14158], [-1.85005, 1.25664], [-1.76278, 1.6057], [-3.14158, 3.14158], [-1.8675, 2.23402], [-3.14158, 3.14158]]
)
FINGER_LIMITS = (0.0, 0.041)  # m
GRIPPER_CLOSED_M, GRIPPER_OPEN_M = 0.002, 0.037  # finger position at gripper 0 and 1, one linear map, not clipped
HOME = np.array([0.0, -0.959, 1.182, 0.0, -0.274, 0.0, 0.0082, 0.0082])  # qpos of one arm: 6 joints, two fingers
HOME_COMMAND = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.0])  # action of one arm: 6 joints, gripper 0..1

# Working range of each action and joint state, mapped to [-1, 1] (ours: the joint limits, narrowed where demonstrations
# never go: waist to its command range, rolls to +-pi/1.5); one table at both stages and in the artifact.
_ARM_RANGE = np.array([[-1.5708, 1.5708], [-1.85, 1.25], [-1.76, 1.6], [-2.1, 2.1], [-1.87, 2.23], [-2.1, 2.1], [0.0, 1.0]])
WORKING_RANGE = np.concatenate([_ARM_RANGE, _ARM_RANGE])  # (14, 2) low, high


class CameraMount(NamedTuple):
    """A D405 of the cell; the quaternion turns OpenGL axes (x right, y up, z backward) into the parent's."""

    mount: int  # MOUNT_*
    pos: tuple[float, float, float]  # m; in the world, or in gripper_base
    quat_gl: tuple[float, float, float, float]  # wxyz


_WRIST = ((-0.011, -0.0814748, -0.0095955), _euler_xyz(2.70525955359, 0.0, 0.0))
CAMERA_MOUNTS = {
    "overhead": CameraMount(MOUNT_WORLD, (0.0, -0.303794, 1.02524), (0.976332, 0.216277, 0.0, 0.0)),
    "worms_eye": CameraMount(MOUNT_WORLD, (0.0, -0.377167, 0.062), (0.672659, 0.739953, 0.0, 0.0)),
    "wrist_left": CameraMount(MOUNT_LEFT, *_WRIST),
    "wrist_right": CameraMount(MOUNT_RIGHT, *_WRIST),
}
D405_FOCAL_M, D405_SENSOR_M, D405_PIXELS = 1.93e-3, (3.896e-3, 2.140e-3), (1280, 720)  # width, height

TABLE_HALF_SIZE = (0.61, 0.381)  # m
TABLE_TOP_Z = 0.030  # m


def d405_intrinsics(height: int, width: int) -> np.ndarray:
    """fx, fy, cx, cy of a D405 frame scaled to (height, width) pixels, (4,) float64.

    Pixels are square only at 16:9: MuJoCo renders the whole sensor into any viewport, so each axis scales by itself.
    """
    fx = D405_FOCAL_M / D405_SENSOR_M[0] * width
    fy = D405_FOCAL_M / D405_SENSOR_M[1] * height
    return np.array([fx, fy, width / 2, height / 2])
