"""The hand count of the networks' work: against every product in their trace, against XLA, and known totals."""

import functools

import jax
import pytest
import tiny
from counting import products

from clamp_jax import metrics, steps
from clamp_jax.models import presets
from experiments import flops, training
from experiments.benchmark import modelling, rows
from experiments.benchmark.case import Case

DEEP_RESNET = (("policy.resnet.blocks", (2, 2)), ("policy.resnet.channels", (64, 64)), ("policy.resnet.bottleneck", True))
WIDE = tuple(
    (f"{name}.{field}", value)
    for name in ("clamp.image.transformer", "clamp.action.transformer", "clamp.text.transformer", "policy.encoder", "policy.decoder")
    for field, value in (("width", 256), ("mlp_ratio", 4.0))
)
TOKENS = (("policy.embeddings", "tokens"),)
LARGE = (("camera_height", 70), ("camera_width", 90), ("policy.resnet.patch_stem", 0), ("policy.resnet.groups", 8), ("view_size", 32))


def traced(preset: str, changes: tuple, batch: int = 1):
    """Preset, spec, shapes of parameters and of ready inputs."""
    config = rows.make_config(preset, changes)
    spec = training.make_spec(config, "pretrain")
    made = rows.make_rows(config, spec.networks, Case(preset, batch))
    params = jax.eval_shape(functools.partial(steps.init_params, spec.networks), jax.random.key(0), made)
    return presets.override(presets.preset(preset), dict(changes)), spec, params, modelling.prepared(spec, made)


@pytest.mark.parametrize("preset, changes", [("debug", ()), ("demo", ()), ("debug", (*DEEP_RESNET, *LARGE)), ("debug", TOKENS)])
def test_it_is_all_products_but_those_of_positions_and_pairs(preset, changes):
    """Odd sizes, both stems, both kinds of block, several draws and actions a token. Without STRING there are no other products."""
    changes = (*changes, modelling.ABSOLUTE)
    sizes, spec, params, ready = traced(preset, changes)
    found = products(jax.make_jaxpr(lambda params, *ready: modelling.losses(spec, params, *ready))(params, *ready).jaxpr)
    similarity = flops.product(1, sizes.clamp.embedding, 1)  # of a pair, for its loss and its top-1, at a batch of one
    assert 0 < found.total() - sum(flops.forward(sizes).values()) <= 3 * 4 * similarity


@pytest.mark.slow
def test_it_is_near_to_what_xla_counts_of_wide_networks():
    """XLA counts norms and activations too, leaves out what a convolution does on padding, and the last gradients are not needed."""
    sizes, spec, params, ready = traced("debug", (*WIDE, *DEEP_RESNET, *LARGE, ("camera_height", 128), ("camera_width", 160)), batch=2)
    work = jax.jit(jax.value_and_grad(functools.partial(modelling.losses, spec)))
    counted = modelling.xla_flops(work.lower(params, *ready).compile(compiler_options=tiny.FAST)) / 2
    print(f"XLA's count is {counted / flops.train(sizes):.3f} of the hand count")
    assert abs(counted / flops.train(sizes) - 1) < 0.05


def test_paper_scale_has_known_sizes():
    _, _, params, _ = traced("B/16", ())
    found = modelling.parameters(params)
    assert [round(found[name] / 1e6) for name in ("policy", "encoder", "decoder")] == [217, 85, 57]
    assert round(metrics.parameter_count(params["clamp"]["image"]["transformer"]) / 1e6) == 86  # the view encoder has a MAP head besides
    assert found["total"] == metrics.parameter_count(params)
