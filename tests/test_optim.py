"""Optimisers: what decays, what is frozen, the schedule's corners and the average of weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clamp_jax import optim


def _params() -> dict:
    return {
        "image": {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}},
        "image_text": {"log_scale": jnp.ones(()), "bias": jnp.ones(())},
        "policy": {"string": {"theta": jnp.ones((1, 3, 2)), "skew": jnp.ones((1, 2, 2))}, "kernel": jnp.ones((2, 3))},
    }


def _step(transformation: optax.GradientTransformation, gradient: float) -> dict:
    def step(params):
        gradients = jax.tree.map(lambda x: jnp.full_like(x, gradient), params)
        updates, _ = transformation.update(gradients, transformation.init(params), params)
        return optax.apply_updates(params, updates)

    return jax.jit(step)(_params())


def test_only_kernels_decay():
    found = _step(optim.adamw(0.1, weight_decay=0.5), gradient=0.0)
    np.testing.assert_allclose(found["image"]["dense"]["kernel"], 0.95)
    np.testing.assert_allclose(found["policy"]["kernel"], 0.95)
    for leaf in (found["image"]["dense"]["bias"], found["image"]["norm"], found["image_text"], found["policy"]["string"]):
        assert all(np.all(np.asarray(x) == 1) for x in jax.tree.leaves(leaf))


def test_clipping_scales_the_whole_gradient_to_the_norm():
    chain = optim.adamw(1.0, clip=0.5)
    params, size = _params(), sum(leaf.size for leaf in jax.tree.leaves(_params()))
    state = chain.init(params)
    _, state = chain.update(jax.tree.map(lambda x: 100 * jnp.ones_like(x), params), state, params)
    first = optax.tree.get(state, "mu")
    np.testing.assert_allclose(first["policy"]["kernel"], 0.1 * 0.5 / np.sqrt(size), rtol=1e-5)  # (1 - b1) of the clipped one


def test_frozen_paths_stay_and_take_no_memory():
    frozen = optim.freeze(optim.adamw(0.1), ["image"])
    found = _step(frozen, gradient=1.0)
    assert all(np.all(np.asarray(x) == 1) for x in jax.tree.leaves(found["image"]))
    assert float(found["image_text"]["bias"]) != 1  # "image" is a path, not the start of a word
    slots = [leaf for leaf in jax.tree.leaves(jax.eval_shape(frozen.init, _params())) if leaf.ndim]
    trained = [leaf for name in ("image_text", "policy") for leaf in jax.tree.leaves(_params()[name]) if leaf.ndim]
    assert sum(x.size for x in slots) == 2 * sum(x.size for x in trained)


def test_freezing_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="nothing to freeze under 'imgae'.*image, image_text, policy"):
        optim.freeze_labels(_params(), ["imgae"])


def test_learning_rate_warms_up_and_falls():
    rate = optim.warmup_cosine(2.0, warmup=10, steps=110, end=0.2)
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(60), rate(110), rate(500)], [0, 1, 2, 1.1, 0.2, 0.2], atol=1e-6)
    np.testing.assert_allclose(optim.warmup_cosine(2.0, warmup=0, steps=10)(0), 2.0)
    with pytest.raises(ValueError, match="warm-up of 10 steps in a training of 10"):
        optim.warmup_cosine(1.0, warmup=10, steps=10)


def test_average_of_weights_follows_the_power_schedule():
    np.testing.assert_allclose(optim.ema_decay(0), 0)
    np.testing.assert_allclose(optim.ema_decay(15), 1 - 16**-0.75, rtol=1e-6)
    np.testing.assert_allclose(optim.ema_decay(10**7), 0.9999, rtol=1e-6)
    average, want = jnp.zeros(()), 0.0
    for step in range(5):
        average = optim.ema_update(average, jnp.float32(step + 3), step)
        decay = 1 - (1 + step) ** -0.75
        want = decay * want + (1 - decay) * (step + 3)
    np.testing.assert_allclose(average, want, rtol=1e-5)
