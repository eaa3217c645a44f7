"""One training step at the paper's scale; with its compiler it needs some 16 GiB of memory."""

import functools
import resource
import time

import jax
import numpy as np
import pytest

from clamp_jax import parallel, steps
from clamp_jax.optim import path_name
from experiments import training
from experiments.benchmark import rows
from experiments.benchmark.case import Case

CHANGES = (("clamp.text.vocabulary", 49_408), ("clamp.text.numbers", ()), ("*.remat", True))  # CLIP's text; less memory


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_step_of_the_paper_scale_runs_and_moves_every_parameter():
    """B/16, five views of 224, four RGB images of 480 x 640, 50 x 14 actions, a text encoder of CLIP's size; batch 1.

    Two steps: a ResNet's branches start as nothing, so that what is inside them gets its first gradient in the second.
    """
    config = rows.make_config("B/16", CHANGES)
    spec = training.make_spec(config, "pretrain")
    optimiser = steps.make_optimiser(config.optimiser.rates.to_dict(), steps=10, warmup=0, weight_decay=0.0, clip=1.0)
    spec = spec._replace(optimiser=optimiser)
    batch, on = rows.make_rows(config, spec.networks, Case("B/16")), parallel.mesh(jax.devices()[:1])
    state, batch = parallel.replicate(training.fresh_state(spec, 0, batch), on), parallel.shard(batch, on)
    before = [fingerprint(leaf) for leaf in jax.tree.leaves(state.params)]
    step = parallel.map_step(functools.partial(steps.pretrain_step, spec), on, compiler_options=training.QUICK)
    for _ in range(2):
        begin = time.monotonic()
        state, metrics = step(state, batch)
        assert all(np.isfinite(float(value)) for value in metrics.values()), metrics
        peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
        print(f"{time.monotonic() - begin:.1f} s, at most {peak_gib:.1f} GiB held, loss {float(metrics['loss']):.3f}", flush=True)
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    still = [path_name(path) for (path, leaf), old in zip(leaves, before, strict=True) if np.array_equal(fingerprint(leaf), old)]
    assert not still, f"{len(still)} of {len(before)} parameters stand still: {still[:20]}"


def fingerprint(leaf: jax.Array) -> np.ndarray:
    """Enough of a parameter to see that it moved, without another copy of all of them: some rows, and its norm."""
    values = np.asarray(leaf)
    return np.append(values.reshape(-1)[:: max(1, values.size // 4096)], np.linalg.norm(values))
