"""Write the policy of a fine-tuning run as an artifact, and check one.

    python -m experiments.export --checkpoint runs/finetune --out runs/artifact --evaluation evaluation.json
    python -m experiments.export --verify runs/artifact

The artifact's answer is compared with that of training's own networks before it gets its name; more than 1e-5 of difference, or
than a millionth more noise makes, is refused. Reports of experiments.evaluate stand in its model card.
"""

import argparse
import datetime
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clamp_jax import runtime

if __name__ == "__main__":
    runtime.setup(mjx=False)

import jax
import numpy as np

from clamp_jax import act, manifest
from clamp_jax.checkpoint import folder as checkpoint_folder
from clamp_jax.data.folders import Reader
from clamp_jax.deploy import artifact, loader
from clamp_jax.geometry.kinematics import aloha_calibration
from clamp_jax.structs import ACTION_DIM, CHUNK, Calibration, Frozen, Observation
from experiments import card

TOLERANCE = 1e-5  # rad, artifact against memory on the same machine
ROUNDING = 1e-6  # what float32 leaves of a deep network's output, relative (ours)
DRAWS = 3  # times as far as one change of the noise moves the actions may other roundings move them; ours: at the paper's size 1.1 times
SECTIONS = ("model", "views", "sensor", "variant", "ablation")  # of a run's config: what the networks are


def export(
    checkpoint: Path,
    out: Path,
    *,
    instruction: str | None = None,
    step: int | None = None,
    ddim_steps: int = act.DDIM_STEPS,
    evaluations: Sequence[Path] = (),
    licence: str | None = None,
) -> dict:
    """Export the averaged weights of a run: {"artifact", "difference", "rounding", "bytes", ...}.

    `instruction` defaults to the one of the demonstrations that the run was trained on; `evaluations` are JSON reports of
    experiments.evaluate for the model card. What is exported is compared with training's own networks.
    ValueError (FileExistsError for `out`) when the run, its data or the export is not as it should be; then nothing stands at `out`.
    """
    reports = tuple(map(card.read_evaluation, evaluations))
    run = act.load_run(checkpoint, step=step, steps=ddim_steps)
    about = describe(run, instruction or only_instruction(run.loaded.config), ddim_steps)._replace(evaluations=reports)
    about.training["checkpoint"] = f"step {run.loaded.step} of {Path(checkpoint).name}"
    hashes = about.hashes | {"checkpoint": manifest.list_hash(checkpoint_folder(checkpoint) / str(run.loaded.step))}
    return write(run, out, about._replace(hashes=hashes, licence=licence or about.licence), ddim_steps=ddim_steps)


def write(run: act.RunPolicy, out: Path, about: artifact.Description, *, ddim_steps: int) -> dict:
    """Write a run's policy as it is deployed, compared with the run's own; returns and raises what `export` does."""
    started, policy = time.monotonic(), act.fold(run, steps=ddim_steps)
    inputs = artifact.stored_inputs(artifact.make_spec({}, about, today=datetime.date.today()))
    expected, rounding = in_memory(run, inputs)
    differences: list[float] = []
    check = lambda folder: differences.append(compare(expected, inputs, folder))  # noqa: E731
    written = artifact.write_artifact(out, policy.act, policy.params, about._replace(rounding_rad=rounding), check=check)
    return {
        "artifact": str(written),
        "difference": differences[-1],
        "rounding": rounding,
        "bytes": {path.name: path.stat().st_size for path in sorted(written.iterdir())},
        "seconds": round(time.monotonic() - started, 1),
        "instruction": about.instruction,
    }


def describe(run: act.RunPolicy, instruction: str, ddim_steps: int) -> artifact.Description:
    """What the artifact says of a run beside its weights."""
    sensor, loaded = run.networks.sensor, run.loaded
    calibration = jax.tree.map(np.asarray, aloha_calibration(sensor.height, sensor.width))
    training = {name: loaded.config[name] for name in SECTIONS if name in loaded.config}
    training |= card.training(loaded) | {"ddim_steps": ddim_steps}
    about = artifact.Description(instruction, sensor.height, sensor.width, calibration, loaded.statistics, training)
    return about._replace(hashes={"config": loader.canonical_hash(loaded.config)})


def only_instruction(config: dict) -> str:
    """The one instruction of all demonstrations a run was trained on; ValueError when there are several or the data are gone."""
    paths = config["data"]["paths"]
    try:
        readers = [Reader(path) for path in paths]
    except ValueError as error:
        raise ValueError(f"the run's demonstrations cannot be read ({error}); say what it was trained for: --instruction TEXT") from error
    found = sorted({reader[i].instruction for reader in readers for i in range(len(reader))})
    if len(found) != 1:
        raise ValueError(f"the run was trained on {len(found)} instructions {found[:4]}; an artifact has one: --instruction TEXT")
    return found[0]


def compare(expected: np.ndarray, inputs: dict[str, np.ndarray], folder: Path) -> float:
    """Largest difference (rad) between the actions of an artifact and those `expected`.

    ValueError over TOLERANCE, or over what roundings alone may do where that is more (`in_memory`).
    """
    loaded = artifact.load_artifact(folder)
    difference, allowed = float(np.abs(loaded(inputs)["actions"] - expected).max()), max(TOLERANCE, loaded.spec["rounding_rad"])
    if not difference <= allowed:
        raise ValueError(f"the exported policy differs from the one in memory by {difference:.3g}, at most {allowed:.1e} is allowed")
    return difference


def in_memory(run: act.RunPolicy, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """Actions (b, 50, 14) of a policy, one example after the other without the exporter's code, and how sensitive they are (rad).

    The latter is DRAWS times as far as they move when the noise is changed by ROUNDING of its size. A policy that predicts noise
    begins with a division by sqrt(abar) = 1e-3, where what was not clipped is off by a thousand times a rounding; float32 says no
    more of it.
    """
    look, decide = jax.jit(run.act.look), jax.jit(run.act.decide)
    calibration = aloha_calibration(run.networks.sensor.height, run.networks.sensor.width)
    actions, moved = [], []
    for i in range(len(inputs["seed"])):
        one = {name: value[i] for name, value in inputs.items()}
        memory = look(run.params, _observation(one, calibration))
        noise = jax.random.normal(jax.random.key(one["seed"]), (CHUNK, ACTION_DIM))
        frozen = Frozen(one["frozen_actions"], one["frozen_steps"]) if one["frozen_steps"] else None  # as in training: without
        actions.append(np.asarray(decide(run.params, memory, noise, frozen)))
        moved.append(np.asarray(decide(run.params, memory, noise * (1 + ROUNDING), frozen)))
    return np.stack(actions), DRAWS * float(np.abs(np.stack(moved) - np.stack(actions)).max())


def _observation(one: dict[str, np.ndarray], calibration: Calibration) -> Observation:
    known = {name: one[name] for name in Calibration._fields if name in one}
    fields = {name: one[name] for name in Observation._fields if name in one}
    return Observation(**fields, calibration=calibration._replace(**known))


def verify(folder: Path) -> dict[str, Any]:
    """Check the hashes of an artifact, run its stored example and compare; ValueError or OSError names what is wrong."""
    return artifact.verify_artifact(folder)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Export a fine-tuned policy as an artifact, or verify one.")
    parser.add_argument("--verify", type=Path, metavar="DIR", help="check an artifact and do nothing else")
    parser.add_argument("--checkpoint", type=Path, help="folder of a fine-tuning run")
    parser.add_argument("--out", type=Path, help="folder to write, must not exist")
    parser.add_argument("--instruction", help="default: the one of the run's demonstrations")
    parser.add_argument("--step", type=int, help="of the checkpoint; default: the newest")
    parser.add_argument("--ddim-steps", type=int, default=act.DDIM_STEPS, help="denoising steps at inference")
    parser.add_argument("--licence", help="of the weights, for the model card; default: the program's")
    parser.add_argument("--evaluation", type=Path, nargs="*", default=[], help="reports of experiments.evaluate, for the model card")
    args = parser.parse_args(argv)
    if args.verify is None and (args.checkpoint is None or args.out is None):
        parser.error("give --checkpoint DIR and --out DIR, or --verify DIR")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Export or verify and print what came of it as JSON; 1 with one line on the standard error when it is refused."""
    args = parse(argv)
    try:
        if args.verify is not None:
            result = verify(args.verify)
        else:
            how = {"instruction": args.instruction, "step": args.step, "ddim_steps": args.ddim_steps, "evaluations": args.evaluation}
            result = export(args.checkpoint, args.out, licence=args.licence, **how)
    except (ValueError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
