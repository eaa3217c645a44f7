"""What a policy sees: a simulated state to an observation, an observation to views, and the checks at the door."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, PRNGKeyArray

from clamp_jax import sensors
from clamp_jax.geometry import kinematics, pointcloud
from clamp_jax.geometry.camera import measured, unproject
from clamp_jax.geometry.transforms import compose, is_rigid, pose
from clamp_jax.render.raycast import raycast
from clamp_jax.render.splat import splat_views
from clamp_jax.render.surface import paint
from clamp_jax.render.views import ViewConfig, view_cameras
from clamp_jax.sensors import SIGHT_M, SensorConfig, clean, noisy, preset  # noqa: F401 - names of what `sense` takes
from clamp_jax.structs import ACTION_DIM, CAMERAS, HISTORY, Calibration, Observation, SceneState


def sense(
    scene: SceneState,
    calibration: Calibration,
    joints: Float[ArrayLike, "14"],
    past_actions: Float[ArrayLike, "t 14"],
    past_mask: Bool[ArrayLike, " t"],
    *,
    config: SensorConfig,
    key: PRNGKeyArray,
    episode_key: PRNGKeyArray | None = None,
) -> Observation:
    """The observation of a simulated state: images at the true cameras, everything else as the robot would know it.

    The true cameras stand where the scene's own joints and the calibration put them, moved by the jitter; the
    observation carries the nominal calibration and the measured `joints`, as a robot does. Where images are late, `scene` is
    that of the images and `joints` are those of another moment: wrist clouds are then a little off while an arm moves, as on a
    robot. `episode_key` draws what stays as it is over an episode, calibration error and looks; without it `key` draws that too.
    """
    keys = sensors.draw_keys(key, episode_key)
    cameras = kinematics.camera_poses(calibration, kinematics.joints_from_qpos(scene.qpos))
    cameras = sensors.jitter_cameras(cameras, config, keys.camera)
    geoms, light = jax.tree.map(jnp.asarray, scene.geoms), sensors.jitter_light(config, keys.light)
    rgb, depth_m, _ = raycast(
        geom_poses(scene),
        geoms._replace(colour=sensors.jitter_colours(geoms.colour, config, keys.colour)),
        cameras,
        height=config.height,
        width=config.width,
        capacity=config.capacity,
        far=SIGHT_M,
        light=light,
    )
    if scene.surface is not None:
        world_from_body = kinematics.body_poses(scene.tree, scene.qpos)
        surface = scene.surface._replace(colour=sensors.jitter_surface(scene.surface, len(world_from_body), config, keys.colour))
        rgb, depth_m = paint(surface, world_from_body, cameras, rgb, depth_m, light=light)
    depth_m = sensors.measure(depth_m, cameras.intrinsics[:, 0], config, keys)
    rgb = jnp.round(rgb * 255).astype(jnp.uint8)
    joints, past_actions, past_mask = jnp.asarray(joints), jnp.asarray(past_actions), jnp.asarray(past_mask)
    return Observation(rgb, depth_m, jax.tree.map(jnp.asarray, calibration), joints, past_actions, past_mask)


def geom_poses(scene: SceneState) -> Float[Array, "g 4 4"]:
    """world_from_geom of every slot of a scene's geom table; empty slots stand anywhere."""
    world_from_body = kinematics.body_poses(scene.tree, scene.qpos)
    body = jnp.maximum(jnp.asarray(scene.geoms.body), 0)
    return compose(world_from_body[body], pose(scene.geoms.pos, scene.geoms.quat))


def cloud(observation: Observation, config: ViewConfig, key: PRNGKeyArray) -> tuple[Float[Array, "n 3"], Bool[Array, " n"]]:
    """The merged, cropped and, if the config says so, subsampled cloud of an observation: world points (m) and which count."""
    cameras = kinematics.camera_poses(observation.calibration, observation.joints)
    depth_m = jnp.asarray(observation.depth_m)
    points, valid = pointcloud.merge(jax.vmap(unproject)(cameras, depth_m), measured(depth_m))
    valid = pointcloud.crop(points, valid, np.float32(config.low), np.float32(config.high))
    if config.voxel_m:
        valid = pointcloud.thin(points, valid, config.voxel_m, config.low, config.high, jax.random.fold_in(key, 1))
    if config.points:
        points, valid = pointcloud.subsample(points, valid, config.points, key)
    return points, valid


def render_views(observation: Observation, config: ViewConfig, key: PRNGKeyArray) -> Float[Array, "v h w 4"]:
    """The virtual views (depth, x, y, z; m; empty pixels 0) of an observation's point cloud.

    `key` draws the subsample alone, and is not used where the config asks for none.
    """
    points, valid = cloud(observation, config, key)
    cameras = view_cameras(config, kinematics.gripper_poses(observation.joints, observation.calibration.world_from_base))
    static = {"height": config.height, "width": config.width, "near": config.near_m}
    return splat_views(points, valid, cameras, radius_px=config.radius_px, radius_m=config.radius_m, **static)


def check_observation(observation: Observation, cameras: Sequence[str] = CAMERAS) -> None:
    """Refuses a malformed observation of one moment, on the host, in numpy.

    `cameras` are the names in the order of the images. An absent camera is all zeros in depth, not left out.

    Raises:
        ValueError: a camera is missing, a shape, type or value is wrong, extrinsics are no rigid transform.
    """
    _check_images(observation, tuple(cameras))
    _check_calibration(observation.calibration, tuple(cameras))
    _check_finite("joints", observation.joints, (ACTION_DIM,))
    _check_finite("past_actions", observation.past_actions, (HISTORY, ACTION_DIM))
    mask = np.asarray(observation.past_mask)
    if mask.shape != (HISTORY,) or mask.dtype != bool:
        raise ValueError(f"past_mask is {mask.dtype}{list(mask.shape)}, expected bool[{HISTORY}]: one flag for each past action")


def _check_images(observation: Observation, cameras: tuple[str, ...]) -> None:
    rgb, depth_m = np.asarray(observation.rgb), np.asarray(observation.depth_m)
    for thing, images, dims in (("rgb", rgb, 4), ("depth_m", depth_m, 3)):
        if images.ndim != dims:
            raise ValueError(f"{thing} has shape {images.shape}, expected (camera, height, width{', 3' * (dims == 4)}) of one moment")
        if len(images) < len(cameras):
            missing = ", ".join(repr(name) for name in cameras[len(images) :])
            raise ValueError(
                f"camera {missing} is missing: {thing} holds {len(images)} images, expected {len(cameras)} ({', '.join(cameras)}); "
                "give an absent camera depth 0"
            )
        if len(images) > len(cameras):
            raise ValueError(f"{thing} holds {len(images)} images, expected {len(cameras)} ({', '.join(cameras)})")
    if rgb.dtype != np.uint8 or rgb.shape[-1] != 3:
        raise ValueError(f"rgb is {rgb.dtype}{list(rgb.shape)}, expected uint8 with 3 channels (red, green, blue) last")
    if rgb.shape[:3] != depth_m.shape:
        raise ValueError(f"rgb is {rgb.shape[1:3]} pixels and depth_m {depth_m.shape[1:]}, expected one size: align depth to colour")
    _check_depth(depth_m, cameras)


def _check_depth(depth_m: np.ndarray, cameras: tuple[str, ...]) -> None:
    for name, image in zip(cameras, depth_m, strict=True):
        if not np.issubdtype(image.dtype, np.floating):
            raise ValueError(
                f"depth of camera '{name}' is {image.dtype}, expected float32 metres; convert it by geometry.camera.depth_from_raw "
                "with the camera's depth unit (a D405's is 0.0001)"
            )
        bad = ~np.isfinite(image)
        if bad.any():
            raise ValueError(f"depth of camera '{name}' is not finite at {bad.sum()} pixels, expected metres and 0 for no measurement")
        if image.min() < 0:
            raise ValueError(f"depth of camera '{name}' falls to {image.min():.4g} m, expected metres from 0 up, 0 for no measurement")


def _check_calibration(calibration: Calibration, cameras: tuple[str, ...]) -> None:
    k = len(cameras)
    expected = {"intrinsics": (k, 4), "parent_from_camera": (k, 4, 4), "mount": (k,), "world_from_base": (2, 4, 4)}
    for thing, shape in expected.items():
        found = np.shape(getattr(calibration, thing))
        if found != shape:
            raise ValueError(f"calibration.{thing} has shape {found}, expected {shape} for the cameras {', '.join(cameras)}")
    for i, name in enumerate(cameras):
        _check_rigid(f"parent_from_camera of camera '{name}'", calibration.parent_from_camera[i])
        intrinsics, mount = np.asarray(calibration.intrinsics)[i], np.asarray(calibration.mount)[i]
        if not (np.isfinite(intrinsics).all() and (intrinsics[:2] > 0).all()):
            raise ValueError(f"intrinsics of camera '{name}' are {intrinsics.tolist()}, expected finite fx, fy > 0 and cx, cy in pixels")
        if mount not in (0, 1, 2):
            raise ValueError(f"mount of camera '{name}' is {mount}, expected 0 (world), 1 (left gripper) or 2 (right gripper)")
    for side, matrix in zip(("left", "right"), np.asarray(calibration.world_from_base), strict=True):
        _check_rigid(f"world_from_base of the {side} arm", matrix)


def _check_rigid(thing: str, matrix: ArrayLike) -> None:
    if not is_rigid(np.asarray(matrix)):
        raise ValueError(
            f"{thing} is no rigid transform: {np.asarray(matrix).tolist()}, expected a rotation and a translation in metres with last "
            "row 0 0 0 1; check the units and that the rotation is orthonormal and right-handed"
        )


def _check_finite(thing: str, values: ArrayLike, shape: tuple[int, ...]) -> None:
    values = np.asarray(values)
    if values.shape != shape or not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"{thing} is {values.dtype}{list(values.shape)}, expected float32{list(shape)}")
    if not np.isfinite(values).all():
        where = np.argwhere(~np.isfinite(values))[0].tolist()
        raise ValueError(f"{thing} is not finite, first at {where}, expected radians, and gripper 0 closed to 1 open")
