"""The sigmoid loss between two sets of embeddings (SigLIP, arXiv 2303.15343), in float32."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, UInt32


def unit(x: Float[ArrayLike, "n d"]) -> Float[Array, "n d"]:
    """Rows scaled to unit length in float32; a row of zeros stays zero, with a finite gradient."""
    x = jnp.asarray(x, jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))


def prior_bias(batch: int) -> float:
    """Starting bias -log(batch - 1), with which a fresh model predicts one pair in `batch`: milder than -10 (ours)."""
    return -float(np.log(max(batch - 1, 1)))


def cosines(x: Float[ArrayLike, "n d"], y: Float[ArrayLike, "m d"]) -> Float[Array, "n m"]:
    """Products of every row of x with every row of y, both of unit length (`unit`), in full float32 on an accelerator too."""
    return jnp.matmul(x, jnp.asarray(y).T, precision=jax.lax.Precision.HIGHEST)


def sigmoid_block(
    x: Float[ArrayLike, "n d"],
    y: Float[ArrayLike, "m d"],
    log_scale: Float[ArrayLike, ""],
    bias: Float[ArrayLike, ""],
    positive: Bool[ArrayLike, "n m"],
    mask: Bool[ArrayLike, "n m"] | None = None,
    *,
    ids: tuple[UInt32[ArrayLike, "n 3"], UInt32[ArrayLike, "m 3"]] | None = None,
) -> Float[Array, ""]:
    """Sum of -log sigmoid(z_ij (t x_i.y_j + b)) over one block of pairs, z_ij = +1 where `positive`, -1 elsewhere.

    x and y of unit length (`unit`). Pairs where `mask` is False count for nothing, nor do false negatives by the `ids` of
    the rows of x and of y (`row_ids`). Every form of the loss (whole batch, gathered rows, chunks round a ring of devices) is
    sums of this function. Equation 1 of arXiv 2303.15343.
    """
    logits = cosines(x, y) * jnp.exp(jnp.asarray(log_scale)) + bias
    terms = -jax.nn.log_sigmoid(jnp.where(positive, logits, -logits))
    if mask is not None:
        terms = jnp.where(mask, terms, 0)
    if ids is not None:
        terms = jnp.where(positive | ~alike(*ids), terms, 0)
    return jnp.sum(terms)


def sigmoid_loss(
    x: Float[ArrayLike, "b d"],
    y: Float[ArrayLike, "b d"],
    log_scale: Float[ArrayLike, ""],
    bias: Float[ArrayLike, ""],
    mask: Bool[ArrayLike, "b b"] | None = None,
    *,
    ids: UInt32[ArrayLike, "b 3"] | None = None,
) -> Float[Array, ""]:
    """Sigmoid loss of the global batch: row i of x belongs to row i of y, all other pairs are negatives.

    Embeddings of any length; mask False leaves a pair out, and so do equal ids (`row_ids`). Mean over rows, as the paper's.
    """
    x, y = unit(x), unit(y)
    both = None if ids is None else (ids, ids)
    return sigmoid_block(x, y, log_scale, bias, jnp.eye(x.shape[0], dtype=bool), mask, ids=both) / x.shape[0]


def false_negatives(trajectory: Int[ArrayLike, "b"], tokens: Int[ArrayLike, "b l"]) -> Bool[Array, "b b"]:
    """Pairs to leave out: two examples of one trajectory, or with the same full prompt, that would be called negatives.

    The plain statement of what `row_ids` and `alike` say block by block.
    """
    trajectory, tokens = jnp.asarray(trajectory), jnp.asarray(tokens)
    same = trajectory[:, None] == trajectory[None, :]
    same = same | jnp.all(tokens[:, None] == tokens[None, :], axis=-1)
    return same & ~jnp.eye(trajectory.shape[0], dtype=bool)


def row_ids(trajectory: Int[ArrayLike, "b"], tokens: Int[ArrayLike, "b l"]) -> UInt32[Array, "b 3"]:
    """What tells false negatives, in 12 bytes a row: the trajectory, and 64 bits that stand for the tokens.

    Prompts that differ in one token never get the same bits, others by a chance of 2^-64: in a million batches of 4,096 rows it
    is 5e-7 that any pair is left out wrongly. Ours: the tokens themselves would be as large as a small embedding.
    """
    tokens = jnp.asarray(tokens).astype(jnp.uint32)
    column = _mix(jnp.arange(1, tokens.shape[-1] + 1, dtype=jnp.uint32))[None, :]
    words = [jnp.sum(_mix(_mix(tokens ^ np.uint32(seed)) + column), axis=-1, dtype=jnp.uint32) for seed in _SEEDS]
    return jnp.stack([jnp.asarray(trajectory).astype(jnp.uint32), *words], axis=-1)


def alike(x: UInt32[ArrayLike, "n 3"], y: UInt32[ArrayLike, "m 3"]) -> Bool[Array, "n m"]:
    """Which rows are of one trajectory or have the same prompt, by their ids (`row_ids`)."""
    trajectory, high, low = (jnp.asarray(x)[:, None, i] == jnp.asarray(y)[None, :, i] for i in range(3))
    return trajectory | (high & low)


_SEEDS = (0x243F6A88, 0x85A308D3)  # of the two words of a prompt: the first digits of pi's fraction


def _mix(x: UInt32[Array, "*s"]) -> UInt32[Array, "*s"]:
    """A one-to-one mapping of 32-bit numbers in which every bit of x moves half of the bits (MurmurHash3's last step)."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
