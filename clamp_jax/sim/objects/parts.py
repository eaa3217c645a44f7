"""What objects are put together from."""

import mujoco
import numpy as np

from clamp_jax.geometry.aloha import TABLE_TOP_Z
from clamp_jax.sim.robot import HIDDEN, PROP


def collide(geom: mujoco.MjsGeom, touches: int, group: int = PROP) -> mujoco.MjsGeom:
    """Let a geom of a group touch the named groups (TABLE, FINGER, PROP, CONTAINER)."""
    geom.contype, geom.conaffinity = group, touches
    return geom


def hide(geom: mujoco.MjsGeom) -> mujoco.MjsGeom:
    """Keep a geom from the cameras."""
    geom.group = HIDDEN
    return geom


def free_body(spec: mujoco.MjSpec, name: str, height_m: float = 0.0) -> mujoco.MjsBody:
    """A body on a free joint of its name; its frame stands `height_m` over the table."""
    body = spec.worldbody.add_body(name=name, pos=(0, 0, TABLE_TOP_Z + height_m))
    body.add_freejoint(name=name)
    return body


def sliding_body(spec: mujoco.MjSpec, name: str, mass: float, friction: float, turns: float | None = None) -> mujoco.MjsBody:
    """A body that slides on the table along x and y, held by dry friction (N), and turns about z against `turns` (N m) if given.

    Ours: it saves MJX a heavy thing's contacts with the table; it does not tip. qpos: x, y and yaw, in the world.
    """
    joints = [("x", mujoco.mjtJoint.mjJNT_SLIDE, (1, 0, 0), friction), ("y", mujoco.mjtJoint.mjJNT_SLIDE, (0, 1, 0), friction)]
    joints += [("yaw", mujoco.mjtJoint.mjJNT_HINGE, (0, 0, 1), turns)] if turns is not None else []
    body = spec.worldbody
    for i, (way, kind, axis, loss) in enumerate(joints):
        last = i == len(joints) - 1
        body = body.add_body(name=name if last else f"{name}_{way}", pos=(0, 0, 0 if i else TABLE_TOP_Z))
        body.explicitinertial, body.mass, body.inertia = True, mass if last else 0.05, np.full(3, 0.002)
        joint = body.add_joint(name=f"{name}_{way}_slide", type=kind, axis=axis)
        joint.damping, joint.frictionloss = (5.0, 0, 0), loss
    return body
