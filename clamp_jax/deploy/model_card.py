"""What stands in an artifact for people: what the policy is, what it was made of, how it was judged, what it is not for."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clamp_jax.deploy.calibration import words

NOT_EVALUATED = "Not evaluated: no report of `python -m experiments.evaluate` was given when it was exported (`--evaluation FILE`)."


def write(spec: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]] = (), *, licence: str) -> str:
    """The card of an artifact in Markdown, of its specification, of reports of experiments.evaluate and the weights' licence."""
    parts = [_about(spec), _data(spec["training"]), _training(spec), _evaluation(evaluations), _limits(spec, licence)]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _about(spec: Mapping[str, Any]) -> str:
    cameras = f"{', '.join(spec['cameras'])}; {spec['image_size'][0]} x {spec['image_size'][1]} pixels"
    return (
        f"# A policy for “{spec['instruction']}”\n\n"
        f"For ALOHA 2, two ViperX 300 arms with {len(spec['cameras'])} RGB-D cameras ({cameras}). "
        f"It gives {spec['chunk']} commands of joint positions at {spec['control_hz']} Hz from what cameras see, the joints, and the last "
        f"{spec['history']} commands; it has {_weights(spec) / 1e6:.1f} million weights. "
        f"Written on {spec['date']} by jax {spec['versions']['jax']}, which promises to load it until {spec['loads_until']}; "
        "`spec.json` says what goes in and comes out."
    )


def _weights(spec: Mapping[str, Any]) -> int:
    return sum(math.prod(shape) for shape, _ in spec["weights"].values())


def _data(training: Mapping[str, Any]) -> str:
    rows = [(d["name"], d["task"], d["kind"], d["episodes"], d["fingerprint"][:12]) for d in training.get("data", ())]
    found = "The data sets were not at hand when it was exported."
    if rows:
        found = _table(("data set", "task", "records", "demonstrations", "fingerprint"), rows)
    return f"## Data\n{found}\n\n{_calibrations(training.get('calibrations', ()))}"


def _calibrations(ids: Sequence[str]) -> str:
    if not ids:
        return "With which calibration of a cell the data were recorded is not known."
    return f"Recorded with {words(ids)}: another one may be a cell that was calibrated anew, or another cell."


def _training(spec: Mapping[str, Any]) -> str:
    training = spec["training"]
    named = ("variant", "step", "of_steps", "batch", "ddim_steps", "checkpoint", "pretrained_from", "sensors")
    rows = [(name.replace("_", " "), training[name]) for name in named if training.get(name)]
    rows += [(f"SHA-256 of the {name}", found) for name, found in spec["hashes"].items() if name in ("checkpoint", "config")]
    rows += [("networks", training["model"]["preset"])] if "model" in training else []
    faults = ", ".join(f"{name} {value}" for name, value in training.get("sensor", {}).items() if value)
    rows += [("cameras' faults in training", faults)] if faults else []
    return "## Training\n" + _table(("what", "value"), rows)


def _evaluation(evaluations: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for report in evaluations:
        where = f"{report['backend']}, seed {report['seed']}, {report['limit_s']:g} s"
        where += f", sensors {report['sensors']}" if report.get("sensors") else ""
        for name, found in report["success"].items():
            share, low, high = (round(100 * value) for value in (found["successes"] / found["trials"], found["low"], found["high"]))
            rows.append((report["task"], where, name, f"{found['successes']} of {found['trials']}", f"{share} % [{low}, {high}]"))
    if not rows:
        return f"## Evaluation\n{NOT_EVALUATED}"
    head = ("task", "simulator", "policy", "successes", "Wilson 95 %")
    return "## Evaluation\nIn simulation, from the same initial states.\n\n" + _table(head, rows)


def _limits(spec: Mapping[str, Any], licence: str) -> str:
    return (
        "## What it is not for\n"
        f"It knows one instruction and no other: “{spec['instruction']}”. Other objects, another cell, another calibration than its own or "
        "a request's, people within the arms' reach: none of it was tried. **Not yet run on hardware.** A robot needs the safety layer "
        "between it and the arms, an emergency stop, and somebody beside it.\n\n"
        f"## Licence\n{licence}."
    )
