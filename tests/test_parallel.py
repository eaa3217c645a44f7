"""One device (plain pair losses) and four (round the ring) give the same loss, gradients and updates, whatever the mapping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from clamp_jax import parallel, steps

STEPS = 10


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    spec = tiny.spec(clamp=0.01, policy=0.1)
    batches = tiny.make_batches(tmp_path_factory.mktemp("data"), spec)
    return spec, batches, tiny.init(spec, batches.batch_at(0))


@pytest.fixture(scope="module")
def runs(case, one_device):
    """(states, metrics) of ten steps of stage (i) on one device and on four."""
    return {devices: train(case, devices, STEPS, step=step) for devices, step in ((1, one_device), (4, None))}


@pytest.fixture(scope="module")
def one_device(case):
    return tiny.step_on(1, steps.pretrain_step, case[0])[1]


def train(case, devices, count, mapping="jit", step=None):
    spec, batches, state = case
    step = step or tiny.step_on(devices, steps.pretrain_step, spec, mapping=mapping)[1]
    states, found = [jax.device_get(state)], []
    for number in range(count):
        state, figures = step(state, batches.batch_at(number))
        states.append(jax.device_get(state))
        found.append(jax.device_get(figures))
    return states, found


def test_batch_has_both_kinds_and_the_keys_of_its_rows(case):
    batch = case[1].batch_at(3)
    assert len(batch.states.joints) == len(batch.images.labels.tokens) == 8
    whole = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 3), 13)
    assert jnp.array_equal(jax.random.key_data(batch.keys[13]), jax.random.key_data(whole))


def test_four_devices_give_the_loss_and_the_gradient_of_one(runs):
    (one_states, one), (four_states, four) = runs[1], runs[4]
    for name in one[0]:
        np.testing.assert_allclose(one[0][name], four[0][name], rtol=1e-5, err_msg=name)
    assert tiny.relative(tiny.gradient(one_states[1]), tiny.gradient(four_states[1])) <= 1e-5
    for network in ("clamp", "policy"):
        pair = [tiny.gradient(states[1])[network] for states in (one_states, four_states)]
        assert tiny.relative(*pair) <= 1e-5, network


def test_ten_steps_of_sgd_move_the_parameters_alike(runs):
    updates = [jax.tree.map(np.subtract, states[STEPS].params, states[0].params) for states, _ in (runs[1], runs[4])]
    start = runs[1][0][0].params
    moved = {name: tiny.relative(start[name], runs[1][0][STEPS].params[name]) for name in start}
    assert min(moved.values()) >= 0.01, moved
    assert tiny.relative(*updates) <= 5e-5


def test_pmap_gives_the_gradient_of_one_device(case, runs):
    states, found = train(case, 4, 1, mapping="pmap")
    np.testing.assert_allclose(found[0]["loss"], runs[1][1][0]["loss"], rtol=1e-5)
    np.testing.assert_allclose(found[0]["top1/image_text"], runs[1][1][0]["top1/image_text"])
    assert tiny.relative(tiny.gradient(runs[1][0][1]), tiny.gradient(states[1])) <= 1e-5
    assert jax.tree.map(np.shape, states[1]) == jax.tree.map(np.shape, states[0])


def test_the_encoders_take_no_gradient_from_the_policys_loss(case, one_device, runs):
    """With another policy behind the stop-gradient the encoders' gradient is the same to the bit."""
    _, batches, state = case
    other = state._replace(params=state.params | {"policy": jax.tree.map(lambda x: x * 1.5 + 0.01, state.params["policy"])})
    after, figures = one_device(other, batches.batch_at(0))
    assert figures["loss/diffusion"] != runs[1][1][0]["loss/diffusion"]
    assert tiny.relative(tiny.gradient(runs[1][0][1])["clamp"], tiny.gradient(after)["clamp"]) == 0


def test_a_batch_that_does_not_divide_is_refused(case):
    batch = case[1].batch_at(0)
    with pytest.raises(ValueError, match="batch of 8 simulated examples does not divide by 3 devices; make it 6 or 9"):
        parallel.shard(batch, parallel.mesh(jax.devices()[:3]))


def test_an_unknown_mapping_is_refused():
    with pytest.raises(ValueError, match="mapping is 'xmap'; expected one of"):
        parallel.map_step(lambda *args: args, parallel.mesh(), mapping="xmap")
