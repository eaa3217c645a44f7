"""Text encoder: CLIP's text transformer (arXiv 2103.00020), small and from scratch by default.

Causal, so that what stands after the end token changes nothing; pooled at the first end token.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from clamp_jax.models.attention import Transformer, TransformerConfig


class TextEncoderConfig(NamedTuple):
    """Size of the text encoder; the transformer is causal with CLIP's quick GELU."""

    transformer: TransformerConfig
    vocabulary: int
    length: int = 77
    end_token: int = 1
    numbers: tuple[int, ...] = ()  # first token of each run of `number_count` consecutive numbers
    number_count: int = 100


def number_features(count: int, width: int) -> np.ndarray:
    """Smooth vectors of the numbers 0 .. count-1, (count, width) with entries of unit size: near numbers are near."""
    frequency = np.geomspace(np.pi / count, np.pi / 4, (width + 1) // 2)
    phase = np.arange(count)[:, None] * frequency
    return (np.sqrt(2) * np.concatenate([np.sin(phase), np.cos(phase)], axis=1)[:, :width]).astype(np.float32)


def embedding_table(key: jax.Array, config: TextEncoderConfig) -> Float[Array, "vocabulary width"]:
    """Starting token embeddings: CLIP's normal(0.02), but numbers start as smooth features of their value.

    Ours: from independent vectors, a hundred values on three axes are learned one by one; from smooth ones a few
    hundred demonstrations teach all of them. Each run of numbers is mixed by its own random rotation.
    """
    width = config.transformer.width
    table = 0.02 * jax.random.normal(key, (config.vocabulary, width))
    for start in config.numbers:
        rotation = jax.random.orthogonal(jax.random.fold_in(key, start), width)
        rows = 0.02 * number_features(config.number_count, width) @ rotation
        table = jax.lax.dynamic_update_slice(table, rows, (start, 0))
    return table


class TextEncoder(nn.Module):
    """Embeds token sequences, padded after their end token."""

    config: TextEncoderConfig

    @nn.compact
    def __call__(self, tokens: Int[ArrayLike, "b l"]) -> Float[Array, "b width"]:
        """Pooled embedding of tokens; ValueError if there are more than `length`."""
        tokens, transformer = jnp.asarray(tokens), self.config.transformer
        length = tokens.shape[1]
        if length > self.config.length:
            raise ValueError(f"text has {length} tokens, the text encoder takes {self.config.length}; shorten it or raise length")
        table = self.param("embedding", embedding_table, self.config)
        position = self.param("position", nn.initializers.normal(0.01), (self.config.length, transformer.width))
        x = jnp.take(table, tokens, axis=0) + position[None, :length]
        x = Transformer(transformer, name="transformer")(x.astype(transformer.dtype))
        end = jnp.argmax(tokens == self.config.end_token, axis=1)
        return jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
