"""Text encoder: pooled at the end token, blind to what follows it, and numbers that start near their neighbours."""

import jax
import numpy as np
import pytest
from parameters import random_parameters

from clamp_jax.models.attention import TransformerConfig
from clamp_jax.models.text_encoder import TextEncoder, TextEncoderConfig, embedding_table, number_features

TRANSFORMER = TransformerConfig(12, 2, 2, causal=True, activation="quick_gelu")
CONFIG = TextEncoderConfig(TRANSFORMER, vocabulary=40, length=8)
TOKENS = np.array([[5, 9, 7, 1, 0, 0], [5, 9, 7, 1, 1, 0], [5, 9, 1, 7, 0, 0]], np.int32)


@pytest.fixture(scope="module")
def encoder():
    model = TextEncoder(CONFIG)
    return random_parameters(model, TOKENS), jax.jit(model.apply)


def test_what_follows_the_end_changes_nothing(encoder):
    params, apply = encoder
    found = apply(params, TOKENS)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    np.testing.assert_allclose(apply(params, TOKENS[:, :4])[0], found[0], atol=1e-6)  # nor does the padded length
    assert np.abs(found[2] - found[0]).max() > 1e-3


def test_every_token_and_their_order_count(encoder):
    params, apply = encoder
    base = apply(params, TOKENS)[0]
    for place in range(3):
        changed = TOKENS.copy()
        changed[0, place] = 20
        assert np.abs(apply(params, changed)[0] - base).max() > 1e-3
    assert np.abs(apply(params, TOKENS[:, [1, 0, 2, 3, 4, 5]])[0] - base).max() > 1e-3


def test_numbers_start_near_their_neighbours():
    features = number_features(100, 32)
    np.testing.assert_allclose(np.square(features).mean(), 1, atol=0.1)
    distance = np.linalg.norm(features[:, None] - features[None], axis=-1)
    for offset in (1, 3, 10):
        near = np.diagonal(distance, offset).max()
        assert near < np.diagonal(distance, 4 * offset).min()


def test_runs_of_numbers_stand_in_the_table_each_with_its_own_rotation():
    config = CONFIG._replace(numbers=(10, 20), number_count=10)
    table = np.asarray(embedding_table(jax.random.key(0), config)) / 0.02
    want = number_features(10, 12)
    for start in (10, 20):
        np.testing.assert_allclose(table[start : start + 10] @ table[start : start + 10].T, want @ want.T, atol=1e-3)
    assert np.abs(table[10:20] - table[20:30]).max() > 0.1


def test_too_many_tokens_are_refused(encoder):
    with pytest.raises(ValueError, match="text has 9 tokens, the text encoder takes 8"):
        TextEncoder(CONFIG).apply(encoder[0], np.zeros((1, 9), np.int32))
