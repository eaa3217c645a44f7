"""The sigmoid loss between two sets of embeddings (SigLIP, arXiv 2303.15343), in float32."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int


def unit(x: Float[ArrayLike, "n d"]) -> Float[Array, "n d"]:
    """Rows scaled to unit length in float32; a row of zeros stays zero, with a finite gradient."""
    x = jnp.asarray(x, jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))


def prior_bias(batch: int) -> float:
    """Starting bias -log(batch - 1), with which a fresh model predicts one pair in `batch`: milder than -10 (ours)."""
    return -float(np.log(max(batch - 1, 1)))


def sigmoid_block(
    x: Float[ArrayLike, "n d"],
    y: Float[ArrayLike, "m d"],
    log_scale: Float[ArrayLike, ""],
    bias: Float[ArrayLike, ""],
    positive: Bool[ArrayLike, "n m"],
    mask: Bool[ArrayLike, "n m"] | None = None,
) -> Float[Array, ""]:
    """Sum of -log sigmoid(z_ij (t x_i.y_j + b)) over one block of pairs, z_ij = +1 where `positive`, -1 elsewhere.

    x and y of unit length (`unit`); pairs where `mask` is False count for nothing. Every form of the loss (whole batch,
    chunks round a ring of devices) is sums of this function. Equation 1 of arXiv 2303.15343.
    """
    product = jnp.matmul(x, jnp.asarray(y).T, precision=jax.lax.Precision.HIGHEST)
    logits = product * jnp.exp(jnp.asarray(log_scale)) + bias
    terms = -jax.nn.log_sigmoid(jnp.where(positive, logits, -logits))
    return jnp.sum(terms if mask is None else jnp.where(mask, terms, 0))


def sigmoid_loss(
    x: Float[ArrayLike, "b d"],
    y: Float[ArrayLike, "b d"],
    log_scale: Float[ArrayLike, ""],
    bias: Float[ArrayLike, ""],
    mask: Bool[ArrayLike, "b b"] | None = None,
) -> Float[Array, ""]:
    """Sigmoid loss of the global batch: row i of x belongs to row i of y, all other pairs are negatives.

    Embeddings of any length; mask False leaves a pair out (`false_negatives`). Mean over rows, as the paper's.
    """
    x, y = unit(x), unit(y)
    return sigmoid_block(x, y, log_scale, bias, jnp.eye(x.shape[0], dtype=bool), mask) / x.shape[0]


def false_negatives(trajectory: Int[ArrayLike, "b"], tokens: Int[ArrayLike, "b l"]) -> Bool[Array, "b b"]:
    """Pairs to leave out: two examples of one trajectory, or with the same full prompt, that would be called negatives."""
    trajectory, tokens = jnp.asarray(trajectory), jnp.asarray(tokens)
    same = trajectory[:, None] == trajectory[None, :]
    same = same | jnp.all(tokens[:, None] == tokens[None, :], axis=-1)
    return same & ~jnp.eye(trajectory.shape[0], dtype=bool)
