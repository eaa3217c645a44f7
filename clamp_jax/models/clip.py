"""CLIP's text encoder and vocabulary from the public Hugging Face layout: model.safetensors, config.json, tokenizer.json.

The weights become the parameters of `TextEncoder`; what belongs to CLIP's images is left unread.
"""

import json
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int32

from clamp_jax.models.attention import TransformerConfig
from clamp_jax.models.public_weights import PublicFile, Shape, file_sha256, open_weights
from clamp_jax.models.text_encoder import TextEncoderConfig

START, END = "<|startoftext|>", "<|endoftext|>"
PAD = 0  # any token would do: it stands after the end, where nothing sees it

_WHAT = "CLIP's text encoder in the public Hugging Face layout"
_TOKENS, _POSITIONS = "text_model.embeddings.token_embedding.weight", "text_model.embeddings.position_embedding.weight"
_FINAL, _LAYERS, _PROJECTION = "text_model.final_layer_norm", "text_model.encoder.layers", "text_projection.weight"
_HEAD_WIDTH = 64  # of every published CLIP
# The vision side, the temperature, and the buffers that older files hold.
_UNREAD = re.compile(r"vision_model\..*|visual_projection\.weight|logit_scale|text_model\.embeddings\.position_ids")
_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "exact_gelu", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu"}
_LEGACY_END = 2  # of OpenAI's config.json: transformers then pools at the largest token, which is the end
# Where a config.json is silent, as transformers reads it.
_SILENT = {"num_attention_heads": 8, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": _LEGACY_END}


class ClipText(NamedTuple):
    """CLIP's text encoder as this project's networks take it."""

    config: TextEncoderConfig
    params: dict  # of TextEncoder(config): what stands under "params"
    projection: Float[np.ndarray, "width d"]  # kernel of CLIP's own projection into the space it shares with images
    sha256: str  # of the weights file


class _Sizes(NamedTuple):
    vocabulary: int
    length: int
    width: int
    depth: int
    hidden: int
    projection: int


_SIZE_KEYS = _Sizes("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "intermediate_size", "projection_dim")


def read_text(folder: str | Path) -> ClipText:
    """CLIP's text encoder from a folder of the public layout (or the path of its model.safetensors).

    Sizes are the tensors'; config.json, where it stands beside, says the rest and must agree, else CLIP's defaults hold.
    FileNotFoundError if there are no weights; ValueError names what is missing, not known, misshapen or not supported.
    """
    file = open_weights(folder, _WHAT)
    sizes = _sizes(file)
    config = _config(file.path.with_name("config.json"), sizes)
    tensors = file.read(_shapes(sizes), _UNREAD)
    projection = np.ascontiguousarray(tensors[_PROJECTION].T)
    return ClipText(config, _parameters(tensors, config), projection, file_sha256(file.path))


def _sizes(file: PublicFile) -> _Sizes:
    (vocabulary, width), (length, _) = file.shape(_TOKENS, 2), file.shape(_POSITIONS, 2)
    hidden, _ = file.shape(f"{_LAYERS}.0.mlp.fc1.weight", 2)
    # as many as are named: where one is missing as a whole, it is refused by name and so is the last
    found = (re.match(rf"{re.escape(_LAYERS)}\.(\d+)\.", name) for name in file.shapes)
    depth = len({match.group(1) for match in found if match})
    return _Sizes(vocabulary, length, width, depth, hidden, file.shape(_PROJECTION, 2)[0])


def _shapes(sizes: _Sizes) -> dict[str, Shape]:
    """Name and shape of every tensor that is read."""
    width, hidden = sizes.width, sizes.hidden
    shapes = {_TOKENS: (sizes.vocabulary, width), _POSITIONS: (sizes.length, width), _PROJECTION: (sizes.projection, width)}
    linear = {f"self_attn.{name}_proj": (width, width) for name in "qkv"} | {"self_attn.out_proj": (width, width)}
    linear |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
    norms = [_FINAL]
    for layer in (f"{_LAYERS}.{index}" for index in range(sizes.depth)):
        norms += [f"{layer}.layer_norm1", f"{layer}.layer_norm2"]
        for name, shape in linear.items():
            shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
    return shapes | {f"{name}.{part}": (width,) for name in norms for part in ("weight", "bias")}


def _parameters(tensors: dict[str, np.ndarray], config: TextEncoderConfig) -> dict:
    heads = config.transformer.heads
    blocks = {f"block_{i}": _block(tensors, f"{_LAYERS}.{i}", heads) for i in range(config.transformer.depth)}
    transformer = {**blocks, "norm": _norm(tensors, _FINAL)}
    return {"embedding": tensors[_TOKENS], "position": tensors[_POSITIONS], "transformer": transformer}


def _block(tensors: dict[str, np.ndarray], layer: str, heads: int) -> dict:
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
    attention = {ours: _to_heads(_dense(tensors, f"{layer}.self_attn.{theirs}"), heads) for ours, theirs in names.items()}
    out = _dense(tensors, f"{layer}.self_attn.out_proj")
    attention["out"] = out | {"kernel": out["kernel"].reshape(heads, -1, out["kernel"].shape[1])}
    mlp = {"up": _dense(tensors, f"{layer}.mlp.fc1"), "down": _dense(tensors, f"{layer}.mlp.fc2")}
    norms = {"norm_self": _norm(tensors, f"{layer}.layer_norm1"), "norm_mlp": _norm(tensors, f"{layer}.layer_norm2")}
    return {"self": attention, "mlp": mlp, **norms}


def _dense(tensors: dict[str, np.ndarray], name: str) -> dict:
    """torch keeps a linear map as (out, in)."""
    return {"kernel": np.ascontiguousarray(tensors[f"{name}.weight"].T), "bias": tensors[f"{name}.bias"]}


def _to_heads(dense: dict, heads: int) -> dict:
    return {name: value.reshape(*value.shape[:-1], heads, -1) for name, value in dense.items()}


def _norm(tensors: dict[str, np.ndarray], name: str) -> dict:
    return {"scale": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]}


def _config(path: Path, sizes: _Sizes) -> TextEncoderConfig:
    settings = _settings(path, sizes) if path.is_file() else _SILENT | {"num_attention_heads": max(sizes.width // _HEAD_WIDTH, 1)}
    heads, epsilon, end = settings["num_attention_heads"], settings["layer_norm_eps"], settings["eos_token_id"]
    end = sizes.vocabulary - 1 if end == _LEGACY_END else end
    _check(path, "num_attention_heads", heads, _whole(heads) and heads > 0 and sizes.width % heads == 0, f"a divisor of {sizes.width}")
    _check(path, "hidden_act", settings["hidden_act"], settings["hidden_act"] in _ACTIVATIONS, f"one of {', '.join(_ACTIVATIONS)}")
    _check(path, "layer_norm_eps", epsilon, isinstance(epsilon, float) and 0 < epsilon < 1, "a small positive number")
    _check(path, "eos_token_id", end, _whole(end) and 0 <= end < sizes.vocabulary, f"one token of {sizes.vocabulary}")
    ratio, activation = sizes.hidden / sizes.width, _ACTIVATIONS[settings["hidden_act"]]
    transformer = TransformerConfig(sizes.width, sizes.depth, heads, ratio, causal=True, activation=activation, epsilon=epsilon)
    return TextEncoderConfig(transformer, sizes.vocabulary, sizes.length, end)


def _settings(path: Path, sizes: _Sizes) -> dict:
    """Settings of the text side by transformers' names; ValueError if a size is not the tensors'."""
    try:
        document = json.loads(path.read_text())
        text = {**(document.get("text_config") or {}), **(document.get("text_config_dict") or {})}
        nested = bool(text)
        text = text if nested else document
        # a whole CLIP projects to its own width, whatever its text side says of one
        projection = {"projection_dim": document["projection_dim"]} if "projection_dim" in document else {}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is no config.json of a CLIP ({error}); take the one that belongs to the weights") from error
    stated = {key: value for key, value in text.items() if not (nested and key == "projection_dim")} | projection
    for key, size in zip(_SIZE_KEYS, sizes, strict=True):
        _check(path, key, stated.get(key, size), stated.get(key, size) == size, f"{size}, as the tensors beside it have it")
    return {key: stated.get(key, value) for key, value in _SILENT.items()}


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check(path: Path, key: str, value: Any, good: bool, expected: str) -> None:
    if not good:
        raise ValueError(f"{key} in {path} is {value!r}; expected {expected}. Take the config.json that belongs to the weights")


class ClipTokenizer:
    """CLIP's vocabulary, from tokenizer.json of the public layout; the interface is `models.tokenizer.Tokenizer`'s.

    It is used from many threads and can be pickled: nothing in it changes after it is made.
    """

    def __init__(self, folder: str | Path):
        """Read the vocabulary; FileNotFoundError or ValueError if it is not there or not CLIP's, ImportError without tokenizers."""
        path = Path(folder) / "tokenizer.json"
        self._vocabulary = _load(path)
        ids = self._vocabulary.get_vocab(with_added_tokens=True)
        lacking = [mark for mark in (START, END) if mark not in ids]
        if lacking:
            raise ValueError(f"{path} is not CLIP's vocabulary: it lacks {' and '.join(lacking)}; take tokenizer.json of a public CLIP")
        self.start, self.end = ids[START], ids[END]
        self.vocabulary_size = max(ids.values()) + 1

    def count(self, text: str) -> int:
        """Tokens a text takes, with start and end."""
        return len(self._ids(text))

    def encode(self, text: str, length: int) -> Int32[np.ndarray, " length"]:
        """Tokens of a text, (length,) int32: start, pieces, end, then padding with 0.

        Text that does not fit loses whole clauses, from the last but one backwards, with a warning: the end always stays,
        and so do instruction and task progress. Raises ValueError if those two do not fit either.
        """
        ids = self._ids(text)
        if len(ids) > length:
            ids = self._shorten(text, length)
        return np.asarray(ids + [PAD] * (length - len(ids)), np.int32)

    def _ids(self, text: str) -> list[int]:
        pieces = self._vocabulary.encode(text, add_special_tokens=False).ids
        if self.start in pieces or self.end in pieces:
            # the end is also what stands for a character that a vocabulary lacks
            raise ValueError(f"text {text!r} holds {START}, {END} or a character that the vocabulary lacks; take it out")
        return [self.start, *pieces, self.end]

    def _shorten(self, text: str, length: int) -> list[int]:
        clauses, before = re.split(r",\s*(?![^()]*\))", text), self.count(text)  # commas inside of brackets part nothing
        for kept in range(len(clauses) - 2, 0, -1):
            ids = self._ids(", ".join([*clauses[:kept], clauses[-1]]))
            if len(ids) <= length:
                dropped = len(clauses) - 1 - kept
                warnings.warn(f"text of {before} tokens does not fit {length}: {dropped} clauses before the last left out", stacklevel=3)
                return ids
        raise ValueError(f"text of {before} tokens does not fit {length}, not even its first and last clause; shorten the instruction")


def check_tokenizer(tokenizer: ClipTokenizer, config: TextEncoderConfig) -> None:
    """ValueError unless the vocabulary is the one that the weights were trained with, as far as its size and its end say."""
    found, expected = (tokenizer.vocabulary_size, tokenizer.end), (config.vocabulary, config.end_token)
    if found[1] != expected[1] or found[0] > expected[0]:
        stated = f"its vocabulary has {found[0]} tokens and ends texts with {found[1]}; the weights take {expected[0]} and {expected[1]}"
        raise ValueError(f"tokenizer.json does not belong to model.safetensors: {stated}. Take both from one public folder")


def _load(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer  # an extra: the project's own vocabulary needs nothing
    except ImportError as error:
        raise ImportError("CLIP's vocabulary is read by the package tokenizers: pip install 'clamp-jax[clip]'") from error
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; a public folder of CLIP holds it beside model.safetensors (docs/models.md)")
    try:
        vocabulary = Tokenizer.from_file(str(path))
    except Exception as error:  # its errors have no class of their own
        raise ValueError(f"{path} is no vocabulary that tokenizers reads ({error}); take tokenizer.json of a public CLIP") from error
    vocabulary.no_truncation()  # a stored cut at 77 would lose the progress
    vocabulary.no_padding()
    return vocabulary
