"""The work of a run: what a sample costs in each stage and variant, and the figures made of it."""

import jax
import pytest

from experiments import flops, training, work
from experiments.configs import finetune, pretrain


def cost(config, stage):
    return work.of(config, stage).flop


def parts(preset):
    return flops.forward(work.make_sizes(preset.model.to_dict()))


def test_stage_one_trains_everything():
    config = pretrain.get_config("demo")
    assert cost(config, "pretrain") == 3 * sum(parts(config).values()) == flops.train(work.make_sizes(config.model.to_dict()))


def test_stage_two_pays_frozen_encoders_once_and_no_text():
    config = finetune.get_config("demo")
    by_network = parts(config)
    trained = sum(value for name, value in by_network.items() if name not in work.ENCODERS)
    assert by_network["text"] > 0
    assert cost(config, "finetune") == 3 * trained + by_network["view"] + by_network["action"]


def test_a_variant_without_encoders_pays_for_the_policy_alone():
    config = finetune.get_config("demo")
    config.variant = "scratch"
    whole = parts(config)
    without = cost(config, "finetune")
    assert 0 < without < 3 * sum(value for name, value in whole.items() if name not in work.ENCODERS)  # it reads no embeddings either


def test_a_loaded_text_encoder_is_frozen_in_stage_one():
    config = pretrain.get_config("demo")
    before, text = cost(config, "pretrain"), parts(config)["text"]
    config.model.overrides = (("clamp.text_frozen", True),)
    assert cost(config, "pretrain") == before - 2 * text


def test_a_run_at_the_peak_uses_all_of_it():
    config = pretrain.get_config("demo")
    found = work.of(config, "pretrain", peak_tflops=2.0)
    at_peak = 2e12 * jax.device_count() / found.flop
    assert found.figures(at_peak) == pytest.approx({"tflops": 2.0, "mfu": 1.0})
    assert found.figures(at_peak / 4)["mfu"] == pytest.approx(0.25)


def test_what_is_not_known_is_not_told():
    config = pretrain.get_config("demo")
    assert set(work.of(config, "pretrain").figures(10.0)) == {"tflops"}  # a CPU's peak is not in the table
    config.ablation.wrist_views = False
    assert work.of(config, "pretrain").figures(10.0) == {}


def test_the_progress_line_has_the_rates():
    rates = {"samples_per_s": 123.4, "tflops": 56.7, "mfu": 0.4321}
    told = str(training.Progress(3, 9, {"loss": 1.0}, 0.25, 0.01, 61.0, rates))
    assert told == "step 3/9  loss 1.0000  250 ms/step  123.4 samples/s  56.7 TFLOP/s  43% MFU  waits 1%  left 00:01:01"
    assert "MFU" not in str(training.Progress(3, 9, {"loss": 1.0}, 0.25, 0.01, None, {"samples_per_s": 5.0}))


def test_the_log_writes_them(tmp_path):
    told = []
    about = {"batch": 4, "tell": told.append, "work": work.Work(1e12, 2, 4.0)}
    log = training.Log(tmp_path, first=0, of=2, **about)
    clock = training.Clock()
    clock.steps, clock.seconds = 2, 4.0  # 2 samples a second
    log(2, {"loss": 1.0}, clock)
    (line,) = training.read_metrics(tmp_path)
    assert (line["samples_per_s"], line["tflops"], line["mfu"]) == (2.0, 1.0, 0.25)
    assert told[0].rates == {"samples_per_s": 2.0, "tflops": 1.0, "mfu": 0.25}
