"""Merge, crop and subsample against loops over points."""

import jax
import numpy as np
import pytest

from clamp_jax.geometry import pointcloud

RNG = np.random.default_rng(0)
subsample = jax.jit(pointcloud.subsample, static_argnums=2)


def test_merge_keeps_image_order_and_marks():
    points, valid = RNG.normal(size=(2, 3, 4, 3)).astype(np.float32), RNG.random((2, 3, 4)) < 0.5
    merged, marks = pointcloud.merge(points, valid)
    rows = [(points[k, i, j], valid[k, i, j]) for k in range(2) for i in range(3) for j in range(4)]
    np.testing.assert_array_equal(merged, [row[0] for row in rows])
    np.testing.assert_array_equal(marks, [row[1] for row in rows])


def test_crop_equals_a_loop_and_keeps_no_nan():
    points, valid = RNG.uniform(-1, 1, (300, 3)).astype(np.float32), RNG.random(300) < 0.8
    points[::50, 1] = np.nan
    low, high = np.float32([-0.5, -0.2, 0]), np.float32([0.5, 0.4, 0.9])
    points[1], valid[1] = low, True  # the box is closed
    expected = [bool(v and all(low[i] <= p[i] <= high[i] for i in range(3))) for p, v in zip(points, valid, strict=True)]
    assert expected[1] and not all(expected)
    np.testing.assert_array_equal(pointcloud.crop(points, valid, low, high), expected)


@pytest.mark.parametrize("present", [0, 20, 64, 65, 100, 499, 500])
def test_subsample_takes_valid_points_once(present):
    points, valid = np.arange(1500, dtype=np.float32).reshape(500, 3), np.zeros(500, bool)
    valid[RNG.permutation(500)[:present]] = True
    taken, marks = map(np.asarray, subsample(points, valid, 64, jax.random.key(present)))
    index = (taken[marks, 0] / 3).astype(int)
    assert len(index) == min(present, 64) == len(set(index.tolist()))
    assert valid[index].all() and (np.diff(index) > 0).all()
    if present <= 64:
        np.testing.assert_array_equal(index, np.flatnonzero(valid))


def test_every_valid_point_has_the_same_chance():
    points, valid = np.arange(120, dtype=np.float32).reshape(40, 3), np.arange(40) % 4 != 0
    draws = jax.vmap(lambda key: subsample(points, valid, 7, key))(jax.random.split(jax.random.key(1), 3000))
    counts = np.bincount((np.asarray(draws[0])[..., 0].reshape(-1) / 3).astype(int), minlength=40)
    assert counts[::4].sum() == 0
    share = counts[valid] / 3000  # 7 of 30; 5 standard deviations of a binomial
    assert np.abs(share - 7 / 30).max() < 5 * np.sqrt(7 / 30 * 23 / 30 / 3000)
