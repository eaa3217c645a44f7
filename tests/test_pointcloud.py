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


LOW, HIGH, SIZE_M = (-0.5, -0.4, 0.0), (0.5, 0.35, 0.6), 0.1
thin = jax.jit(lambda points, valid, key, form: pointcloud.thin(points, valid, SIZE_M, LOW, HIGH, key, form=form), static_argnums=3)


def test_thinning_keeps_one_point_of_every_cube():
    points, valid = RNG.uniform(-0.7, 0.7, (3000, 3)).astype(np.float32), RNG.random(3000) < 0.8
    points[::71, 2] = np.nan
    kept = np.asarray(thin(points, valid, jax.random.key(0), None))
    with np.errstate(invalid="ignore"):
        cubes = np.floor((np.float32(points) - np.float32(LOW)) / np.float32(SIZE_M))
        inside = valid & np.all((cubes >= 0) & (cubes < [10, 8, 6]), axis=1)
    assert not kept[~inside].any()
    assert {tuple(cube) for cube in cubes[kept]} == {tuple(cube) for cube in cubes[inside]} and len(cubes[kept]) > 200
    assert len({tuple(cube) for cube in cubes[kept]}) == kept.sum()
    np.testing.assert_array_equal(kept, thin(points, valid, jax.random.key(0), "two_pass"))


def test_thinning_draws_every_point_of_a_cube_alike():
    points, valid = np.tile(np.float32([[0.01, 0.01, 0.01]]), (5, 1)), np.array([True, True, False, True, True])
    drawn = jax.jit(jax.vmap(lambda key: pointcloud.thin(points, valid, SIZE_M, LOW, HIGH, key)))(jax.random.split(jax.random.key(1), 2000))
    counts = np.asarray(drawn).sum(axis=0)
    assert counts[2] == 0 and counts.sum() == 2000
    np.testing.assert_allclose(counts[valid], 500, atol=100)  # five standard deviations


@pytest.mark.parametrize(("size_m", "message"), [(0.0, "expected a size over 0"), (0.0005, "make a grid of"), (np.nan, "size over 0")])
def test_thinning_refuses_a_grid_that_makes_no_sense(size_m, message):
    with pytest.raises(ValueError, match=message):
        pointcloud.thin(np.zeros((1, 3), np.float32), np.ones(1, bool), size_m, LOW, HIGH, jax.random.key(0))
