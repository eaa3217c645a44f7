"""Action encoder: a transformer over the past commands, with a mask at the start of an episode."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float

from clamp_jax.models.attention import Encoded, Transformer, TransformerConfig


class ActionEncoderConfig(NamedTuple):
    """Size of the action encoder."""

    transformer: TransformerConfig


class ActionEncoder(nn.Module):
    """Embeds normalised past commands, oldest first; a summary token that is always visible carries the embedding.

    The summary token (ours) makes an example with no history at all well defined: it sees itself alone. It is the first of the tokens.
    """

    config: ActionEncoderConfig

    @nn.compact
    def __call__(self, past: Float[ArrayLike, "b t a"], mask: Bool[ArrayLike, "b t"]) -> Encoded:
        config = self.config.transformer
        mask = jnp.asarray(mask)
        past = jnp.where(mask[..., None], past, 0)
        b, t = mask.shape
        x = nn.Dense(config.width, dtype=config.dtype, name="embed")(past)
        x = x + self.param("time", nn.initializers.normal(0.02), (1, t, config.width)).astype(x.dtype)
        summary = self.param("summary", nn.initializers.normal(0.02), (1, 1, config.width)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(summary, (b, 1, config.width)), x], axis=1)
        seen = jnp.concatenate([jnp.ones((b, 1), bool), mask], axis=1)
        x = Transformer(config, name="transformer")(x, mask=seen)
        return Encoded(x[:, 0], x, seen)
