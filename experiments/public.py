"""What --text and --resnet name: public weights that a run begins with, and what they change in its config.

A run's config holds the sizes of what was loaded and its SHA-256, not the path: the weights travel with the checkpoints, and
the same files may lie elsewhere on another machine.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from clamp_jax.data.prompts import Tokenize
from clamp_jax.models import clip, resnet_weights
from clamp_jax.models.tokenizer import Tokenizer
from clamp_jax.networks import VARIANTS

OWN, CLIP = "own", "clip"  # of config.model.text; once loaded it is "clip:" and the SHA-256
RUN_TIME = ("dtype", "remat", "implementation")  # fields of a transformer that are not the weights' but the run's
FIELDS = ("text", "resnet", "public")  # of the section `model`, which stage (ii) takes over from stage (i)


class Public(NamedTuple):
    """Public weights, each None where the run's own begin at random."""

    text: clip.ClipText | None
    resnet: resnet_weights.ResNetWeights | None
    tokenize: Tokenize  # text -> tokens of the text encoder


NOTHING = Public(None, None, Tokenizer().encode)


def read(text: str = "", resnet: str = "") -> Public:
    """What the flags name: `text` "clip:FOLDER", `resnet` a safetensors file or a folder that holds one; "" for neither.

    Raises ValueError (or FileNotFoundError) that names what is wrong with the flag or the files.
    """
    loaded = resnet_weights.read_resnet(resnet) if resnet else None
    if not text:
        return NOTHING._replace(resnet=loaded)
    folder = clip_folder(text)
    encoder, vocabulary = clip.read_text(folder), clip.ClipTokenizer(folder)
    clip.check_tokenizer(vocabulary, encoder.config)
    return Public(encoder, loaded, vocabulary.encode)


def clip_folder(text: str) -> str:
    """FOLDER of "clip:FOLDER"; ValueError for anything else."""
    kind, _, folder = text.partition(":")
    if kind != CLIP or not folder:
        raise ValueError(f"--text is {text!r}; expected clip:FOLDER, a folder with model.safetensors and tokenizer.json (docs/models.md)")
    return folder


def resolve(config: ConfigDict, public: Public) -> ConfigDict:
    """The config with the sizes and the SHA-256 of what was loaded.

    Raises ValueError where the config asks for CLIP's text encoder and none was given, or the variant has no place for one.
    """
    reads = VARIANTS[config.variant].encoders and config.ablation.text if config.variant in VARIANTS else True
    if config.model.text == CLIP and reads and public.text is None:
        raise ValueError(
            "this config trains with CLIP's text encoder; name a folder that holds its public model.safetensors and tokenizer.json: "
            "--text clip:FOLDER (docs/models.md), or --config.model.text=own for a small one that is trained from scratch"
        )
    if public.text is not None and not reads:
        raise ValueError(f"variant {config.variant!r} with ablation.text={config.ablation.text} has no text encoder; leave --text out")
    found, sizes = {}, config.model.public
    if public.text is not None:
        found["text"], sizes = f"{CLIP}:{public.text.sha256}", sizes + text_sizes(public.text)
    if public.resnet is not None:
        found["resnet"], sizes = f"sha256:{public.resnet.sha256}", sizes + resnet_sizes(public.resnet)
    return _with_model(config, found | {"public": sizes})


def text_sizes(text: clip.ClipText) -> tuple[tuple[str, Any], ...]:
    """Pairs of a path in the preset and its value, with which `TextEncoder` takes these weights."""
    transformer = {name: value for name, value in text.config.transformer._asdict().items() if name not in RUN_TIME}
    rest = {name: getattr(text.config, name) for name in ("vocabulary", "length", "end_token", "numbers")}
    sizes = {f"transformer.{name}": value for name, value in transformer.items()} | rest
    return tuple((f"clamp.text.{name}", value) for name, value in sizes.items()) + (("clamp.text_frozen", True),)


def resnet_sizes(resnet: resnet_weights.ResNetWeights) -> tuple[tuple[str, Any], ...]:
    """Pairs of a path in the preset and its value, with which `ResNet` takes these weights."""
    return tuple((f"policy.resnet.{name}", value) for name, value in resnet.config._asdict().items() if name not in RUN_TIME)


def adopt(config: ConfigDict, before: Mapping[str, Any]) -> ConfigDict:
    """A stage (ii) config with what the stage (i) run `before` had loaded."""
    found = {name: before["model"][name] for name in FIELDS}
    return _with_model(config, found | {"public": tuple(map(tuple, found["public"]))})


def _with_model(config: ConfigDict, fields: Mapping[str, Any]) -> ConfigDict:
    """A config of its own with other fields in the section `model`."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.model.update(fields)
    return config.lock()


def insert(params: Mapping[str, Any], public: Public) -> dict[str, Any]:
    """Fresh parameters with the public ones in their places; CLIP's own projection begins ours where it has its size."""
    params = dict(params)
    if public.text is not None:
        clamp = dict(params["clamp"]) | {"text": _fit(params["clamp"]["text"], public.text.params, "text")}
        if clamp["text_projection"]["kernel"].shape == public.text.projection.shape:
            clamp["text_projection"] = {"kernel": public.text.projection}
        params["clamp"] = clamp
    if public.resnet is not None:
        names = [name for name in params["policy"] if name.startswith("resnets_")]
        params["policy"] = dict(params["policy"]) | {n: _fit(params["policy"][n], public.resnet.params, n) for n in names}
    return params


def _fit(fresh: Any, loaded: Any, name: str) -> Any:
    """The loaded tree; ValueError unless it has the structure and the shapes of the fresh one."""
    shapes = [jax.tree_util.tree_map(np.shape, tree) for tree in (fresh, loaded)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the public weights do not fit the network {name!r}; leave its sizes out of config.model.overrides")
    return loaded


def tokenizer(model: Mapping[str, Any], text: str) -> Tokenize:
    """The vocabulary of a run whose config has this section `model`, and `text` the flag; ValueError where they do not match."""
    kind, _, digest = model["text"].partition(":")
    if kind == OWN:
        if text:
            raise ValueError(f"the run has a text encoder of its own; leave --text {text!r} out")
        return NOTHING.tokenize
    if not text:
        raise ValueError("the run has CLIP's text encoder; name the folder of its vocabulary: --text clip:FOLDER (docs/models.md)")
    folder = clip_folder(text)
    vocabulary, found = clip.ClipTokenizer(folder), clip.read_text(folder).sha256
    if found != digest:
        raise ValueError(f"{folder} holds weights of sha256 {found[:12]}, the run began with {digest[:12]}; name the folder of those")
    return vocabulary.encode


def unread(text: str, length: int) -> np.ndarray:
    """Tokens where nothing reads them: stage (ii) has no use for a sentence, and need not have its vocabulary."""
    return np.zeros(length, np.int32)
