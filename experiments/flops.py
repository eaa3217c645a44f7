"""The work of the networks, counted by hand from a preset: products of matrices and convolutions alone, 2 m n k each.

Pure arithmetic that traces nothing, so that it can be held against XLA's count. What is left out: all that is done number by
number (norms, activations, softmax, the optimiser), STRING's turns, which are products with constants, and rendering.
"""

from math import ceil

from clamp_jax.models.attention import TransformerConfig
from clamp_jax.models.presets import Preset
from clamp_jax.models.resnet import ResNetConfig
from clamp_jax.models.view_encoder import CHANNELS
from clamp_jax.structs import ACTION_DIM, CHUNK, HISTORY, VIEWS

BACKWARD = 2  # of the forward pass: one product for the gradient of each operand


def product(rows: int, inner: int, columns: int) -> int:
    """FLOPs of (rows, inner) times (inner, columns)."""
    return 2 * rows * inner * columns


def attention(width: int, tokens: int, seen: int, source_width: int | None = None) -> int:
    """Projections of query, key, value and output, and the two products with all pairs; a causal mask saves nothing."""
    source_width = source_width or width
    projections = 2 * product(tokens, width, width) + 2 * product(seen, source_width, width)
    return projections + 2 * product(tokens, width, seen)


def mlp(rows: int, inner: int, hidden: int, outer: int) -> int:
    """Two layers."""
    return product(rows, inner, hidden) + product(rows, hidden, outer)


def transformer(config: TransformerConfig, tokens: int, memory: tuple[int, int] | None = None) -> int:
    """All blocks; `memory` is the length and the width of what they attend to beside themselves."""
    width, hidden = config.width, round(config.width * config.mlp_ratio)
    block = attention(width, tokens, tokens) + mlp(tokens, width, hidden, width)
    if memory is not None:
        block += attention(width, tokens, *memory)
    return config.depth * block


def resnet(config: ResNetConfig, height: int, width: int) -> tuple[int, tuple[int, int]]:
    """One image through a ResNet, and the size of its feature map; pixels of the padding count."""
    if config.patch_stem:
        size = height // config.patch_stem, width // config.patch_stem
        total = product(size[0] * size[1], 3 * config.patch_stem**2, config.channels[0])
    else:
        half = ceil(height / 2), ceil(width / 2)
        total = product(half[0] * half[1], 3 * 7 * 7, config.channels[0])
        size = ceil(half[0] / 2), ceil(half[1] / 2)
    entering = config.channels[0]
    for stage, (count, channels) in enumerate(zip(config.blocks, config.channels, strict=True)):
        for index in range(count):
            added, size, entering = _residual(config, size, entering, channels, stride=2 if stage and not index else 1)
            total += added
    return total, size


def _residual(
    config: ResNetConfig, size: tuple[int, int], entering: int, channels: int, *, stride: int
) -> tuple[int, tuple[int, int], int]:
    """A block's FLOPs, and the size and the channels that it leaves."""
    after = ceil(size[0] / stride), ceil(size[1] / stride)
    before_px, after_px = size[0] * size[1], after[0] * after[1]
    if config.bottleneck:
        out = 4 * channels
        total = product(before_px, entering, channels) + product(after_px, 9 * channels, channels) + product(after_px, channels, out)
    else:
        out = channels
        total = product(after_px, 9 * entering, channels) + product(after_px, 9 * channels, channels)
    if stride > 1 or entering != out:
        total += product(after_px, entering, out)
    return total, after, out


def patches(preset: Preset) -> int:
    """Patches of the five views."""
    return len(VIEWS) * (preset.view_size // preset.clamp.image.patch) ** 2


def projected(preset: Preset, tokens: int) -> int:
    """Rows that an encoder projects into the common space: its embedding, and its tokens where the policy reads them."""
    return 1 + tokens * (preset.policy.use_embeddings and preset.policy.embeddings == "tokens")


def view_encoder(preset: Preset) -> int:
    """Patches, transformer, pooling and projection of the five views."""
    image, config, count = preset.clamp.image, preset.clamp.image.transformer, patches(preset)
    embed, hidden = product(count, CHANNELS * image.patch**2, config.width), round(config.width * config.mlp_ratio)
    pool = attention(config.width, 1, count) + mlp(1, config.width, hidden, config.width)
    return embed + transformer(config, count) + pool + product(projected(preset, count), config.width, preset.clamp.embedding)


def action_encoder(preset: Preset) -> int:
    """Past commands, with the summary token."""
    config = preset.clamp.action.transformer
    embed = product(HISTORY, ACTION_DIM, config.width)
    tokens = HISTORY + 1
    return embed + transformer(config, tokens) + product(projected(preset, tokens), config.width, preset.clamp.embedding)


def text_encoder(preset: Preset) -> int:
    """All tokens that a sentence may have; the table is looked up."""
    if preset.clamp.text is None:
        return 0
    config = preset.clamp.text.transformer
    return transformer(config, preset.clamp.text.length) + product(1, config.width, preset.clamp.embedding)


def embedding_tokens(preset: Preset) -> int:
    """Tokens that the policy reads of the encoders."""
    if not preset.policy.use_embeddings:
        return 0
    return 2 if preset.policy.embeddings == "pooled" else patches(preset) + HISTORY + 1


def policy(preset: Preset) -> dict[str, int]:
    """ResNets over all cameras, encoder, and decoder for `draws` noisy chunks."""
    config, draws = preset.policy, preset.draws
    width, out, cameras = config.encoder.width, config.decoder.width, len(config.backbones)
    image, (rows, columns) = resnet(config.resnet, preset.camera_height, preset.camera_width)
    features, embeddings = cameras * rows * columns, embedding_tokens(preset)
    memory, tokens = features + 1 + embeddings, CHUNK // config.actions_per_token
    read = product(features, config.resnet.features, width) + mlp(1, ACTION_DIM, width, width)
    read += product(embeddings, preset.clamp.embedding, width)
    action = ACTION_DIM * config.actions_per_token
    ends = mlp(tokens, action, out, out) + mlp(tokens, out, out, action) + product(1, config.diffusion_steps, out)
    return {
        "resnets": cameras * image,
        "encoder": read + transformer(config.encoder, memory) + product(memory, width, out),
        "decoder": draws * (ends + transformer(config.decoder, tokens, (memory + 1, out))),
    }


def forward(preset: Preset) -> dict[str, int]:
    """FLOPs of one sample's losses, by network; the pairs' similarities, d for each pair of samples, are left out."""
    encoders = {"view": view_encoder(preset), "action": action_encoder(preset), "text": text_encoder(preset)}
    return encoders | policy(preset)


def train(preset: Preset) -> int:
    """FLOPs of one sample in a training step: forward and backward. Recomputing (remat) is no part of it, as in any MFU."""
    return (1 + BACKWARD) * sum(forward(preset).values())


# Dense peak of one device by jax's name of its kind, TFLOP/s: products of bfloat16, and of float32 as jax runs them by default
# (TF32 on NVIDIA's, one pass of bfloat16 on TPUs). Vendors' data sheets, without sparsity.
# Looked up: A100, TPU v5e, and L4 within 4 %; the others are remembered.
PEAK_TFLOPS = {
    "NVIDIA A100": (312, 156),  # A100 data sheet, all forms
    "NVIDIA H100 PCIe": (756, 378),  # H100 data sheet; the SXM form below is told by its kind's other endings
    "NVIDIA H100": (989, 494),
    "NVIDIA H200": (989, 494),  # H200 data sheet, SXM
    "NVIDIA L4": (121, 60),  # L4 data sheet, halved: it tells the rates with sparsity
    "TPU v4": (275, 275),  # cloud.google.com/tpu/docs/v4
    "TPU v5 lite": (197, 197),  # cloud.google.com/tpu/docs/v5e
    "TPU v5p": (459, 459),  # cloud.google.com/tpu/docs/v5p
    "TPU v6 lite": (918, 918),  # cloud.google.com/tpu/docs/v6e
}


def peak_tflops(kind: str, dtype: str) -> float | None:
    """Peak of a kind of device in a dtype, from PEAK_TFLOPS; None for one that is not listed, such as a CPU."""
    for name, peaks in PEAK_TFLOPS.items():
        if kind == name or kind.startswith((name + " ", name + "-")):
            return peaks[dtype != "bfloat16"]
    return None
