"""ALOHA 2 of primitives: two ViperX arms on a table with four D405 cameras, added to a mujoco.MjSpec.

Kinematics, limits and cameras are those of geometry/aloha.py. Masses, inertias, gains, damping and force limits are stated
from the published model (google-deepmind/aloha_sim, aloha_pbr.xml, Apache-2.0). Shapes are ours: boxes, capsules and
cylinders of the arms' proportions for the cameras, and one capsule a finger for contact.
"""

from typing import NamedTuple

import mujoco
import numpy as np
from jaxtyping import ArrayLike, Float

from clamp_jax.geometry import aloha
from clamp_jax.structs import MOUNT_LEFT, MOUNT_RIGHT, MOUNT_WORLD

# Contact masks: who touches whom. MJX allocates every pair that the masks allow, so links of the arms touch nothing.
TABLE, FINGER, PROP, CONTAINER = 1, 2, 4, 8
VISIBLE, HIDDEN = 1, 3  # geom groups; MuJoCo's renderer shows groups 0 to 2

BOX, CAPSULE, CYLINDER, SPHERE, PLANE = (
    mujoco.mjtGeom.mjGEOM_BOX,
    mujoco.mjtGeom.mjGEOM_CAPSULE,
    mujoco.mjtGeom.mjGEOM_CYLINDER,
    mujoco.mjtGeom.mjGEOM_SPHERE,
    mujoco.mjtGeom.mjGEOM_PLANE,
)

_BLACK, _STEEL, _GREY, _CAMERA = (0.09, 0.09, 0.10), (0.55, 0.56, 0.58), (0.23, 0.23, 0.25), (0.78, 0.79, 0.80)
_TABLE_COLOUR = (0.44, 0.36, 0.28)


class Inertia(NamedTuple):
    """Mass properties of a link: kg, centre of mass (m), principal axes (wxyz), principal moments (kg m2)."""

    mass: float
    com: tuple[float, float, float]
    quat: tuple[float, float, float, float]
    moments: tuple[float, float, float]


class Drive(NamedTuple):
    """A joint's dynamics and its position servo: N m / rad or N / m, N m s / rad or N s / m, kg m2 or kg, N m or N."""

    kp: float
    damping: float
    armature: float
    frictionloss: float
    force: float
    kv: float = 0.0


INERTIAS = {
    "base_link": Inertia(
        0.969034, (-0.0534774, -0.000562575, 0.0205961), (-0.00292324, 0.712517, 0.00480387, 0.701633), (0.0071633, 0.00602451, 0.00169819)
    ),
    "shoulder_link": Inertia(
        0.798614, (0.000259233, -3.3552e-06, 0.0116129), (-0.476119, 0.476083, 0.52279, 0.522826), (0.00120156, 0.00113744, 0.0009388)
    ),
    "upper_arm_link": Inertia(0.792592, (0.0206949, 4e-10, 0.226459), (0, 0.0728458, 0, 0.997343), (0.00911338, 0.008925, 0.000759317)),
    "upper_forearm_link": Inertia(
        0.322228, (0.105723, 0, 0), (-0.000621631, 0.704724, 0.0105292, 0.709403), (0.00144107, 0.00134228, 0.000152047)
    ),
    "lower_forearm_link": Inertia(
        0.414823, (0.0513477, 0.00680462, 0), (-0.702604, -0.0796724, -0.702604, 0.0796724), (0.0005911, 0.000546493, 0.000155707)
    ),
    "wrist_link": Inertia(
        0.115395, (0.046743, -7.6652e-06, 0.010565), (-0.00100191, 0.544586, 0.0026583, 0.8387), (5.45707e-05, 4.63101e-05, 4.32692e-05)
    ),
    "gripper_link": Inertia(
        0.251652, (0.0395662, -2.56311e-07, 0.00400649), (0.62033, 0.619916, -0.339682, 0.339869), (0.000689546, 0.000650316, 0.000468142)
    ),
    "gripper_base": Inertia(
        0.42158, (0.000182154, -0.0341589, -0.0106026), (0.435286, 0.557074, -0.551539, 0.442718), (0.00110438, 0.000790537, 0.000469727)
    ),
    "left_finger_link": Inertia(
        0.0862937, (0.0143478, -0.0284791, 0.0122897), (0.535486, 0.458766, -0.450407, 0.547651), (5.86848e-05, 4.46887e-05, 1.8397e-05)
    ),
    "right_finger_link": Inertia(
        0.0862932, (0.0143711, 0.0284792, 0.0121421), (0.461317, 0.537615, -0.545478, 0.447894), (5.86828e-05, 4.46887e-05, 1.83949e-05)
    ),
}
DRIVES = {
    "waist": Drive(43.0, 5.76, 0.0, 0.0, 35.0),
    "shoulder": Drive(265.0, 20.0, 0.395, 2.0, 144.0),
    "elbow": Drive(227.0, 18.49, 0.383, 1.15, 59.0),
    "forearm_roll": Drive(78.0, 6.78, 0.14, 0.0, 22.0),
    "wrist_angle": Drive(37.0, 6.28, 0.008, 0.0, 35.0),
    "wrist_rotate": Drive(10.4, 1.2, 0.0, 0.0, 35.0),
    "finger": Drive(2000.0, 40.0, 0.243, 0.0, 35.0, kv=124.0),
}

# A finger's contact capsule, in gripper_link: along x from base to tip, centre line at the height of the gripper site.
FINGER_RADIUS, FINGER_SPAN = 0.007, (0.088, 0.139)  # m; the tip ends 4 mm behind the site, the middle is 34 mm behind it
FINGERTIPS_MEET = 0.0079  # m, finger joint position at which the published fingertips touch
# Rubber, whatever it touches (priority 1): with less, two round fingers creep off a knob or a handle within a second.
FINGER_FRICTION = (1.5, 0.01, 0.0001)  # sliding; torsional (m), which holds a tool that hangs from two points; rolling


def add_robot(spec: mujoco.MjSpec) -> None:
    """Add table, arms, servos and cameras to an empty spec.

    Frames and names are the published model's ("left/gripper_link", "left/waist"); the robot's qpos is 16 numbers (left 6
    joints, left/left_finger, left/right_finger, then right), its ctrl 14 (ALOHA's action order, finger target in m).
    """
    _add_table(spec)
    for side in aloha.SIDES:
        _add_arm(spec, side)
        _add_actuators(spec, side)
    _add_cameras(spec)


def control(action: Float[ArrayLike, "*n 14"]):
    """Servo targets (..., 14) of actions (..., 14): arm joints in rad as they are, gripper 0..1 to the finger's position in m.

    Works on numpy and jax arrays alike. MuJoCo clamps targets to the servo's range.
    """
    return action * _CONTROL_SCALE + _CONTROL_OFFSET


def gripper_columns() -> np.ndarray:
    """Which of the 14 actions are grippers, (14,) bool."""
    return np.arange(14) % 7 == 6


_OPENING = aloha.GRIPPER_OPEN_M - aloha.GRIPPER_CLOSED_M
_CONTROL_SCALE = np.where(gripper_columns(), _OPENING, 1.0).astype(np.float32)
_CONTROL_OFFSET = np.where(gripper_columns(), aloha.GRIPPER_CLOSED_M, 0.0).astype(np.float32)


def shape(body: mujoco.MjsBody, kind: mujoco.mjtGeom, size: tuple, **where: object) -> mujoco.MjsGeom:
    """A massless geom that cameras see and nothing touches; `where` holds pos, quat, fromto, rgb and name."""
    rgb = where.pop("rgb", _BLACK)
    padded = (*size, *([0.0] * (3 - len(size))))
    return body.add_geom(type=kind, size=padded, rgba=(*rgb, 1.0), contype=0, conaffinity=0, group=VISIBLE, mass=0.0, **where)


def _add_table(spec: mujoco.MjSpec) -> None:
    half_x, half_y = aloha.TABLE_HALF_SIZE
    table = shape(spec.worldbody, PLANE, (half_x, half_y, 0.05), pos=(0, 0, aloha.TABLE_TOP_Z), rgb=_TABLE_COLOUR, name="table")
    table.contype, table.conaffinity = TABLE, 0


def _add_arm(spec: mujoco.MjSpec, side: str) -> None:
    """Bodies, joints, inertias and shapes of one arm, its fingers coupled."""
    bodies = []
    for index, link in enumerate(aloha.ARM):
        parent = spec.worldbody if link.parent < 0 else bodies[link.parent]
        pos, quat = aloha.BASES[side] if index == 0 else (link.pos, link.quat)
        body = parent.add_body(name=f"{side}/{link.name}", pos=pos, quat=quat)
        _set_inertia(body, INERTIAS[link.name])
        if link.joint:
            _add_joint(body, side, link)
        bodies.append(body)
    _add_shapes(dict(zip((link.name for link in aloha.ARM), bodies, strict=True)), side)
    fingers = (f"{side}/left_finger", f"{side}/right_finger")
    spec.add_equality(type=mujoco.mjtEq.mjEQ_JOINT, objtype=mujoco.mjtObj.mjOBJ_JOINT, name1=fingers[0], name2=fingers[1], data=_SAME)
    # the fingers of a gripper meet each other, without friction: nothing is between them
    spec.add_pair(geomname1=f"{fingers[0]}_pad", geomname2=f"{fingers[1]}_pad", condim=1)


_SAME = np.array([0.0, 1.0, *([0.0] * 10)])  # coefficients of the polynomial q1 = q2


def _set_inertia(body: mujoco.MjsBody, inertia: Inertia) -> None:
    body.explicitinertial = True
    body.mass, body.ipos, body.iquat, body.inertia = inertia


def _add_joint(body: mujoco.MjsBody, side: str, link: aloha.Link) -> None:
    finger = link.joint.endswith("finger")
    drive = DRIVES["finger" if finger else link.joint]
    body.add_joint(
        name=f"{side}/{link.joint}",
        type=mujoco.mjtJoint.mjJNT_SLIDE if finger else mujoco.mjtJoint.mjJNT_HINGE,
        axis=link.axis,
        range=aloha.FINGER_LIMITS if finger else aloha.JOINT_LIMITS[aloha.ARM_JOINTS.index(link.joint)],
        damping=(drive.damping, 0, 0),
        armature=drive.armature,
        frictionloss=drive.frictionloss,
        actfrcrange=(-drive.force, drive.force),
    )


def _add_actuators(spec: mujoco.MjSpec, side: str) -> None:
    """Seven position servos in the order of the action; the gripper's drives the left finger, the right one follows."""
    for index, joint in enumerate((*aloha.ARM_JOINTS, "left_finger")):
        finger = joint == "left_finger"
        drive = DRIVES["finger" if finger else joint]
        actuator = spec.add_actuator(name=f"{side}/{'gripper' if finger else joint}", target=f"{side}/{joint}")
        actuator.trntype = mujoco.mjtTrn.mjTRN_JOINT
        actuator.set_to_position(kp=drive.kp, kv=drive.kv)
        actuator.ctrlrange = (aloha.GRIPPER_CLOSED_M, aloha.GRIPPER_OPEN_M) if finger else aloha.JOINT_LIMITS[index]


def _add_cameras(spec: mujoco.MjSpec) -> None:
    frames = {MOUNT_WORLD: "world", MOUNT_LEFT: "left/gripper_base", MOUNT_RIGHT: "right/gripper_base"}
    for name, mount in aloha.CAMERA_MOUNTS.items():
        spec.body(frames[mount.mount]).add_camera(
            name=name,
            pos=mount.pos,
            quat=mount.quat_gl,
            resolution=aloha.D405_PIXELS,
            sensor_size=aloha.D405_SENSOR_M,
            focal_length=(aloha.D405_FOCAL_M, aloha.D405_FOCAL_M),
        )


def _add_shapes(bodies: dict[str, mujoco.MjsBody], side: str) -> None:
    """What an arm looks like; sizes follow the extents of the published meshes."""
    base, shoulder, upper = bodies["base_link"], bodies["shoulder_link"], bodies["upper_arm_link"]
    shape(base, BOX, (0.120, 0.075, 0.010), pos=(-0.070, 0, 0.010))
    shape(base, BOX, (0.060, 0.050, 0.028), pos=(-0.060, 0, 0.045), rgb=_GREY)
    shape(base, CYLINDER, (0.060, 0.036), pos=(0, 0, 0.040))
    shape(shoulder, CYLINDER, (0.058, 0.016), pos=(0, 0, 0.014), rgb=_GREY)
    shape(shoulder, BOX, (0.030, 0.046, 0.022), pos=(0, 0, 0.042))
    shape(upper, BOX, (0.022, 0.030, 0.140), pos=(0.004, 0, 0.150), rgb=_GREY)
    shape(upper, BOX, (0.044, 0.046, 0.022), pos=(0.028, 0, 0.298))
    _add_forearm(bodies)
    _add_gripper(bodies["gripper_link"], bodies["gripper_base"], side)
    for finger, sign in (("left_finger", -1.0), ("right_finger", 1.0)):
        _add_finger(bodies[f"{finger}_link"], f"{side}/{finger}", sign)


def _add_forearm(bodies: dict[str, mujoco.MjsBody]) -> None:
    upper, lower, wrist = bodies["upper_forearm_link"], bodies["lower_forearm_link"], bodies["wrist_link"]
    shape(upper, BOX, (0.024, 0.050, 0.019), pos=(0.020, 0, 0), rgb=_GREY)
    shape(upper, CAPSULE, (0.019,), fromto=(0.040, 0, 0, 0.185, 0, 0))
    shape(lower, CAPSULE, (0.023,), fromto=(0.015, 0, 0, 0.080, 0, 0), rgb=_GREY)
    shape(lower, BOX, (0.030, 0.022, 0.018), pos=(0.055, 0.020, 0))
    shape(wrist, BOX, (0.035, 0.026, 0.022), pos=(0.032, 0, 0.004))


def _add_gripper(link: mujoco.MjsBody, base: mujoco.MjsBody, side: str) -> None:
    """Servo, finger rail, camera post and the D405, whose lens is outside of its housing so that it sees out."""
    shape(link, BOX, (0.026, 0.034, 0.028), pos=(0.022, 0, 0.002), rgb=_GREY)
    shape(link, BOX, (0.010, 0.075, 0.014), pos=(0.045, 0, 0.002))
    shape(link, BOX, (0.005, 0.018, 0.028), pos=(0.000, 0, 0.056), rgb=_GREY)
    mount = aloha.CAMERA_MOUNTS[f"wrist_{side}"]
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, np.array(mount.quat_gl))
    # the camera's lens is off the housing's middle by 11 mm along its x and looks along its -z
    centre = np.array(mount.pos) + rotation.reshape(3, 3) @ np.array([0.011, 0.0, 0.0145])
    shape(base, BOX, (0.021, 0.021, 0.0115), pos=centre, quat=mount.quat_gl, rgb=_CAMERA)


def _add_finger(body: mujoco.MjsBody, name: str, sign: float) -> None:
    """A finger's bracket (looks) and its capsule (looks and contact), given in the frame of the finger link.

    The link's z points inward, its -y (left finger) or y (right finger) to the fingertip; x is height, the other way round.
    """
    origin_x, height, inner = 0.05623, 0.01417, 0.0191 + FINGERTIPS_MEET  # m: link origin in gripper_link, fingertip surface
    shape(body, BOX, (0.020, 0.016, 0.010), pos=(height, sign * (0.074 - origin_x), 0.0125))
    start, stop = (sign * (x - origin_x) for x in FINGER_SPAN)
    depth = inner - FINGER_RADIUS
    pad = shape(body, CAPSULE, (FINGER_RADIUS,), fromto=(height, start, depth, height, stop, depth), rgb=_STEEL, name=f"{name}_pad")
    pad.contype, pad.conaffinity = FINGER, TABLE | PROP
    pad.condim, pad.friction, pad.priority = 4, FINGER_FRICTION, 1
    pad.solref, pad.solimp = (0.01, 1.0), (0.98, 0.995, 0.001, 0.5, 2.0)
