"""Diffusion policy network in ALOHA Unleashed's shape (arXiv 2410.13126), with CLAMP's two embeddings as tokens.

Encoder: image embedding, action embedding, feature maps of each RGB image, proprioception. Decoder: the noisy chunk, which
attends to the encoder's output and the diffusion timestep. `encode` and `denoise` are apart: sampling encodes once.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, UInt8

from clamp_jax.models.attention import Encoded, Mlp, Transformer, TransformerConfig
from clamp_jax.models.resnet import ResNet, ResNetConfig
from clamp_jax.structs import ACTION_DIM, CHUNK

READS = ("pooled", "tokens")  # what the policy reads of an encoder
RGB_MEAN, RGB_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which ported ResNets expect


class PolicyConfig(NamedTuple):
    """Sizes of the policy."""

    encoder: TransformerConfig
    decoder: TransformerConfig
    resnet: ResNetConfig
    backbones: tuple[int, ...] = (0, 0, 0, 0)  # which ResNet sees each camera: all one, or one each, or in groups
    use_embeddings: bool = True  # False: without CLAMP's two tokens, the baselines
    embeddings: str = "pooled"  # of READS: one token for each embedding, or every token of both encoders (ours)
    diffusion_steps: int = 50
    prediction: str = "noise"  # the paper's; "sample": the clean actions (ours, for small networks): clamp_jax/diffusion.py
    actions_per_token: int = 1  # ours: consecutive actions that share a token of the decoder; small networks are some times faster so
    timestep_in_chunk: bool = False  # ours: the timestep is added to the chunk's tokens as well, which small networks learn faster


class Memory(NamedTuple):
    """An encoded observation, which the decoder attends to."""

    tokens: Array  # (b, m, width)
    mask: Array | None  # (b, m) bool, False for tokens that carry nothing; None where all carry something


def sinusoids_2d(height: int, width: int, channels: int) -> np.ndarray:
    """Sines and cosines of the row and the column of each pixel, (height, width, channels), half for each (as DETR's)."""
    quarter = -(-channels // 4)
    frequency = np.geomspace(1.0, 1e-4, quarter)
    rows, columns = np.arange(height)[:, None, None] * frequency, np.arange(width)[None, :, None] * frequency
    rows, columns = np.broadcast_to(rows, (height, width, quarter)), np.broadcast_to(columns, (height, width, quarter))
    return np.concatenate([np.sin(rows), np.cos(rows), np.sin(columns), np.cos(columns)], -1)[..., :channels].astype(np.float32)


def normalise_rgb(rgb: UInt8[ArrayLike, "... 3"]) -> Float[Array, "... 3"]:
    """uint8 RGB to floats of about unit size, by ImageNet's mean and deviation."""
    scale = 1 / (255 * np.asarray(RGB_STD, np.float32))
    offset = np.asarray(RGB_MEAN, np.float32) / np.asarray(RGB_STD, np.float32)
    rgb = jnp.asarray(rgb).astype(jnp.float32)
    lead = (1,) * (rgb.ndim - 1)
    return rgb * scale.reshape(*lead, 3) - offset.reshape(*lead, 3)


class PolicyNet(nn.Module):
    """Predicts the noise in a noisy chunk of normalised actions, given what is observed."""

    config: PolicyConfig

    def setup(self):
        config, width = self.config, self.config.encoder.width
        init, dtype = nn.initializers.normal(0.02), config.encoder.dtype
        self.resnets = [ResNet(config.resnet) for _ in range(max(config.backbones) + 1)]
        self.feature_projection = nn.Dense(width, dtype=dtype)
        self.camera = self.param("camera", init, (len(config.backbones), width))
        self.proprioception = Mlp(width, width, dtype=dtype)
        if config.embeddings not in READS:
            raise ValueError(f"policy reads {config.embeddings!r} of the encoders; expected one of {READS}")
        if config.use_embeddings:
            self.image_token, self.action_token = nn.Dense(width, dtype=dtype), nn.Dense(width, dtype=dtype)
        self.encoder = Transformer(config.encoder)
        self.noisy_actions = Mlp(config.decoder.width, config.decoder.width, dtype=dtype)
        if CHUNK % config.actions_per_token:
            raise ValueError(f"actions_per_token is {config.actions_per_token}; expected a divisor of the chunk of {CHUNK}: 1, 2, 5 or 10")
        self.time = self.param("time", init, (CHUNK // config.actions_per_token, config.decoder.width))
        self.timestep = nn.Dense(config.decoder.width, dtype=dtype)
        self.memory_projection = nn.Dense(config.decoder.width, dtype=dtype)
        self.decoder = Transformer(config.decoder)
        self.head = Mlp(config.decoder.width, ACTION_DIM * config.actions_per_token)

    def encode(
        self, rgb: UInt8[ArrayLike, "b k h w 3"], joints: Float[ArrayLike, "b a"], image: Encoded | None, action: Encoded | None
    ) -> Memory:
        """What `denoise` attends to; joints normalised to [-1, 1], image and action None where the policy reads no encoder."""
        parts = [(self._features(rgb), None), (self.proprioception(joints)[:, None], None), *self._embeddings(image, action)]
        mask = _join_masks(parts)
        x = self.encoder(jnp.concatenate([values for values, _ in parts], axis=1), mask=mask)
        return Memory(self.memory_projection(x), mask)

    def denoise(self, memory: Memory, noisy: Float[ArrayLike, "b t a"], timestep: Int[ArrayLike, "b"]) -> Float[Array, "b t a"]:
        """Predicted noise, or clean actions (config.prediction), of a noisy chunk (b, 50, 14) at timesteps 0 .. diffusion_steps - 1."""
        step = self.timestep(jax.nn.one_hot(timestep, self.config.diffusion_steps))[:, None]
        noisy = jnp.asarray(noisy)
        together = noisy.reshape(len(noisy), -1, ACTION_DIM * self.config.actions_per_token)
        x = self.noisy_actions(together) + self.time[None].astype(memory.tokens.dtype)
        if self.config.timestep_in_chunk:
            x = x + step
        mask = None if memory.mask is None else jnp.pad(memory.mask, ((0, 0), (0, 1)), constant_values=True)
        x = self.decoder(x, memory=jnp.concatenate([memory.tokens, step], axis=1), memory_mask=mask)
        return self.head(x.astype(jnp.float32)).reshape(noisy.shape)

    def __call__(
        self,
        rgb: UInt8[ArrayLike, "b k h w 3"],
        joints: Float[ArrayLike, "b a"],
        image: Encoded | None,
        action: Encoded | None,
        noisy: Float[ArrayLike, "b t a"],
        timestep: Int[ArrayLike, "b"],
    ) -> Float[Array, "b t a"]:
        """`encode`, then `denoise`; what `init` traces."""
        return self.denoise(self.encode(rgb, joints, image, action), noisy, timestep)

    def _features(self, rgb: ArrayLike) -> jax.Array:
        """Tokens of the feature maps of all cameras, (b, k * h' * w', width)."""
        rgb = jnp.asarray(rgb)
        b, k = rgb.shape[:2]
        if k != len(self.config.backbones):
            raise ValueError(f"policy got {k} RGB images, its config lists {len(self.config.backbones)} cameras (backbones)")
        maps = self.feature_projection(self._maps(normalise_rgb(rgb)))
        where = sinusoids_2d(*maps.shape[2:])[None, None] + self.camera[None, :, None, None]
        return (maps + where.astype(maps.dtype)).reshape(b, -1, maps.shape[-1])

    def _maps(self, images: jax.Array) -> jax.Array:
        """Feature maps (b, k, h', w', c), each ResNet run once over all cameras that share it."""
        b, maps = images.shape[0], [None] * images.shape[1]
        for index, resnet in enumerate(self.resnets):
            cameras = [camera for camera, backbone in enumerate(self.config.backbones) if backbone == index]
            stacked = images if len(cameras) == len(maps) else images[:, np.asarray(cameras)]
            features = resnet(stacked.reshape(-1, *images.shape[2:]))
            features = features.reshape(b, len(cameras), *features.shape[1:])
            for place, camera in enumerate(cameras):
                maps[camera] = features[:, place]
        return jnp.stack(maps, axis=1)

    def _embeddings(self, image: Encoded | None, action: Encoded | None) -> list[tuple[jax.Array, jax.Array | None]]:
        """Tokens of what the encoders give, with their masks; none where the policy reads nothing of it."""
        if not self.config.use_embeddings:
            return []
        if image is None or action is None:
            raise ValueError("policy with use_embeddings=True got None for an embedding; pass both, or set use_embeddings=False")
        parts = ((self.image_token, image), (self.action_token, action))
        if self.config.embeddings == "pooled":
            return [(layer(encoded.pooled)[:, None], None) for layer, encoded in parts]
        return [(layer(encoded.tokens), encoded.mask) for layer, encoded in parts]


def _join_masks(parts: list[tuple[jax.Array, jax.Array | None]]) -> Bool[Array, "b m"] | None:
    """One mask of all tokens, where None stands for tokens that all carry something; None if all do."""
    if all(mask is None for _, mask in parts):
        return None
    return jnp.concatenate([jnp.ones(values.shape[:2], bool) if mask is None else mask for values, mask in parts], axis=1)
