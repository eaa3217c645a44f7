"""The model card: every fact is one that was given, and what is not known is said so."""

import datetime
import json

import deployed
import numpy as np
import pytest
import synthetic

from clamp_jax import checkpoint, metrics
from clamp_jax.data.folders import Reader
from clamp_jax.deploy import artifact, model_card
from experiments import card
from experiments.configs import finetune

LOW, HIGH = metrics.wilson(25, 48)
REPORT = {
    "task": "drawer_close",
    "backend": "native",
    "seed": 42,
    "limit_s": 8.0,
    "success": {"clamp": {"successes": 25, "trials": 48, "low": LOW, "high": HIGH}},
}


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """What a run on three synthetic demonstrations says of itself; another data set of it is gone."""
    path = tmp_path_factory.mktemp("data") / "drawers"
    synthetic.write(path, 3, kind="state", steps=60)
    config = finetune.get_config("debug")
    with config.unlocked():
        config.data.paths, config.init_from = (str(path), "/gone/far"), "/somewhere/runs/pretrained"
    config = json.loads(json.dumps(config.to_dict()))
    return card.training(checkpoint.Loaded({}, config, {}, step=4)) | {"model": config["model"], "sensor": config["sensor"]}, path, config


def written(*, evaluations=(), licence="MIT", **changes):
    """A card with changes of the description."""
    spec = artifact.make_spec({"w": np.zeros((500, 600))}, deployed.description(**changes), today=datetime.date(2026, 1, 31))
    return model_card.write(spec, evaluations, licence=licence)


def cells(text, first):
    """The cells of the table row that begins with a word."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("| ").split(" | ")]


def test_a_card_without_facts_says_that_they_are_missing():
    text = written()
    assert deployed.INSTRUCTION in text and "Not evaluated" in text and "Not yet run on hardware" in text and "not at hand" in text
    assert "0.3 million weights" in text and "2026-01-31" in text and "2026-08-01" in text


def test_evaluations_come_with_their_intervals():
    text = written(evaluations=[REPORT, REPORT | {"task": "other", "sensors": "d405"}])
    assert f"| drawer_close | native, seed 42, 8 s | clamp | 25 of 48 | 52 % [{LOW * 100:.0f}, {HIGH * 100:.0f}] |" in text
    assert cells(text, "other")[1] == "native, seed 42, 8 s, sensors d405" and "Not evaluated" not in text


def test_data_and_training_are_the_runs(training):
    told, path, config = training
    text = written(training=told, hashes={"config": "c0ffee", "checkpoint": "beef"}, licence="CC-BY-4.0")
    reader = Reader(path)
    assert cells(text, "drawers") == ["drawers", reader.task, "state", "3", reader.fingerprint[:12]]
    assert "/somewhere" not in text and "/gone" not in text
    rows = {"networks": "debug", "pretrained from": "pretrained", "step": "4", "of steps": "4", "batch": "4", "sensors": "preset noisy"}
    for name, value in (rows | {"SHA-256 of the config": "c0ffee", "SHA-256 of the checkpoint": "beef"}).items():
        assert cells(text, name)[1] == value
    assert "## Licence\nCC-BY-4.0." in text


def test_sensors_are_named_by_all_their_fields(training):
    section = training[2]["sensor"]
    assert card.sensor_preset(section) == "preset noisy"
    assert card.sensor_preset(section | {"far_m": 0.123}) == "values of its own"


def test_a_bar_in_a_name_does_not_break_the_table():
    named = REPORT | {"success": {"a|b": REPORT["success"]["clamp"]}}
    assert "| a\\|b | 25 of 48 |" in written(evaluations=[named])


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        json.dumps(REPORT | {"success": {}}),
        json.dumps(REPORT | {"success": {"a": {}}}),
        json.dumps(REPORT | {"seed": None}),
        json.dumps(REPORT | {"success": {"a": {"successes": 3, "trials": 2, "low": 0, "high": 1}}}),
        json.dumps(REPORT | {"success": {"a": {"successes": 0, "trials": 0, "low": 0, "high": 1}}}),
    ],
)
def test_reports_that_are_none_are_refused(tmp_path, text):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{path} (is no report|has)"):
        card.read_evaluation(path)
    path.write_text(json.dumps(REPORT))
    assert card.read_evaluation(path) == REPORT
