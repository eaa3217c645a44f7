"""The sigmoid loss in chunks: the rows of y travel round a ring of devices, and none ever holds more than one block of pairs.

Over an axis of D devices each scores its own (b/D) x (b/D) block, then D - 1 blocks of negatives as the others' rows come by.
The backward pass is written out and goes round again: autodiff would keep all D blocks, which are (b/D) x b numbers, from the
first round for the second. Everything here is what one device does, with its rows of x and y, under any mapping that names the axis.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, UInt32

from clamp_jax import losses


class Best(NamedTuple):
    """The best partner of each row among those that it has met."""

    score: Float[Array, "n"]  # cosine
    place: Int[Array, "n"]  # its row in the global batch; of equal scores the first, as argmax has it


class _Guest(NamedTuple):
    """What travels: rows of y, and what has been found out about them on the way."""

    y: Float[Array, "n d"]
    ids: UInt32[Array, "n 3"] | None
    found: Any  # Best forwards, the gradient of y backwards


def pair(
    axis: str,
    x: Float[ArrayLike, "n d"],
    y: Float[ArrayLike, "n d"],
    log_scale: Float[ArrayLike, ""],
    bias: Float[ArrayLike, ""],
    ids: UInt32[ArrayLike, "n 3"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """This device's share of the sigmoid loss and of the top-1 of both directions; the means over the axis are the global batch's.

    x, y and ids (`losses.row_ids`; None: no pair is left out) are this device's rows, log_scale and bias the same everywhere.
    The loss has `losses.sigmoid_loss`'s gradient, a device's own share of it for log_scale and bias; top-1 has none.
    """
    return _pair(axis, losses.unit(x), losses.unit(y), jnp.asarray(log_scale), jnp.asarray(bias), ids)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pair(axis: str, x: Array, y: Array, log_scale: Array, bias: Array, ids: Array | None) -> tuple[Array, Array]:
    return go_round(axis, x, y, log_scale, bias, ids)


def go_round(axis: str, x: Array, y: Array, log_scale: Array, bias: Array, ids: Array | None) -> tuple[Array, Array]:
    """`pair` of rows of unit length without its own backward pass: one round of terms and of the best partners of both sides."""
    here = _places(axis, 0, len(x))

    def meet(turn: Array, state: tuple[Array, Best, _Guest]) -> tuple[Array, Best, _Guest]:
        total, best, guest = state
        there, product = _places(axis, turn, len(x)), losses.cosines(x, guest.y)
        total = total + _block(turn, x, guest.y, log_scale, bias, (ids, guest.ids))
        found = _better(guest.found, product.T, here)
        return total, _better(best, product, there), _pass_on(axis, guest._replace(found=found))

    nothing = Best(jnp.full(len(x), -jnp.inf), jnp.zeros(len(x), jnp.int32))
    start = (jnp.zeros(()), nothing, _Guest(y, ids, nothing))
    total, best, guest = jax.lax.fori_loop(0, jax.lax.axis_size(axis), meet, start)
    top1 = jnp.mean(jnp.stack([best.place == here, guest.found.place == here]).astype(jnp.float32))
    return total / len(x), top1


def _backward(axis: str, kept: tuple, cotangents: tuple[Array, Array]) -> tuple:
    """Another round: the gradient of the travelling rows travels with them, and is at home when they are."""
    x, y, log_scale, bias, ids = kept
    share = cotangents[0] / len(x)

    def meet(turn: Array, state: tuple[tuple, _Guest]) -> tuple[tuple, _Guest]:
        own, guest = state
        _, pull = jax.vjp(lambda *arguments: _block(turn, *arguments, (ids, guest.ids)), x, guest.y, log_scale, bias)
        of_x, of_y, *of_scalars = pull(share)
        own = jax.tree.map(jnp.add, own, (of_x, *of_scalars))
        return own, _pass_on(axis, guest._replace(found=guest.found + of_y))

    start = jax.tree.map(jnp.zeros_like, (x, log_scale, bias)), _Guest(y, ids, jnp.zeros_like(y))
    (of_x, of_scale, of_bias), guest = jax.lax.fori_loop(0, jax.lax.axis_size(axis), meet, start)
    return of_x, guest.found, of_scale, of_bias, None


_pair.defvjp(lambda axis, *arguments: (go_round(axis, *arguments), arguments), _backward)


def _block(turn: Array, x: Array, y: Array, log_scale: Array, bias: Array, ids: tuple) -> Array:
    """The block of this turn; the first one holds the pairs that belong together."""
    positive = jnp.eye(len(x), dtype=bool) & (turn == 0)
    return losses.sigmoid_block(x, y, log_scale, bias, positive, ids=None if ids[0] is None else ids)


def _better(best: Best, product: Array, places: Array) -> Best:
    """The best of those met so far and of these (columns of product (n, m), which stand at `places` (m,))."""
    score, place = jnp.max(product, axis=1), places[jnp.argmax(product, axis=1)]
    better = (score > best.score) | ((score == best.score) & (place < best.place))
    return Best(jnp.where(better, score, best.score), jnp.where(better, place, best.place))


def _places(axis: str, turn: Array | int, rows: int) -> Array:
    """Places in the global batch of the rows that stand on this device at a turn; at turn 0 its own."""
    home = (jax.lax.axis_index(axis) - turn) % jax.lax.axis_size(axis)
    return home * rows + jnp.arange(rows)


def _pass_on(axis: str, guest: _Guest) -> _Guest:
    """To the next device of the ring; after as many turns as devices everyone is at home."""
    devices = jax.lax.axis_size(axis)
    return jax.lax.ppermute(guest, axis, [(i, (i + 1) % devices) for i in range(devices)])
