"""Public weights through the entry points: they are in their places, stay where they must, travel with the run, and are asked for."""

import functools

import jax
import numpy as np
import public_layout
import pytest
import synthetic
import tiny
from tokenizers import Tokenizer, models, pre_tokenizers

from clamp_jax import act, checkpoint, parallel
from clamp_jax.models import clip
from experiments import finetune, pretrain, public, retrieve, training
from experiments.configs import pretrain as pretrain_config

LETTERS = [chr(code) for code in range(33, 127)]
SMALL = public_layout.Clip(
    text=public_layout.Tower(64, 1), vision=public_layout.Tower(8, 1), vocabulary=len(LETTERS) + 2, length=120, projection=16
)


def silent(progress):
    pass


def write_clip(folder, seed: str):
    """A small CLIP with a vocabulary of single signs."""
    folder.mkdir()
    public_layout.write(folder / "model.safetensors", public_layout.clip_tensors(SMALL, seed))
    vocabulary = Tokenizer(models.BPE({sign: i for i, sign in enumerate([*LETTERS, clip.START, clip.END])}, []))
    vocabulary.pre_tokenizer = pre_tokenizers.Whitespace()
    vocabulary.add_special_tokens([clip.START, clip.END])
    vocabulary.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Four would double the time of compilation, and are another test's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "mesh", functools.partial(parallel.mesh, jax.devices()[:1]))
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("public")


@pytest.fixture(scope="module")
def data(root):
    return synthetic.write(root / "image", 6, kind="image")


@pytest.fixture(scope="module")
def folder(root):
    return write_clip(root / "clip", "one")


@pytest.fixture(scope="module")
def run(root, data, folder):
    """Two steps of stage (i) with CLIP's text encoder: folder and state."""
    state = pretrain.run(tiny.config("pretrain", data), root / "one", text=f"clip:{folder}", stop_at=2, tell=silent)
    return root / "one", jax.device_get(state)


def assert_same(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_the_text_encoder_is_the_files_and_stays_and_its_projection_is_trained(run, folder):
    workdir, state = run
    read = clip.read_text(folder)
    assert_same(state.params["clamp"]["text"], read.params)
    assert_same(state.ema["clamp"]["text"], read.params)
    projection = state.params["clamp"]["text_projection"]["kernel"]  # begun with CLIP's own, which is of the same size
    assert 0 < np.abs(projection - read.projection).max() < 0.01
    config = checkpoint.load_params(workdir).config["model"]
    assert config["text"] == f"clip:{read.sha256}" and str(folder) not in str(config)


def test_a_projection_of_another_size_begins_fresh(folder):
    loaded = public.read(f"clip:{folder}")
    fresh = {"clamp": {"text": loaded.text.params, "text_projection": {"kernel": np.ones((64, 7), np.float32)}}}
    assert_same(public.insert(fresh, loaded)["clamp"]["text_projection"]["kernel"], np.ones((64, 7)))
    fresh["clamp"]["text"] = loaded.text.params | {"position": np.zeros((9, 64), np.float32)}
    with pytest.raises(ValueError, match="do not fit the network 'text'"):
        public.insert(fresh, loaded)


def test_a_run_goes_on_with_the_same_weights_alone(run, root, data, folder, tmp_path):
    config = tiny.config("pretrain", data)
    other = write_clip(tmp_path / "other", "two")
    with pytest.raises(ValueError, match="holds a run of another config; model.text: was 'clip:"):
        pretrain.run(config, run[0], text=f"clip:{other}", tell=silent)
    with pytest.raises(ValueError, match="model.text: was 'clip:.*is 'own'"):
        pretrain.run(config, run[0], tell=silent)
    assert int(pretrain.run(config, run[0], text=f"clip:{folder}", stop_at=2, tell=silent).step) == 2


def test_stage_two_and_the_robot_need_no_text(run, data, tmp_path):
    workdir, state = run
    config = tiny.config("finetune", data, init_from=str(workdir))
    tuned = finetune.run(config, tmp_path / "two", stop_at=1, tell=silent)
    assert_same(jax.device_get(tuned.params["clamp"]), state.ema["clamp"])
    assert "text" not in act.load_policy(tmp_path / "two").params["clamp"]


def test_retrieval_asks_for_the_vocabulary_of_the_run(run, folder, tmp_path):
    model = checkpoint.load_params(run[0]).config["model"]
    assert public.tokenizer(model, f"clip:{folder}")("a b", 6).tolist()[-1] == 0
    with pytest.raises(ValueError, match="name the folder of its vocabulary: --text clip:FOLDER"):
        public.tokenizer(model, "")
    other = write_clip(tmp_path / "other", "two")
    with pytest.raises(ValueError, match="holds weights of sha256 .* the run began with"):
        public.tokenizer(model, f"clip:{other}")
    with pytest.raises(ValueError, match="a text encoder of its own"):
        public.tokenizer({"text": "own"}, f"clip:{folder}")
    assert retrieve.maker(act.load_run(run[0]).networks, public.NOTHING.tokenize).text_length == SMALL.length


def test_every_resnet_of_the_policy_begins_with_the_file(tmp_path):
    path = public_layout.write(tmp_path / "resnet50.safetensors", public_layout.resnet_tensors("resnet"))
    loaded = public.read(resnet=str(path))
    config = tiny.config("finetune", variant="scratch")
    with config.unlocked():
        config.model.overrides = (*config.model.overrides, ("policy.backbones", (0, 1, 1, 1)))
    config = public.resolve(config, loaded)
    assert config.model.resnet == f"sha256:{loaded.resnet.sha256}" and config.model.text == "own"
    spec = training.make_spec(config, "finetune")
    assert spec.networks.policy.config.resnet == loaded.resnet.config
    batch = tiny.make_batches(tmp_path, spec).batch_at(0)
    shapes = training.state_shapes(spec, batch).params
    found = public.insert(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes), loaded)["policy"]
    for name in ("resnets_0", "resnets_1"):
        assert_same(found[name], loaded.resnet.params)
    assert not np.any(found["time"])


def test_the_papers_config_asks_for_clip(data, tmp_path):
    config = pretrain_config.get_config("paper")
    with config.unlocked():
        config.data.paths = (str(data),)
    with pytest.raises(ValueError, match="--text clip:FOLDER"):
        pretrain.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for change in ({"variant": "policy_pretrained"}, {"ablation.text": False}):  # these have no text encoder
        free = pretrain_config.get_config("paper")
        free.update_from_flattened_dict(change)
        assert public.resolve(free, public.NOTHING).model.text == "clip"


def test_flags_that_cannot_be_are_refused(data, folder, tmp_path):
    with pytest.raises(ValueError, match="--text is 'siglip:x'; expected clip:FOLDER"):
        pretrain.run(tiny.config("pretrain", data), tmp_path / "run", text="siglip:x")
    with pytest.raises(FileNotFoundError, match="no file and no folder"):
        pretrain.run(tiny.config("pretrain", data), tmp_path / "run", text=f"clip:{tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match="variant 'blind' .* has no text encoder; leave --text out"):
        pretrain.run(tiny.config("pretrain", data, variant="blind"), tmp_path / "run", text=f"clip:{folder}")
    with pytest.raises(ValueError, match="has the ResNet of its stage .i. run; leave --resnet out"):
        finetune.run(tiny.config("finetune", data, init_from="somewhere"), tmp_path / "run", resnet="resnet50")
    assert not (tmp_path / "run").exists()
