"""CLAMP's three encoders with their projections into one space, and a temperature and a bias for each pair."""

from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from clamp_jax.models.action_encoder import ActionEncoder, ActionEncoderConfig
from clamp_jax.models.text_encoder import TextEncoder, TextEncoderConfig
from clamp_jax.models.view_encoder import ViewEncoder, ViewEncoderConfig

PAIRS = ("image_text", "text_action", "image_action")


class ClampConfig(NamedTuple):
    """Sizes of the encoders and of the common space."""

    image: ViewEncoderConfig
    action: ActionEncoderConfig
    text: TextEncoderConfig
    embedding: int = 512  # d, width of the common space
    scale: float = 10.0  # starting t = exp(t') of arXiv 2303.15343
    bias: float = -10.0  # starting b; at small batch the milder prior_bias(batch) of `losses`


class PairScale(nn.Module):
    """Temperature (as its logarithm) and bias of one pair's sigmoid loss."""

    scale: float
    bias: float

    @nn.compact
    def __call__(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        log_scale = self.param("log_scale", nn.initializers.constant(np.log(self.scale)), ())
        return log_scale, self.param("bias", nn.initializers.constant(self.bias), ())


class Clamp(nn.Module):
    """The encoders; embeddings are (b, d) and not yet of unit length (the loss does that)."""

    config: ClampConfig

    def setup(self):
        config = self.config
        self.image = ViewEncoder(config.image)
        self.action = ActionEncoder(config.action)
        self.text = TextEncoder(config.text)
        self.image_projection = nn.Dense(config.embedding, use_bias=False)
        self.action_projection = nn.Dense(config.embedding, use_bias=False)
        self.text_projection = nn.Dense(config.embedding, use_bias=False)
        self.scales = {name: PairScale(config.scale, config.bias, name=name) for name in PAIRS}

    def encode_images(self, views: Float[ArrayLike, "b v h w 4"]) -> Float[Array, "b d"]:
        """Embedding of the views (depth, x, y, z; metres, world; depth 0 = empty)."""
        return self.image_projection(self.image(views).pooled)

    def encode_image_tokens(self, views: Float[ArrayLike, "b v h w 4"]) -> tuple[Float[Array, "b p d"], Bool[Array, "b p"]]:
        """Each patch's token in the common space, and which of them hold a visible point."""
        encoded = self.image(views)
        return self.image_projection(encoded.tokens), encoded.visible

    def encode_actions(self, past: Float[ArrayLike, "b t a"], mask: Bool[ArrayLike, "b t"]) -> Float[Array, "b d"]:
        """Embedding of past commands normalised to [-1, 1], oldest first; mask False before the episode's start."""
        return self.action_projection(self.action(past, mask))

    def encode_text(self, tokens: Int[ArrayLike, "b l"]) -> Float[Array, "b d"]:
        """Embedding of tokenised text, padded after its end token."""
        return self.text_projection(self.text(tokens))

    def pairs(self) -> dict[str, tuple[jax.Array, jax.Array]]:
        """(log_scale, bias) of each pair's loss, by the names in PAIRS."""
        return {name: scale() for name, scale in self.scales.items()}

    def __call__(
        self,
        views: Float[ArrayLike, "b v h w 4"],
        past: Float[ArrayLike, "b t a"],
        mask: Bool[ArrayLike, "b t"],
        tokens: Int[ArrayLike, "b l"],
    ) -> dict[str, jax.Array]:
        """All three embeddings by name; what `init` traces, so that it makes every parameter."""
        self.pairs()
        return {"image": self.encode_images(views), "action": self.encode_actions(past, mask), "text": self.encode_text(tokens)}
