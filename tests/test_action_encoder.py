"""Action encoder: padding, no history at all, and that order and content count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parameters import random_parameters

from clamp_jax.models.action_encoder import ActionEncoder, ActionEncoderConfig
from clamp_jax.models.attention import TransformerConfig


@pytest.fixture(scope="module")
def encoder():
    model = ActionEncoder(ActionEncoderConfig(TransformerConfig(12, 1, 2)))
    past, mask = _history()
    return random_parameters(model, past, mask), jax.jit(lambda *args: model.apply(*args).pooled)


def _history() -> tuple[np.ndarray, np.ndarray]:
    past = np.random.default_rng(0).normal(size=(3, 6, 14)).astype(np.float32)
    mask = np.arange(6)[None] >= np.array([0, 4, 6])[:, None]  # whole, short, none at all
    return past, mask


@pytest.mark.parametrize("junk", [9.0, np.nan])
def test_padding_changes_nothing(encoder, junk):
    params, apply = encoder
    past, mask = _history()
    np.testing.assert_array_equal(apply(params, np.where(mask[..., None], past, np.float32(junk)), mask), apply(params, past, mask))


def test_no_history_is_finite_with_its_gradient(encoder):
    params, apply = encoder
    past, mask = _history()
    assert np.all(np.isfinite(apply(params, past, mask)[2]))
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(apply(p, past, mask)[2]))))(params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_every_command_and_their_order_count(encoder):
    params, apply = encoder
    past, mask = _history()
    base = apply(params, past, mask)[0]
    for step in range(6):
        changed = past.copy()
        changed[0, step] += 1
        assert np.abs(apply(params, changed, mask)[0] - base).max() > 1e-4
    assert np.abs(apply(params, past[:, ::-1], mask)[0] - base).max() > 1e-4
