"""Distances between shapes, against a search."""

import jax
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from clamp_jax.sim.distance import between_segments, sphere_to_box


def _by_search(one: np.ndarray, two: np.ndarray) -> float:
    """Least distance of two segments, by a bounded search from several starts."""
    apart = lambda st: float(np.sum((one[0] + st[0] * (one[1] - one[0]) - two[0] - st[1] * (two[1] - two[0])) ** 2))  # noqa: E731
    found = [
        minimize(apart, start, bounds=[(0, 1)] * 2, options={"ftol": 1e-16, "gtol": 1e-12}).fun for start in ((0, 0), (1, 1), (0.5, 0.5))
    ]
    return np.sqrt(min(found))


def test_segments_are_as_far_apart_as_a_search_finds():
    rng = np.random.default_rng(0)
    pairs = rng.uniform(-0.1, 0.1, (60, 2, 2, 3))
    pairs[:10, 1, 1] = pairs[:10, 1, 0] + (pairs[:10, 0, 1] - pairs[:10, 0, 0]) * rng.uniform(-2, 2, (10, 1))  # parallel ones
    pairs[10:15, 0, 1] = pairs[10:15, 0, 0]  # points
    found = np.asarray(jax.jit(jax.vmap(between_segments))(pairs[:, 0].astype(np.float32), pairs[:, 1].astype(np.float32)))
    np.testing.assert_allclose(found, [_by_search(*pair) for pair in pairs], atol=2e-6)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_crossing_segments_touch_whichever_is_first(order):
    crossing = np.array([[(-1, 0, 0), (1, 0, 0)], [(0, -1, 0.25), (0, 1, 0.25)]], np.float32)
    assert float(between_segments(crossing[order[0]], crossing[order[1]])) == pytest.approx(0.25)


def test_spheres_and_boxes_of_any_pose():
    rng = np.random.default_rng(1)
    for _ in range(20):
        rotation, centre, half = Rotation.random(random_state=rng).as_matrix(), rng.normal(size=3), rng.uniform(0.1, 1, 3)
        local = rng.uniform(-2, 2, 3)
        expected = np.linalg.norm(np.maximum(np.abs(local) - half, 0)) - 0.05
        found = sphere_to_box(
            (centre + rotation @ local).astype(np.float32), 0.05, *(x.astype(np.float32) for x in (centre, rotation, half))
        )
        assert float(found) == pytest.approx(expected, abs=1e-5)
