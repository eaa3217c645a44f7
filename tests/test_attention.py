"""Attention against a loop, masks, and that switches for memory and speed change nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parameters import random_parameters

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

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    plain, other = gradient(inputs, "plain"), gradient(inputs, "xla")
    for found, want in zip(plain, other, strict=True):
        np.testing.assert_allclose(found[0], want[0], atol=1e-5)
        assert np.all(np.isfinite(found[1]))  # nothing is visible here: any finite answer will do


def test_plain_attention_survives_large_logits():
    found = attend(_draw(1, 3, 1, 4) * 1e3, _draw(1, 3, 1, 4, seed=1) * 1e3, _draw(1, 3, 1, 4, seed=2), implementation="plain")
    assert np.all(np.isfinite(found))


@pytest.fixture(scope="module")
def small():
    model, mask = Transformer(SMALL), np.ones((1, 6), bool)
    params = random_parameters(model, _draw(1, 6, 12), mask=mask, positions_m=_draw(1, 6, 3))
    return params, jax.jit(lambda params, x, mask, where: model.apply(params, x, mask=mask, positions_m=where))


def test_masked_tokens_change_nothing(small):
    params, apply = small
    x, where = _draw(1, 6, 12), _draw(1, 6, 3, seed=1)
    mask = np.array([[True, True, False, True, False, True]])
    other = apply(params, jnp.where(mask[..., None], x, 7.0), mask, jnp.where(mask[..., None], where, -3.0))
    np.testing.assert_allclose(np.asarray(other)[mask], np.asarray(apply(params, x, mask, where))[mask], atol=1e-6)


def test_permuting_tokens_permutes_the_result(small):
    params, apply = small
    x, where, order = np.asarray(_draw(1, 6, 12)), np.asarray(_draw(1, 6, 3, seed=1)), np.array([3, 1, 5, 0, 2, 4])
    mask = np.array([[True, True, False, True, True, True]])
    found, base = apply(params, x[:, order], mask[:, order], where[:, order]), np.asarray(apply(params, x, mask, where))
    np.testing.assert_allclose(found, base[:, order], atol=1e-5)


def test_two_centimetres_change_the_result(small):
    params, apply = small
    x, where, mask = _draw(1, 6, 12), _draw(1, 6, 3, seed=1), np.ones((1, 6), bool)
    assert np.abs(apply(params, x, mask, where.at[:, 0, 0].add(0.02)) - apply(params, x, mask, where)).max() > 1e-4


def test_causal_blocks_do_not_look_ahead_and_cross_attention_does():
    block = Block(TransformerConfig(12, 1, 2, causal=True, activation="quick_gelu"))
    x, memory = _draw(1, 5, 12), _draw(1, 3, 8, seed=1)
    params = random_parameters(block, x, memory=memory)
    apply = jax.jit(lambda x, memory: block.apply(params, x, memory=memory))
    base = np.asarray(apply(x, memory))
    later = np.where(np.arange(5)[None, :, None] >= 3, 2.0, x).astype(np.float32)
    np.testing.assert_allclose(apply(later, memory)[:, :3], base[:, :3], atol=1e-6)
    changed = np.where(np.arange(3)[None, :, None] == 2, 2.0, memory).astype(np.float32)
    assert np.abs(apply(x, changed) - base).max(axis=-1).min() > 1e-4  # every token sees all of the memory


def test_rematerialised_gradients_are_the_same(small):
    x, mask, where = _draw(1, 6, 12), np.ones((1, 6), bool), _draw(1, 6, 3, seed=1)

    def loss(params, remat):
        model = Transformer(SMALL._replace(depth=1, remat=remat))
        return jnp.sum(jnp.square(model.apply(params, x, mask=mask, positions_m=where)[..., :3]))

    gradients = [jax.jit(jax.grad(loss), static_argnums=1)(small[0], remat) for remat in (False, True)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *gradients)


def test_the_fused_kernel_is_asked_for_where_it_takes_the_shapes(monkeypatch):
    """It needs a GPU to run: here it is seen what jax is asked, and that the mask is as large as the kernel wants it."""
    asked = []

    def record(query, key, value, *, mask, is_causal, implementation):
        asked.append((implementation, None if mask is None else mask.shape))
        return query

    monkeypatch.setattr(jax.nn, "dot_product_attention", record)
    half = lambda count: jnp.zeros((2, count, 3, 8), jnp.bfloat16)  # noqa: E731
    for queries, keys, masked in [(6, 4, True), (6, 4, False), (1, 4, True), (6, 51, True), (1, 51, False)]:
        attend(half(queries), half(keys), half(keys), np.ones((2, keys), bool) if masked else None, implementation="cudnn")
    assert asked == [("cudnn", (2, 1, 6, 4)), ("cudnn", None), ("xla", (2, 1, 1, 4)), ("xla", (2, 1, 1, 51)), ("cudnn", None)]
    with pytest.raises(ValueError, match="got float32; it computes in half precision"):
        attend(jnp.zeros((1, 2, 1, 8)), jnp.zeros((1, 2, 1, 8)), jnp.zeros((1, 2, 1, 8)), implementation="cudnn")


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="implementation of attention is 'flash'; expected one of auto, plain, xla, cudnn"):
        attend(jnp.zeros((1, 2, 1, 8)), jnp.zeros((1, 2, 1, 8)), jnp.zeros((1, 2, 1, 8)), implementation="flash")
    with pytest.raises(ValueError, match="'swish'.*gelu"):
        activation("swish")
    with pytest.raises(ValueError, match="width 12 does not divide into 5 heads"):
        jax.eval_shape(lambda: Transformer(SMALL._replace(heads=5)).init(jax.random.key(0), jnp.zeros((1, 2, 12))))
