"""CLAMP's three encoders with their projections into one space, and a temperature and a bias for each pair."""

from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from clamp_jax.models.action_encoder import ActionEncoder, ActionEncoderConfig
from clamp_jax.models.attention import Encoded, alone
from clamp_jax.models.text_encoder import TextEncoder, TextEncoderConfig
from clamp_jax.models.view_encoder import ViewEncoder, ViewEncoderConfig

PAIRS = ("image_text", "text_action", "image_action")


class ClampConfig(NamedTuple):
    """Sizes of the encoders and of the common space."""

    image: ViewEncoderConfig
    action: ActionEncoderConfig
    text: TextEncoderConfig | None  # None: no text, and one pair; an ablation, and what a robot needs
    embedding: int = 512  # d, width of the common space
    text_frozen: bool = False  # the transformer is left as it was loaded; its projection is trained
    scale: float = 10.0  # starting t = exp(t') of arXiv 2303.15343
    bias: float = -10.0  # starting b; at small batch the milder prior_bias(batch) of `losses`

    @property
    def pairs(self) -> tuple[str, ...]:
        """Names of the pairs that are contrasted."""
        return PAIRS if self.text is not None else ("image_action",)


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
        self.image_projection = nn.Dense(config.embedding, use_bias=False)
        self.action_projection = nn.Dense(config.embedding, use_bias=False)
        if config.text is not None:
            self.text = TextEncoder(config.text)
            self.text_projection = nn.Dense(config.embedding, use_bias=False)
        self.scales = {name: PairScale(config.scale, config.bias, name=name) for name in config.pairs}

    def encode_images(self, views: Float[ArrayLike, "b v h w 4"], *, tokens: bool = False) -> Encoded:
        """Embedding of the views (depth, x, y, z; metres, world; depth 0 = empty), which is its own one token; `tokens`: each patch's."""
        return _project(self.image(views), self.image_projection, tokens)

    def encode_actions(self, past: Float[ArrayLike, "b t a"], mask: Bool[ArrayLike, "b t"], *, tokens: bool = False) -> Encoded:
        """Embedding of past commands normalised to [-1, 1], oldest first, mask False before the episode's start; tokens likewise."""
        return _project(self.action(past, mask), self.action_projection, tokens)

    def encode_text(self, tokens: Int[ArrayLike, "b l"]) -> Float[Array, "b d"]:
        """Embedding of tokenised text, padded after its end token."""
        pooled = self.text(tokens)
        return self.text_projection(jax.lax.stop_gradient(pooled) if self.config.text_frozen else pooled)

    def pairs(self) -> dict[str, tuple[jax.Array, jax.Array]]:
        """(log_scale, bias) of each pair's loss, by the names in `config.pairs`."""
        return {name: scale() for name, scale in self.scales.items()}

    def __call__(
        self,
        views: Float[ArrayLike, "b v h w 4"],
        past: Float[ArrayLike, "b t a"],
        mask: Bool[ArrayLike, "b t"],
        tokens: Int[ArrayLike, "b l"],
    ) -> dict[str, jax.Array]:
        """All embeddings by name; what `init` traces, so that it makes every parameter. Without text the tokens are left unread."""
        self.pairs()
        found = {"image": self.encode_images(views).pooled, "action": self.encode_actions(past, mask).pooled}
        return found if self.config.text is None else found | {"text": self.encode_text(tokens)}


def _project(encoded: Encoded, projection: nn.Module, tokens: bool) -> Encoded:
    pooled = projection(encoded.pooled)
    return Encoded(pooled, projection(encoded.tokens), encoded.mask) if tokens else alone(pooled)
