"""The ring beside the plain loss on so many devices; run with eight of its own, because conftest fakes four: python tests/rings.py."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from clamp_jax import losses, metrics, parallel

B, D = 16, 5


def rows(masked: bool) -> tuple:
    """x, y near it, log_scale, bias and ids; two rows of y stand there twice, one trajectory twice, one prompt three times."""
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, B, D)).astype(np.float32)
    y = x + 0.7 * noise
    y[[11, 2]] = y[[4, 15]]
    trajectory = np.arange(B, dtype=np.int32)
    trajectory[9] = trajectory[1]
    tokens = rng.integers(0, 9, (B, 4), dtype=np.int32)
    tokens[[6, 14]] = tokens[3]
    ids = losses.row_ids(trajectory, tokens) if masked else None
    return jnp.asarray(x), jnp.asarray(y), jnp.float32(1.2), jnp.float32(-2.0), ids


def expected(arguments: tuple):
    """((loss, top-1), gradients of x, y, log_scale and bias) of the whole batch at once."""
    *arrays, ids = arguments
    loss, gradients = jax.jit(jax.value_and_grad(lambda *a: losses.sigmoid_loss(*a, ids=ids), (0, 1, 2, 3)))(*arrays)
    return (loss, metrics.retrieval_top1(*arrays[:2]).top1), gradients


def found(mapping: str, devices: int, arguments: tuple, pair_loss: str = "ring"):
    """The same over so many devices."""
    return {"jit": _by_jit, "pmap": _by_pmap}[mapping](devices, pair_loss, arguments)


def _by_jit(devices: int, pair_loss: str, arguments: tuple):
    on = parallel.mesh(jax.devices()[:devices])
    split, whole = NamedSharding(on, PartitionSpec(parallel.AXIS)), NamedSharding(on, PartitionSpec())
    both = jax.value_and_grad(parallel.on_mesh(on, pair_loss).pair, (0, 1, 2, 3), has_aux=True)
    return jax.jit(both, in_shardings=(split, split, whole, whole, split))(*arguments)


def _by_pmap(devices: int, pair_loss: str, arguments: tuple):
    """What a step does: the mean over devices of the loss, and of the gradient of what is the same on all."""
    reduction = parallel.over_axis("data", pair_loss)

    @functools.partial(jax.pmap, axis_name="data", in_axes=(0, 0, None, None, 0), devices=jax.devices()[:devices])
    def mapped(*a):
        figures, (of_x, of_y, *shared) = jax.value_and_grad(reduction.pair, (0, 1, 2, 3), has_aux=True)(*a)
        return (of_x, of_y), reduction.mean((figures, shared))

    x, y, log_scale, bias, ids = jax.tree.map(lambda z: z.reshape(devices, -1, *z.shape[1:]) if z.ndim else z, arguments)
    of_rows, (figures, shared) = mapped(x, y, log_scale, bias, ids)
    of_rows = [z.reshape(-1, z.shape[-1]) / devices for z in of_rows]  # the loss is the mean over devices of their shares
    return jax.tree.map(lambda z: z[0], figures), (*of_rows, *(z[0] for z in shared))


def differences(one, two) -> list[float]:
    """Of loss, top-1 and the four gradients, over their norms."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    return [float(np.linalg.norm(np.subtract(a, b)) / np.linalg.norm(a)) for a, b in pairs]


def main() -> None:
    """On eight devices: differences from the plain loss, and MiB of temporary memory of a batch of 4,096 rows of 512."""
    from experiments.benchmark import pairs

    told = {}
    for masked in (False, True):
        arguments = rows(masked)
        want = expected(arguments)
        told |= {f"{mapping} {masked}": differences(want, found(mapping, 8, arguments)) for mapping in parallel.MAPPINGS}
    large, on = pairs.make_rows(4096, 512), parallel.mesh()
    told |= {form: pairs.compile_form(on, form, large, True).temporary_bytes / 2**20 for form in pairs.FORMS}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
