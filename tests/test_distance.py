"""Distances between shapes, against a search."""

import jax
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from clamp_jax.sim.distance import between_segments, segment_to_box, sphere_to_box


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


def _to_box_by_search(segment: np.ndarray, half: np.ndarray) -> float:
    """Least distance of a segment from a box: the best of many points on it, then of many round that one."""
    low, high = 0.0, 1.0
    for _ in range(6):
        along = np.linspace(low, high, 201)
        points = segment[0] + along[:, None] * (segment[1] - segment[0])
        gaps = np.linalg.norm(np.maximum(np.abs(points) - half, 0), axis=1)
        best, step = along[np.argmin(gaps)], along[1] - along[0]
        low, high = max(best - step, 0.0), min(best + step, 1.0)
    return gaps.min()


def test_a_segment_is_as_far_from_a_box_as_a_search_finds():
    rng = np.random.default_rng(5)
    half, segments = np.array([0.011, 0.053, 0.02]), rng.uniform(-0.1, 0.1, (120, 2, 3))
    segments[:15, 1, :2] = segments[:15, 0, :2]  # along an edge
    segments[15:20, 1] = segments[15:20, 0]  # points
    segments[20:30, 1] = -segments[20:30, 0]  # through the middle
    found = np.asarray(jax.jit(jax.vmap(segment_to_box, in_axes=(0, None)))(segments.astype(np.float32), half.astype(np.float32)))
    expected = np.array([_to_box_by_search(each, half) for each in segments])
    assert 15 < (expected == 0).sum() < 60
    np.testing.assert_allclose(found, expected, atol=2e-6)
