"""View encoder: a ViT over all views of the cloud at once, with each patch placed at its points' centre of mass.

Tokens of all views stand in one sequence and carry no index of their view: what tells them apart is where their points
are, in metres, by STRING. Views are a set: permuting them permutes the tokens and leaves the pooled embedding alone.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from clamp_jax.models.attention import AttentionPool, Encoded, Transformer, TransformerConfig

SCENE_SCALE_M = 0.6  # half the table: world coordinates and depths come out near 1
PATCH_SCALE_M = 0.05  # offsets inside a patch come out near 1
OFFSET_LIMIT = 4.0  # a patch across a depth edge may span a metre
CHANNELS = 8  # depth, x, y, z; x, y, z from the patch's centre; visible


class ViewEncoderConfig(NamedTuple):
    """Size of the view encoder."""

    transformer: TransformerConfig
    patch: int = 16


class Patches(NamedTuple):
    """Patches of all views in one sequence."""

    pixels: Array  # (b, p, patch * patch * CHANNELS) scaled; all 0 where nothing is visible
    centres_m: Array  # (b, p, 3) world, mean of the visible points; 0 where there is none
    visible: Array  # (b, p) bool, at least one visible point


def split(views: Float[ArrayLike, "b v h w c"], patch: int) -> Float[Array, "b p n c"]:
    """Cut views into p = v * h/patch * w/patch patches of n = patch^2 pixels; ValueError if they do not divide."""
    views = jnp.asarray(views)
    b, v, h, w, c = views.shape
    if h % patch or w % patch:
        raise ValueError(f"views are {h} x {w} pixels, which does not divide into patches of {patch}; change view_size or patch")
    cut = views.reshape(b, v, h // patch, patch, w // patch, patch, c).transpose(0, 1, 2, 4, 3, 5, 6)
    return cut.reshape(b, v * (h // patch) * (w // patch), patch * patch, c)


def patchify(views: Float[ArrayLike, "b v h w 4"], patch: int) -> Patches:
    """Patches of views (depth, x, y, z in metres, world; depth 0 = empty), with their centres of mass.

    Pixels with no point count for nothing, whatever they hold. Channels beyond the paper's four (offset from the patch's
    centre, visibility) are ours: they are functions of the four, at a scale from which a small network can learn.
    """
    cut = split(views, patch)
    seen = cut[..., :1] > 0
    depth, points = jnp.where(seen, cut[..., :1], 0), jnp.where(seen, cut[..., 1:], 0)
    count = seen.sum(axis=2, dtype=cut.dtype)
    centres = points.sum(axis=2) / jnp.maximum(count, 1)
    offset = jnp.where(seen, points - centres[:, :, None, :], 0) / PATCH_SCALE_M
    offset = jnp.clip(offset, -OFFSET_LIMIT, OFFSET_LIMIT)
    pixels = jnp.concatenate([depth / SCENE_SCALE_M, points / SCENE_SCALE_M, offset, seen.astype(cut.dtype)], axis=-1)
    return Patches(pixels.reshape(*pixels.shape[:2], -1), centres, count[..., 0] > 0)


class ViewEncoder(nn.Module):
    """ViT over the five views: the pooled embedding (finite and constant if nothing is visible at all), and the tokens."""

    config: ViewEncoderConfig

    @nn.compact
    def __call__(self, views: Float[ArrayLike, "b v h w 4"]) -> Encoded:
        config = self.config.transformer
        patches = patchify(views, self.config.patch)
        x = nn.Dense(config.width, dtype=config.dtype, name="embed")(patches.pixels)
        if config.position == "absolute":
            x = x + self.param("position", nn.initializers.normal(0.02), (1, *x.shape[1:])).astype(x.dtype)
        x = jnp.where(patches.visible[..., None], x, 0)
        x = Transformer(config, name="transformer")(x, mask=patches.visible, positions_m=patches.centres_m)
        return Encoded(AttentionPool(config, name="pool")(x, patches.visible), x, patches.visible)
