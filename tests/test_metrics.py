"""Figures that are reported, against known values."""

import math

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


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (1, 0), (5, 0), (3, 9), (6, 6), (20, 7)])
def test_mcnemar_equals_its_sum(only_first, only_second):
    counts = (4, only_first, only_second, 3)
    first, second = (np.repeat(np.array(row, bool), counts) for row in ([1, 1, 0, 0], [1, 0, 1, 0]))
    order = np.random.default_rng(0).permutation(len(first))
    found, n = metrics.mcnemar(first[order], second[order]), only_first + only_second
    assert found[:4] == counts
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1)) / 2**n
    assert found.p_value == pytest.approx(min(1.0, 2 * tail))
    assert metrics.mcnemar(second, first).p_value == pytest.approx(found.p_value)


def test_mcnemar_needs_the_same_trials():
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(4,\)"):
        metrics.mcnemar(np.ones(3, bool), np.ones(4, bool))


def test_parameters_are_counted_by_their_top_names():
    params = {"a": {"kernel": np.zeros((3, 4)), "bias": np.zeros(4)}, "b": np.zeros(())}
    assert metrics.parameter_counts(params) == {"a": 16, "b": 1} and metrics.parameter_count(params) == 17
