"""Where fingers are, against MuJoCo."""

import jax
import mujoco
import numpy as np

from clamp_jax.geometry.aloha import FINGER_LIMITS, SIDES
from clamp_jax.sim import scene
from clamp_jax.sim.experts import ik
from clamp_jax.sim.fingers import finger_segments


def test_fingers_are_where_mujoco_has_their_capsules():
    model = scene.build("marker_remove_lid").model
    data, rng, segments = mujoco.MjData(model), np.random.default_rng(0), jax.jit(finger_segments)
    pads = [model.geom(f"{side}/{finger}_finger_pad").id for side in SIDES for finger in ("left", "right")]
    for _ in range(10):
        joints, opening = rng.uniform(*ik.LIMITS.T, (2, 6)), rng.uniform(*FINGER_LIMITS, 2)
        data.qpos[:16] = np.concatenate([joints, opening[:, None], opening[:, None]], axis=1).ravel()
        mujoco.mj_kinematics(model, data)
        axis, half = data.geom_xmat[pads].reshape(4, 3, 3)[:, :, 2], model.geom_size[pads, 1, None]
        expected = np.stack([data.geom_xpos[pads] - half * axis, data.geom_xpos[pads] + half * axis], axis=1)
        found = np.asarray(segments(data.qpos.astype(np.float32)))
        # the published model turns the fingers' frame by 1.57, not by half of pi
        np.testing.assert_allclose(_ordered(found), _ordered(expected), atol=1.2e-4)


def _ordered(segments: np.ndarray) -> np.ndarray:
    """The ends of each segment (n, 2, 3) in the order of their x: which comes first is nothing to a distance."""
    order = np.argsort(segments[:, :, 0], axis=1)
    return np.take_along_axis(segments, order[:, :, None], axis=1)
