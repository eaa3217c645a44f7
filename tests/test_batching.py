"""A function of one example over a batch: the same numbers on every kind of device, and on a CPU no slice left to be made again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clamp_jax import batching

COUNTS = [1, 2, 3, batching.SLAB, batching.SLAB + 3]


@pytest.mark.parametrize("count", COUNTS)
def test_examples_are_mapped_alike_on_every_backend(count, monkeypatch):
    trees = {"x": np.arange(count * 2, dtype=np.float32).reshape(count, 2)}, np.arange(count, dtype=np.float32)
    one = lambda tree, y: {"sum": tree["x"].sum() + y, "x": tree["x"] * y, "any": tree["x"] > y}  # noqa: E731
    found = []
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(batching.jax, "default_backend", lambda backend=backend: backend)
        found.append(jax.jit(lambda *trees: batching.each(one, *trees))(*trees))
    np.testing.assert_array_equal(found[0]["sum"], trees[0]["x"].sum(axis=1) + trees[1])
    for name in ("sum", "x", "any"):
        assert found[0][name].dtype == found[1][name].dtype
        np.testing.assert_array_equal(found[0][name], found[1][name])


@pytest.mark.parametrize("count", COUNTS[:3])
def test_gradients_and_keys_pass_through(count):
    keys = jax.random.split(jax.random.key(0), count)
    scale = jnp.arange(1.0, count + 1)

    def total(scale):
        return batching.each(lambda s, key: s * jax.random.normal(key), scale, keys).sum()

    expected = jnp.stack([jax.random.normal(key) for key in keys])
    np.testing.assert_allclose(jax.grad(total)(scale), expected, rtol=1e-6)
