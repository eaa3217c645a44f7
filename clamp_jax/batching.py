"""Rendering is written for one example and batched here, in the way that is quick on each kind of device; and batches in parts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

SLAB = 16  # examples at once on an accelerator: a GPU keeps so many z-buffers in its cache


def each(function: Callable, *trees: Any) -> Any:
    """A function of one example over trees whose leaves have a leading axis of examples; its results have one too.

    One after the other on a CPU, which runs the views of one example at once; in slabs elsewhere.
    """
    count = len(jax.tree.leaves(trees)[0])
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda example: function(*example), trees)
    if count <= SLAB:
        return jax.vmap(function)(*trees)
    return jax.lax.map(lambda example: function(*example), trees, batch_size=SLAB)


def in_parts(function: Callable, parts: int, *trees: Any) -> Any:
    """A function of rows, whose results are rows too, of one part of them after the other: rows (b, ...) go in and come out in order."""
    found = jax.lax.map(lambda part: function(*part), split(trees, parts))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


def sum_of_parts(function: Callable, parts: int, *trees: Any) -> Any:
    """The sum over all parts of a function of rows, which holds one part's work at a time."""
    trees = split(trees, parts)
    found = jax.eval_shape(lambda part: function(*part), jax.tree.map(lambda x: x[0], trees))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), found)
    return jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, function(*part)), None), zeros, trees)[0]


def split(trees: Any, parts: int) -> Any:
    """Rows (b, ...) as (parts, b / parts, ...); ValueError when they do not divide."""
    rows = len(jax.tree.leaves(trees)[0])
    if rows % parts:
        raise ValueError(f"{rows} rows on a device do not divide into {parts} parts; choose another batch or another train.accumulate")
    return jax.tree.map(lambda x: x.reshape(parts, rows // parts, *x.shape[1:]), trees)
