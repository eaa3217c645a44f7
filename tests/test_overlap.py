"""Oriented boxes overlap where a point lies in both."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linprog
from scipy.spatial.transform import Rotation

from clamp_jax.sim.overlap import boxes_overlap


def _overlap_by_search(pose: np.ndarray, half_a: np.ndarray, half_b: np.ndarray) -> bool:
    """Whether some point lies in both boxes, by a linear program over points."""
    rotation, offset = pose[:3, :3], pose[:3, 3]
    sides = np.concatenate([rotation.T, -rotation.T])
    limits = np.concatenate([half_b + rotation.T @ offset, half_b - rotation.T @ offset])
    return linprog(np.zeros(3), A_ub=sides, b_ub=limits, bounds=list(zip(-half_a, half_a, strict=True))).status == 0


def _random_pair(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.random(random_state=rng).as_matrix()
    pose[:3, 3] = rng.uniform(-0.12, 0.12, 3)
    return pose, *rng.uniform(0.005, 0.08, (2, 3))


def test_boxes_overlap_agrees_with_a_search_for_a_common_point():
    rng = np.random.default_rng(3)
    pairs = [_random_pair(rng) for _ in range(150)]
    expected = np.array([_overlap_by_search(*pair) for pair in pairs])
    found = np.asarray(jax.jit(jax.vmap(boxes_overlap))(*(jnp.stack(part) for part in zip(*pairs, strict=True))))
    assert 30 < expected.sum() < 120
    np.testing.assert_array_equal(found, expected)


def test_boxes_overlap_does_not_depend_on_which_box_is_first():
    rng = np.random.default_rng(4)
    poses, a, b = (np.stack(part) for part in zip(*(_random_pair(rng) for _ in range(150)), strict=True))
    overlap = jax.jit(jax.vmap(boxes_overlap))
    np.testing.assert_array_equal(overlap(poses, a, b), overlap(np.linalg.inv(poses), b, a))
