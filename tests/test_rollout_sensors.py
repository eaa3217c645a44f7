"""What a policy sees over a rollout: late images and joints, and a calibration error that stays as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic
from replay import Replay

from clamp_jax.data.transforms import count_geoms, pad_geoms
from clamp_jax.geometry.kinematics import aloha_calibration, joints_from_qpos
from clamp_jax.sensors import SensorConfig
from clamp_jax.sim import rollout
from clamp_jax.structs import CHUNK, HISTORY, SceneState

SIZE, STEPS, REPLAN, SEED = 8, 40, 10, 4
EPISODES = [synthetic.episode(seed) for seed in range(2)]
MOVING = np.stack([episode.qpos[: STEPS + 1] for episode in EPISODES])
CAPACITY = count_geoms(EPISODES[0].geom_types)
NOISY = SensorConfig(SIZE, SIZE, CAPACITY, depth_noise_m=0.004, colour_jitter=0.2, camera_jitter_m=0.01, camera_jitter_rad=0.05)
LATE = NOISY._replace(image_delay_s=0.3, joint_delay_s=0.1)


def make_sense(config):
    episode = EPISODES[0]
    scene = SceneState(episode.qpos[0], episode.tree, pad_geoms(episode.geom_types, episode.geoms, CAPACITY))
    return rollout.make_sense(jax.tree.map(jnp.asarray, scene), aloha_calibration(SIZE, SIZE), config)


@pytest.fixture(scope="module")
def late():
    return make_sense(LATE)


def watch(states, sense):
    """Observations and keys of every replan."""
    seen = []

    def policy(observation, keys):
        seen.append((jax.tree.map(np.asarray, observation), keys))
        return np.zeros((len(states), CHUNK, 14), np.float32)

    starts = rollout.Starts(states[:, 0], np.zeros(len(states), np.int32), SEED)
    rollout.rollout(Replay(states), policy, starts, sense, steps=STEPS, replan=REPLAN)
    return seen


def test_observations_are_those_of_the_states_of_their_moments(late):
    seen, prompt = watch(MOVING, late), make_sense(NOISY)
    assert len(seen) == STEPS // REPLAN
    for number, (observation, keys) in enumerate(seen):
        now = REPLAN * number
        trials = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(jax.random.key(SEED), i), 0))(jnp.arange(2))
        past = np.zeros((2, HISTORY, 14), np.float32), np.zeros((2, HISTORY), bool)
        expected = prompt(MOVING[:, max(now - 15, 0), None], *past, keys, trials)
        np.testing.assert_array_equal(observation.depth_m, expected.depth_m)
        np.testing.assert_array_equal(observation.rgb, expected.rgb)
        joints = jax.vmap(joints_from_qpos)(MOVING[:, max(now - 5, 0)])
        np.testing.assert_allclose(observation.joints, joints, atol=1e-6)
        assert observation.past_mask.sum() == 2 * min(now, HISTORY), "commands are known at once"
    assert (seen[0][0].rgb == seen[1][0].rgb).all() and (seen[1][0].rgb != seen[3][0].rgb).any()


def test_the_calibration_error_and_the_looks_last_for_a_trial_and_the_noise_for_a_moment(late):
    still = np.repeat(np.repeat(MOVING[:1, :1], 2, axis=0), STEPS + 1, axis=1)  # two trials of one state
    seen = [observation for observation, _ in watch(still, late)]
    for observation in seen[1:]:
        np.testing.assert_array_equal(observation.rgb, seen[0].rgb)
        np.testing.assert_array_equal(observation.depth_m > 0, seen[0].depth_m > 0)
        assert (observation.depth_m != seen[0].depth_m)[seen[0].depth_m > 0].mean() > 0.9
    assert (seen[0].rgb[0] != seen[0].rgb[1]).mean() > 0.3, "another trial has another error"
    for trial in range(2):
        np.testing.assert_array_equal(seen[0].calibration.parent_from_camera[trial], aloha_calibration(SIZE, SIZE).parent_from_camera)


def test_bad_delays_are_refused():
    with pytest.raises(ValueError, match="joint_delay_s is 0.01 s"):
        make_sense(NOISY._replace(joint_delay_s=0.01))
