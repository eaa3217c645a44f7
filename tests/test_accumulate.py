"""Gradients in parts: those of the whole batch, in less memory. tests/test_parallel.py has stage (i) on four devices, over ten steps."""

import functools

import jax
import numpy as np
import pytest
import tiny

from clamp_jax import batching, parallel, steps
from experiments import training


def images_only(batch):
    return batch._replace(states=None, keys=batch.keys[len(batch.states.joints) :])


def test_parts_come_out_in_order_and_add_up():
    rows = np.arange(12.0).reshape(6, 2)
    found = batching.in_parts(lambda x, y: {"sum": x + y, "none": None}, 3, rows, 10 * rows)
    np.testing.assert_array_equal(found["sum"], 11 * rows)
    total = batching.sum_of_parts(lambda tree: (tree["x"].sum(0), len(tree["x"])), 2, {"x": rows})
    np.testing.assert_array_equal(total[0], rows.sum(0))
    assert total[1] == 6
    with pytest.raises(ValueError, match="6 rows on a device do not divide into 4 parts"):
        batching.in_parts(lambda x: x, 4, rows)


def test_finetuning_in_parts_gives_the_gradient_of_the_whole(tmp_path):
    """Shuffled embeddings are another part's too, and parts hold unequal numbers of unmasked steps."""
    spec = tiny.spec("finetune", ablation__embeddings="shuffled")
    batch = images_only(tiny.make_batches(tmp_path, spec).batch_at(0))
    mask = batch.images.target.mask.copy()
    mask[:3, 5:] = False
    batch = batch._replace(images=batch.images._replace(target=batch.images.target._replace(mask=mask)))
    state, found = tiny.init(spec, batch), []
    for parts in (1, 4):
        body = functools.partial(steps.finetune_step, spec._replace(accumulate=parts), reduction=parallel.GLOBAL)
        after, figures = jax.jit(body, compiler_options=tiny.FAST)(state, batch)
        found.append((tiny.gradient(after), float(figures["loss"])))
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-5)
    assert tiny.relative(found[0][0], found[1][0]) <= 1e-5


@pytest.mark.slow
def test_memory_falls_where_activations_matter(tmp_path, capsys):
    """320 tokens of views for each of 8 rows: what attention keeps is most of a step's memory. Compiled, not run."""
    config = tiny.config("pretrain", ablation__text=False)  # compiles sooner
    with config.unlocked():
        config.model.overrides = (*tiny.OVERRIDES, ("clamp.image.patch", 2), ("clamp.image.transformer.implementation", "plain"))
    spec = training.make_spec(config, "pretrain")
    batch = images_only(tiny.make_batches(tmp_path, spec).batch_at(0))
    shapes, taken = training.state_shapes(spec, batch), {}
    for parts in (1, 4):
        body = functools.partial(steps.pretrain_step, spec._replace(accumulate=parts), reduction=parallel.GLOBAL)
        compiled = jax.jit(body, compiler_options=tiny.FAST).lower(shapes, batch).compile()
        taken[parts] = compiled.memory_analysis().temp_size_in_bytes
    with capsys.disabled():
        print(f"\ntemporary memory of a step: {taken[1] / 2**20:.1f} MiB at once, {taken[4] / 2**20:.1f} MiB in four parts")
    assert taken[4] <= 0.5 * taken[1]
