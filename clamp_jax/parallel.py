"""The only file that knows devices: the mesh, where arrays lie on it, the mapping of a step, and the reductions a step is handed.

A step is written once, for the global batch, and takes a `Reduction`: under jit its functions see the whole batch and XLA
partitions them; under pmap they see one device's rows and talk over the axis. Whatever the mapping, the mean over devices
of a step's loss is the loss of the global batch, and `Reduction.mean` of its gradients is that loss's gradient.

Rows on the mesh: every device holds some simulated and some recorded examples, each with its own key, and a step joins them
where they lie. The order of the rows on the mesh is thus a permutation of the order in the global batch, which depends on the
devices and the processes; no number does but for rounding, since an example's randomness is its key's and losses are sums over all rows.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from clamp_jax import losses, metrics, processes, ring
from clamp_jax.structs import Batch, TrainState

AXIS = "data"
MAPPINGS = ("jit", "pmap")
PAIR_LOSSES = ("ring", "plain")
_programs = itertools.count()


class Reduction(NamedTuple):
    """What a step needs to know of the devices and of the other rows of the global batch, handed in by `map_step`."""

    pair: Callable[..., tuple[Array, Array]]  # (x (b,d), y (b,d), log_scale, bias, row_ids (b,3) | None) -> (sigmoid loss, in-batch top-1)
    mean: Callable[[Any], Any]  # tree of means over this device's rows -> tree of means over the global batch's
    # (function(shared, *rows) -> rows, shared, *trees of rows): every device does its own rows; no gradient goes through it
    local: Callable[..., Any]
    # (function(shared, *rows) -> sums over rows, shared, *trees of rows): the sums over all rows that `mean` takes for means
    total: Callable[..., Any]
    shift: Callable[[Array], Array]  # rows of the global batch -> each row's neighbour's, in the order in which devices hold them


def mesh(devices: list | None = None) -> Mesh:
    """One axis, 'data', over the devices (default: all of them, of all processes).

    Auto axes: jax.make_mesh defaults to Explicit ones, under which every array's sharding would be part of its type.
    Raises ValueError when processes hold unequal numbers of the devices: they could not hold equal numbers of rows.
    """
    devices = jax.devices() if devices is None else devices
    counts = np.bincount([device.process_index for device in devices], minlength=jax.process_count())
    if len(set(counts.tolist())) > 1:
        raise ValueError(f"the processes have {counts.tolist()} devices; each must have as many as the others: see --distributed")
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def check_divisible(batch: Batch, on: Mesh, accumulate: int = 1) -> None:
    """Raise ValueError when a batch (this process's rows of it) does not divide by the devices, or a device's rows into parts."""
    own = len(on.local_devices)
    counts = {name: count for name, count in zip(("simulated", "recorded"), _counts(batch), strict=True) if count}
    for name, count in counts.items():
        if count % own:
            whole, devices = count * on.size // own, on.size
            low = whole - whole % devices
            raise ValueError(
                f"a batch of {whole} {name} examples does not divide by {devices} devices; "
                f"make it {low or devices} or {low + devices}, or use fewer devices"
            )
    rows = sum(counts.values()) // own
    if accumulate < 1 or rows % accumulate:
        rest = f"do not divide into train.accumulate = {accumulate} parts; choose a divisor"
        raise ValueError(f"{rows} rows on each of {on.size} devices {rest}")


def shard(batch: Batch, on: Mesh) -> Batch:
    """The batch on the mesh, its rows split over 'data'; the keys go where their examples go. Only explicit transfers.

    Each process gives its own rows, equally many. Raises ValueError when they do not divide.
    """
    check_divisible(batch, on)
    rows = NamedSharding(on, PartitionSpec(AXIS))
    keys = jax.device_get(jax.random.key_data(batch.keys))[_order(*_counts(batch), len(on.local_devices))]
    placed = _place(batch._replace(keys=keys), rows)
    return placed._replace(keys=jax.random.wrap_key_data(placed.keys, impl=jax.random.key_impl(batch.keys)))


def _place(tree: Any, where: NamedSharding) -> Any:
    """Leaves on the devices of a sharding; where other processes have some of them, each gives its own rows."""
    if where.is_fully_addressable:
        return jax.device_put(tree, where)
    with jax.transfer_guard("allow"):  # the guard takes this transfer, named though it is, for an implicit one
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(where, jax.device_get(leaf)), tree)


def _counts(batch: Batch) -> tuple[int, int]:
    """Simulated and recorded examples."""
    states = 0 if batch.states is None else len(batch.states.joints)
    return states, 0 if batch.images is None else len(batch.images.observation.joints)


def _order(states: int, images: int, devices: int) -> np.ndarray:
    """Which examples' keys (simulated ones first) stand on the first device, which on the second, and so on."""
    parts = np.arange(states).reshape(devices, -1), states + np.arange(images).reshape(devices, -1)
    return np.concatenate(parts, axis=1).ravel()


def replicate(tree: Any, on: Mesh) -> Any:
    """A tree (a TrainState, parameters) with a copy of every leaf on every device of the mesh; every process gives the same."""
    whole = NamedSharding(on, PartitionSpec())
    if whole.is_fully_addressable:
        return jax.device_put(tree, whole)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(whole, jax.device_get(x), np.shape(x)), tree)


def replicate_shapes(tree: Any, on: Mesh) -> Any:
    """The ShapeDtypeStructs of a tree as `replicate` would lay it out."""
    whole = NamedSharding(on, PartitionSpec())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), tree)


def map_step(
    step: Callable[..., tuple[TrainState, dict]],
    on: Mesh,
    *,
    mapping: str = "jit",
    pair_loss: str = "ring",
    donate: bool = True,
    compiler_options: Mapping[str, Any] | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict]]:
    """Map step(state, batch, reduction) -> (state, metrics) over a mesh; the result takes (state, batch).

    The state goes in and comes out replicated (`replicate`) and is donated; the batch goes in as `shard` leaves it.
    jax.pmap is in maintenance and jit + shard_map underneath: jit with shardings is the default, pmap the other value;
    `pair_loss` is the form of the sigmoid loss: "ring" needs a block of (b/D) x (b/D) pairs at a time, "plain" all b/D rows
    of them; `compiler_options` are XLA's. Raises ValueError for another mapping or form.
    """
    if mapping == "jit":
        return _map_jit(step, on_mesh(on, pair_loss), on, donate, compiler_options)
    if mapping == "pmap":
        return _map_pmap(step, over_axis(AXIS, pair_loss), on, compiler_options)
    raise ValueError(f"mapping is {mapping!r}; expected one of {MAPPINGS}")


def _map_jit(step: Callable, reduction: Reduction, on: Mesh, donate: bool, compiler_options: Mapping[str, Any] | None) -> Callable:
    whole, rows = NamedSharding(on, PartitionSpec()), NamedSharding(on, PartitionSpec(AXIS))
    mapped = jax.jit(
        lambda state, batch: step(state, batch, reduction),
        in_shardings=(whole, rows),
        out_shardings=(whole, whole),
        donate_argnums=(0,) if donate else (),
        compiler_options=None if compiler_options is None else dict(compiler_options),
    )
    return mapped if whole.is_fully_addressable else _together(mapped)


def _together(mapped: Callable) -> Callable:
    """A step that every process compiles before any of them begins to run it."""

    @functools.cache
    def compiled(shapes: Any) -> Callable:
        program = mapped.lower(*jax.tree.unflatten(*shapes)).compile()
        processes.meet(f"compiled_{next(_programs)}")
        return program

    def run(state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
        return compiled(_shapes((state, batch)))(state, batch)

    return run


def _shapes(tree: Any) -> tuple:
    """A tree of arrays as something to look a program up by, and to compile it for."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding) for leaf in leaves)


def _map_pmap(step: Callable, reduction: Reduction, on: Mesh, compiler_options: Mapping[str, Any] | None) -> Callable:
    """Not donated: pmap copies a state that comes without a device axis anyway."""
    devices = on.devices.ravel().tolist()
    if len(on.local_devices) < on.size:
        raise ValueError("mapping 'pmap' is for one process; with several use config.train.mapping='jit'")
    body = jax.pmap(
        lambda state, batch: step(state, batch, reduction),
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=devices,
    )

    @functools.cache
    def compiled(shapes: Any) -> Callable:
        return body.lower(*jax.tree.unflatten(*shapes)).compile(compiler_options=dict(compiler_options or {}))

    def run(state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
        split = jax.tree.map(lambda x: x.reshape(on.size, -1, *x.shape[1:]), batch)
        rows = jax.device_put(split, NamedSharding(on, PartitionSpec(AXIS)))
        return replicate(compiled(_shapes((state, rows)))(state, rows), on)

    return run


def _pair_global(x: Array, y: Array, log_scale: Array, bias: Array, ids: Array | None = None) -> tuple[Array, Array]:
    """The sigmoid loss (Eq. 1 of arXiv 2303.15343) and top-1 (mean of both directions) of one pair over all rows."""
    top1 = metrics.retrieval_top1(*jax.lax.stop_gradient((x, y))).top1
    return losses.sigmoid_loss(x, y, log_scale, bias, ids=ids), top1


def _pair_on(on: Mesh, x: Array, y: Array, log_scale: Array, bias: Array, ids: Array | None = None) -> tuple[Array, Array]:
    """The same over a mesh, round the ring of its devices.

    Every device's share comes out as a row and the mean is taken outside: what is replicated inside has no gradient to divide.
    """
    rows, whole = PartitionSpec(AXIS), PartitionSpec()

    def share(*arguments: Array | None) -> tuple[Array, Array]:
        loss, top1 = ring.pair(AXIS, *arguments)
        return loss[None], top1[None]

    mapped = jax.shard_map(share, mesh=on, in_specs=(rows, rows, whole, whole, rows), out_specs=rows, check_vma=False)
    return jax.tree.map(jnp.mean, mapped(x, y, log_scale, bias, ids))


def _pair_over_axis(axis: str, x: Array, y: Array, log_scale: Array, bias: Array, ids: Array | None = None) -> tuple[Array, Array]:
    """This device's rows of x against the gathered rows of y: negatives are those of the whole global batch.

    The gathered rows carry their gradient: all_gather is transposed into a sum over devices, so that the mean over devices of
    the gradients is exact (a stop-gradient on the negatives leaves 0.45 of it).
    """
    x, y = losses.unit(x), losses.unit(y)
    every_x, every_y, every_id = (None if z is None else jax.lax.all_gather(z, axis, tiled=True) for z in (x, y, ids))
    own = jax.lax.axis_index(axis) * len(x) + jnp.arange(len(x))
    positive = own[:, None] == jnp.arange(len(every_y))[None, :]
    loss = losses.sigmoid_block(x, every_y, log_scale, bias, positive, ids=None if ids is None else (ids, every_id)) / len(x)
    found = [jnp.argmax(losses.cosines(rows, others), axis=1) == own for rows, others in ((x, every_y), (y, every_x))]
    return loss, jnp.mean(jnp.stack(found).astype(jnp.float32))


def _apart(function: Callable, shared: Any, *trees: Any) -> Any:
    return function(shared, *trees)


def _local_on(on: Mesh, function: Callable, shared: Any, *trees: Any) -> Any:
    """XLA, left to itself, would fetch the rows that a loop takes, or a join puts beside others, from their devices."""
    rows, whole = PartitionSpec(AXIS), PartitionSpec()
    mapped = jax.shard_map(function, mesh=on, in_specs=(whole, *(rows for _ in trees)), out_specs=rows, check_vma=False)
    return mapped(shared, *trees)


def _total_on(on: Mesh, function: Callable, shared: Any, *trees: Any) -> Any:
    """One sum over devices when each has summed its rows: within the loop over parts it would be one for each of them."""
    rows, whole = PartitionSpec(AXIS), PartitionSpec()

    def body(shared: Any, *trees: Any) -> Any:
        return jax.lax.psum(function(shared, *trees), AXIS)

    mapped = jax.shard_map(body, mesh=on, in_specs=(whole, *(rows for _ in trees)), out_specs=whole, check_vma=False)
    return mapped(shared, *trees)


def _shift_over_axis(axis: str, x: Array) -> Array:
    """Every row takes the place of the next, and each device's last one that of the next device's first."""
    count = jax.lax.axis_size(axis)
    last = jax.lax.ppermute(x[-1:], axis, [(device, (device + 1) % count) for device in range(count)])
    return jnp.concatenate([last, x[:-1]])


def on_mesh(on: Mesh, pair_loss: str = "ring") -> Reduction:
    """The reductions of a step that sees the whole batch, whose rows are split over a mesh; one device has nothing to send round."""
    goes_round = _goes_round(pair_loss)
    if on.size == 1:
        return GLOBAL
    pair = functools.partial(_pair_on, on) if goes_round else _pair_global
    return GLOBAL._replace(pair=pair, local=functools.partial(_local_on, on), total=functools.partial(_total_on, on))


def over_axis(axis: str, pair_loss: str = "ring") -> Reduction:
    """The reductions of a step whose rows are split over a named axis."""
    pair = functools.partial(ring.pair if _goes_round(pair_loss) else _pair_over_axis, axis)
    mean, shift = functools.partial(jax.lax.pmean, axis_name=axis), functools.partial(_shift_over_axis, axis)
    return Reduction(pair, mean, _apart, _apart, shift)


def _goes_round(pair_loss: str) -> bool:
    if pair_loss not in PAIR_LOSSES:
        raise ValueError(f"pair_loss is {pair_loss!r}; expected one of {PAIR_LOSSES}")
    return pair_loss == "ring"


# The step sees the whole batch, on one device.
GLOBAL = Reduction(_pair_global, lambda tree: tree, _apart, _apart, lambda x: jnp.roll(x, 1, axis=0))
