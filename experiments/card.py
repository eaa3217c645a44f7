"""What a run and the reports of its evaluation say for an artifact's model card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clamp_jax import checkpoint, sensors
from clamp_jax.data.folders import CALIBRATIONS, Reader


def training(loaded: checkpoint.Loaded) -> dict[str, Any]:
    """How a run's weights were made, JSON: steps, batch, sensors, data sets, calibrations, and the run that it went on from."""
    config = loaded.config
    told = {"step": loaded.step, "sensors": sensor_preset(config["sensor"]), "data": data_sets(config)}
    told |= {"pretrained_from": Path(config.get("init_from", "")).name, "calibrations": loaded.statistics.get(CALIBRATIONS, [])}
    return told | {ours: config["train"][theirs] for ours, theirs in (("of_steps", "steps"), ("batch", "batch")) if "train" in config}


def sensor_preset(section: Mapping[str, Any]) -> str:
    """The name of the preset whose values a config's section of sensors has, all of them."""
    for name in sensors.PRESETS:
        fields = sensors.preset(name)._asdict()
        if all(fields.get(field) == value for field, value in section.items()):
            return f"preset {name}"
    return "values of its own"


def data_sets(config: dict) -> list[dict]:
    """Name, task, kind, number of episodes and fingerprint of the data sets of a run that are at hand."""
    found = []
    for path in config["data"]["paths"]:
        try:
            reader = Reader(path)
        except ValueError:
            continue
        about = {"name": Path(path).name, "task": reader.task, "kind": reader.kind, "episodes": len(reader)}
        found.append(about | {"fingerprint": reader.fingerprint})
    return found


def read_evaluation(path: Path) -> dict:
    """A report of experiments.evaluate; ValueError when the file is none."""
    try:
        report = json.loads(Path(path).read_text())
        rows = report["success"].values()
        numbers = [row[name] for row in rows for name in ("successes", "trials", "low", "high")]
        named = [report[name] for name in ("task", "backend", "seed", "limit_s")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no report of experiments.evaluate --json ({type(error).__name__}: {error})") from error
    if not numbers or any(isinstance(value, bool) or not isinstance(value, int | float) for value in numbers) or None in named:
        raise ValueError(f"{path} has no successes, trials and interval of a policy; make it by experiments.evaluate --json")
    if not all(0 <= row["successes"] <= row["trials"] and row["trials"] for row in rows):
        raise ValueError(f"{path} has more successes than trials, or no trials; make it again by experiments.evaluate --json")
    return report
