"""Rendering is written for one example and batched here, in the way that is quick on each kind of device."""

from collections.abc import Callable
from typing import Any

import jax

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
