"""The loss round a ring of devices is the plain one: loss, top-1 and gradients, on 1, 2, 4 and 8 devices; and it takes less memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rings

from clamp_jax import losses, metrics, parallel, ring

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("mapping", "devices"), [("jit", 2), ("jit", 4), ("pmap", 1), ("pmap", 2), ("pmap", 4)])
def test_the_ring_is_the_plain_loss(mapping, devices, masked):
    arguments = rings.rows(masked)
    want = rings.expected(arguments)
    assert 0 < float(want[0][1]) < 1
    assert max(rings.differences(want, rings.found(mapping, devices, arguments))) <= 1e-6


@pytest.mark.parametrize("mapping", parallel.MAPPINGS)
def test_the_plain_form_under_a_mapping_is_the_plain_loss(mapping):
    """A stop-gradient on gathered rows would leave 0.45 of the gradient."""
    arguments = rings.rows(True)
    assert max(rings.differences(rings.expected(arguments), rings.found(mapping, 4, arguments, "plain"))) <= 1e-6


def test_the_mask_is_that_of_the_rows_wherever_they_are():
    """All false negatives are rows of different devices; without the mask the loss is another one."""
    *arrays, ids = rings.rows(True)
    loss = float(rings.found("jit", 4, (*arrays, ids))[0][0])
    leave_out = np.asarray(losses.alike(ids, ids) & ~np.eye(rings.B, dtype=bool))
    assert leave_out.sum() == 8 and not leave_out.reshape(4, 4, 4, 4)[np.arange(4), :, np.arange(4)].any()
    np.testing.assert_allclose(loss, losses.sigmoid_loss(*arrays, ~leave_out), rtol=1e-6)
    assert abs(loss - float(losses.sigmoid_loss(*arrays))) > 1e-3


def test_eight_devices_and_the_memory_of_a_large_batch(capsys):
    """In a process of its own: the number of fake devices is settled before jax starts."""
    environ = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "tests/rings.py"], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    memory = {form: told.pop(form) for form in ("plain", "ring")}
    assert len(told) == 4
    for case, differences in told.items():
        assert max(differences) <= 1e-6, case
    with capsys.disabled():
        print(f"\nbatch 4,096, d 512, 8 devices: temporary memory {memory['plain']:.1f} MiB plain, {memory['ring']:.1f} MiB round the ring")
    assert memory["ring"] <= 0.5 * memory["plain"]


def test_the_backward_pass_is_what_autodiff_makes_of_the_round():
    """Every device's share with another weight: what comes home is the sum over all that a row has met."""
    x, y, log_scale, bias, ids = rings.rows(True)
    split = [z.reshape(4, 4, -1) for z in (x, y, ids)]

    def gradients(function):
        def body(x, y, ids, weight, log_scale, bias):
            loss = lambda *a: weight * function("data", *map(losses.unit, a[:2]), *a[2:], ids)[0]  # noqa: E731
            return jax.grad(loss, (0, 1, 2, 3))(x, y, log_scale, bias)

        return jax.pmap(body, "data", in_axes=(0, 0, 0, 0, None, None))(*split, jnp.arange(1.0, 5.0), log_scale, bias)

    assert max(rings.differences(gradients(ring.go_round), gradients(ring.pair))) <= 1e-6


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_of_equal_scores_the_first_counts(devices):
    """Rows of signs: numbers without rounding, and every score there several times."""
    x, noise = np.random.default_rng(0).choice(np.float32([-0.5, 0.5]), (2, 64, 4))
    y = np.where(np.arange(64)[:, None] % 3 == 0, noise, x)
    (_, top1), _ = rings.found("pmap", devices, (jnp.asarray(x), jnp.asarray(y), jnp.float32(1), jnp.float32(-1), None))
    assert 1 / 64 < top1 < 0.5
    np.testing.assert_array_equal(top1, metrics.retrieval_top1(x, y).top1)


def test_equal_embeddings_count_as_chance_and_have_finite_gradients():
    still = jnp.zeros((rings.B, rings.D))
    (loss, top1), gradients = rings.found("jit", 4, (still, still, jnp.float32(1), jnp.float32(-1), None))
    np.testing.assert_allclose(top1, 1 / rings.B)
    np.testing.assert_allclose(loss, np.log1p(np.exp(1)) + (rings.B - 1) * np.log1p(np.exp(-1)), rtol=1e-6)
    assert all(np.isfinite(z).all() for z in gradients)


def test_an_unknown_form_is_refused():
    for mapping in parallel.MAPPINGS:
        with pytest.raises(ValueError, match="pair_loss is 'rign'; expected one of"):
            parallel.map_step(lambda *args: args, parallel.mesh(), mapping=mapping, pair_loss="rign")
