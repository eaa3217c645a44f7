"""The only file that knows devices: the mesh, where arrays lie on it, the mapping of a step, and the reductions a step is handed.

A step is written once, for the global batch, and takes a `Reduction`: under jit its functions see the whole batch and XLA
partitions them; under pmap they see one device's rows and talk over the axis. Whatever the mapping, the mean over devices
of a step's loss is the loss of the global batch, and `Reduction.mean` of its gradients is that loss's gradient.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from clamp_jax import batching, losses, metrics, ring
from clamp_jax.structs import Batch, TrainState

AXIS = "data"
MAPPINGS = ("jit", "pmap")
PAIR_LOSSES = ("ring", "plain")


class Reduction(NamedTuple):
    """What a step needs to know of the devices and of the other rows of the global batch, handed in by `map_step`."""

    pair: Callable[..., tuple[Array, Array]]  # (x (b,d), y (b,d), log_scale, bias, row_ids (b,3) | None) -> (sigmoid loss, in-batch top-1)
    mean: Callable[[Any], Any]  # tree of means over this device's rows -> tree of means over the global batch's
    each: Callable[..., Any]  # (function of one example, *batched trees) -> batched result; no gradient goes through it
    shift: Callable[[Array], Array]  # rows of the global batch -> each row's neighbour's, in the order in which devices hold them


def mesh(devices: list | None = None) -> Mesh:
    """One axis, 'data', over the devices (default: all of them).

    Auto axes: jax.make_mesh defaults to Explicit ones, under which every array's sharding would be part of its type.
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def check_divisible(batch: Batch, devices: int) -> None:
    """Raise ValueError when the simulated or the recorded examples of a batch do not divide by the number of devices."""
    for name, part in (("simulated", batch.states), ("recorded", batch.images)):
        count = 0 if part is None else len(part.joints if name == "simulated" else part.observation.joints)
        if count % devices:
            raise ValueError(
                f"a batch of {count} {name} examples does not divide by {devices} devices; "
                f"make it {count - count % devices or devices} or {count - count % devices + devices}, or use fewer devices"
            )


def shard(batch: Batch, on: Mesh) -> Batch:
    """The batch on the mesh, its rows split over 'data'. Raises ValueError when they do not divide."""
    check_divisible(batch, on.size)
    return jax.device_put(batch, NamedSharding(on, PartitionSpec(AXIS)))


def replicate(tree: Any, on: Mesh) -> Any:
    """A tree (a TrainState, parameters) with a copy of every leaf on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(on, PartitionSpec()))


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
    return jax.jit(
        lambda state, batch: step(state, batch, reduction),
        in_shardings=(whole, rows),
        out_shardings=(whole, whole),
        donate_argnums=(0,) if donate else (),
        compiler_options=None if compiler_options is None else dict(compiler_options),
    )


def _map_pmap(step: Callable, reduction: Reduction, on: Mesh, compiler_options: Mapping[str, Any] | None) -> Callable:
    """Not donated: pmap copies a state that comes without a device axis anyway."""
    devices = on.devices.ravel().tolist()
    body = jax.pmap(
        lambda state, batch: step(state, _join_keys(batch), reduction),
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=devices,
    )

    @functools.cache
    def compiled(shapes: Any) -> Callable:
        return body.lower(*jax.tree.unflatten(*shapes)).compile(compiler_options=dict(compiler_options or {}))

    def run(state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
        rows = jax.device_put(_split_rows(batch, len(devices)), NamedSharding(on, PartitionSpec(AXIS)))
        leaves, structure = jax.tree.flatten((state, rows))
        shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding) for leaf in leaves)
        return replicate(compiled((structure, shapes))(state, rows), on)

    return run


def _split_rows(batch: Batch, devices: int) -> Batch:
    """(b, ...) -> (devices, b / devices, ...); the keys of simulated and recorded examples are split apart, as their rows are."""
    check_divisible(batch, devices)
    states = 0 if batch.states is None else len(batch.states.joints)
    keys = {"states": batch.keys[:states], "images": batch.keys[states:]}
    return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch._replace(keys=keys))


def _join_keys(batch: Batch) -> Batch:
    return batch._replace(keys=jnp.concatenate([batch.keys["states"], batch.keys["images"]]))


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


def _each_on(on: Mesh, function: Callable, *trees: Any) -> Any:
    """Every device maps its own rows: a loop over rows that are split over devices would fetch each row from its device."""
    if on.size == 1:
        return batching.each(function, *trees)
    rows = PartitionSpec(AXIS)
    return jax.shard_map(functools.partial(batching.each, function), mesh=on, in_specs=rows, out_specs=rows, check_vma=False)(*trees)


def _shift_over_axis(axis: str, x: Array) -> Array:
    """Every row takes the place of the next, and each device's last one that of the next device's first."""
    count = jax.lax.axis_size(axis)
    last = jax.lax.ppermute(x[-1:], axis, [(device, (device + 1) % count) for device in range(count)])
    return jnp.concatenate([last, x[:-1]])


def on_mesh(on: Mesh, pair_loss: str = "ring") -> Reduction:
    """The reductions of a step that sees the whole batch, whose rows are split over a mesh; one device has nothing to send round."""
    goes_round = _goes_round(pair_loss) and on.size > 1
    return GLOBAL._replace(pair=functools.partial(_pair_on, on) if goes_round else _pair_global, each=functools.partial(_each_on, on))


def over_axis(axis: str, pair_loss: str = "ring") -> Reduction:
    """The reductions of a step whose rows are split over a named axis."""
    pair = functools.partial(ring.pair if _goes_round(pair_loss) else _pair_over_axis, axis)
    mean, shift = functools.partial(jax.lax.pmean, axis_name=axis), functools.partial(_shift_over_axis, axis)
    return Reduction(pair, mean, batching.each, shift)


def _goes_round(pair_loss: str) -> bool:
    if pair_loss not in PAIR_LOSSES:
        raise ValueError(f"pair_loss is {pair_loss!r}; expected one of {PAIR_LOSSES}")
    return pair_loss == "ring"


# The step sees the whole batch.
GLOBAL = Reduction(_pair_global, lambda tree: tree, batching.each, lambda x: jnp.roll(x, 1, axis=0))
