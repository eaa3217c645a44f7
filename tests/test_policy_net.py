"""Policy network: the two halves, what the prediction depends on, shared backbones and the baselines' switch."""

import jax
import numpy as np
import pytest
from parameters import random_parameters

from clamp_jax.models.attention import alone
from clamp_jax.models.policy_net import PolicyNet, normalise_rgb, sinusoids_2d
from clamp_jax.models.presets import preset

CONFIG = preset("debug").policy
D = 6
ORDER = ("rgb", "joints", "image", "action", "noisy", "timestep")


def _inputs() -> dict:
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    rgb = rng.integers(0, 256, (2, 4, 16, 16, 3)).astype(np.uint8)
    return {"rgb": rgb, "joints": draw(2, 14), "image": alone(draw(2, D)), "action": alone(draw(2, D)), "noisy": draw(2, 50, 14),
            "timestep": np.array([3, 40], np.int32)}  # fmt: skip


@pytest.fixture(scope="module")
def policy():
    model = PolicyNet(CONFIG)
    params = random_parameters(model, *_inputs().values())
    apply = jax.jit(lambda params, inputs: model.apply(params, *(inputs[name] for name in ORDER)))
    return model, params, apply


@pytest.mark.parametrize("name", ORDER)
def test_prediction_depends_on_each_input_of_its_own_example(policy, name):
    _, params, apply = policy
    inputs = _inputs()
    changed = dict(inputs)
    changed[name] = jax.tree.map(lambda x: np.asarray(x)[[1, 1]], inputs[name])
    change = np.abs(np.asarray(apply(params, changed) - apply(params, inputs)))
    assert change[0].max() > 1e-5 and change[1].max() < 1e-6


def test_each_camera_and_each_step_of_the_chunk_counts(policy):
    _, params, apply = policy
    inputs = _inputs()
    base = apply(params, inputs)
    for camera in range(4):
        rgb = inputs["rgb"].copy()
        rgb[:, camera] = 0
        assert np.abs(apply(params, inputs | {"rgb": rgb}) - base).max() > 1e-5
    swapped = inputs["rgb"][:, [1, 0, 2, 3]]  # the camera embedding tells them apart though they share a network
    assert np.abs(apply(params, inputs | {"rgb": swapped}) - base).max() > 1e-5
    reversed_chunk = apply(params, inputs | {"noisy": inputs["noisy"][:, ::-1]})
    assert np.abs(reversed_chunk[:, ::-1] - base).max() > 1e-4


def test_denoising_an_encoded_observation_equals_the_call(policy):
    model, params, apply = policy
    inputs = _inputs()
    observed = [inputs[name] for name in ("rgb", "joints", "image", "action")]

    def halves(params):
        memory = model.apply(params, *observed, method="encode")
        return model.apply(params, memory, inputs["noisy"], inputs["timestep"], method="denoise")

    np.testing.assert_allclose(jax.jit(halves)(params), apply(params, inputs), atol=1e-5)


def test_without_embeddings_there_is_no_place_for_them():
    model, inputs = PolicyNet(CONFIG._replace(use_embeddings=False)), _inputs()
    inputs["image"] = inputs["action"] = None
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs.values()))["params"]
    assert not {"image_token", "action_token"} & set(shapes)
    with pytest.raises(ValueError, match="got None for an embedding"):
        jax.eval_shape(lambda: PolicyNet(CONFIG).init(jax.random.key(0), *inputs.values()))


def test_backbones_share_cameras_as_listed():
    inputs = _inputs()
    shapes = jax.eval_shape(lambda: PolicyNet(CONFIG._replace(backbones=(0, 1, 2, 2))).init(jax.random.key(0), *inputs.values()))["params"]
    assert sum(name.startswith("resnets") for name in shapes) == 3
    with pytest.raises(ValueError, match="4 RGB images, its config lists 3 cameras"):
        jax.eval_shape(lambda: PolicyNet(CONFIG._replace(backbones=(0, 0, 0))).init(jax.random.key(0), *inputs.values()))


def test_rgb_and_positions_have_unit_size():
    mean = np.round(255 * np.array([0.485, 0.456, 0.406])).astype(np.uint8)
    np.testing.assert_allclose(normalise_rgb(mean[None]), 0, atol=0.01)
    where = sinusoids_2d(5, 7, 16).reshape(35, 16)
    assert len(np.unique(where.round(5), axis=0)) == 35 and np.abs(where).max() <= 1


def test_actions_that_share_a_token_keep_their_place_in_the_chunk():
    """With blocks that do nothing, action i of the output depends on the actions of its own token alone."""
    model = PolicyNet(CONFIG._replace(actions_per_token=5, decoder=CONFIG.decoder._replace(depth=0)))
    inputs = _inputs()
    params = random_parameters(model, *inputs.values())
    base = np.asarray(model.apply(params, *(inputs[name] for name in ORDER)))
    noisy = inputs["noisy"].copy()
    noisy[:, 12] += 1.0
    change = np.abs(np.asarray(model.apply(params, *((inputs | {"noisy": noisy})[name] for name in ORDER))) - base).max(axis=(0, 2))
    assert base.shape == (2, 50, 14) and (change[10:15] > 1e-5).all()
    assert change[:10].max() < 1e-6 and change[15:].max() < 1e-6


def test_a_chunk_that_tokens_do_not_divide_is_refused():
    model = PolicyNet(CONFIG._replace(actions_per_token=3))
    with pytest.raises(ValueError, match="actions_per_token is 3; expected a divisor of the chunk of 50"):
        jax.eval_shape(model.init, jax.random.key(0), *_inputs().values())
