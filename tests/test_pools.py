"""Retrieval pools: one frame a trajectory near one progress, and sentences with another trajectory's positions."""

import numpy as np
import pytest
import synthetic

from clamp_jax.data.pipeline import ExampleMaker, open_dataset
from clamp_jax.data.pools import retrieval_pools


@pytest.fixture(scope="module", params=["state", "image"])
def dataset(request, tmp_path_factory):
    return open_dataset(synthetic.write(tmp_path_factory.mktemp("pools") / "data", 10, kind=request.param, steps=120))


def maker():
    return ExampleMaker(synthetic.tokenize, text_length=120, calibration=synthetic.calibration(8, 8))


def test_a_pool_is_one_frame_each_of_trajectories_at_one_progress(dataset):
    pools = list(retrieval_pools(dataset, maker(), seed=0, size=6, draws=4))
    again = list(retrieval_pools(dataset, maker(), seed=0, size=6, draws=4))
    for pool, same in zip(pools, again, strict=True):
        np.testing.assert_array_equal(pool.frames, same.frames)
        assert len(set(pool.frames[:, 0])) == 6 == len(pool.batch.keys)
        progress = [int(text.rsplit(" ", 1)[1]) for text in pool.prompts]
        assert max(progress) - min(progress) <= 20
        examples = pool.batch.states if dataset.kind == "state" else pool.batch.images
        np.testing.assert_array_equal(examples.labels.tokens, [synthetic.tokenize(text, 120) for text in pool.prompts])
        np.testing.assert_array_equal(examples.labels.trajectory, pool.frames[:, 0])
    assert any(not np.array_equal(pools[0].frames, pool.frames) for pool in pools[1:])


def test_permuted_sentences_keep_all_but_the_positions(dataset):
    pool = next(retrieval_pools(dataset, maker(), seed=1, size=8, draws=1, progress=0.5))
    true, moved = ([text.split(", ") for text in texts] for texts in (pool.prompts, pool.permuted_prompts))
    for before, after in zip(true, moved, strict=True):
        assert before[0] == after[0] and before[-1] == after[-1], "instruction and progress stay"
        assert before[1:-1] != after[1:-1]
    assert sorted(map(str, (t[1:-1] for t in true))) == sorted(map(str, (t[1:-1] for t in moved))), "positions only change hands"
    np.testing.assert_array_equal(pool.permuted_tokens, [synthetic.tokenize(text, 120) for text in pool.permuted_prompts])


def test_too_few_trajectories_are_refused_in_words(dataset):
    with pytest.raises(ValueError, match="has 10 trajectories with a frame within .* a pool needs 64: make more"):
        next(retrieval_pools(dataset, maker(), seed=0, progress=0.5))
    with pytest.raises(ValueError, match="size of a pool is 1"):
        next(retrieval_pools(dataset, maker(), seed=0, size=1))
