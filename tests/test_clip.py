"""CLIP's text encoder from public files: the outputs of torch's, and what is refused by name.

The vocabulary's tests are in test_clip_tokenizer.py.
"""

import hashlib
import json
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from public_layout import CLIPS, TINY, clip_tensors, text_tensors, write
from scipy.special import erf

from clamp_jax.models.attention import TransformerConfig, activation, layer_norm
from clamp_jax.models.clip import read_text
from clamp_jax.models.text_encoder import TextEncoder

FIXTURES = Path(__file__).parent / "fixtures"
RECORDED = np.load(FIXTURES / "ports.npz")
LAYER = "text_model.encoder.layers.1"


@pytest.fixture(scope="module", params=CLIPS)
def public(request, tmp_path_factory):
    """A full-size CLIP of the public layout, read, and its outputs for the recorded tokens; the file (600 MB) is gone afterwards."""
    folder = tmp_path_factory.mktemp("clip")
    path = write(folder / "model.safetensors", clip_tensors(CLIPS[request.param], request.param))
    try:
        text = read_text(folder)
    finally:
        path.unlink()
    tokens = RECORDED[f"{request.param}/tokens"]
    pooled = np.asarray(jax.jit(TextEncoder(text.config).apply)({"params": text.params}, tokens))
    return request.param, text, {"tokens": tokens, "pooled": pooled, "embeds": pooled @ text.projection}


def test_full_size_file_gives_the_recorded_outputs_of_transformers(public):
    name, text, found = public
    assert text.config._replace(transformer=text.config.transformer[:3]) == ((512, 12, 8), 49408, 77, 49407, (), 100)
    for key in ("pooled", "embeds"):
        np.testing.assert_allclose(found[key], RECORDED[f"{name}/{key}"], atol=1e-4)
    assert np.abs(found["embeds"]).mean() > 0.5


BENCH = "needs torch and transformers: pip install 'clamp-jax[bench]'"


@pytest.mark.filterwarnings("ignore")  # of packages that the project does not use
def test_outputs_equal_those_of_transformers_run_now(public):
    pytest.importorskip("torch", reason=BENCH)
    pytest.importorskip("transformers", reason=BENCH)
    sys.path.insert(0, str(FIXTURES))
    from record_ports import text_reference

    name, _, found = public
    live = text_reference(name)
    for key, value in live.items():
        np.testing.assert_allclose(found[key], value, atol=1e-4)
        np.testing.assert_allclose(RECORDED[f"{name}/{key}"], value, atol=1e-5, err_msg="record_ports.py gives something else now")


def tiny(folder: Path, change=lambda tensors: None, config: dict | None = None, *, dtype=np.float32) -> Path:
    """A small CLIP in the public layout, changed before it is written."""
    folder.mkdir(exist_ok=True)
    tensors = {name: value.astype(dtype) for name, value in clip_tensors(TINY, "tiny").items()}
    change(tensors)
    write(folder / "model.safetensors", tensors)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.filterwarnings("ignore")
def test_activation_heads_and_epsilon_of_a_config_are_those_of_transformers(tmp_path):
    torch, transformers = pytest.importorskip("torch", reason=BENCH), pytest.importorskip("transformers", reason=BENCH)
    config = transformers.CLIPTextConfig(
        vocab_size=60, hidden_size=16, intermediate_size=64, projection_dim=12, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=10, hidden_act="gelu", layer_norm_eps=0.01, eos_token_id=7,
    )  # fmt: skip
    transformers.CLIPTextModelWithProjection(config).save_pretrained(tmp_path)  # its own file and config.json
    text, tokens = read_text(tmp_path), np.array([[5, 9, 7, 0, 0], [5, 40, 59, 3, 7]], np.int32)
    model = transformers.CLIPTextModelWithProjection.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        wanted = model(torch.from_numpy(tokens)).text_embeds.numpy()
    found = np.asarray(TextEncoder(text.config).apply({"params": text.params}, tokens)) @ text.projection
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_gelu_of_a_config_is_the_exact_one_and_epsilon_is_inside_the_root():
    x = np.linspace(-4, 4, 33, dtype=np.float32)
    np.testing.assert_allclose(activation("exact_gelu")(x), x * (1 + erf(x / np.sqrt(2))) / 2, atol=1e-6)
    config = TransformerConfig(2, 1, 1, epsilon=3.0)
    params = {"params": {"scale": np.ones(2, np.float32), "bias": np.zeros(2, np.float32)}}
    found = layer_norm(config, "norm").apply(params, np.array([[1.0, -1.0]], np.float32))
    np.testing.assert_allclose(found, [[0.5, -0.5]], atol=1e-6)


def test_a_file_of_the_text_side_alone_is_read_as_a_whole_one(tmp_path):
    whole = read_text(tiny(tmp_path / "whole"))
    path = write(tmp_path / "text.safetensors", text_tensors(TINY, "tiny"))
    jax.tree.map(np.testing.assert_array_equal, read_text(path).params, whole.params)
    assert read_text(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest() != whole.sha256


def test_buffers_of_older_files_are_known(tmp_path):
    buffers = {f"{side}_model.embeddings.position_ids": np.arange(10)[None] for side in ("text", "vision")}
    read_text(tiny(tmp_path, lambda tensors: tensors.update(buffers)))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64], ids=["F16", "BF16", "F64"])
def test_other_floats_become_float32(tmp_path, dtype):
    found = read_text(tiny(tmp_path, dtype=dtype))
    table = text_tensors(TINY, "tiny")["text_model.embeddings.token_embedding.weight"]
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(found.params)) and found.projection.dtype == np.float32
    np.testing.assert_array_equal(found.params["embedding"], table.astype(dtype).astype(np.float32))


def test_parameters_are_those_that_the_encoder_makes(tmp_path):
    text = read_text(tiny(tmp_path, config={"text_config": {"num_attention_heads": 4}}))
    wanted = jax.eval_shape(TextEncoder(text.config).init, jax.random.key(0), np.zeros((1, 10), np.int32))["params"]
    assert jax.tree.map(np.shape, text.params) == jax.tree.map(np.shape, wanted)
    assert text.projection.shape == (16, 12) and text.config.transformer.heads == 4


def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, value):
    return lambda tensors: tensors.update({name: value})


REFUSED = {
    "missing": (drop(f"{LAYER}.mlp.fc1.bias"), rf"missing is '{LAYER}.mlp.fc1.bias' \(64,\)"),
    "missing embedding": (drop("text_model.embeddings.token_embedding.weight"), "missing is 'text_model.embeddings.token_embedding"),
    "missing projection": (drop("text_projection.weight"), "missing is 'text_projection.weight'"),
    "extra": (put("text_model.head.weight", np.zeros((2, 3), np.float32)), r"not known is 'text_model.head.weight' \(2, 3\)"),
    "misshapen": (put(f"{LAYER}.mlp.fc2.weight", np.zeros((16, 8), np.float32)), r"mlp.fc2.weight' \(16, 8\) in place of \(16, 64\)"),
    "of other axes": (put("text_projection.weight", np.zeros(5, np.float32)), r"projection.weight' has shape \(5,\), expected 2 axes"),
    "integers": (put(f"{LAYER}.mlp.fc2.weight", np.zeros((16, 64), np.int32)), "mlp.fc2.weight' I32 in place of one of F32"),
    "not finite": (put("text_projection.weight", np.full((12, 16), np.nan, np.float32)), "not finite are .*'text_projection.weight'"),
}


@pytest.mark.parametrize("change, match", REFUSED.values(), ids=REFUSED)
def test_tensors_that_are_not_those_of_clip_are_refused_by_name(tmp_path, change, match):
    with pytest.raises(ValueError, match=f"model.safetensors is not CLIP's text encoder.*{match}"):
        read_text(tiny(tmp_path, change))


def test_a_layer_that_is_gone_is_named(tmp_path):
    def without_the_first(tensors):
        for name in [name for name in tensors if name.startswith("text_model.encoder.layers.0")]:
            del tensors[name]

    with pytest.raises(ValueError, match="missing is 'text_model.encoder.layers.0.mlp.fc1.weight'"):
        read_text(tiny(tmp_path, without_the_first))


def test_paths_that_hold_no_weights_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no file and no folder; expected CLIP's text encoder"):
        read_text(tmp_path / "nowhere")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="holds pytorch_model.bin, and no model.safetensors"):
        read_text(tmp_path)
    with pytest.raises(ValueError, match="pytorch_model.bin is no safetensors file"):
        read_text(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("nested", [True, False], ids=["whole", "text side"])
def test_config_decides_what_the_tensors_do_not_say(tmp_path, nested):
    text = {"num_attention_heads": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "eos_token_id": 7, "hidden_size": 16}
    config = read_text(tiny(tmp_path, config={"text_config": text, "projection_dim": 12} if nested else text)).config
    transformer = config.transformer
    assert (transformer.heads, transformer.activation, transformer.epsilon, config.end_token) == (2, "exact_gelu", 1e-6, 7)


def test_end_of_openais_configs_is_the_last_token(tmp_path):
    """They say 2, for which transformers pools at the largest token."""
    config = {"text_config": {"eos_token_id": 2, "projection_dim": 999}, "projection_dim": 12}
    assert read_text(tiny(tmp_path / "legacy", config=config)).config.end_token == TINY.vocabulary - 1
    assert read_text(tiny(tmp_path / "none")).config.end_token == TINY.vocabulary - 1


@pytest.mark.parametrize(
    "text, match",
    [
        ({"hidden_size": 512}, "hidden_size in .*config.json is 512; expected 16"),
        ({"num_hidden_layers": 12}, "num_hidden_layers in .* is 12; expected 2"),
        ({"num_attention_heads": 5}, "num_attention_heads in .* is 5; expected a divisor of 16"),
        ({"hidden_act": "swish"}, "hidden_act in .* is 'swish'; expected one of quick_gelu, gelu"),
        ({"layer_norm_eps": 0}, "layer_norm_eps in .* is 0; expected a small positive number"),
        ({"eos_token_id": 60}, "eos_token_id in .* is 60; expected one token of 60"),
    ],
)
def test_config_that_contradicts_the_tensors_or_is_not_supported_is_refused(tmp_path, text, match):
    with pytest.raises(ValueError, match=match):
        read_text(tiny(tmp_path, config={"text_config": text}))


def test_a_config_that_is_none_is_refused(tmp_path):
    for text in ("[]", "{", '{"text_config": 3}'):
        (tiny(tmp_path) / "config.json").write_text(text)
        with pytest.raises(ValueError, match="config.json is no config.json of a CLIP"):
            read_text(tmp_path)
