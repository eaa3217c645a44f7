"""STRING: invariance under translation, orthogonality, and each form against an obvious reference."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from clamp_jax.models import position

HEADS, DIM = 2, 24


def _parameters(kind: str, seed: int = 0) -> dict:
    """Parameters as after some training: P is not the identity."""
    key = jax.random.key(seed)
    if kind == "circulant":
        return {"generator": position.circulant_generator(key, HEADS, DIM)}
    theta = {"theta": position.frequencies(key, HEADS, DIM // 2)}
    return theta | ({"skew": 0.5 * jax.random.normal(key, (HEADS, DIM, DIM))} if kind == "cayley" else {})


def _pairs(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, count, 2, HEADS, DIM)).astype(np.float32)
    where = rng.uniform((-0.6, -0.4, 0), (0.6, 0.4, 0.5), (count, 2, 3)).astype(np.float32)
    return query, key, where


@partial(jax.jit, static_argnums=0)
def _turn(kind: str, query: jax.Array, key: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
    params = _parameters(kind)
    if kind == "cayley":  # P, then the rotation
        mixer = position.cayley(params.pop("skew"))
        query, key, kind = position.fold(query, mixer), position.fold(key, mixer), "rope"
    return position.StringPosition(kind).apply({"params": params}, query, key, where)


def _logits(kind: str, query: np.ndarray, key: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Logits of token 0's query with token 1's key over |q||k|, (count, heads)."""
    turned_query, turned_key = _turn(kind, jnp.asarray(query), jnp.asarray(key), where)
    product = np.sum(np.asarray(turned_query[:, 0], np.float64) * np.asarray(turned_key[:, 1], np.float64), axis=-1)
    return product / (np.linalg.norm(query[:, 0], axis=-1) * np.linalg.norm(key[:, 1], axis=-1))


@pytest.mark.parametrize("kind", position.STRING_KINDS)
def test_logits_do_not_change_under_a_common_translation(kind):
    query, key, where = _pairs(1000)
    shift = np.random.default_rng(1).uniform(-1, 1, (1000, 1, 3)).astype(np.float32)
    np.testing.assert_allclose(_logits(kind, query, key, where + shift), _logits(kind, query, key, where), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", position.STRING_KINDS)
def test_two_centimetres_are_visible(kind):
    query, key, where = _pairs(1000)
    step = np.random.default_rng(2).normal(size=(1000, 3))
    moved = where.copy()
    moved[:, 1] += 0.02 * (step / np.linalg.norm(step, axis=1, keepdims=True)).astype(np.float32)
    change = np.sqrt(np.mean(np.square(_logits(kind, query, key, moved) - _logits(kind, query, key, where))))
    spread = np.std(_logits(kind, query, key, where))
    print(f"{kind}: moving one token by 2 cm changes a logit by {change / spread:.2f} of the logits' deviation")
    assert change > 0.2 * spread


def test_rope_turns_each_block_by_its_angle():
    query, key, where = _pairs(3)
    theta = np.asarray(_parameters("rope")["theta"], np.float64)
    turned, _ = _turn("rope", jnp.asarray(query), jnp.asarray(key), where)
    for example, token, head, block in np.ndindex(3, 2, HEADS, DIM // 2):
        angle = where[example, token].astype(np.float64) @ theta[head, :, block]
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        pair = [block, block + DIM // 2]
        np.testing.assert_allclose(turned[example, token, head, pair], turn @ query[example, token, head, pair], atol=2e-5)


def test_circulant_is_the_exponential_of_the_dense_matrix():
    query, _, where = _pairs(3)
    generator = 0.3 * np.random.default_rng(3).normal(size=(HEADS, 3, DIM)) + np.asarray(_parameters("circulant")["generator"])
    turned = position.circulant(query, where, generator.astype(np.float32))
    for example, token, head in np.ndindex(3, 2, HEADS):
        dense = [scipy.linalg.circulant(column) for column in generator[head]]
        exponent = sum(r * (c - c.T) for r, c in zip(where[example, token], dense, strict=True))
        np.testing.assert_allclose(turned[example, token, head], scipy.linalg.expm(exponent) @ query[example, token, head], atol=5e-5)


def test_circulant_starts_with_the_frequencies_of_the_blocks():
    generator = position.circulant_generator(jax.random.key(0), HEADS, DIM)
    want = position.frequencies(jax.random.key(0), HEADS, DIM // 2 - 1)
    np.testing.assert_allclose(jnp.imag(position.spectrum(generator))[..., 1:-1], want, atol=1e-4)


@pytest.mark.parametrize("width", [8, 64])
def test_cayley_is_orthogonal_and_starts_as_the_identity(width):
    for size in (0.01, 0.1, 1.0, 10.0, 100.0):
        mixer = np.asarray(position.cayley(size * jax.random.normal(jax.random.key(0), (4, width, width))), np.float64)
        np.testing.assert_allclose(mixer @ mixer.swapaxes(1, 2), np.broadcast_to(np.eye(width), mixer.shape), atol=1e-6)
    np.testing.assert_array_equal(position.cayley(np.zeros((1, 8, 8), np.float32))[0], np.eye(8))


def test_cayley_equals_its_definition():
    raw = np.random.default_rng(0).normal(size=(1, 6, 6))
    skew, eye = raw[0] - raw[0].T, np.eye(6)
    np.testing.assert_allclose(position.cayley(raw.astype(np.float32))[0], (eye - skew) @ np.linalg.inv(eye + skew), atol=1e-5)


def test_gradient_of_cayley_is_that_of_a_solve():
    raw = 0.3 * jax.random.normal(jax.random.key(0), (2, 6, 6))

    def solved(raw):
        skew, eye = raw - raw.swapaxes(1, 2), jnp.broadcast_to(jnp.eye(6), raw.shape)
        return jnp.linalg.solve(eye + skew, eye - skew)

    found, want = (jax.jit(jax.grad(lambda raw, f=f: jnp.sum(jnp.sin(f(raw)))))(raw) for f in (position.cayley, solved))
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_folded_projection_equals_p_applied_to_its_output():
    rng = np.random.default_rng(4)
    x, kernel = rng.normal(size=(5, 32)), rng.normal(size=(32, HEADS, DIM)) / np.sqrt(32)
    mixer = np.asarray(position.cayley(_parameters("cayley")["skew"]), np.float64)
    want = np.einsum("nw,whd,hed->nhe", x, kernel, mixer)
    folded = np.asarray(position.fold(kernel.astype(np.float32), mixer.astype(np.float32)), np.float64)
    np.testing.assert_allclose(np.einsum("nw,whe->nhe", x, folded), want, atol=1e-5)


def test_frequencies_resolve_the_table_and_two_centimetres():
    size = np.linalg.norm(position.frequencies(jax.random.key(0), 3, 16), axis=1)
    np.testing.assert_allclose(size[:, 0] * position.TABLE_SPAN_M, np.pi, rtol=1e-5)
    np.testing.assert_allclose(size[:, -1] * position.RESOLUTION_M, np.pi / 2, rtol=1e-5)


def test_unknown_kind_and_odd_width_are_refused():
    with pytest.raises(ValueError, match="'caley'.*cayley"):
        position.check_kind("caley")
    odd = jnp.zeros((1, 2, 1, 7))
    with pytest.raises(ValueError, match="one head is 7"):
        position.StringPosition("rope").init(jax.random.key(0), odd, odd, np.zeros((1, 2, 3), np.float32))
