"""Views are a set of patches in space: centres of mass, masks, permutations, and clouds that are empty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parameters import random_parameters

from clamp_jax.models.attention import TransformerConfig
from clamp_jax.models.view_encoder import ViewEncoder, ViewEncoderConfig, patchify

CONFIG = ViewEncoderConfig(TransformerConfig(12, 1, 2, mlp_ratio=2, position="cayley"), patch=4)


def _views(b: int = 2, v: int = 3, size: int = 8, empty: float = 0.6) -> np.ndarray:
    rng = np.random.default_rng(0)
    views = rng.uniform(0.1, 0.8, (b, v, size, size, 4)).astype(np.float32)
    views *= rng.uniform(size=(b, v, size, size, 1)) > empty
    views[:, 0, :4, :4] = 0  # one patch without a point
    return views


@pytest.fixture(scope="module")
def encoder():
    model = ViewEncoder(CONFIG)
    return random_parameters(model, _views()), jax.jit(model.apply)


def test_patches_equal_a_loop():
    views = _views()
    found = patchify(views, 4)
    for example in range(2):
        places = [(view, row, column) for view in range(3) for row in (0, 4) for column in (0, 4)]
        for patch, (view, row, column) in enumerate(places):
            pixels = views[example, view, row : row + 4, column : column + 4].reshape(-1, 4)
            seen = pixels[pixels[:, 0] > 0]
            assert found.visible[example, patch] == (len(seen) > 0)
            np.testing.assert_allclose(found.centres_m[example, patch], seen[:, 1:].mean(0) if len(seen) else np.zeros(3), atol=1e-6)
            channels = np.asarray(found.pixels[example, patch]).reshape(-1, 8)
            np.testing.assert_allclose(channels[:, :4] * 0.6, pixels, atol=1e-6)
            np.testing.assert_array_equal(channels[:, 7], pixels[:, 0] > 0)


def test_permuting_views_permutes_tokens_and_leaves_the_embedding_alone(encoder):
    params, apply = encoder
    views, order = _views(), np.array([2, 0, 1])
    base, found = apply(params, views), apply(params, views[:, order])
    tokens = np.asarray(base.tokens).reshape(2, 3, 4, -1)[:, order].reshape(2, 12, -1)
    seen = np.asarray(found.mask)
    np.testing.assert_allclose(np.asarray(found.tokens)[seen], tokens[seen], atol=1e-5)
    np.testing.assert_allclose(found.pooled, base.pooled, atol=1e-5)


@pytest.mark.parametrize("junk", [5.0, np.nan])
def test_what_an_empty_pixel_holds_changes_nothing(encoder, junk):
    params, apply = encoder
    views = _views()
    dirty = np.where(views[..., :1] > 0, views, np.array([0, junk, junk, junk], np.float32))
    np.testing.assert_array_equal(apply(params, dirty).pooled, apply(params, views).pooled)


def test_each_visible_patch_counts(encoder):
    params, apply = encoder
    views = _views()
    base = np.asarray(apply(params, views).pooled)
    for view, row, column in [(0, 4, 4), (1, 0, 0), (2, 4, 0)]:
        hidden = views.copy()
        hidden[:, view, row : row + 4, column : column + 4] = 0
        assert np.abs(np.asarray(apply(params, hidden).pooled) - base).max() > 1e-4


def test_an_empty_cloud_has_a_finite_constant_embedding_and_gradient(encoder):
    params, apply = encoder
    empty = np.zeros_like(_views())
    pooled = np.asarray(apply(params, empty).pooled)
    assert np.all(np.isfinite(pooled))
    np.testing.assert_array_equal(pooled[0], pooled[1])
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(apply(p, empty).pooled))))(params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_absolute_positions_and_none_are_options():
    views = _views(b=1)
    for kind, has_position in {"absolute": True, "none": False}.items():
        model = ViewEncoder(CONFIG._replace(transformer=CONFIG.transformer._replace(position=kind)))
        params = jax.eval_shape(model.init, jax.random.key(0), views)["params"]
        assert ("position" in params) == has_position
        assert not {"string", "mixer"} & set(params["transformer"]["block_0"]["self"])


def test_views_that_do_not_divide_into_patches_are_refused():
    with pytest.raises(ValueError, match="10 x 10 pixels.*patches of 4"):
        patchify(np.zeros((1, 1, 10, 10, 4), np.float32), 4)
