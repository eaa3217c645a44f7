"""Clamp and the presets: what each encoder depends on, the pairs' parameters, and fields changed by name."""

import jax
import numpy as np
import pytest

from clamp_jax.metrics import parameter_count
from clamp_jax.models.attention import alone
from clamp_jax.models.clamp import PAIRS
from clamp_jax.models.presets import PRESETS, build, override, preset

SIZE = preset("debug")


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    views = rng.uniform(0.1, 1, (2, 5, SIZE.view_size, SIZE.view_size, 4)).astype(np.float32)
    return views, rng.normal(size=(2, 50, 14)).astype(np.float32), np.ones((2, 50), bool), np.array([[9, 8, 1, 0], [7, 6, 5, 1]], np.int32)


@pytest.fixture(scope="module")
def clamp(inputs):
    model, _ = build(SIZE)
    return model, jax.jit(model.init)(jax.random.key(0), *inputs)


def test_each_method_gives_what_the_call_gives(clamp, inputs):
    model, params = clamp
    views, past, mask, tokens = inputs
    whole = jax.jit(model.apply)(params, *inputs)

    def apart(params):
        return {
            "image": model.apply(params, views, method="encode_images").pooled,
            "action": model.apply(params, past, mask, method="encode_actions").pooled,
            "text": model.apply(params, tokens, method="encode_text"),
        }

    found = jax.jit(apart)(params)
    for name in ("image", "action", "text"):
        np.testing.assert_allclose(found[name], whole[name], atol=1e-5)
        assert whole[name].shape == (2, SIZE.clamp.embedding) and np.abs(whole[name][0] - whole[name][1]).max() > 1e-4


def test_pairs_have_their_own_temperature_and_bias(clamp):
    model, params = clamp
    scales = model.apply(params, method="pairs")
    assert tuple(sorted(scales)) == tuple(sorted(PAIRS))
    for name, (log_scale, bias) in scales.items():
        assert float(log_scale) == pytest.approx(np.log(10)) and float(bias) == SIZE.clamp.bias
        assert set(params["params"][name]) == {"log_scale", "bias"}


def test_paper_scale_policy_has_the_published_size():
    _, policy = build(preset("B/16"))
    images, vector = jax.ShapeDtypeStruct((1, 4, 64, 64, 3), np.uint8), alone(np.zeros((1, 512), np.float32))
    joints, chunk = jax.ShapeDtypeStruct((1, 14), np.float32), jax.ShapeDtypeStruct((1, 50, 14), np.float32)
    timestep = jax.ShapeDtypeStruct((1,), np.int32)
    shapes = jax.eval_shape(policy.init, jax.random.key(0), images, joints, vector, vector, chunk, timestep)["params"]
    assert round(parameter_count(shapes) / 1e6) == 217
    assert round(parameter_count(shapes["encoder"]) / 1e6) == 85
    assert round(parameter_count(shapes["decoder"]) / 1e6) == 57


def test_presets_hold_together():
    for name in PRESETS:
        size = preset(name)
        assert size.view_size % size.clamp.image.patch == 0
        assert hash(size.clamp) is not None and hash(size.policy) is not None


def test_fields_are_replaced_by_path_and_misspelt_ones_refused():
    changed = override(SIZE, {"clamp.image.transformer.depth": 7, "draws": 3})
    assert (changed.clamp.image.transformer.depth, changed.draws) == (7, 3)
    assert changed.policy == SIZE.policy and SIZE.draws == 1
    with pytest.raises(ValueError, match="no field 'clamp.image.dept'"):
        override(SIZE, {"clamp.image.dept": 7})
    with pytest.raises(ValueError, match="no preset 'dmo'; did you mean 'demo'"):
        preset("dmo")
