"""Forward kinematics of a tree given as a table, and of ALOHA 2: grippers and wrist cameras. No simulator needed."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float

from clamp_jax.geometry import aloha
from clamp_jax.geometry.camera import pinhole, world_from_camera_opengl
from clamp_jax.geometry.transforms import compose, from_rotation, pose, quat_to_matrix, rotation_about
from clamp_jax.structs import CAMERAS, JOINT_FIXED, JOINT_FREE, JOINT_HINGE, JOINT_SLIDE, MOUNT_WORLD, Calibration, Camera, Tree

_ROW = {link.name: i + 1 for i, link in enumerate(aloha.ARM)}  # rows of arm_tree; row 0 is the base's frame of reference


@functools.cache
def arm_tree() -> Tree:
    """One arm as a tree of numpy arrays: row 0 is its base's frame, rows 1.. are aloha.ARM; qpos is 6 joints and two fingers."""
    links, joints = aloha.ARM, [link.joint for link in aloha.ARM]
    order = (*aloha.ARM_JOINTS, "left_finger", "right_finger")
    kind = [JOINT_FIXED if j is None else JOINT_SLIDE if j.endswith("finger") else JOINT_HINGE for j in joints]
    quat = np.array([(1, 0, 0, 0), *(link.quat for link in links)], np.float64)
    return Tree(
        parent=np.array([0, *(link.parent + 1 for link in links)], np.int32),
        pos=np.array([(0, 0, 0), *(link.pos for link in links)], np.float32),
        quat=(quat / np.linalg.norm(quat, axis=1, keepdims=True)).astype(np.float32),
        joint=np.array([JOINT_FIXED, *kind], np.int32),
        axis=np.array([(0, 0, 1), *(link.axis for link in links)], np.float32),
        anchor=np.zeros((len(links) + 1, 3), np.float32),
        qpos_start=np.array([0, *(0 if j is None else order.index(j) for j in joints)], np.int32),
    )


def _parent_from_body(tree: Tree, qpos: Array) -> Array:
    """Pose of each body in its parent, (n, 4, 4), with its joint applied as MuJoCo does.

    A hinge turns about its anchor, a slide moves along the axis in the body's frame, and a free joint's qpos (position,
    quaternion wxyz) replaces the body's own pose; its parent is the world.
    """
    # The last rows read past the joint's own entries, or past the end: a joint that has fewer does not look at them.
    entries = jnp.minimum(tree.qpos_start[:, None] + jnp.arange(7)[None, :], qpos.shape[0] - 1)
    values, kind = qpos[entries], tree.joint[:, None]
    rest = quat_to_matrix(tree.quat)
    angle = jnp.where(kind == JOINT_HINGE, values[:, :1], 0.0)[:, 0]
    turn = rotation_about(tree.axis, angle)
    anchor = tree.anchor[..., None]
    moved = (anchor - compose(turn, anchor))[..., 0] + jnp.where(kind == JOINT_SLIDE, values[:, :1], 0.0) * tree.axis
    pos = tree.pos + compose(rest, moved[..., None])[..., 0]
    free = kind == JOINT_FREE
    rotation = jnp.where(free[..., None], quat_to_matrix(values[:, 3:]), compose(rest, turn))
    return from_rotation(rotation, jnp.where(free, values[:, :3], pos))


def body_poses(tree: Tree, qpos: Float[ArrayLike, " q"]) -> Float[Array, "n 4 4"]:
    """world_from_body of every row of a tree, which may be traced data: trees of different tasks stand in one vmapped batch.

    Source: ours, pointer jumping: each round a body's pose is referred to its grandparent, so ceil(log2 n) rounds of one
    product over all bodies replace a scan over them.
    """
    tree, qpos = jax.tree.map(jnp.asarray, tree), jnp.asarray(qpos)
    # The world is its own parent, so its row must hold the identity however often it is applied.
    ancestor_from_body = _parent_from_body(tree, qpos).at[0].set(jnp.eye(4, dtype=qpos.dtype))
    ancestor = tree.parent
    for _ in range(max(1, math.ceil(math.log2(tree.parent.shape[0])))):
        ancestor_from_body = compose(ancestor_from_body[ancestor], ancestor_from_body)
        ancestor = ancestor[ancestor]
    return ancestor_from_body


def qpos_from_joints(joints: Float[ArrayLike, "14"]) -> Float[Array, "16"]:
    """The robot's part of qpos of a joint state (rad, gripper 0 closed to 1 open): both fingers at the gripper's opening."""
    sides = jnp.asarray(joints).reshape(2, 7)
    finger = aloha.GRIPPER_CLOSED_M + (aloha.GRIPPER_OPEN_M - aloha.GRIPPER_CLOSED_M) * sides[:, 6:]
    return jnp.concatenate([sides[:, :6], finger, finger], axis=1).reshape(16)


def joints_from_qpos(qpos: Float[ArrayLike, " q"]) -> Float[Array, "14"]:
    """The joint state (rad, gripper 0 closed to 1 open, not clipped) of a scene's qpos, robot first; the left finger counts."""
    sides = jnp.asarray(qpos)[:16].reshape(2, 8)
    gripper = (sides[:, 6:7] - aloha.GRIPPER_CLOSED_M) / (aloha.GRIPPER_OPEN_M - aloha.GRIPPER_CLOSED_M)
    return jnp.concatenate([sides[:, :6], gripper], axis=1).reshape(14)


def gripper_poses(joints: Float[ArrayLike, "14"], world_from_base: Float[ArrayLike, "2 4 4"]) -> Float[Array, "2 4 4"]:
    """world_from_gripper_link of the left and the right arm, of a joint state (rad)."""
    qpos = qpos_from_joints(joints).reshape(2, 8)
    base_from_body = jax.vmap(body_poses, in_axes=(None, 0))(arm_tree(), qpos)
    return compose(world_from_base, base_from_body[:, _ROW["gripper_link"]])


@functools.cache
def aloha_calibration(height: int, width: int) -> Calibration:
    """The simulated cell's four D405 at `height` x `width` pixels, as float32 numpy arrays; pixels are square only at 16:9."""
    with jax.ensure_compile_time_eval():
        mounts = [aloha.CAMERA_MOUNTS[name] for name in CAMERAS]
        link = aloha.ARM[_ROW["gripper_base"] - 1]
        gripper_from_base = pose(np.float32(link.pos), np.float32(link.quat))
        poses = [world_from_camera_opengl(pose(np.float32(m.pos), np.float32(m.quat_gl))) for m in mounts]
        poses = [p if m.mount == MOUNT_WORLD else compose(gripper_from_base, p) for m, p in zip(mounts, poses, strict=True)]
        bases = [pose(*map(np.float32, aloha.BASES[side])) for side in aloha.SIDES]
        intrinsics = aloha.d405_intrinsics(height, width).astype(np.float32)
        return Calibration(
            intrinsics=np.tile(intrinsics, (len(mounts), 1)),
            parent_from_camera=np.stack([np.asarray(p) for p in poses]),
            mount=np.array([m.mount for m in mounts], np.int32),
            world_from_base=np.stack([np.asarray(b) for b in bases]),
        )


def camera_poses(calibration: Calibration, joints: Float[ArrayLike, "14"]) -> Camera:
    """The physical cameras in the world, stacked (k,), with the wrist cameras where the joint state (rad) puts them."""
    grippers = gripper_poses(joints, calibration.world_from_base)
    frames = jnp.concatenate([jnp.eye(4, dtype=grippers.dtype)[None], grippers])  # in the order of MOUNT_*
    mounted = frames[jnp.asarray(calibration.mount)]
    return pinhole(calibration.intrinsics, compose(mounted, calibration.parent_from_camera))
