"""Stage (i) through its own entry point: stop and resume, bad input, and what is left in the folder."""

import json

import jax
import numpy as np
import pytest
import synthetic
import tiny

from clamp_jax import act, checkpoint
from experiments import pretrain, training


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("data") / "image", 6, kind="image")


def run(data, workdir, *, stop_at=None, **changes):
    lines = []
    state = pretrain.run(tiny.config("pretrain", data, **changes), workdir, stop_at=stop_at, tell=lines.append)
    return jax.device_get(state), lines


def assert_same_bits(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


def losses(workdir):
    return [(line["step"], line["loss"]) for line in training.read_metrics(workdir)]


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "straight"
    return workdir, *run(data, workdir)


def test_two_steps_stop_and_resume_to_four_equal_four_straight(data, straight, tmp_path):
    workdir, state, lines = straight
    stopped, _ = run(data, tmp_path, stop_at=2)
    assert int(stopped.step) == 2
    with (tmp_path / training.METRICS_FILE).open("a") as file:  # lines of steps that were never saved
        file.write('{"step": 3, "loss": 0}\n{"step": 4, "lo')
    resumed, after = run(data, tmp_path)
    assert_same_bits(state, resumed)
    assert [progress.step for progress in after] == [3, 4]
    assert losses(workdir) == losses(tmp_path)
    assert [step for step, _ in losses(workdir)] == [1, 2, 3, 4]


def test_training_changes_the_weights_and_lags_their_average(straight):
    state = straight[1]
    assert tiny.relative(state.params, state.ema) > 0
    loaded = checkpoint.load_params(straight[0])
    assert_same_bits(loaded.params, state.ema)
    assert loaded.config["model"]["preset"] == "debug" and len(loaded.statistics["data"]["datasets"]) == 1


def test_the_runs_policy_can_be_loaded(straight):
    run, policy = act.load_run(straight[0]), act.load_policy(straight[0])
    assert run.networks == training.make_spec(tiny.config("pretrain"), "pretrain").networks
    assert run.loaded.step == policy.loaded.step == 4
    assert "text" in run.params["clamp"] and "text" not in policy.params["clamp"]


def test_a_run_that_is_older_than_a_field_is_taken_up_as_it_was_begun(straight, data, tmp_path):
    """Again and again: its config stays as it was, plain and without a mask; a new run has what the config says."""
    config = tiny.config("pretrain", data)
    assert (config.train.pair_loss, config.train.mask_false_negatives) == ("ring", True)
    assert training.make_spec(config, "pretrain").mask_false_negatives
    assert training.as_begun(tmp_path, config) == config
    training.enter(tmp_path, config, "pretrain")
    assert training.as_begun(tmp_path, config) == config
    path = tmp_path / training.CONFIG_FILE
    old = json.loads(path.read_text())
    for name in ("pair_loss", "mask_false_negatives"):
        del old["train"][name]
    path.write_text(json.dumps(old))
    for _ in range(2):
        begun = training.as_begun(tmp_path, config)
        assert "pair_loss" not in begun.train and begun.is_locked
        assert not training.make_spec(begun, "pretrain").mask_false_negatives
        training.enter(tmp_path, begun, "pretrain")
        assert json.loads(path.read_text()) == old
    config.train.mask_false_negatives = False
    with pytest.raises(ValueError, match="train.mask_false_negatives: was True, is False"):
        pretrain.run(config, straight[0])


def test_a_run_that_is_older_than_a_section_is_the_same_run(data, tmp_path):
    config = tiny.config("pretrain", data)
    training.enter(tmp_path, config, "pretrain")
    path = tmp_path / training.CONFIG_FILE
    old = json.loads(path.read_text())
    del old["ablation"], old["model"]["text"], old["model"]["resnet"], old["model"]["public"]
    del old["model"]["dtype"], old["train"]["accumulate"]
    path.write_text(json.dumps(old))
    other = tiny.config("pretrain", data, ablation__text=False)
    with pytest.raises(ValueError, match="ablation.text: was True, is False"):
        training.enter(tmp_path, other, "pretrain")
    training.enter(tmp_path, config, "pretrain")


def test_another_config_in_the_same_folder_is_refused(data, straight):
    before = (straight[0] / training.CONFIG_FILE).read_text()
    with pytest.raises(ValueError, match="holds a run of another config; optimiser.rates.clamp: was 0.001, is 0.5; seed: was 0, is 3"):
        run(data, straight[0], seed=3, optimiser__rates__clamp=0.5)
    assert (straight[0] / training.CONFIG_FILE).read_text() == before


def test_other_data_in_the_same_folder_are_refused(straight, tmp_path):
    other = synthetic.write(tmp_path / "image", 6, kind="image", first_seed=50)
    with pytest.raises(ValueError, match="do not belong to the weights"):
        run(other, straight[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "scratch"}, "variant 'scratch' has no stage"),
        ({"train__batch": 64}, "64 slots in a batch of 64 but 5 trajectories"),
        ({"train__batch": 5}, "batch of 5 recorded examples does not divide by 4 devices; make it 4 or 8"),
        ({"model__preset": "demmo"}, "did you mean 'demo'"),
        ({"data__weights": (1.0, 2.0)}, "2 numbers for 1 data sets"),
        ({"train__pair_loss": "rign"}, "pair_loss is 'rign'; expected one of"),
        ({"train__accumulate": 3}, "1 rows on each of 4 devices do not divide into train.accumulate = 3 parts"),
        ({"model__dtype": "half"}, "dtype is 'half'; expected one of float32, bfloat16"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(data, tmp_path, changes, message):
    config = tiny.config("pretrain", data)
    with config.unlocked():
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    with pytest.raises(ValueError, match=message):
        pretrain.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_data_beyond_the_working_range_are_refused(tmp_path, monkeypatch):
    original = synthetic.episode

    def beyond(*args, **kwargs):
        episode = original(*args, **kwargs)
        return episode._replace(actions=episode.actions * np.where(np.arange(14) == 8, 5, 1).astype(np.float32))

    monkeypatch.setattr(synthetic, "episode", beyond)
    data = synthetic.write(tmp_path / "data", 6)
    with pytest.raises(ValueError, match="working range.*right/shoulder"):
        run(data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_line_of_the_log_says_how_fast_it_went(tmp_path):
    log = training.Log(tmp_path, first=0, of=5, batch=4, tell=lambda progress: None)
    clock = training.Clock()
    clock.steps, clock.seconds = 1, 2.0
    log(1, {"loss": np.float32(1.0)}, clock)
    assert json.loads((tmp_path / training.METRICS_FILE).read_text().splitlines()[0])["samples_per_s"] == 2.0
