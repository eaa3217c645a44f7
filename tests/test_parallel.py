"""One device (plain pair losses), four (round the ring), two processes of two each, and accumulation give the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pods
import pytest
import tiny

from clamp_jax import checkpoint, parallel, steps

STEPS = pods.STEPS


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    spec, root = pods.make_spec(), tmp_path_factory.mktemp("case")
    batches = tiny.make_batches(root, spec)
    return spec, batches, tiny.init(spec, batches.batch_at(0)), root


@pytest.fixture(scope="module")
def one_device(case):
    return tiny.step_on(1, steps.pretrain_step, case[0])[1]


@pytest.fixture(scope="module")
def one(case, one_device):
    """States, figures and record ids of ten steps of stage (i) on one device: what all others are compared with."""
    return pods.train(one_device, *case[1:3])


@pytest.fixture(scope="module")
def four(case):
    return on_devices(case, 4)


@pytest.fixture(scope="module")
def two_by_two(case):
    """The same in two processes of two devices each, and the folder of the checkpoint that they saved together."""
    _, _, state, root = case
    return pods.run(root, jax.device_get(state)), root


def on_devices(case, devices, count=STEPS, *, mapping="jit", accumulate=1):
    step = tiny.step_on(devices, steps.pretrain_step, case[0]._replace(accumulate=accumulate), mapping=mapping)[1]
    return pods.train(step, *case[1:3], count)


def assert_same(one, other, count=STEPS):
    """Equal losses and gradients (1e-5 of their norm), and updates over all steps (5e-5 of theirs); pytest -s shows by how much."""
    assert jax.tree.map(np.shape, one.gradient) == jax.tree.map(np.shape, other.gradient)
    for name in one.figures[0]:
        np.testing.assert_allclose(other.figures[0][name], one.figures[0][name], rtol=1e-5, err_msg=name)
    gradients = {name: tiny.relative(one.gradient[name], other.gradient[name]) for name in ("clamp", "policy")}
    update = tiny.relative(one.update, other.update) if count == STEPS else 0.0
    print(f"gradient {max(gradients.values()):.1e}, update {update:.1e}, loss {other.figures[0]['loss'] / one.figures[0]['loss'] - 1:.1e}")
    assert max(gradients.values()) <= 1e-5, gradients
    assert update <= 5e-5


def test_batch_has_both_kinds_and_the_keys_of_its_rows(case):
    batch = case[1].batch_at(3)
    assert len(batch.states.joints) == len(batch.images.labels.tokens) == 8
    whole = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 3), 13)
    assert jnp.array_equal(jax.random.key_data(batch.keys[13]), jax.random.key_data(whole))


def test_ten_steps_of_sgd_move_the_parameters(case, one):
    moved = {name: tiny.relative(start, jax.tree.map(np.add, start, one.update[name])) for name, start in case[2].params.items()}
    assert min(moved.values()) >= 0.01, moved


def test_four_devices_give_the_numbers_of_one(one, four):
    assert_same(one, four)
    assert one.records == four.records


@pytest.mark.timeout(300)  # both processes compile
def test_two_processes_of_two_devices_give_the_numbers_of_one(one, two_by_two):
    (first, second), _ = two_by_two
    assert_same(one, first)
    assert first.figures == second.figures
    for whole, *parts in zip(one.records, first.records, second.records, strict=True):
        assert sorted(sum(parts, [])) == sorted(whole)
        assert [len(part) for part in parts] == [8, 8]


def test_what_two_processes_saved_is_restored_on_another_number_of_devices(case, one, two_by_two):
    (first, _), root = two_by_two
    on, shapes = parallel.mesh(jax.devices()[:1]), jax.eval_shape(lambda: case[2])
    with checkpoint.Checkpoints(root / "run") as store:
        state = store.restore(parallel.replicate_shapes(shapes, on))
    assert int(state.step) == STEPS
    update = jax.tree.map(np.subtract, jax.device_get(state.params), jax.device_get(case[2].params))
    assert tiny.relative(first.update, update) == 0


def test_accumulation_gives_the_numbers_of_the_whole_batch(case, one):
    """In four parts of one row each, on four devices: negatives are all rows still."""
    assert_same(one, on_devices(case, 4, accumulate=4))


def test_pmap_gives_the_numbers_of_one_device(case, one):
    assert_same(one, on_devices(case, 4, 1, mapping="pmap"), 1)


def test_the_encoders_take_no_gradient_from_the_policys_loss(case, one_device, one):
    """With another policy behind the stop-gradient the encoders' gradient is the same to the bit."""
    _, batches, state, _ = case
    other = state._replace(params=state.params | {"policy": jax.tree.map(lambda x: x * 1.5 + 0.01, state.params["policy"])})
    after, figures = one_device(other, batches.batch_at(0))
    assert figures["loss/diffusion"] != one.figures[0]["loss/diffusion"]
    assert tiny.relative(one.gradient["clamp"], tiny.gradient(after)["clamp"]) == 0


def test_every_device_holds_the_keys_of_its_rows(case):
    """Simulated examples' keys and recorded ones' stand apart in a batch, and side by side on each device."""
    batch, on = case[1].batch_at(0), parallel.mesh()
    placed = parallel.shard(batch, on)
    data = lambda keys: [tuple(row) for row in np.asarray(jax.random.key_data(keys))]  # noqa: E731
    key_of = dict(zip(batch.states.joints[:, 0].tolist() + batch.images.observation.joints[:, 0].tolist(), data(batch.keys), strict=True))
    assert len(key_of) == 16
    for device in range(4):
        shard_of = lambda x, device=device: x.addressable_shards[device].data  # noqa: E731
        own = np.concatenate([shard_of(placed.states.joints)[:, 0], shard_of(placed.images.observation.joints)[:, 0]])
        keys = np.asarray(jax.random.key_data(placed.keys))[4 * device : 4 * device + 4]
        assert [key_of[float(x)] for x in own] == [tuple(row) for row in keys]


@pytest.mark.parametrize(
    ("devices", "accumulate", "message"),
    [
        (3, 1, "batch of 8 simulated examples does not divide by 3 devices; make it 6 or 9"),
        (2, 3, "8 rows on each of 2 devices do not divide into train.accumulate = 3 parts"),
        (2, 0, "do not divide into train.accumulate = 0 parts"),
    ],
)
def test_a_batch_that_does_not_divide_is_refused(case, devices, accumulate, message):
    with pytest.raises(ValueError, match=message):
        parallel.check_divisible(case[1].batch_at(0), parallel.mesh(jax.devices()[:devices]), accumulate)


def test_an_unknown_mapping_is_refused():
    with pytest.raises(ValueError, match="mapping is 'xmap'; expected one of"):
        parallel.map_step(lambda *args: args, parallel.mesh(), mapping="xmap")
