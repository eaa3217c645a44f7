"""ImageNet's ResNet-50 from torchvision's or timm's safetensors (both name their tensors alike), for `ResNet` with norm "affine"."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clamp_jax.models.presets import RESNET_50
from clamp_jax.models.public_weights import PublicFile, Shape, file_sha256, open_weights
from clamp_jax.models.resnet import ResNetConfig

CONFIG = RESNET_50._replace(norm="affine")
EPSILON = 1e-5  # of torch's batch norm, in both

_WHAT = "a ResNet-50 in torchvision's or timm's layout"
_UNREAD = re.compile(r"fc\.(weight|bias)|.*\.num_batches_tracked")  # the classifier, and counters
_STATISTICS = ("weight", "bias", "running_mean", "running_var")


class ResNetWeights(NamedTuple):
    """A ported ResNet-50."""

    config: ResNetConfig
    params: dict  # of ResNet(config): what stands under "params"
    sha256: str  # of the file


class _Layer(NamedTuple):
    """A convolution and the batch norm after it: its module here, their names here, their names there."""

    module: str
    ours: tuple[str, str]
    theirs: tuple[str, str]
    shape: Shape  # (o, c, i, j), torch's order


def read_resnet(path: str | Path) -> ResNetWeights:
    """Parameters of a ResNet-50 from a safetensors file, or from model.safetensors in a folder.

    Batch norm becomes scale and offset, folded in float64. FileNotFoundError if there is no file; ValueError names what is
    missing, not known, misshapen or of no float type, and says when it is another ResNet.
    """
    file = open_weights(path, _WHAT)
    _check_kind(file)
    layers = list(_layers(CONFIG))
    tensors = file.read(_shapes(layers), _UNREAD)
    params: dict = {}
    for layer in layers:
        (conv, norm), (convolution, statistics) = layer.ours, layer.theirs
        kernel = np.ascontiguousarray(tensors[f"{convolution}.weight"].transpose(2, 3, 1, 0))
        params.setdefault(layer.module, {}).update({conv: {"kernel": kernel}, norm: _fold(file, tensors, statistics)})
    return ResNetWeights(CONFIG, params, file_sha256(file.path))


def _layers(config: ResNetConfig) -> Iterator[_Layer]:
    """Every convolution of the network, in order."""
    incoming = config.channels[0]
    yield _Layer("stem", ("conv", "norm"), ("conv1", "bn1"), (incoming, 3, 7, 7))
    for stage, (count, channels) in enumerate(zip(config.blocks, config.channels, strict=True)):
        out = 4 * channels
        for block in range(count):
            module, theirs = f"stage_{stage}_block_{block}", f"layer{stage + 1}.{block}"
            shapes = ((channels, incoming, 1, 1), (channels, channels, 3, 3), (out, channels, 1, 1))
            for i, shape in enumerate(shapes):
                yield _Layer(module, (f"conv_{i}", f"norm_{i}"), (f"{theirs}.conv{i + 1}", f"{theirs}.bn{i + 1}"), shape)
            if block == 0:
                shortcut = (f"{theirs}.downsample.0", f"{theirs}.downsample.1")
                yield _Layer(module, ("conv_shortcut", "norm_shortcut"), shortcut, (out, incoming, 1, 1))
            incoming = out


def _shapes(layers: list[_Layer]) -> dict[str, Shape]:
    """Name and shape of every tensor that is read."""
    kernels = {f"{layer.theirs[0]}.weight": layer.shape for layer in layers}
    return kernels | {f"{layer.theirs[1]}.{part}": layer.shape[:1] for layer in layers for part in _STATISTICS}


def _fold(file: PublicFile, tensors: dict[str, np.ndarray], name: str) -> dict:
    """Batch norm with its statistics as x * scale + bias."""
    weight, bias, mean, variance = (tensors[f"{name}.{part}"].astype(np.float64) for part in _STATISTICS)
    if variance.min() < 0:
        raise file.error([f"'{name}.running_var' goes down to {variance.min():.3g}, expected variances"])
    scale = weight / np.sqrt(variance + EPSILON)
    return {"scale": scale.astype(np.float32), "bias": (bias - mean * scale).astype(np.float32)}


def _check_kind(file: PublicFile) -> None:
    """ValueError if the names are those of another ResNet."""
    if any(re.match(r"conv1\.\d", name) for name in file.shapes):
        raise file.error(["'conv1.0.weight' is the deep stem of a ResNet-D; take a plain one (timm: resnet50)"])
    found = {match.groups() for match in (re.match(r"layer(\d+)\.(\d+)\.", name) for name in file.shapes) if match}
    if found and not any(".conv3." in name for name in file.shapes):
        raise file.error(["no block has a third convolution, 'layer1.0.conv3.weight', as those of ResNet-18 and 34 have none"])
    blocks = tuple(sum(stage == str(i + 1) for stage, _ in found) for i in range(len(CONFIG.blocks)))
    if found and blocks != CONFIG.blocks:
        stages = ", ".join(f"'layer{i + 1}' has {count}" for i, count in enumerate(blocks))
        raise file.error([f"expected {CONFIG.blocks} blocks a stage, {stages}"])
