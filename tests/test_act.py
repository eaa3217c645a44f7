"""The policy as a function: against its own pieces put together by hand, and what must not change it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from clamp_jax import act, diffusion, observe
from clamp_jax.data.transforms import normalise
from clamp_jax.geometry.aloha import WORKING_RANGE
from clamp_jax.networks import Networks
from clamp_jax.structs import CHUNK, Frozen

STEPS = 3
# A policy that predicts noise begins with a division by sqrt(alpha_bar): 1e-3 in the debug schedule, which makes of another processor's
# rounding a thousand times as much wherever nothing is clipped. This one begins at 0.3: the same formulas, and a tolerance that means them.
FIRST = 0.1


class Gentle(Networks):
    """Networks whose sampler does not magnify roundings."""

    @property
    def schedule(self) -> diffusion.Schedule:
        whole = super().schedule
        return whole._replace(alpha_bar=jnp.maximum(whole.alpha_bar, FIRST))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Networks, parameters, eight observations and noise for each."""
    spec = tiny.spec("finetune")
    batch = tiny.make_batches(tmp_path_factory.mktemp("data"), spec).batch_at(0)
    params = tiny.init(spec, batch).params
    noise = np.asarray(jax.random.normal(jax.random.key(1), (8, CHUNK, 14)))
    return Gentle(*spec.networks), params, batch.images.observation, noise


@pytest.fixture(scope="module")
def actions(case):
    networks, params, observations, noise = case
    policy = act.make_policy(networks, steps=STEPS)
    return np.asarray(jax.jit(jax.vmap(policy, (None, 0, 0)), compiler_options=tiny.FAST)(params, observations, noise))


def one(observations, index):
    return jax.tree.map(lambda x: x[index], observations)


def test_actions_are_those_of_ddim_by_hand(case, actions):
    """Views, embeddings, memory and the sampler's steps one by one, for one observation."""
    networks, params, observations, noise = case
    observation = one(observations, 2)
    clamp, policy = ({"params": params[name]} for name in ("clamp", "policy"))

    def first_half(observation):
        views = observe.render_views(observation, networks.views, jax.random.key(5))
        past = jnp.where(observation.past_mask[:, None], normalise(observation.past_actions), 0)
        image = networks.clamp.apply(clamp, views[None], method="encode_images")
        action = networks.clamp.apply(clamp, past[None], observation.past_mask[None], method="encode_actions")
        return networks.policy.apply(policy, observation.rgb[None], normalise(observation.joints)[None], image, action, method="encode")

    memory = jax.jit(first_half, compiler_options=tiny.FAST)(observation)
    denoise = jax.jit(lambda x, t: networks.policy.apply(policy, memory, x[None], t[None], method="denoise")[0], compiler_options=tiny.FAST)
    alpha_bar = np.append(np.asarray(networks.schedule.alpha_bar, np.float64), 1.0)
    x, visited = noise[2].astype(np.float64), [49, 24, 0]
    for timestep, after in zip(visited, [24, 0, -1], strict=True):
        eps = np.asarray(denoise(jnp.float32(x), jnp.int32(timestep)), np.float64)
        x0 = np.clip((x - np.sqrt(1 - alpha_bar[timestep]) * eps) / np.sqrt(alpha_bar[timestep]), -1.2, 1.2)
        eps = (x - np.sqrt(alpha_bar[timestep]) * x0) / np.sqrt(1 - alpha_bar[timestep])
        x = np.sqrt(alpha_bar[after]) * x0 + np.sqrt(1 - alpha_bar[after]) * eps
    low, high = WORKING_RANGE.T
    np.testing.assert_allclose(actions[2], (x + 1) / 2 * (high - low) + low, atol=1e-5)


def test_the_order_of_a_batch_does_not_matter(case, actions):
    networks, params, observations, noise = case
    order = np.array([3, 0, 7, 1, 6, 2, 5, 4])
    policy = jax.jit(jax.vmap(act.make_policy(networks, steps=STEPS), (None, 0, 0)), compiler_options=tiny.FAST)
    shuffled = policy(params, jax.tree.map(lambda x: x[order], observations), noise[order])
    np.testing.assert_allclose(shuffled, actions[order], atol=1e-5)


def test_actions_differ_with_the_noise_and_with_what_is_seen(case, actions):
    """Guards the tests above: a constant policy would pass them."""
    assert np.abs(actions[0] - actions[1]).max() > 1e-3


def test_the_policy_exports_with_parameters_as_arguments(case, actions):
    networks, params, observations, noise = case
    policy = act.make_policy(networks, steps=STEPS)
    leaves, structure = jax.tree.flatten((params, one(observations, 2), noise[2]))
    flat = {f"{i:04}": leaf for i, leaf in enumerate(leaves)}  # a NamedTuple cannot be written
    function = jax.jit(lambda flat: policy(*jax.tree.unflatten(structure, list(flat.values()))))
    exported = jax.export.deserialize(jax.export.export(function)(flat).serialize())
    np.testing.assert_allclose(exported.call(flat), actions[2], atol=1e-5)


def test_the_deployed_policy_acts_as_the_run_does(case):
    networks, params, observations, noise = case
    scene = jax.tree.map(lambda x: np.random.default_rng(0).normal(size=x.shape).astype(np.float32) * 0.5, params["clamp"]["image"])
    run = act.RunPolicy(act.make_policy(networks, steps=STEPS), params | {"clamp": params["clamp"] | {"image": scene}}, networks, None)
    deployed = act.fold(run, steps=STEPS)
    assert "mixer" not in deployed.params["clamp"]["image"]["transformer"]["block_0"]["self"] and "text" not in deployed.params["clamp"]
    given = one(observations, 2), noise[2]
    before, after = (jax.jit(policy.act, compiler_options=tiny.FAST)(policy.params, *given) for policy in (run, deployed))
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_wrong_shapes_and_types_are_named(case):
    networks, params, observations, noise = case
    policy, observation = act.make_policy(networks), one(observations, 0)
    with pytest.raises(ValueError, match=r"rgb is float32\[4, 8, 8, 3\], the policy takes uint8"):
        policy(params, observation._replace(rgb=observation.rgb.astype(np.float32)), noise[0])
    with pytest.raises(ValueError, match=r"depth_m is float32\[3, 8, 8\], the policy takes float32\[4, 8, 8\]"):
        policy(params, observation._replace(depth_m=observation.depth_m[:3]), noise[0])
    with pytest.raises(ValueError, match=r"noise has shape \(8, 50, 14\)"):
        policy(params, observation, noise)


def test_weights_of_another_working_range_are_refused():
    act.check_working_range({"working_range": WORKING_RANGE.tolist()})
    with pytest.raises(ValueError, match="trained with the working range"):
        act.check_working_range({"working_range": (WORKING_RANGE * 1.01).tolist()})


def test_frozen_actions_come_out_to_the_bit_change_the_rest_and_none_change_nothing(case, actions):
    networks, params, observations, noise = case
    policy = jax.jit(act.make_policy(networks, steps=STEPS), compiler_options=tiny.FAST)
    given = np.asarray(actions[4]) + np.float32(0.01)
    frozen = policy(params, one(observations, 2), noise[2], Frozen(given, jnp.int32(7)))
    np.testing.assert_array_equal(frozen[:7], given[:7])
    assert np.abs(frozen[7:] - actions[2][7:]).max() > 1e-5
    none = policy(params, one(observations, 2), noise[2], Frozen(given, jnp.int32(0)))
    np.testing.assert_allclose(none, actions[2], atol=1e-5)
