"""Figures that are reported, against known values."""

import numpy as np
import pytest

from clamp_jax import metrics


def test_retrieval_counts_both_directions():
    x = np.eye(4, dtype=np.float32)
    y = x[[0, 1, 3, 2]]
    found = metrics.retrieval_top1(x, y)
    assert (float(found.top1), found.chance) == (0.5, 0.25)
    crowded = np.array([[1, 0], [0.9, 0.1], [0, 1]], np.float32)
    other = np.array([[1, 0.1], [0.2, 0.8], [0, 1]], np.float32)
    found = metrics.retrieval_top1(crowded, other)
    assert (float(found.forward), float(found.backward)) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_retrieval_of_constant_embeddings_is_chance():
    found = metrics.retrieval_top1(np.ones((8, 3), np.float32), np.ones((8, 3), np.float32))
    assert float(found.top1) == found.chance == 1 / 8


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (7, 10), (50, 50), (23, 64)])
def test_wilson_equals_its_formula(successes, trials):
    z, rate = 1.959963985, successes / trials
    centre = (rate + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    np.testing.assert_allclose(metrics.wilson(successes, trials), (centre - half, centre + half), atol=1e-9)


def test_wilson_without_trials_knows_nothing_and_refuses_nonsense():
    assert metrics.wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="5 successes of 4 trials"):
        metrics.wilson(5, 4)


def test_parameters_are_counted_by_their_top_names():
    params = {"a": {"kernel": np.zeros((3, 4)), "bias": np.zeros(4)}, "b": np.zeros(())}
    assert metrics.parameter_counts(params) == {"a": 16, "b": 1} and metrics.parameter_count(params) == 17
