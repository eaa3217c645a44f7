"""The sigmoid loss against a double loop, its blocks, its masks and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clamp_jax import losses

N, D = 6, 5


def _embeddings() -> tuple[jax.Array, jax.Array]:
    x, y = np.random.default_rng(0).normal(size=(2, N, D)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(y)


def _double_loop(x, y, log_scale, bias, mask=None):
    """The sum of arXiv 2303.15343 written out, in whatever numbers it is given."""
    total = 0.0
    for i in range(len(x)):
        for j in range(len(y)):
            if mask is not None and not mask[i, j]:
                continue
            cosine = x[i] @ y[j] / (jnp.sqrt(x[i] @ x[i]) * jnp.sqrt(y[j] @ y[j]))
            z = 1.0 if i == j else -1.0
            total = total + jnp.log1p(jnp.exp(-z * (jnp.exp(log_scale) * cosine + bias)))
    return total / len(x)


@pytest.mark.parametrize("masked", [False, True])
def test_loss_and_gradients_equal_the_double_loop(masked):
    arguments = (*_embeddings(), jnp.float32(np.log(10)), jnp.float32(-2.0))
    mask = np.random.default_rng(1).uniform(size=(N, N)) < 0.7 if masked else None
    found = jax.jit(jax.value_and_grad(losses.sigmoid_loss, argnums=(0, 1, 2, 3)))(*arguments, mask)
    want = jax.jit(jax.value_and_grad(lambda *a: _double_loop(*a, mask), argnums=(0, 1, 2, 3)))(*arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6, rtol=1e-5), found, want)


def test_blocks_add_up_to_the_whole():
    x, y = (losses.unit(part) for part in _embeddings())
    scale, bias = jnp.float32(2.0), jnp.float32(-3.0)
    total = 0.0
    for i in (slice(0, 3), slice(3, 6)):
        for j in (slice(0, 3), slice(3, 6)):
            total += losses.sigmoid_block(x[i], y[j], scale, bias, np.eye(N, dtype=bool)[i, j])
    np.testing.assert_allclose(total / N, losses.sigmoid_loss(x, y, scale, bias), rtol=1e-6)


def test_length_of_an_embedding_does_not_count_and_order_of_pairs_neither():
    x, y = _embeddings()
    base = losses.sigmoid_loss(x, y, 1.0, -2.0)
    order = np.array([3, 0, 5, 1, 2, 4])
    np.testing.assert_allclose(losses.sigmoid_loss(7 * x[order], 0.1 * y[order], 1.0, -2.0), base, rtol=1e-5)
    assert losses.sigmoid_loss(x, x, 2.0, -2.0) < losses.sigmoid_loss(x, x[order], 2.0, -2.0)


def test_zero_embeddings_have_finite_gradients():
    gradient = jax.grad(lambda x: losses.sigmoid_loss(x, x, 2.0, -1.0))(jnp.zeros((N, D)))
    assert np.all(np.isfinite(gradient))


def test_prior_bias_predicts_one_pair_in_the_batch():
    """With no scale every pair has probability 1/n, at which the gradient with respect to the bias vanishes."""
    bias = losses.prior_bias(N)
    np.testing.assert_allclose(1 / (1 + np.exp(-bias)), 1 / N)
    x, y = _embeddings()
    np.testing.assert_allclose(jax.grad(losses.sigmoid_loss, argnums=3)(x, y, -50.0, bias), 0, atol=1e-6)


def test_false_negatives_are_of_one_trajectory_or_one_prompt():
    trajectory = np.array([4, 7, 4, 9], np.int32)
    tokens = np.array([[1, 2], [1, 3], [5, 6], [1, 3]], np.int32)
    want = np.zeros((4, 4), bool)
    want[0, 2] = want[2, 0] = want[1, 3] = want[3, 1] = True
    np.testing.assert_array_equal(losses.false_negatives(trajectory, tokens), want)


def test_ids_mask_false_negatives():
    """Row ids say block by block what the plain statement says at once; what belongs together counts all the same."""
    rng = np.random.default_rng(2)
    trajectory, tokens = rng.integers(0, 9, N).astype(np.int32), rng.integers(0, 2, (N, 2)).astype(np.int32)
    leave_out = losses.false_negatives(trajectory, tokens)
    assert 0 < leave_out.sum() < N * (N - 1)
    ids = losses.row_ids(trajectory, tokens)
    np.testing.assert_array_equal(losses.alike(ids, ids), leave_out | np.eye(N, dtype=bool))
    x, y = _embeddings()
    np.testing.assert_allclose(losses.sigmoid_loss(x, y, 1.0, -2.0, ids=ids), losses.sigmoid_loss(x, y, 1.0, -2.0, ~leave_out), rtol=1e-6)
    everyone = jnp.zeros_like(ids)
    alone = np.eye(N, dtype=bool)
    np.testing.assert_allclose(losses.sigmoid_loss(x, y, 1.0, -2.0, ids=everyone), losses.sigmoid_loss(x, y, 1.0, -2.0, alone), rtol=1e-6)


def test_bits_of_a_prompt_tell_prompts_apart():
    """Prompts that differ in two places, in every way: a word alone meets itself as often as chance has it, both never."""
    first, second = np.divmod(np.arange(2**17, dtype=np.int32), 512)
    tokens = np.full((2**17, 6), 7, np.int32)
    tokens[:, 1], tokens[:, 4] = first, second
    ids = np.asarray(jax.jit(losses.row_ids)(np.zeros(2**17, np.int32), tokens))[:, 1:]
    assert len(np.unique(ids, axis=0)) == 2**17
    expected = 2**34 / 2 / 2**32
    for word in ids.T:
        assert 2**17 - len(np.unique(word)) <= 4 * expected + 4
    turned = np.asarray(losses.row_ids(np.zeros(2, np.int32), np.array([[3, 5, 0], [5, 3, 0]], np.int32)))
    assert (turned[0, 1:] != turned[1, 1:]).all()
