"""Folding for inference: the embeddings stay, P and the text encoder are gone."""

import jax
import numpy as np
import pytest
import tiny
from parameters import random_parameters

from clamp_jax.models import folding, position
from clamp_jax.models.attention import Encoded, TransformerConfig
from clamp_jax.models.clamp import Clamp
from clamp_jax.models.policy_net import PolicyNet
from clamp_jax.models.presets import preset
from clamp_jax.optim import path_name

CONFIG = preset("debug").clamp
SIZE = preset("debug").view_size


def _inputs() -> tuple:
    rng = np.random.default_rng(0)
    views = rng.uniform(0.1, 0.8, (2, 5, SIZE, SIZE, 4)).astype(np.float32)
    views *= rng.uniform(size=(2, 5, SIZE, SIZE, 1)) > 0.5
    past, mask = rng.normal(size=(2, 50, 14)).astype(np.float32), rng.uniform(size=(2, 50)) > 0.3
    return views, past, mask, np.array([[9, 8, 1, 0], [7, 6, 5, 1]], np.int32)


def _apply(clamp: Clamp, params: dict, arguments: tuple, method: str) -> Encoded:
    apply = lambda params: clamp.apply({"params": params}, *arguments, tokens=True, method=method)  # noqa: E731
    return jax.jit(apply, compiler_options=tiny.FAST)(params)


def _names(params: dict) -> set[str]:
    return {part for path, _ in jax.tree_util.tree_leaves_with_path(params) for part in path_name(path).split("/")}


@pytest.mark.parametrize("kind", ["cayley", "circulant", "absolute"])
def test_folded_encoders_give_the_same_embeddings(kind):
    image = CONFIG.image._replace(transformer=CONFIG.image.transformer._replace(position=kind, depth=2, remat=True))
    clamp, inputs = Clamp(CONFIG._replace(image=image)), _inputs()
    params = random_parameters(clamp, *inputs)["params"]
    folded, left = folding.fold_clamp(clamp, params)
    assert folded.config.image.transformer.position == ("rope" if kind == "cayley" else kind)
    assert set(left) == {"image", "action", "image_projection", "action_projection"} and "mixer" not in _names(left)
    for method, arguments in {"encode_images": inputs[:1], "encode_actions": inputs[1:3]}.items():
        one, two = (_apply(net, p, arguments, method) for net, p in ((clamp, params), (folded, left)))
        for name in ("pooled", "tokens"):
            scale = np.abs(getattr(one, name)).max()
            np.testing.assert_allclose(getattr(two, name), getattr(one, name), rtol=0, atol=1e-5 * scale, err_msg=f"{method} {name}")
        np.testing.assert_array_equal(two.mask, one.mask)


def test_p_changes_the_embedding():
    """Guards the test above: with P = I everywhere it would pass without folding."""
    clamp, inputs = Clamp(CONFIG), _inputs()
    params = random_parameters(clamp, *inputs)["params"]
    branch = params["image"]["transformer"]["block_0"]["self"]
    assert np.abs(np.asarray(position.cayley(branch["mixer"]["skew"])) - np.eye(12)).max() > 0.1
    without = jax.tree_util.tree_map_with_path(lambda path, x: x * (path_name(path)[-4:] != "skew"), params)
    one, two = (_apply(clamp, p, inputs[:1], "encode_images").pooled for p in (params, without))
    assert np.abs(one - two).max() > 1e-3 * np.abs(one).max()


def test_what_is_exported_has_plain_attention_and_computes_nothing_twice():
    fused = TransformerConfig(16, 1, 2, remat=True, implementation="cudnn")
    assert folding.inference(fused) == fused._replace(remat=False, implementation="xla")
    assert folding.inference(fused._replace(implementation="auto")).implementation == "xla"
    assert folding.inference(fused._replace(implementation="plain")).implementation == "plain"
    policy = PolicyNet(preset("debug").policy._replace(encoder=fused, decoder=fused))
    found = folding.inference_policy(policy).config
    assert found.encoder.implementation == found.decoder.implementation == "xla"
    assert found._replace(encoder=fused, decoder=fused) == policy.config
