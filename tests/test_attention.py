"""Attention against a loop, masks, and that switches for memory and speed change nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clamp_jax.models.attention import Block, Transformer, TransformerConfig, activation, attend

SMALL = TransformerConfig(12, 2, 2, position="rope")


def _draw(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def _loop(query: np.ndarray, key: np.ndarray, value: np.ndarray, mask: np.ndarray, causal: bool) -> np.ndarray:
    out = np.zeros_like(query)
    for b, n, h in np.ndindex(*query.shape[:3]):
        seen = [m for m in range(key.shape[1]) if mask[b, m] and not (causal and m > n)]
        weight = np.exp([query[b, n, h] @ key[b, m, h] / np.sqrt(query.shape[-1]) for m in seen])
        out[b, n, h] = sum(w * value[b, m, h] for w, m in zip(weight / weight.sum(), seen, strict=True))
    return out


@pytest.mark.parametrize("implementation", ["plain", "xla"])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_the_loop(implementation, causal):
    query, key, value = _draw(2, 5, 2, 6), _draw(2, 5, 2, 6, seed=1), _draw(2, 5, 2, 6, seed=2)
    mask = np.array([[True, False, True, True, False], [True] * 5])
    found = attend(query, key, value, mask, causal=causal, implementation=implementation)
    want = _loop(*(np.asarray(x, np.float64) for x in (query, key, value)), mask, causal)
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_plain_attention_has_the_gradients_of_the_other():
    inputs = [_draw(2, 4, 2, 6, seed=seed) for seed in range(3)]
    mask = np.array([[True, True, False, True], [False] * 4])

    def loss(inputs, implementation):
        return jnp.sum(jnp.sin(attend(*inputs, mask, implementation=implementation)))

    plain, other = jax.grad(loss)(inputs, "plain"), jax.grad(loss)(inputs, "xla")
    for found, want in zip(plain, other, strict=True):
        np.testing.assert_allclose(found[0], want[0], atol=1e-5)
        assert np.all(np.isfinite(found[1]))  # nothing is visible here: any finite answer will do


def test_plain_attention_survives_large_logits():
    found = attend(_draw(1, 3, 1, 4) * 1e3, _draw(1, 3, 1, 4, seed=1) * 1e3, _draw(1, 3, 1, 4, seed=2), implementation="plain")
    assert np.all(np.isfinite(found))


def test_masked_tokens_change_nothing():
    x, where = _draw(1, 6, 12), _draw(1, 6, 3, seed=1)
    mask = np.array([[True, True, False, True, False, True]])
    model = Transformer(SMALL)
    params = model.init(jax.random.key(0), x, mask=mask, positions_m=where)
    other = jnp.where(mask[..., None], x, 7.0)
    found = model.apply(params, other, mask=mask, positions_m=jnp.where(mask[..., None], where, -3.0))
    np.testing.assert_allclose(found[mask], model.apply(params, x, mask=mask, positions_m=where)[mask], atol=1e-6)


def test_permuting_tokens_permutes_the_result():
    x, where, order = _draw(1, 6, 12), _draw(1, 6, 3, seed=1), np.array([3, 1, 5, 0, 2, 4])
    model = Transformer(SMALL)
    params = model.init(jax.random.key(0), x, positions_m=where)
    found = model.apply(params, x[:, order], positions_m=where[:, order])
    np.testing.assert_allclose(found, model.apply(params, x, positions_m=where)[:, order], atol=1e-5)


def test_causal_blocks_do_not_look_ahead_and_cross_attention_does():
    config = TransformerConfig(12, 1, 2, causal=True, activation="quick_gelu")
    x, memory = _draw(1, 5, 12), _draw(1, 3, 8, seed=1)
    params = Block(config).init(jax.random.key(0), x, memory=memory)
    base = Block(config).apply(params, x, memory=memory)
    later = Block(config).apply(params, x.at[:, 3:].set(2.0), memory=memory)
    np.testing.assert_allclose(later[:, :3], base[:, :3], atol=1e-6)
    assert np.abs(Block(config).apply(params, x, memory=memory.at[:, -1].set(2.0)) - base).min(axis=-1).max() > 1e-4


def test_rematerialised_gradients_are_the_same():
    x, mask = _draw(1, 4, 12), np.ones((1, 4), bool)
    params = Transformer(SMALL).init(jax.random.key(0), x, mask=mask)

    def loss(params, remat):
        return jnp.sum(jnp.square(Transformer(SMALL._replace(remat=remat)).apply(params, x, mask=mask)[..., :3]))

    gradients = [jax.grad(loss)(params, remat) for remat in (False, True)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *gradients)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="'swish'.*gelu"):
        activation("swish")
    with pytest.raises(ValueError, match="width 12 does not divide into 5 heads"):
        Transformer(SMALL._replace(heads=5)).init(jax.random.key(0), _draw(1, 2, 12))
