"""Figures that are reported: retrieval accuracy, success rates with their interval, sizes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from clamp_jax.losses import cosines, unit


class Retrieval(NamedTuple):
    """Share of a pool that finds its own partner first."""

    top1: Array  # () mean of both directions
    forward: Array  # () x finds y
    backward: Array  # () y finds x
    chance: float  # 1 / n


def retrieval_top1(x: Float[ArrayLike, "n d"], y: Float[ArrayLike, "n d"]) -> Retrieval:
    """Top-1 retrieval by cosine in a pool of n pairs; equal embeddings throughout count as chance."""
    similarity = cosines(unit(x), unit(y))
    rows = jnp.arange(similarity.shape[0])
    forward = jnp.mean(jnp.argmax(similarity, axis=1) == rows)
    backward = jnp.mean(jnp.argmax(similarity, axis=0) == rows)
    return Retrieval((forward + backward) / 2, forward, backward, 1 / similarity.shape[0])


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (low, high) of a success rate; (0, 1) without trials.

    Raises ValueError if successes do not lie in 0 .. trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials; expected 0 <= successes <= trials")
    if trials == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest  # a slow import that only reports need

    interval = binomtest(int(successes), int(trials)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


class Paired(NamedTuple):
    """Two policies on the same trials."""

    both: int
    first_only: int
    second_only: int
    neither: int
    p_value: float  # of the exact test that a trial which only one solves is as likely the first's as the second's


def mcnemar(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " m"]) -> Paired:
    """McNemar's exact two-sided test of paired successes: binomial on the discordant trials; p is 1 where there are none.

    Raises ValueError when the two have different numbers of trials.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"successes have shapes {first.shape} and {second.shape}; a paired comparison needs the same trials of both")
    from scipy.stats import binomtest

    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    discordant = only_first + only_second
    p_value = float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    return Paired(int(np.sum(first & second)), only_first, only_second, int(np.sum(~first & ~second)), p_value)


def parameter_count(params: Any) -> int:
    """Number of scalars in a tree of parameters (or of their shapes)."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def parameter_counts(params: dict) -> dict[str, int]:
    """Number of scalars under each top-level name of a parameter tree."""
    return {name: parameter_count(branch) for name, branch in params.items()}
