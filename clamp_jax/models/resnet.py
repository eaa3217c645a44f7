"""ResNets that give feature maps of any image size (arXiv 1512.03385, stride in the 3x3 as in torchvision's v1.5).

GroupNorm from scratch, or the frozen affine that is left of a ported network's batch norm: no mutable collections.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


class ResNetConfig(NamedTuple):
    """Stages of a ResNet; the first stage keeps the resolution, each later one halves it."""

    blocks: tuple[int, ...]  # blocks in each stage
    channels: tuple[int, ...]  # width of each stage (a bottleneck's output is four times that)
    bottleneck: bool = False
    patch_stem: int = 0  # 0: the ImageNet networks' 7x7 stride 2 and max-pool; n: one n x n patch a pixel (ours, cheap on CPU)
    norm: str = "group"  # "group" or "affine" (frozen batch norm)
    groups: int = 32
    dtype: str = "float32"

    @property
    def features(self) -> int:
        """Channels of the feature map."""
        return self.channels[-1] * (4 if self.bottleneck else 1)


def patches(images: Float[Array, "b h w c"], size: int) -> Float[Array, "b y x n"]:
    """Images as patches of size x size pixels, n = size^2 c numbers each; rows and columns left over are dropped."""
    b, h, w, c = images.shape
    rows, columns = h // size, w // size
    cut = images[:, : rows * size, : columns * size].reshape(b, rows, size, columns, size, c)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows, columns, size * size * c)


class Convolution(nn.Module):
    """A square convolution without bias, padded by half its size on each side; kernel (i, j, c, o)."""

    features: int
    size: int
    stride: int
    config: ResNetConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b y x o"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        kernel = self.param("kernel", init, shape).astype(self.config.dtype)
        half = self.size // 2
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (self.stride,) * 2, ((half, half),) * 2, dimension_numbers=dimensions)


class FrozenAffine(nn.Module):
    """Scale and offset per channel that take no gradient: a ported batch norm with its statistics folded in."""

    zero: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        scale = self.param("scale", nn.initializers.constant(0.0 if self.zero else 1.0), (x.shape[-1],))
        offset = self.param("bias", nn.initializers.zeros_init(), (x.shape[-1],))
        scale, offset = jax.lax.stop_gradient((scale.astype(x.dtype), offset.astype(x.dtype)))
        return x * scale[None, None, None, :] + offset[None, None, None, :]


def norm(config: ResNetConfig, channels: int, name: str, zero: bool = False) -> nn.Module:
    """The normalisation layer; `zero` starts its scale at 0, so that a residual branch starts as nothing."""
    if config.norm == "affine":
        return FrozenAffine(name=name)  # ported: its values are loaded, a zero start would only hide a missing one
    if config.norm != "group":
        raise ValueError(f"norm of the ResNet is {config.norm!r}; expected 'group' or 'affine'")
    if channels % config.groups:
        raise ValueError(f"{channels} channels do not divide into {config.groups} groups; set groups of the ResNet to a divisor")
    init = nn.initializers.zeros_init() if zero else nn.initializers.ones_init()
    # E[x^2] - E[x]^2, the fast form, cancels on flat patches of an image and spoils the stem's gradient
    return nn.GroupNorm(config.groups, epsilon=1e-5, dtype=config.dtype, use_fast_variance=False, scale_init=init, name=name)


class ResidualBlock(nn.Module):
    """A basic (3x3, 3x3) or bottleneck (1x1, 3x3, 1x1) block with its shortcut."""

    channels: int
    stride: int
    config: ResNetConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b y x o"]:
        config = self.config
        sizes = ((1, 1), (3, self.stride), (1, 1)) if config.bottleneck else ((3, self.stride), (3, 1))
        out = self.channels * (4 if config.bottleneck else 1)
        y = x
        for index, (size, stride) in enumerate(sizes):
            last = index == len(sizes) - 1
            width = out if last else self.channels
            y = Convolution(width, size, stride, config, name=f"conv_{index}")(y)
            y = norm(config, width, f"norm_{index}", zero=last)(y)
            y = y if last else nn.relu(y)
        if x.shape != y.shape:
            x = Convolution(out, 1, self.stride, config, name="conv_shortcut")(x)
            x = norm(config, out, "norm_shortcut")(x)
        return nn.relu(x + y)


class Stem(nn.Module):
    """First layer: 7x7 and max-pool, which reduce by four, or a linear map of each patch."""

    config: ResNetConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b y x o"]:
        config, channels, patch = self.config, self.config.channels[0], self.config.patch_stem
        if not patch:
            x = Convolution(channels, 7, 2, config, name="conv")(x)
            return nn.max_pool(nn.relu(norm(config, channels, "norm")(x)), (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        x = nn.Dense(channels, use_bias=False, dtype=config.dtype, name="embed")(patches(x, patch))
        return nn.relu(norm(config, channels, "norm")(x))


class ResNet(nn.Module):
    """Feature map: (b, h, w, 3) normalised floats to (b, h', w', c): the stem reduces by 4 or its patch, each later stage by 2."""

    config: ResNetConfig

    @nn.compact
    def __call__(self, images: Float[ArrayLike, "b h w 3"]) -> Float[Array, "b y x c"]:
        config = self.config
        x = Stem(config, name="stem")(jnp.asarray(images, config.dtype))
        for stage, (count, channels) in enumerate(zip(config.blocks, config.channels, strict=True)):
            for index in range(count):
                stride = 2 if stage and not index else 1
                x = ResidualBlock(channels, stride, config, name=f"stage_{stage}_block_{index}")(x)
        return x
