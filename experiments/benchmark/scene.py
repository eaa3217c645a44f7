"""Makes the work of the render benchmark: clouds of a simulated scene in image order, and the five views."""

import jax
import jax.numpy as jnp
import numpy as np

from clamp_jax import observe
from clamp_jax.data.transforms import count_geoms, pad_geoms
from clamp_jax.geometry import kinematics
from clamp_jax.render.views import default_views, view_cameras
from clamp_jax.sim import rollout, tasks
from clamp_jax.sim import scene as scenes
from clamp_jax.structs import SceneState
from experiments.benchmark.work import SIZE, Work

TASK = "can_opener_in_caddy"


def clouds(points: int, batch: int) -> np.ndarray:
    """(b, n, 3) points of the four cameras in image order, about `points` each (whole images); each sample moved a little."""
    size = round((points / 4) ** 0.5)
    observation = _observation(size, 0)
    cloud, _ = jax.jit(lambda o: observe.cloud(o, default_views(SIZE), jax.random.key(0)))(observation)
    shifts = np.random.default_rng(0).uniform(-0.02, 0.02, (batch, 1, 3)).astype(np.float32)
    return np.asarray(cloud)[None] + shifts


def make(points: int, batch: int, radius_px: int) -> Work:
    """The five views of clouds."""
    grippers = kinematics.gripper_poses(rollout.HOME_ACTION, kinematics.aloha_calibration(SIZE, SIZE).world_from_base)
    cameras = jax.jit(lambda grippers: view_cameras(default_views(SIZE), grippers))(grippers)
    return Work(clouds(points, batch), np.asarray(cameras.intrinsics), np.asarray(cameras.world_from_camera), radius_px)


def state(seed: int = 0) -> tuple[SceneState, np.ndarray]:
    """The scene's state with its own capacity, and qpos."""
    built, start = scenes.build(TASK), rollout.initial_states(tasks.get(TASK), 1, seed)
    qpos = np.asarray(start.qpos[0], np.float32)
    capacity = count_geoms(built.geom_types)
    return SceneState(qpos, built.tree, pad_geoms(built.geom_types, built.geoms, capacity)), qpos


def _observation(size: int, seed: int):
    found, _ = state(seed)
    config = observe.clean(size)._replace(capacity=count_geoms(scenes.build(TASK).geom_types))
    past = jnp.zeros((50, 14)), jnp.zeros(50, bool)
    calibration = kinematics.aloha_calibration(size, size)
    sense = jax.jit(lambda found: observe.sense(found, calibration, rollout.HOME_ACTION, *past, config=config, key=jax.random.key(0)))
    return sense(jax.tree.map(jnp.asarray, found))
