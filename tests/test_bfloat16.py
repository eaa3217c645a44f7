"""bfloat16: which products take it, what stays float32, and how near the losses come."""


import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from counting import products
from parameters import drawn

from clamp_jax import networks, steps
from clamp_jax.models import position, presets
from clamp_jax.models.attention import TransformerConfig, attend
from clamp_jax.models.resnet import ResNetConfig
from experiments import training
from experiments.benchmark import agree, modelling, rows
from experiments.benchmark.case import Case

SMALL = (("clamp.text.transformer.depth", 0), ("clamp.action.transformer.depth", 0))
SHALLOW = tuple((f"{name}.depth", 1) for name in ("clamp.action.transformer", "clamp.text.transformer", "policy.encoder", "policy.decoder"))


def networks_of(config) -> list:
    """All configs of transformers and ResNets in a preset."""
    if isinstance(config, TransformerConfig | ResNetConfig):
        return [config]
    return [found for field in (config if isinstance(config, tuple) else ()) for found in networks_of(field)]


@pytest.mark.parametrize("name", presets.PRESETS)
def test_one_call_sets_every_network(name):
    before = presets.preset(name)
    after = presets.in_dtype(before, "bfloat16")
    assert len(networks_of(after)) == 6 and {config.dtype for config in networks_of(after)} == {"bfloat16"}
    assert presets.in_dtype(after, "float32") == before
    remat = presets.override(before, {"*.remat": True, "*.implementation": "xla"})
    transformers = [config for config in networks_of(remat) if isinstance(config, TransformerConfig)]
    assert [(config.remat, config.implementation) for config in transformers] == [(True, "xla")] * 5


def test_the_configs_field_is_the_override_which_prevails():
    config = rows.make_config("debug")
    whole = networks.make_sizes(config.model.to_dict() | {"dtype": "bfloat16"})
    assert whole == presets.in_dtype(presets.preset("debug"), "bfloat16")
    part = {"dtype": "bfloat16", "overrides": (("policy.resnet.dtype", "float32"),)}
    assert {found.dtype for found in networks_of(networks.make_sizes(config.model.to_dict() | part))} == {"float32", "bfloat16"}
    older = {name: value for name, value in config.model.items() if name != "dtype"}
    assert networks.make_sizes(older) == networks.make_sizes(config.model.to_dict()) == presets.preset("debug")
    with pytest.raises(ValueError, match=r"dtype is 'float16'; expected one of float32, bfloat16"):
        networks.make_sizes(older | {"dtype": "float16"})


def test_what_is_no_dtype_or_stands_nowhere_is_refused():
    with pytest.raises(ValueError, match=r"\*.dtype is 'float16'; expected one of float32, bfloat16"):
        presets.in_dtype(presets.preset("debug"), "float16")
    with pytest.raises(ValueError, match="policy.resnet.dtype is 'half'"):
        presets.override(presets.preset("debug"), {"policy.resnet.dtype": "half"})
    with pytest.raises(ValueError, match="no network of the preset has a field '\\*.rematt'"):
        presets.override(presets.preset("debug"), {"*.rematt": True})


def made(preset: str, changes: tuple, batch: int):
    """The networks, and shapes of their parameters and of ready inputs and goals."""
    config = rows.make_config(preset, changes)
    spec = training.make_spec(config, "pretrain")
    batch = rows.make_rows(config, spec.networks, Case(preset, batch))
    params = jax.eval_shape(functools.partial(steps.init_params, spec.networks), jax.random.key(0), batch)
    return spec, params, modelling.prepared(spec, batch)


def test_the_products_of_a_step_take_bfloat16():
    """All but heads, positions, P and what jax's own attention does with the gradient of its float32 logits."""
    shares = {}
    for dtype in ("float32", "bfloat16"):
        spec, *shapes = made("Ti/16", (("*.dtype", dtype), ("clamp.image.transformer.depth", 1), *SHALLOW), 1)
        params, ready = shapes
        found = products(jax.make_jaxpr(jax.grad(functools.partial(modelling.losses, spec)))(params, *ready).jaxpr)
        shares[dtype] = {kinds: count / found.total() for kinds, count in found.items()}
    assert set(shares["float32"]) == {("float32", "float32")}
    assert shares["bfloat16"]["bfloat16", "bfloat16"] > 0.94
    assert shares["bfloat16"]["float32", "float32"] < 0.01


def test_losses_and_gradients_are_near_those_of_float32():
    found = {}
    for dtype in ("float32", "bfloat16"):
        spec, params, ready = made("debug", (("*.dtype", dtype), *SMALL), 4)
        params, ready = drawn(params), drawn_inputs(*ready)
        work = jax.value_and_grad(functools.partial(modelling.losses, spec))
        found[dtype] = jax.jit(work, compiler_options=tiny.FAST | agree.EXACT)(params, *ready)
    exact, rounded = (float(found[dtype][0]) for dtype in ("float32", "bfloat16"))
    assert rounded == pytest.approx(exact, rel=0.02) and rounded != exact
    for name in ("clamp", "policy"):
        assert tiny.relative(found["float32"][1][name], found["bfloat16"][1][name]) < 0.05
    assert {leaf.dtype for leaf in jax.tree.leaves(found["bfloat16"][1])} == {np.dtype(np.float32)}


def drawn_inputs(inputs: steps.Inputs, goals: steps.Goals) -> tuple[steps.Inputs, steps.Goals]:
    """Inputs and goals of these shapes."""
    rng = np.random.default_rng(1)
    draw = lambda shape: rng.uniform(-1, 1, shape.shape).astype(np.float32)  # noqa: E731
    views = np.abs(draw(inputs.views)) * (rng.random((*inputs.views.shape[:-1], 1)) < 0.7)
    rgb = rng.integers(0, 256, inputs.rgb.shape, np.uint8)
    tokens = rng.integers(2, 100, goals.tokens.shape, np.int32)
    tokens[:, -1] = 1
    inputs = steps.Inputs(rgb, views.astype(np.float32), draw(inputs.joints), draw(inputs.past), np.ones(inputs.past_mask.shape, bool))
    keys = jax.random.split(jax.random.key(0), len(rgb))
    return inputs, steps.Goals(tokens, draw(goals.actions), np.ones(goals.mask.shape, bool), keys, None)


def test_positions_are_not_rounded():
    """A quarter turn in 2 cm at 1 m is a turn of 80 rad, of which bfloat16 would lose a quarter of a radian."""
    rng = np.random.default_rng(0)
    vectors, points = rng.normal(size=(1, 64, 2, 8)).astype(np.float32), rng.uniform(-1, 1, (1, 64, 3)).astype(np.float32)
    angle = position.angles(points, position.frequencies(jax.random.key(0), 2, 4))
    exact, rounded = (np.asarray(position.rotate(jnp.asarray(vectors, dtype), angle), np.float32) for dtype in ("float32", "bfloat16"))
    assert np.abs(angle).max() > 50 and np.abs(exact - rounded).max() < 0.05


@pytest.mark.parametrize("implementation", ["plain", "xla"])
def test_softmax_takes_logits_that_are_not_rounded(implementation):
    """Large logits that differ by less than bfloat16 resolves at their size still weigh values differently."""
    key = np.zeros((1, 2, 1, 8), np.float32)
    key[0, :, 0, 0] = 16.0
    key[0, :, 0, 1] = 0.0, 0.25
    query = np.zeros((1, 1, 1, 8), np.float32)
    query[..., :2] = 16.0, 1.0
    value = np.array([0.0, 1.0], np.float32).reshape(1, 2, 1, 1) * np.ones(8, np.float32)
    arrays = (jnp.asarray(x, jnp.bfloat16) for x in (query, key, value))
    weight = float(attend(*arrays, implementation=implementation)[0, 0, 0, 0])
    assert weight == pytest.approx(1 / (1 + np.exp(-0.25 / np.sqrt(8))), abs=0.003)


def test_the_difference_is_that_of_running_means():
    one = np.ones(100)
    other = one.copy()
    other[50] = 3.0  # of one step: a tenth of the mean of twenty
    assert agree.difference(one, other) == pytest.approx(0.1)
    assert agree.difference(one, other, window=1) == pytest.approx(2)
    assert agree.difference(2 * one, one) == pytest.approx(0.5)


def test_training_in_two_types_needs_records_and_steps():
    with pytest.raises(ValueError, match="name folders of them with --data"):
        agree.agree(Case("debug"))
    with pytest.raises(ValueError, match="19 steps are fewer than the 20"):
        agree.agree(Case("debug", agree_steps=19, data=("somewhere",)))
