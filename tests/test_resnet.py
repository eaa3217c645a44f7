"""ResNet: convolution and padding as the ported weights expect, patches, norms and sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parameters import random_parameters

from clamp_jax.metrics import parameter_count
from clamp_jax.models.presets import RESNET_18, RESNET_50
from clamp_jax.models.resnet import Convolution, ResNet, ResNetConfig, patches

TINY = ResNetConfig((1, 1), (4, 8), groups=2, patch_stem=4)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_equals_a_loop_with_symmetric_padding(stride):
    x = np.random.default_rng(0).normal(size=(1, 7, 6, 2)).astype(np.float32)
    model = Convolution(3, 3, stride, TINY)
    params = model.init(jax.random.key(0), jnp.asarray(x))
    found = model.apply(params, jnp.asarray(x))[0]
    padded, kernel = np.pad(x[0], ((1, 1), (1, 1), (0, 0))), np.asarray(params["params"]["kernel"])
    assert found.shape[:2] == (-(-7 // stride), -(-6 // stride))
    for row, column in np.ndindex(*found.shape[:2]):
        window = padded[row * stride : row * stride + 3, column * stride : column * stride + 3]
        np.testing.assert_allclose(found[row, column], np.einsum("ijc,ijco->o", window, kernel), atol=1e-5)


def test_patches_are_cut_in_order():
    images = np.arange(2 * 5 * 6 * 3, dtype=np.float32).reshape(2, 5, 6, 3)
    found = patches(jnp.asarray(images), 2)
    for row, column in np.ndindex(2, 3):
        np.testing.assert_array_equal(found[1, row, column], images[1, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].ravel())


def test_a_fresh_residual_block_is_its_shortcut():
    """The last norm of a branch starts at zero, so depth costs nothing at the start."""
    model = ResNet(TINY._replace(blocks=(1,), channels=(4,)))
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    params = jax.jit(model.init)(jax.random.key(0), x)
    deeper = ResNet(TINY._replace(blocks=(2,), channels=(4,)))
    more = jax.jit(deeper.init)(jax.random.key(0), x)["params"] | params["params"]
    np.testing.assert_allclose(deeper.apply({"params": more}, x), model.apply(params, x), atol=1e-6)


@pytest.mark.parametrize(("config", "count"), [(RESNET_18, 11_176_512), (RESNET_50, 23_508_032)])
def test_sizes_are_the_published_ones(config, count):
    """Parameters without the classifier: 11,689,512 - 513,000 and 25,557,032 - 2,049,000; any image size, a reduction by 32."""
    images = jax.ShapeDtypeStruct((1, 481, 640, 3), jnp.float32)
    params = jax.eval_shape(ResNet(config).init, jax.random.key(0), images)
    assert parameter_count(params) == count
    assert jax.eval_shape(ResNet(config).apply, params, images).shape == (1, 16, 20, config.features)


def test_frozen_affine_takes_no_gradient():
    model = ResNet(TINY._replace(norm="affine"))
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    params = random_parameters(model, x)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(model.apply(p, x)))))(params)["params"]
    assert np.all(np.asarray(gradient["stem"]["norm"]["scale"]) == 0)
    assert np.any(np.asarray(gradient["stem"]["embed"]["kernel"]) != 0)


def test_bad_settings_are_refused():
    x = np.zeros((1, 8, 8, 3), np.float32)
    with pytest.raises(ValueError, match="norm of the ResNet is 'batch'"):
        ResNet(TINY._replace(norm="batch")).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="4 channels do not divide into 3 groups"):
        ResNet(TINY._replace(groups=3)).init(jax.random.key(0), x)
