"""Where the virtual cameras stand: three fixed and two that ride on the grippers, or orthographic faces of a cube."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float

from clamp_jax.geometry.camera import orthographic, pinhole
from clamp_jax.geometry.transforms import compose, look_at
from clamp_jax.structs import VIEWS, Camera

Point = tuple[float, float, float]


class View(NamedTuple):
    """A virtual camera: looks from `eye` to `target` with `up` upwards in its image, m in the world or in the gripper's frame."""

    eye: Point
    target: Point
    up: Point
    half_extent: float  # half of the image at distance 1 m (pinhole: tangent of half the field of view), or m (orthographic)


class ViewConfig(NamedTuple):
    """The virtual cameras and the crop; static, hashable, all of Python numbers."""

    names: tuple[str, ...]
    height: int
    width: int
    fixed: tuple[View, ...]
    wrist: View | None  # in each gripper's frame; None for no wrist views
    low: Point  # m, crop in the world
    high: Point
    near_m: float = 0.01
    is_orthographic: bool = False
    points: int = 0  # size to which the cropped cloud is subsampled; 0 keeps all
    voxel_m: float = 0.0  # size of the cubes in which one point is kept, before any subsampling; 0 keeps all
    radius_px: int = 0  # half size of a point's square in the image (the paper's is a single pixel)
    radius_m: float = 0.0  # instead: half size in metres, seen in perspective


# The crop keeps the table, both arms and part of the frame; floor and walls stay out (the paper's, read off its figure).
CROP_LOW, CROP_HIGH = (-0.70, -0.50, 0.0), (0.70, 0.50, 0.80)


def default_views(size: int) -> ViewConfig:
    """The paper's five perspective views at `size` x `size` pixels; their poses are ours, the paper gives none."""
    fixed = (
        View((0.0, 0.0, 2.0), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0), 0.37),
        View((0.8, 0.8, 1.0), (0.1, 0.0, 0.1), (0.0, 0.0, 1.0), 0.52),
        View((-0.8, -0.8, 1.0), (-0.1, 0.0, 0.1), (0.0, 0.0, 1.0), 0.52),
    )
    # From behind and above a gripper, along its x, to between the fingertips.
    wrist = View((-0.05, 0.0, 0.12), (0.16, 0.0, -0.01), (0.0, 0.0, 1.0), 0.7)
    return ViewConfig(VIEWS, size, size, fixed, wrist, CROP_LOW, CROP_HIGH)


def orthographic_views(size: int) -> ViewConfig:
    """Five orthographic views on the faces of a cube round the table: top, front, back, left, right (RVT, arXiv 2306.14896)."""
    centre, half = (0.0, 0.0, 0.35), 0.70
    ways = {"top": (0, 0, 1), "front": (0, -1, 0), "back": (0, 1, 0), "left": (-1, 0, 0), "right": (1, 0, 0)}
    fixed = tuple(
        View(
            eye=tuple(c + half * w for c, w in zip(centre, way, strict=True)),
            target=centre,
            up=(0.0, 1.0, 0.0) if name == "top" else (0.0, 0.0, 1.0),
            half_extent=half,
        )
        for name, way in ways.items()
    )
    return ViewConfig(tuple(ways), size, size, fixed, None, CROP_LOW, CROP_HIGH, is_orthographic=True)


def view_cameras(config: ViewConfig, world_from_gripper: Float[ArrayLike, "2 4 4"]) -> Camera:
    """The virtual cameras in the world, stacked (v,): the fixed ones, then the wrist view of the left and the right gripper."""
    poses = [look_at(*map(np.float32, view[:3])) for view in config.fixed]
    extents = [view.half_extent for view in config.fixed]
    if config.wrist is not None:
        gripper_from_view = look_at(*map(np.float32, config.wrist[:3]))
        poses += [compose(jnp.asarray(world_from_gripper)[side], gripper_from_view) for side in range(2)]
        extents += [config.wrist.half_extent] * 2
    make = orthographic if config.is_orthographic else pinhole
    return make(_intrinsics(jnp.array(extents, jnp.float32), config.height, config.width), jnp.stack(poses))


def _intrinsics(half_extent: Array, height: int, width: int) -> Array:
    """Square pixels, the shorter side of the image spans the extent, (v, 4)."""
    focal = min(height, width) / 2 / half_extent
    centre = jnp.broadcast_to(jnp.array([width / 2, height / 2], jnp.float32), (*half_extent.shape, 2))
    return jnp.concatenate([focal[:, None], focal[:, None], centre], axis=1)
