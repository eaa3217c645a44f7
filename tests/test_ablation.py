"""Ablations by switch: each takes away what it says and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec
from parameters import random_parameters

from clamp_jax import parallel, steps
from clamp_jax.models.attention import Encoded
from clamp_jax.networks import EMBEDDINGS, without_wrists
from clamp_jax.render.views import orthographic_views
from experiments import training

FAST = {"compiler_options": tiny.FAST}


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """Recorded examples alone: needs no ray caster to be compiled."""
    whole = tiny.make_batches(tmp_path_factory.mktemp("data"), tiny.spec()).batch_at(0)
    return whole._replace(states=None, keys=whole.keys[len(whole.states.joints) :])


@pytest.fixture(scope="module")
def prepared(batch):
    spec = tiny.spec()
    return jax.jit(lambda batch: steps.prepare(spec.networks, batch, parallel.GLOBAL), **FAST)(batch)


def _params(networks, prepared) -> dict:
    inputs, goals = prepared
    embeddings = steps._nothing(networks, len(inputs.joints))
    timestep = np.zeros(len(inputs.joints), np.int32)
    policy = random_parameters(networks.policy, inputs.rgb, inputs.joints, embeddings, embeddings, goals.actions, timestep)["params"]
    clamp = random_parameters(networks.clamp, inputs.views, inputs.past, inputs.past_mask, goals.tokens)["params"]
    return {"clamp": clamp, "policy": policy}


@pytest.mark.parametrize("reads", ["pooled", "tokens"])
def test_embeddings_are_kept_shuffled_or_zeroed(prepared, reads):
    kept = tiny.spec().networks
    kept = kept._replace(policy=kept.policy.clone(config=kept.policy.config._replace(embeddings=reads)))
    params = _params(kept, prepared)
    inputs, goals = prepared
    pair = jax.jit(lambda params: steps.embed(kept, params, inputs), **FAST)(params)
    diffuse = jax.jit(lambda pair: steps.diffuse(kept, params["policy"], inputs, goals, pair, parallel.GLOBAL), **FAST)
    found = {kind: float(diffuse(steps.ablate(kept._replace(embeddings=kind), pair, parallel.GLOBAL))) for kind in EMBEDDINGS}
    assert len(set(found.values())) == 3 and found["kept"] == float(diffuse(pair))
    rolled = jax.tree.map(lambda x: np.roll(x, 1, axis=0), pair)
    nothing = tuple(one._replace(pooled=one.pooled * 0, tokens=one.tokens * 0) for one in pair)
    assert found["shuffled"] == float(diffuse(rolled)) and found["zeroed"] == float(diffuse(nothing))


def test_neighbours_over_four_devices_are_those_of_the_whole_batch():
    x = np.arange(24.0).reshape(8, 3)
    rows = PartitionSpec(parallel.AXIS)
    shift = jax.shard_map(parallel.over_axis(parallel.AXIS).shift, mesh=parallel.mesh(), in_specs=rows, out_specs=rows)
    np.testing.assert_array_equal(shift(x), np.roll(x, 1, axis=0))
    np.testing.assert_array_equal(parallel.GLOBAL.shift(x), np.roll(x, 1, axis=0))


def test_a_policy_that_reads_tokens_sees_those_that_carry_something_and_not_the_pooled_one(prepared):
    networks = tiny.spec().networks
    networks = networks._replace(policy=networks.policy.clone(config=networks.policy.config._replace(embeddings="tokens")))
    params, (inputs, _) = _params(networks, prepared), prepared
    image, action = jax.jit(lambda params: steps.embed(networks, params, inputs), **FAST)(params)
    image = image._replace(mask=image.mask.at[:, -3:].set(False))
    observed = {"params": params["policy"]}, inputs.rgb, inputs.joints
    encode = jax.jit(lambda *read: networks.policy.apply(*observed, *read, method="encode"), **FAST)
    base = encode(image, action)
    hidden = np.asarray(base.mask)
    assert hidden.shape[1] == 4 + 1 + image.tokens.shape[1] + action.tokens.shape[1] and not hidden.all()

    def change(image: Encoded, action: Encoded = action) -> float:
        return float(np.abs(np.asarray(encode(image, action).tokens - base.tokens))[hidden].max())

    assert change(image._replace(pooled=image.pooled + 1)) == 0
    assert change(image._replace(tokens=jnp.where(image.mask[..., None], image.tokens, 1e3))) == 0
    first = int(np.argmax(image.mask[0]))
    assert change(image._replace(tokens=image.tokens.at[0, first].add(1))) > 1e-4
    assert change(image, action._replace(tokens=action.tokens.at[:, 0].add(1))) > 1e-4


def test_without_text_one_pair_is_left(prepared):
    spec = tiny.spec(ablation__text=False)
    networks, (inputs, goals) = spec.networks, prepared
    params = _params(networks, prepared)
    assert not {"text", "text_projection", "image_text", "text_action"} & set(params["clamp"])
    found = jax.jit(lambda params: steps.contrast(networks, params, inputs, goals, parallel.GLOBAL), **FAST)(params)
    assert {name for name in found[2] if name.startswith("loss/")} == {"loss/image_action"}
    full = tiny.spec().networks
    filled = _params(full, prepared)["clamp"] | params["clamp"]
    whole = jax.jit(lambda params: steps.contrast(full, params, inputs, goals, parallel.GLOBAL)[2], **FAST)({"clamp": filled})
    np.testing.assert_allclose(found[0], whole["loss/image_action"], rtol=1e-6)


def test_wrist_views_and_positions_go_by_a_value():
    assert tiny.spec(ablation__wrist_views=False).networks.views.names == ("overhead", "back_right", "front_left")
    flat = orthographic_views(8)
    assert without_wrists(flat) == flat
    for kind in ("none", "absolute", "circulant"):
        assert tiny.spec(ablation__position=kind).networks.clamp.config.image.transformer.position == kind


def test_a_frozen_text_encoder_has_no_gradient_no_decay_and_no_moments(prepared):
    config = tiny.config(optimiser__warmup=0)
    with config.unlocked():
        config.model.overrides = (*tiny.OVERRIDES, ("clamp.text_frozen", True))
    spec = training.make_spec(config, "pretrain")
    params, (inputs, goals) = _params(spec.networks, prepared), prepared
    loss = lambda clamp: steps.contrast(spec.networks, {"clamp": clamp}, inputs, goals, parallel.GLOBAL)[0]  # noqa: E731
    gradient = jax.jit(jax.grad(loss), **FAST)(params["clamp"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["text"])) and np.any(gradient["text_projection"]["kernel"])

    def update(params: dict) -> tuple:
        state = spec.optimiser.init(params)
        return spec.optimiser.update(jax.tree.map(jnp.ones_like, params), state, params)[0], state

    moved, state = jax.jit(update, **FAST)(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(moved["clamp"]["text"])) and np.any(moved["clamp"]["text_projection"]["kernel"])
    named = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_leaves_with_path(state)}
    assert any("/text_projection/" in name for name in named) and not any("/text/" in name for name in named)
