"""Pictures of one demonstration: what the cameras see, the merged cloud, and the views that the image encoder reads."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clamp_jax import observe
from clamp_jax.data import pipeline
from clamp_jax.data.transforms import count_geoms, pad_geoms
from clamp_jax.geometry import camera, kinematics
from clamp_jax.networks import Networks
from clamp_jax.render.views import ViewConfig
from clamp_jax.structs import ACTION_DIM, HISTORY, Capacity, Observation, SceneState
from experiments import pictures

CAMERA_SIZE = (198, 352)  # pixels of the pictures of the cameras, a D405's 16:9
CLOUD_SIZE = (480, 848)
VIEW_WIDTH = 200  # pixels at which a view is shown, about


def draw(data: Path, folder: Path, networks: Networks, *, episode: int = 0, progress: float = 0.55) -> dict[str, Any]:
    """Write cameras.png, cloud.png and views.png of the frame of an episode at a progress in [0, 1].

    Cameras and cloud are drawn larger than the networks take them and without noise; the views are just what they take.
    """
    state, joints, capacity = frame_state(data, episode, progress)
    sharp = observe.clean()._replace(height=CAMERA_SIZE[0], width=CAMERA_SIZE[1], capacity=capacity)
    observation, config, key = sense(state, joints, sharp), networks.views, jax.random.key(0)
    _, valid = jax.jit(functools.partial(observe.cloud, config=config._replace(points=0, voxel_m=0.0)))(observation, key=key)
    pictures.write_png(folder / "cameras.png", camera_picture(observation))
    pictures.write_png(folder / "cloud.png", cloud_picture(observation, np.asarray(valid)))
    seen = sense(state, joints, networks.sensor._replace(capacity=capacity))
    views = jax.jit(functools.partial(observe.render_views, config=config))(seen, key=key)
    pictures.write_png(folder / "views.png", view_picture(np.asarray(views), config))
    return {"camera_size": [networks.sensor.height, networks.sensor.width], "view_size": [config.height, config.width]}


def frame_state(data: Path, episode: int, progress: float) -> tuple[SceneState, np.ndarray, Capacity]:
    """The scene and the joint state (14,) of an episode's tick nearest to a progress, and the slots its geoms stand in."""
    numbers = pipeline.open_dataset(data).episode(episode)
    tick = int(np.argmin(np.abs(numbers.progress - progress)))
    capacity = count_geoms(numbers.geom_types)
    state = SceneState(numbers.qpos[tick], numbers.tree, pad_geoms(numbers.geom_types, numbers.geoms, capacity))
    return jax.tree.map(jnp.asarray, state), numbers.joints[tick], capacity


def sense(state: SceneState, joints: np.ndarray, config: observe.SensorConfig) -> Observation:
    """The observation of a scene at the beginning of an episode."""
    past, mask = jnp.zeros((HISTORY, ACTION_DIM)), jnp.zeros(HISTORY, bool)
    calibration = kinematics.aloha_calibration(config.height, config.width)
    return jax.jit(functools.partial(observe.sense, config=config))(state, calibration, joints, past, mask, key=jax.random.key(0))


def camera_picture(observation: Observation) -> np.ndarray:
    """The cameras side by side, colour above depth."""
    rgb, depth_m = np.asarray(observation.rgb), np.asarray(observation.depth_m)
    shown = (255 * (rgb / 255) ** (1 / 2.2)).astype(np.uint8)  # colours are linear, screens are not
    return pictures.column([pictures.row(list(shown)), pictures.row([pictures.depth_colours(d) for d in depth_m])])


def cloud_picture(observation: Observation, valid: np.ndarray) -> np.ndarray:
    """The merged and cropped cloud in its colours, from a place where no camera is."""
    cameras = jax.jit(kinematics.camera_poses)(observation.calibration, observation.joints)
    points = np.asarray(jax.jit(jax.vmap(camera.unproject))(cameras, observation.depth_m)).reshape(-1, 3)
    colours = (255 * (np.asarray(observation.rgb) / 255) ** (1 / 2.2)).astype(np.uint8).reshape(-1, 3)
    return pictures.paint_cloud(points[valid], colours[valid], pictures.overview_camera(*CLOUD_SIZE), *CLOUD_SIZE)


def view_picture(views: np.ndarray, config: ViewConfig) -> np.ndarray:
    """The views (v, h, w, 4) side by side: depth above world x, y, z as colours."""
    depth = pictures.row([pictures.depth_colours(view[..., 0]) for view in views], gap=1)
    position = pictures.row(list(pictures.position_colours(views, np.array(config.low), np.array(config.high))), gap=1)
    return pictures.enlarge(pictures.column([depth, position], gap=1), max(1, VIEW_WIDTH // views.shape[1]))
