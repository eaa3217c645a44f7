"""Benchmarks: the figures of a repeat, and a made-up batch that is one of training's."""

import numpy as np
import pytest

from clamp_jax.data.transforms import SIZES
from clamp_jax.structs import CHUNK, HISTORY
from experiments import benchmark


def test_the_first_call_is_told_apart(monkeypatch):
    times = iter([900.0, 3.0, 1.0, 8.0, 2.0, 5.0])
    monkeypatch.setattr(benchmark, "_timed", lambda work: next(times))
    assert benchmark.repeat(None, 5) == {"first_ms": 900.0, "min_ms": 1.0, "median_ms": 3.0, "max_ms": 8.0, "repeats": 5}
    with pytest.raises(ValueError, match="repeats is 0"):
        benchmark.repeat(None, 0)


def test_the_batch_is_of_different_scenes_of_one_task():
    batch = benchmark.make_batch("drawer_close", 3, 12, (8, 8))
    states = batch.states
    assert states.scene.qpos.shape == (3, SIZES.qpos) and states.scene.geoms.size.shape == (3, SIZES.geoms.total, 3)
    assert states.past_actions.shape == (3, HISTORY, 14) and states.target.actions.shape == (3, CHUNK, 14)
    assert len(np.unique(states.scene.qpos, axis=0)) == 3
    np.testing.assert_array_equal(states.scene.qpos[0, :16], states.scene.qpos[1, :16])
    assert states.past_mask.all() and len({tuple(k) for k in np.asarray(benchmark.jax.random.key_data(batch.keys))}) == 3
