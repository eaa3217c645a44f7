"""The data dictionary: every structure that crosses a file, with shape, unit and frame of each field.

Letters: b batch, k physical cameras, v views, h w pixels, t time, a action dim (14), n bodies, g geoms, q qpos, l tokens.
All structures are written for one example; a batched one has the same fields with a leading axis.
SI units, quaternions wxyz, camera axes OpenCV (x right, y down, z forward), pixel centres at +0.5.
The world frame is the public ALOHA simulator's: origin at the table's centre 0.030 m below its top, x to the right arm, z up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # a robot's computer reads the constants of this file without jax
    import jax

ACTION_DIM = 14  # left arm 6, left gripper, right arm 6, right gripper (ALOHA's order)
CHUNK = 50  # future actions the policy predicts: 1 s at 50 Hz (arXiv 2410.13126)
HISTORY = 50  # past commands the action encoder reads (ours: the paper does not give H)
CONTROL_HZ = 50
NOMINAL = "nominal"  # where the id of a cell's calibration is asked for: the simulator's cell, which is as drawn

CAMERAS = ("overhead", "worms_eye", "wrist_left", "wrist_right")  # the four D405 of ALOHA 2, in this order everywhere
VIEWS = ("overhead", "back_right", "front_left", "wrist_left", "wrist_right")  # the paper's five, in this order everywhere

# Where a physical camera is mounted (Calibration.mount).
MOUNT_WORLD, MOUNT_LEFT, MOUNT_RIGHT = 0, 1, 2

# Kinds of joint in a Tree.
JOINT_FIXED, JOINT_HINGE, JOINT_SLIDE, JOINT_FREE = 0, 1, 2, 3


class Camera(NamedTuple):
    """A pinhole or orthographic camera; stacked along a leading axis for several."""

    intrinsics: jax.Array  # (4,) fx, fy, cx, cy; in pixels (pinhole), fx and fy in pixels per metre (orthographic)
    world_from_camera: jax.Array  # (4, 4) rigid, OpenCV axes, metres
    orthographic: jax.Array  # () bool
    distortion: jax.Array | None = None  # (5,) k1, k2, p1, p2, k3 of Brown and Conrady, as OpenCV orders them; None for none


class Calibration(NamedTuple):
    """Where the k physical cameras of a cell are and what they see."""

    intrinsics: jax.Array  # (k, 4) fx, fy, cx, cy in pixels of the images as delivered; pixels may be anisotropic
    parent_from_camera: jax.Array  # (k, 4, 4) world_from_camera, or gripper_from_camera for a wrist camera
    mount: jax.Array  # (k,) int32, MOUNT_*: whose frame parent_from_camera is in; per-frame foreign poses use MOUNT_WORLD
    world_from_base: jax.Array  # (2, 4, 4) left and right arm base (the body `base_link`)


class Tree(NamedTuple):
    """A kinematic tree as a table, body 0 is the world; parents come before children; padding rows are fixed to the world."""

    parent: jax.Array  # (n,) int32
    pos: jax.Array  # (n, 3) m, body in parent at zero joint position
    quat: jax.Array  # (n, 4) wxyz
    joint: jax.Array  # (n,) int32, JOINT_*; at most one joint a body
    axis: jax.Array  # (n, 3) unit, in the body's frame
    anchor: jax.Array  # (n, 3) m, in the body's frame
    qpos_start: jax.Array  # (n,) int32, first qpos of the joint (0 where there is none)


class Capacity(NamedTuple):
    """Static slots a geom table has for each type, in the order in which they stand in the table."""

    plane: int = 1
    sphere: int = 16
    capsule: int = 48
    cylinder: int = 8
    box: int = 64

    @property
    def total(self) -> int:
        return sum(self)


class Geoms(NamedTuple):
    """Primitive geoms that a camera sees, in slots by type (Capacity); an empty slot has body -1."""

    size: jax.Array  # (g, 3) m, as in MuJoCo: plane (half x, half y), sphere (r), capsule, cylinder (r, half length), box (half sizes)
    colour: jax.Array  # (g, 3) linear RGB in [0, 1]
    body: jax.Array  # (g,) int32 row of the Tree
    pos: jax.Array  # (g, 3) m, in the body's frame
    quat: jax.Array  # (g, 4) wxyz


class Surface(NamedTuple):
    """Points on the surfaces of a scene's meshes, evenly spread; an empty slot has body -1."""

    point: jax.Array  # (n, 3) m, in the body's frame
    normal: jax.Array  # (n, 3) unit, in the body's frame
    colour: jax.Array  # (n, 3) RGB in [0, 1], as the texture has it
    radius: jax.Array  # (n,) m, half size of the square that it stands for: about the way to the next point
    body: jax.Array  # (n,) int32 row of the Tree


class SceneState(NamedTuple):
    """The privileged state of a simulated scene: sensors make images of it, no network ever sees it."""

    qpos: jax.Array  # (q,) MuJoCo's layout, robot first (16), padded with 0
    tree: Tree
    geoms: Geoms
    surface: Surface | None = None  # of what is no primitive; None where all is


class Observation(NamedTuple):
    """What a policy may know, of a simulator, a record or a robot alike. It has no place for anything privileged."""

    rgb: jax.Array  # (k, h, w, 3) uint8
    depth_m: jax.Array  # (k, h, w) float32 metres along the camera's axis, 0 = no measurement
    calibration: Calibration
    joints: jax.Array  # (14,) measured: rad; gripper 0 closed, 1 open
    past_actions: jax.Array  # (t=HISTORY, 14) commands as executed, oldest first, the last row is the newest
    past_mask: jax.Array  # (t,) bool, False before the start of the episode


class Frozen(NamedTuple):
    """The beginning of a chunk that is decided already: what the robot executes while this chunk is computed."""

    actions: jax.Array  # (t=CHUNK, 14) rad, gripper 0..1; rows from `steps` on do not matter, but are finite
    steps: jax.Array  # () int32, 0 to CHUNK - 1


class Labels(NamedTuple):
    """What the text encoder and the losses need of an example."""

    tokens: jax.Array  # (l,) int32 of "instruction, objects (x y z), task progress p", padded with 0
    trajectory: jax.Array  # () int32, id of the trajectory over all data sets


class Target(NamedTuple):
    """What the policy is trained to do."""

    actions: jax.Array  # (t=CHUNK, 14) future commands, absolute rad, gripper 0..1; the last one is repeated past the end
    mask: jax.Array  # (t,) bool, False past the end of the episode


class StateExample(NamedTuple):
    """A simulated frame: images are made of `scene` inside the step."""

    scene: SceneState
    calibration: Calibration
    joints: jax.Array
    past_actions: jax.Array
    past_mask: jax.Array
    labels: Labels
    target: Target


class ImageExample(NamedTuple):
    """A recorded frame with its images."""

    observation: Observation
    labels: Labels
    target: Target
    embedded: jax.Array | None = None  # (2, d) what frozen image and action encoders gave of it before; None: they are run


class Batch(NamedTuple):
    """A global batch: a fixed number of simulated and of recorded examples (either may be None), simulated ones first."""

    states: StateExample | None
    images: ImageExample | None
    keys: jax.Array  # (b,) typed PRNG keys, one an example: fold_in(step key, global index)


class TrainState(NamedTuple):
    """Everything that training changes."""

    step: jax.Array  # () int32
    params: Any
    opt_state: Any
    ema: Any  # exponential moving average of params, what is evaluated and exported
