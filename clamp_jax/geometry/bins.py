"""The least of the points that fall into each bin: one form for each kind of device, exact and equal to the last bit.

A form takes the bin of each point (`count` for a point that is dropped) and its rank (uint32; the bits of a positive float
are ordered as the float), and gives each bin's least rank and, among points of that rank, the lowest index. What else is to
be done with the bins while they are in the form's own representation is handed in as `after`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int, UInt32

NO_RANK, NO_INDEX = 0xFFFFFFFF, 0x7FFFFFFF  # of an empty bin; no point has this rank


class Keys(NamedTuple):
    """How a form holds the bins, for `after`: functions of a tree of arrays, one entry a bin."""

    lesser: Callable[[Any, Any], Any]  # of two, entry by entry: the lower rank, of equal ranks the lower index
    rank: Callable[[Any], Array]  # uint32
    empty: Any  # the numbers that an empty bin holds, in the tree's structure


After = Callable[[Any, Keys], Any]
Form = Callable[[Array, Array, Array, int, After | None], tuple[Array, Array]]


def packed(
    bin_of: Int[Array, " n"], rank: UInt32[Array, " n"], index: Int[Array, " n"], count: int, after: After | None = None
) -> tuple[UInt32[Array, " count"], Int[Array, " count"]]:
    """One scatter-min of 64-bit keys, rank above index (RVT-2's atomic minimum, arXiv 2406.08545): CPUs and GPUs."""
    with jax.enable_x64(True):
        empty = (NO_RANK << 32) | NO_INDEX
        key = (rank.astype(jnp.uint64) << jnp.uint64(32)) | index.astype(jnp.uint64)
        image = jnp.full((count + 1,), empty, jnp.uint64)
        image = image.at[bin_of].min(key, mode="promise_in_bounds")[:-1]
        if after is not None:
            image = after(image, Keys(jnp.minimum, _high, empty))
        return _high(image), (image & jnp.uint64(NO_RANK)).astype(jnp.int32)


def _high(key: Array) -> Array:
    return (key >> jnp.uint64(32)).astype(jnp.uint32)


def two_pass(
    bin_of: Int[Array, " n"], rank: UInt32[Array, " n"], index: Int[Array, " n"], count: int, after: After | None = None
) -> tuple[UInt32[Array, " count"], Int[Array, " count"]]:
    """A scatter-min of ranks, then one of the indices that hold their bin's rank: for TPUs, whose 64 bits are emulated."""
    least = jnp.full(count + 1, NO_RANK, jnp.uint32).at[bin_of].min(rank, mode="promise_in_bounds")
    holds = rank == least.at[bin_of].get(mode="promise_in_bounds")
    winner = jnp.full(count + 1, NO_INDEX, jnp.int32)
    winner = winner.at[jnp.where(holds, bin_of, count)].min(index, mode="promise_in_bounds")
    found = least[:-1], winner[:-1]
    return found if after is None else after(found, Keys(_lesser_pair, lambda pair: pair[0], (NO_RANK, NO_INDEX)))


def _lesser_pair(one: tuple[Array, Array], two: tuple[Array, Array]) -> tuple[Array, Array]:
    first = (one[0] < two[0]) | ((one[0] == two[0]) & (one[1] <= two[1]))
    return jnp.where(first, one[0], two[0]), jnp.where(first, one[1], two[1])


FORMS: dict[str, Form] = {"packed": packed, "two_pass": two_pass}
PLATFORMS = {"cpu": "packed", "cuda": "packed", "rocm": "packed", "tpu": "two_pass"}  # what is taken where


def least(
    bin_of: Int[Array, " n"],
    rank: UInt32[Array, " n"],
    count: int,
    *,
    index: Int[Array, " n"] | None = None,
    form: str | None = None,
    after: After | None = None,
) -> tuple[Array, Array]:
    """Least rank (NO_RANK if none) and its lowest index (NO_INDEX) of each of `count` bins; `form` by name, None: the platform's.

    `index` (0 and up, each once) is the points' order if it is not that in which they stand.

    An exported program holds each platform's form; all of it is plain XLA. ValueError for an unknown form.
    """
    if index is None:
        index = jnp.arange(len(bin_of), dtype=jnp.int32)
    if form is not None:
        if form not in FORMS:
            raise ValueError(f"form is {form!r}; expected one of {', '.join(FORMS)}, or None for the platform's own")
        return FORMS[form](bin_of, rank, index, count, after)
    each = {platform: _bind(FORMS[name], count, after) for platform, name in PLATFORMS.items()}
    return jax.lax.platform_dependent(bin_of, rank, index, **each)


def _bind(form: Callable, count: int, after: Callable | None) -> Callable[[Array, Array, Array], tuple[Array, Array]]:
    return lambda bin_of, rank, index: form(bin_of, rank, index, count, after)
