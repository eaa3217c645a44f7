"""CLIP and ResNet-50 in the public layouts, with random weights that are the same for ever.

The names and shapes are written down here apart from the library's own; the references load them strictly.
"""

import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save_file

Tensors = dict[str, np.ndarray]
Shape = tuple[int, ...]


class Tower(NamedTuple):
    """Size of one of CLIP's two transformers."""

    width: int
    depth: int


class Clip(NamedTuple):
    """Sizes of a CLIP."""

    text: Tower = Tower(512, 12)
    vision: Tower = Tower(768, 12)
    patch: int = 32
    vocabulary: int = 49408
    length: int = 77
    projection: int = 512


CLIPS = {"ViT-B/32": Clip(), "ViT-B/16": Clip(patch=16)}
TINY = Clip(text=Tower(16, 2), vision=Tower(8, 1), vocabulary=60, length=10, projection=12)


def draw(name: str, shape: Shape, spread: float, centre: float = 0.0) -> np.ndarray:
    """Numbers of a name: uniform, with that deviation about that centre, float32, from bits that numpy promises to keep."""
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(int(np.prod(shape)))
    unit = (bits >> np.uint64(40)).astype(np.float32) / 2**23 - 1
    return (centre + spread * np.sqrt(3) * unit).astype(np.float32).reshape(shape)


def draw_integers(name: str, shape: Shape, high: int) -> np.ndarray:
    """Whole numbers of a name from 0 to high - 1."""
    return (np.random.PCG64(zlib.crc32(name.encode())).random_raw(int(np.prod(shape))) % np.uint64(high)).reshape(shape)


def tower_shapes(prefix: str, tower: Tower) -> dict[str, Shape]:
    """Tensors of the layers of a CLIP's transformer."""
    width, shapes = tower.width, {}
    for layer in (f"{prefix}.encoder.layers.{index}" for index in range(tower.depth)):
        for name in ("q", "k", "v", "out"):
            shapes[f"{layer}.self_attn.{name}_proj"] = (width, width)
        shapes |= {f"{layer}.mlp.fc1": (4 * width, width), f"{layer}.mlp.fc2": (width, 4 * width)}
        shapes |= {f"{layer}.layer_norm1": (width,), f"{layer}.layer_norm2": (width,)}
    return weights_and_biases(shapes)


def weights_and_biases(shapes: dict[str, Shape]) -> dict[str, Shape]:
    return {f"{name}.{part}": shape if part == "weight" else shape[:1] for name, shape in shapes.items() for part in ("weight", "bias")}


def text_shapes(clip: Clip) -> dict[str, Shape]:
    """What a file of CLIP's text side alone holds."""
    width = clip.text.width
    shapes = {"text_model.embeddings.token_embedding.weight": (clip.vocabulary, width)}
    shapes |= {"text_model.embeddings.position_embedding.weight": (clip.length, width)}
    shapes |= tower_shapes("text_model", clip.text) | weights_and_biases({"text_model.final_layer_norm": (width,)})
    return shapes | {"text_projection.weight": (clip.projection, width)}


def vision_shapes(clip: Clip) -> dict[str, Shape]:
    """What a whole CLIP holds beside its text side."""
    width, embeddings = clip.vision.width, "vision_model.embeddings"
    shapes = {"logit_scale": (), "visual_projection.weight": (clip.projection, width)}
    shapes |= {f"{embeddings}.class_embedding": (width,), f"{embeddings}.patch_embedding.weight": (width, 3, clip.patch, clip.patch)}
    shapes |= {f"{embeddings}.position_embedding.weight": ((224 // clip.patch) ** 2 + 1, width)}
    norms = weights_and_biases({"vision_model.pre_layrnorm": (width,), "vision_model.post_layernorm": (width,)})
    return shapes | norms | tower_shapes("vision_model", clip.vision)


def text_tensors(clip: Clip, seed: str) -> Tensors:
    """Random weights of the text side: norms about 1, layers that keep their size."""
    return {name: _text_tensor(f"{seed}/{name}", shape) for name, shape in text_shapes(clip).items()}


def _text_tensor(name: str, shape: Shape) -> np.ndarray:
    if len(shape) == 1:
        return draw(name, shape, 0.2, 1.0) if name.endswith("weight") else draw(name, shape, 0.1)
    return draw(name, shape, 0.5 if "embedding" in name else shape[1] ** -0.5)


def clip_tensors(clip: Clip, seed: str) -> Tensors:
    """A whole CLIP, public in every name and size; its vision side, which nothing here reads, is zero."""
    return text_tensors(clip, seed) | {name: np.zeros(shape, np.float32) for name, shape in vision_shapes(clip).items()}


def resnet_shapes() -> dict[str, Shape]:
    """What a ResNet-50 of torchvision or timm holds."""
    shapes = {"conv1.weight": (64, 3, 7, 7)} | _batch_norm("bn1", 64)
    incoming = 64
    for stage, (count, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for index in range(count):
            block = f"layer{stage}.{index}"
            shapes |= {f"{block}.conv1.weight": (width, incoming, 1, 1), f"{block}.conv2.weight": (width, width, 3, 3)}
            shapes |= {f"{block}.conv3.weight": (4 * width, width, 1, 1)}
            for norm, channels in (("bn1", width), ("bn2", width), ("bn3", 4 * width)):
                shapes |= _batch_norm(f"{block}.{norm}", channels)
            if index == 0:
                shapes |= {f"{block}.downsample.0.weight": (4 * width, incoming, 1, 1)} | _batch_norm(f"{block}.downsample.1", 4 * width)
            incoming = 4 * width
    return shapes | {"fc.weight": (1000, 2048), "fc.bias": (1000,)}


def _batch_norm(name: str, channels: int) -> dict[str, Shape]:
    shapes = {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{name}.num_batches_tracked": ()}


def resnet_tensors(seed: str) -> Tensors:
    """Random weights of a ResNet-50 whose feature map has about unit size."""
    return {name: _resnet_tensor(f"{seed}/{name}", shape) for name, shape in resnet_shapes().items()}


def _resnet_tensor(name: str, shape: Shape) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.array(1234, np.int64)
    if name.endswith("running_var"):
        return draw(name, shape, 0.4, 1.5)
    if len(shape) == 1 and name.endswith("weight"):
        return draw(name, shape, 0.1, 0.4 if ".bn3." in name else 1.0)
    return draw(name, shape, 0.1) if len(shape) == 1 else draw(name, shape, np.sqrt(2 / np.prod(shape[1:])))


def write(path: Path, tensors: Tensors) -> Path:
    """A safetensors file as torch's writer makes it; returns its path."""
    save_file(tensors, path, metadata={"format": "pt"})
    return path
