"""Transforms: the map to [-1, 1], chunks against a slow loop, padding that changes nothing a camera sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from clamp_jax.data.transforms import (
    EMPTY_BODY,
    GEOM_TYPES,
    denormalise,
    future_chunk,
    normalise,
    pad_geoms,
    pad_qpos,
    pad_tree,
    past_chunk,
)
from clamp_jax.geometry.aloha import WORKING_RANGE
from clamp_jax.geometry.kinematics import body_poses
from clamp_jax.structs import Capacity, Geoms


def test_ends_and_middle_of_a_range_are_minus_one_one_and_zero():
    ends = WORKING_RANGE.T.astype(np.float32)
    np.testing.assert_allclose(normalise(ends), np.array([-np.ones(14), np.ones(14)]), atol=1e-6)
    np.testing.assert_allclose(denormalise(np.zeros((14,), np.float32)), ends.mean(axis=0), atol=1e-6)


def test_normalise_is_inverted_and_is_the_same_in_jax_and_numpy():
    actions = np.random.default_rng(0).uniform(-3, 3, (2, 5, 14)).astype(np.float32)
    found = normalise(actions)
    assert found.dtype == np.float32 and np.max(np.abs(found)) > 1, "values outside are not clipped"
    np.testing.assert_allclose(denormalise(found), actions, atol=2e-6)
    np.testing.assert_allclose(jax.jit(normalise)(actions, jnp.asarray(WORKING_RANGE)), found, atol=1e-6)


@pytest.mark.parametrize("tick", [0, 1, 7, 59])
def test_chunks_equal_a_slow_loop(tick):
    actions, length = np.arange(60 * 14, dtype=np.float32).reshape(60, 14), 9
    past, past_mask = past_chunk(actions, tick, length)
    future, mask = future_chunk(actions, tick, length)
    for i in range(length):
        before, after = tick - length + i, tick + i
        assert past_mask[i] == (before >= 0) and mask[i] == (after < 60)
        np.testing.assert_array_equal(past[i], actions[before] if before >= 0 else 0)
        np.testing.assert_array_equal(future[i], actions[min(after, 59)])


def test_padding_leaves_every_pose_where_it_was():
    episode = synthetic.episode(0)
    padded = pad_tree(episode.tree, 40)
    poses = np.asarray(jax.jit(body_poses)(padded, pad_qpos(episode.qpos[7], 50)))
    np.testing.assert_allclose(poses[:23], jax.jit(body_poses)(episode.tree, episode.qpos[7]), atol=1e-6)
    np.testing.assert_allclose(poses[23:], np.broadcast_to(np.eye(4), (17, 4, 4)), atol=1e-7)
    np.testing.assert_allclose(poses[21, :3, 3], episode.object_positions[7, 0], atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(sorted(GEOM_TYPES)), max_size=12))
def test_geoms_stand_in_the_slots_of_their_type_in_their_order(names):
    capacity = Capacity(3, 4, 5, 6, 7)
    types, count = np.array([GEOM_TYPES[n] for n in names], np.int32), len(names)
    size = np.arange(count)[:, None] + np.ones((1, 3))
    geoms = Geoms(size, np.zeros((count, 3)), np.arange(count), np.zeros((count, 3)), np.tile([0.0, 1, 0, 0], (count, 1)))
    counts = [names.count(name) for name in Capacity._fields]
    if any(c > limit for c, limit in zip(counts, capacity, strict=True)):
        with pytest.raises(ValueError, match=r"geoms of type \w+, the capacity is \d"):
            pad_geoms(types, geoms, capacity)
        return
    expected = []
    for name, limit in zip(Capacity._fields, capacity, strict=True):
        found = [i for i in range(count) if names[i] == name]
        expected += found + [EMPTY_BODY] * (limit - len(found))
    padded = pad_geoms(types, geoms, capacity)
    assert padded.body.tolist() == expected
    np.testing.assert_array_equal(padded.size[:, 0], [0 if i == EMPTY_BODY else i + 1 for i in expected])
    np.testing.assert_allclose(np.linalg.norm(padded.quat, axis=1), 1)


def test_overflow_names_what_how_many_and_the_capacity():
    episode = synthetic.episode(0)
    with pytest.raises(ValueError, match="the scene has 23 bodies, the capacity is 22"):
        pad_tree(episode.tree, 22)
    with pytest.raises(ValueError, match="the scene has 30 qpos, the capacity is 29"):
        pad_qpos(episode.qpos, 29)
    with pytest.raises(ValueError, match="4 geoms of type capsule, the capacity is 3"):
        pad_geoms(episode.geom_types, episode.geoms, Capacity(capsule=3))
