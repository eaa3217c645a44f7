"""Sizes of the networks by name; every field can be overridden: `override(preset("demo"), {"policy.encoder.depth": 4})`.

"*.name" is the field of that name wherever it stands: `override(preset("B/16"), {"*.dtype": "bfloat16", "*.remat": True})`.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from clamp_jax.models.action_encoder import ActionEncoderConfig
from clamp_jax.models.attention import TransformerConfig
from clamp_jax.models.clamp import Clamp, ClampConfig
from clamp_jax.models.policy_net import PolicyConfig, PolicyNet
from clamp_jax.models.resnet import ResNetConfig
from clamp_jax.models.text_encoder import TextEncoderConfig
from clamp_jax.models.tokenizer import END, NUMBERS, Tokenizer
from clamp_jax.models.view_encoder import ViewEncoderConfig


class Preset(NamedTuple):
    """Networks and the sizes of what they are fed."""

    clamp: ClampConfig
    policy: PolicyConfig
    view_size: int  # pixels of each of the five square views
    camera_height: int  # pixels of the RGB images
    camera_width: int
    draws: int = 1  # (timestep, noise) pairs an encoded observation is used for in one step


DTYPES = ("float32", "bfloat16")  # that networks compute in; parameters are float32

RESNET_18 = ResNetConfig((2, 2, 2, 2), (64, 128, 256, 512))
RESNET_50 = ResNetConfig((3, 4, 6, 3), (64, 128, 256, 512), bottleneck=True)


def _views(width: int, depth: int, heads: int, patch: int) -> ViewEncoderConfig:
    return ViewEncoderConfig(TransformerConfig(width, depth, heads, position="cayley"), patch)


def _text(width: int, depth: int, heads: int, length: int) -> TextEncoderConfig:
    transformer = TransformerConfig(width, depth, heads, causal=True, activation="quick_gelu")
    return TextEncoderConfig(transformer, Tokenizer().vocabulary_size, length, END, NUMBERS)


def _actions(width: int, depth: int, heads: int) -> ActionEncoderConfig:
    return ActionEncoderConfig(TransformerConfig(width, depth, heads))


def _debug() -> Preset:
    """Smallest that has every part: for tests."""
    clamp = ClampConfig(_views(24, 1, 2, 8), _actions(16, 1, 2), _text(16, 1, 2, 64), embedding=16, bias=-2.0)
    size = TransformerConfig(16, 1, 2, mlp_ratio=2)
    policy = PolicyConfig(size, size, ResNetConfig((1,), (8,), patch_stem=8, groups=4))
    return Preset(clamp, policy, view_size=16, camera_height=16, camera_width=16)


def _demo() -> Preset:
    """What two CPU cores train in minutes (ours)."""
    small = TransformerConfig(96, 2, 3, mlp_ratio=2, implementation="plain")
    image = ViewEncoderConfig(small._replace(depth=3, position="cayley"), patch=12)
    text = _text(96, 2, 3, 64)._replace(transformer=small._replace(causal=True, activation="quick_gelu"))
    clamp = ClampConfig(image, ActionEncoderConfig(small), text, embedding=128, bias=-3.4)
    size = TransformerConfig(128, 2, 4, mlp_ratio=2, implementation="plain")
    resnet = ResNetConfig((1, 1), (32, 64), patch_stem=8, groups=8)
    policy = PolicyConfig(size, size, resnet, prediction="sample", actions_per_token=5, timestep_in_chunk=True)
    return Preset(clamp, policy, view_size=48, camera_height=64, camera_width=64, draws=4)


def _tiny16() -> Preset:
    clamp = ClampConfig(_views(192, 12, 3, 16), _actions(192, 4, 3), _text(192, 4, 3, 77), embedding=256)
    policy = PolicyConfig(TransformerConfig(256, 4, 4), TransformerConfig(256, 4, 4), RESNET_18)
    return Preset(clamp, policy, view_size=224, camera_height=240, camera_width=320)


def _small16() -> Preset:
    clamp = ClampConfig(_views(384, 12, 6, 16), _actions(256, 6, 4), _text(512, 6, 8, 77))
    policy = PolicyConfig(TransformerConfig(512, 6, 8), TransformerConfig(512, 6, 8), RESNET_50)
    return Preset(clamp, policy, view_size=224, camera_height=480, camera_width=640)


def _base16() -> Preset:
    """The paper's scale: 85M encoder and 55M decoder are 12 and 6 layers of width 768; the rest is three ResNet-50.

    Four cameras share three ResNets, the wrists one (ours: so the whole comes to the 217M of arXiv 2410.13126).
    """
    clamp = ClampConfig(_views(768, 12, 12, 16), _actions(512, 6, 8), _text(512, 12, 8, 77))
    policy = PolicyConfig(TransformerConfig(768, 12, 12), TransformerConfig(768, 6, 12), RESNET_50, backbones=(0, 1, 2, 2))
    return Preset(clamp, policy, view_size=224, camera_height=480, camera_width=640)


PRESETS = {"debug": _debug, "demo": _demo, "Ti/16": _tiny16, "S/16": _small16, "B/16": _base16}


def preset(name: str) -> Preset:
    """The preset called `name`; ValueError with the nearest name if there is none."""
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, n=1, cutoff=0.0)[0]
        raise ValueError(f"no preset {name!r}; did you mean {near!r}? There are {', '.join(PRESETS)}")
    return PRESETS[name]()


def override(config: Any, changes: Mapping[str, Any]) -> Any:
    """A config with fields replaced by dotted path; "*.name" is the field of that name in every network that has one.

    Raises ValueError that names a path that does not exist, and for a dtype that is none of DTYPES.
    """
    for path, value in changes.items():
        if path.rsplit(".", 1)[-1] == "dtype" and value not in DTYPES:
            raise ValueError(f"{path} is {value!r}; expected one of {', '.join(DTYPES)}")
        if not path.startswith("*."):
            config = _replace(config, path.split("."), value, path)
            continue
        config, found = _replace_everywhere(config, path.removeprefix("*."), value)
        if not found:
            raise ValueError(f"no network of the preset has a field {path!r}; there are e.g. *.dtype, *.remat and *.implementation")
    return config


def in_dtype(config: Preset, dtype: str) -> Preset:
    """A preset whose networks all compute in "float32" or "bfloat16"; ValueError for another type.

    Parameters, LayerNorm's and GroupNorm's sums, softmax, positions, the embeddings' projections, the policy's head and all
    losses are float32 in both. Elsewhere a run does the same by the override ("*.dtype", "bfloat16").
    """
    return override(config, {"*.dtype": dtype})


def _replace(config: Any, parts: list[str], value: Any, path: str) -> Any:
    fields = getattr(config, "_fields", ())
    if parts[0] not in fields:
        raise ValueError(f"no field {path!r} in the preset: {type(config).__name__} has {', '.join(fields) or 'no fields'}")
    new = value if len(parts) == 1 else _replace(getattr(config, parts[0]), parts[1:], value, path)
    return config._replace(**{parts[0]: new})


def _replace_everywhere(config: Any, name: str, value: Any) -> tuple[Any, bool]:
    """A tree of configs with every field called `name` replaced, and whether there was one."""
    if not hasattr(config, "_fields"):
        return config, False
    new = {field: (value, True) if field == name else _replace_everywhere(getattr(config, field), name, value) for field in config._fields}
    return config._replace(**{field: part for field, (part, _) in new.items()}), any(found for _, found in new.values())


def build(config: Preset) -> tuple[Clamp, PolicyNet]:
    """The networks of a preset."""
    return Clamp(config.clamp), PolicyNet(config.policy)
