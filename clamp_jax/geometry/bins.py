"""The least of the points that fall into each bin: one form for each kind of device, exact and equal to the last bit.

A form takes the bin of each point (`count` for a point that is dropped) and its rank (uint32; the bits of a positive float
are ordered as the float), and gives each bin's least rank and, among points of that rank, the lowest index.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int, UInt32

NO_RANK, NO_INDEX = 0xFFFFFFFF, 0x7FFFFFFF  # of an empty bin; no point has this rank

Form = Callable[[Array, Array, int], tuple[Array, Array]]


def packed(bin_of: Int[Array, " n"], rank: UInt32[Array, " n"], count: int) -> tuple[UInt32[Array, " count"], Int[Array, " count"]]:
    """One scatter-min of 64-bit keys, rank above index (RVT-2's atomic minimum, arXiv 2406.08545): CPUs and GPUs."""
    with jax.enable_x64(True):
        index = jnp.arange(len(bin_of), dtype=jnp.uint64)
        key = (rank.astype(jnp.uint64) << jnp.uint64(32)) | index
        image = jnp.full((count + 1,), (NO_RANK << 32) | NO_INDEX, jnp.uint64)
        image = image.at[bin_of].min(key, mode="promise_in_bounds")[:-1]
        least, winner = (image >> jnp.uint64(32)).astype(jnp.uint32), (image & jnp.uint64(NO_RANK)).astype(jnp.int32)
    return least, winner


def two_pass(bin_of: Int[Array, " n"], rank: UInt32[Array, " n"], count: int) -> tuple[UInt32[Array, " count"], Int[Array, " count"]]:
    """A scatter-min of ranks, then one of the indices that hold their bin's rank: for TPUs, whose 64 bits are emulated."""
    least = jnp.full(count + 1, NO_RANK, jnp.uint32).at[bin_of].min(rank, mode="promise_in_bounds")
    holds = rank == least.at[bin_of].get(mode="promise_in_bounds")
    index = jnp.arange(len(bin_of), dtype=jnp.int32)
    winner = jnp.full(count + 1, NO_INDEX, jnp.int32)
    winner = winner.at[jnp.where(holds, bin_of, count)].min(index, mode="promise_in_bounds")
    return least[:-1], winner[:-1]


FORMS: dict[str, Form] = {"packed": packed, "two_pass": two_pass}
PLATFORMS = {"cpu": "packed", "cuda": "packed", "rocm": "packed", "tpu": "two_pass"}  # what is taken where


def least(bin_of: Int[Array, " n"], rank: UInt32[Array, " n"], count: int, form: str | None = None) -> tuple[Array, Array]:
    """Least rank (NO_RANK if none) and its lowest index (NO_INDEX) of each of `count` bins; `form` by name, None: the platform's.

    An exported program holds each platform's form; all of it is plain XLA. ValueError for an unknown form.
    """
    if form is not None:
        if form not in FORMS:
            raise ValueError(f"form is {form!r}; expected one of {', '.join(FORMS)}, or None for the platform's own")
        return FORMS[form](bin_of, rank, count)
    each = {platform: _bind(FORMS[name], count) for platform, name in PLATFORMS.items()}
    return jax.lax.platform_dependent(bin_of, rank, **each)


def _bind(form: Form, count: int) -> Callable[[Array, Array], tuple[Array, Array]]:
    return lambda bin_of, rank: form(bin_of, rank, count)
