"""The steps: what is trained and what is not, what each variant sees, and how devices share a loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from clamp_jax import losses, networks, parallel, steps
from clamp_jax.structs import Batch


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def images_only(batch: Batch) -> Batch:
    """The recorded half of a batch: needs no ray caster to be compiled."""
    return batch._replace(states=None, keys=batch.keys[len(batch.states.joints) :])


@pytest.fixture(scope="module")
def finetuned(root):
    """Spec, batch, state before and after one step of stage (ii) with encoders."""
    spec = tiny.spec("finetune")
    batch = images_only(tiny.make_batches(root, spec).batch_at(0))
    state = tiny.init(spec, batch)
    after, _ = jax.jit(lambda *args: steps.finetune_step(spec, *args, parallel.GLOBAL), compiler_options=tiny.FAST)(state, batch)
    return spec, batch, state, after


def test_finetuning_trains_the_policy_and_leaves_the_encoders(finetuned):
    _, _, before, after = finetuned
    for tree in ("params", "ema"):
        old, new = getattr(before, tree), getattr(after, tree)
        assert tiny.relative(old["clamp"], new["clamp"]) == 0
        assert tiny.relative(old["policy"], new["policy"]) > 0
    assert set(tiny.gradient(after)) == {"policy"}
    assert int(after.step) == 1


def test_the_first_average_is_the_weights(finetuned):
    after = finetuned[3]
    np.testing.assert_array_equal(after.ema["policy"]["time"], after.params["policy"]["time"])


def test_a_blind_policy_is_told_nothing_by_pixels_and_past(root):
    spec = tiny.spec(variant="blind")
    batch = tiny.make_batches(root, spec).batch_at(0)
    state = tiny.init(spec, batch)
    assert set(state.params) == {"policy"}
    other = batch.images.observation
    other = other._replace(rgb=255 - other.rgb, depth_m=other.depth_m * 2, past_actions=other.past_actions + 1)
    changed = batch._replace(images=batch.images._replace(observation=other))
    step = jax.jit(lambda state, batch: steps.pretrain_step(spec, state, batch, parallel.GLOBAL)[1], compiler_options=tiny.FAST)
    one, two = step(state, batch), step(state, changed)
    assert float(one["loss"]) == float(two["loss"])
    moved = batch._replace(images=batch.images._replace(observation=batch.images.observation._replace(joints=other.joints + 0.3)))
    assert float(step(state, moved)["loss"]) != float(one["loss"])


def test_false_negatives_are_told_to_the_losses_unless_that_is_switched_off(root):
    spec = tiny.spec()
    batch = images_only(tiny.make_batches(root, spec).batch_at(0))
    labels = batch.images.labels._replace(trajectory=batch.images.labels.trajectory % 5)
    batch = batch._replace(images=batch.images._replace(labels=labels))
    ids = jax.jit(lambda batch: steps.prepare(spec.networks, batch, parallel.GLOBAL)[1].ids, compiler_options=tiny.FAST)(batch)
    expected = losses.false_negatives(labels.trajectory, labels.tokens)
    assert expected.any()
    np.testing.assert_array_equal(losses.alike(ids, ids) & ~np.eye(len(ids), dtype=bool), expected)

    def told(spec):
        given = []
        pair = lambda x, y, log_scale, bias, ids: given.append(ids) or (jnp.zeros(()), jnp.zeros(()))  # noqa: E731
        state = jax.eval_shape(lambda: steps.init(spec, jax.random.key(0), batch))
        jax.eval_shape(lambda *args: steps.pretrain_step(spec, *args, parallel.GLOBAL._replace(pair=pair)), state, batch)
        return [None if ids is None else ids.shape for ids in given]

    assert told(spec) == [(8, 3)] * 3
    assert told(spec._replace(mask_false_negatives=False)) == [None] * 3


@pytest.fixture(scope="module")
def policy_only(root):
    spec = tiny.spec("finetune", variant="scratch")
    batch = images_only(tiny.make_batches(root, spec).batch_at(0))
    return spec, batch, tiny.init(spec, batch)


def test_shares_of_the_loss_average_to_the_whole_when_masks_differ(policy_only):
    """Two devices, one with most of its target masked: the mean of their shares is the loss of all rows at once."""
    spec, batch, state = policy_only
    count = len(batch.keys)
    mask = np.ones((count, 50), bool)
    mask[: count // 2, 7:] = False

    def loss(batch, mask, mean):
        inputs, goals = steps.prepare(spec.networks, batch, parallel.GLOBAL)
        reduction = parallel.GLOBAL._replace(mean=mean)
        return steps.diffuse(spec.networks, state.params["policy"], inputs, goals._replace(mask=mask), (None, None), reduction)

    half = count // 2
    split = [(jax.tree.map(lambda x, part=part: x[part], batch), mask[part]) for part in (slice(0, half), slice(half, None))]
    counts = float(np.mean([part.sum() for _, part in split]))
    fast = {"compiler_options": tiny.FAST}
    shares = [jax.jit(lambda *args: loss(*args, lambda _: jnp.float32(counts)), **fast)(*part) for part in split]
    whole = jax.jit(lambda *args: loss(*args, lambda x: x), **fast)(batch, mask)
    np.testing.assert_allclose(np.mean(shares), whole, rtol=1e-5)


def test_what_the_past_mask_hides_does_not_matter(policy_only):
    spec, batch, _ = policy_only
    observation = batch.images.observation
    mask = np.arange(50)[None] >= np.full((len(batch.keys), 1), 20)
    junk = np.where(mask[..., None], observation.past_actions, 1e6).astype(np.float32)
    one = steps.see(spec.networks, observation._replace(past_mask=mask), batch.keys)
    two = steps.see(spec.networks, observation._replace(past_mask=mask, past_actions=junk), batch.keys)
    np.testing.assert_array_equal(one.past, two.past)
    assert np.all(one.past[:, :20] == 0)


def test_variants_have_the_networks_they_need():
    found = {name: tiny.spec("finetune", variant=name).networks for name in networks.VARIANTS}
    assert {name: networks.clamp is not None for name, networks in found.items()} == {
        "clamp": True, "policy_pretrained": False, "scratch": False, "blind": False}  # fmt: skip
    assert found["clamp"].policy.config.use_embeddings and not found["scratch"].policy.config.use_embeddings
    assert found["scratch"].policy == found["policy_pretrained"].policy
    assert steps.trained_networks(found["clamp"], "pretrain") == ("clamp", "policy")
    assert steps.trained_networks(found["blind"], "pretrain") == ("policy",)


def test_a_run_begins_with_the_given_weights_and_a_fresh_optimiser(policy_only):
    spec, _, state = policy_only
    given = {"policy": jax.tree.map(lambda x: np.asarray(x) + 1, state.params["policy"])}
    begun = steps.begin(spec, given)
    assert tiny.relative(given, begun.params) == tiny.relative(given, begun.ema) == 0
    assert int(begun.step) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(begun.opt_state))
    assert begun.params["policy"]["time"] is not begun.ema["policy"]["time"]  # a donated state must not hold a buffer twice


def test_bad_names_and_sizes_are_refused(root):
    found = tiny.spec("finetune").networks
    with pytest.raises(ValueError, match="variant is 'deaf'; expected one of clamp"):
        networks.make_networks(model={}, views={}, sensor={}, variant="deaf")
    with pytest.raises(ValueError, match="projection of the views is 'fisheye'"):
        networks.make_views(8, projection="fisheye", points=0, voxel_m=0.0, radius_px=0, radius_m=0.0)
    with pytest.raises(ValueError, match="ablation.embeddings is 'mixed'; expected one of kept, shuffled, zeroed"):
        tiny.spec(ablation__embeddings="mixed")
    with pytest.raises(ValueError, match="position encoding is 'polar'; expected one of cayley"):
        tiny.spec(ablation__position="polar")
    larger = found._replace(sensor=found.sensor._replace(height=16))
    batch = tiny.make_batches(root, tiny.spec()).batch_at(0)
    with pytest.raises(ValueError, match=r"simulated images are \(4, 16, 8, 3\), recorded ones \(4, 8, 8, 3\)"):
        jax.eval_shape(lambda batch: steps.prepare(larger, batch, parallel.GLOBAL), batch)
