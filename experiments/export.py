"""Write the policy of a fine-tuning run as an artifact, and check one.

    python -m experiments.export --checkpoint runs/finetune --out runs/artifact
    python -m experiments.export --verify runs/artifact

The artifact's answer is compared with the policy in memory before it gets its name; more than 1e-5 of difference is refused.
"""

import argparse
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

from clamp_jax import act
from clamp_jax.data.folders import Reader
from clamp_jax.deploy import artifact
from clamp_jax.geometry.kinematics import aloha_calibration
from clamp_jax.structs import ACTION_DIM, CHUNK, Calibration, Observation

TOLERANCE = 1e-5  # rad, artifact against memory on the same machine
SECTIONS = ("model", "views", "sensor", "variant", "ablation")  # of a run's config: what the networks are


def export(
    checkpoint: Path,
    out: Path,
    *,
    instruction: str | None = None,
    step: int | None = None,
    ddim_steps: int = act.DDIM_STEPS,
    evaluations: Sequence[Path] = (),
) -> dict:
    """Export the averaged weights of a run: {"artifact", "difference", "bytes", "seconds", "instruction"}.

    `instruction` defaults to the one of the demonstrations that the run was trained on; `evaluations` are JSON reports of
    experiments.evaluate for the model card. What is exported is compared with training's own networks.
    ValueError (FileExistsError for `out`) when the run, its data or the export is not as it should be; then nothing stands at `out`.
    """
    started = time.monotonic()
    reports = tuple(map(read_evaluation, evaluations))
    run = act.load_run(checkpoint, step=step, steps=ddim_steps)
    policy = act.fold(run, steps=ddim_steps)
    about = describe(policy, instruction or only_instruction(policy.loaded.config), ddim_steps)._replace(evaluations=reports)
    about.training["checkpoint"] = f"step {run.loaded.step} of {Path(checkpoint).name}, sha256 {act.weights_hash(run.params)[:16]}"
    differences: list[float] = []
    check = lambda folder: differences.append(compare(run, folder))  # noqa: E731
    written = artifact.write_artifact(out, policy.act, policy.params, about, check=check)
    return {
        "artifact": str(written),
        "difference": differences[-1],
        "bytes": {path.name: path.stat().st_size for path in sorted(written.iterdir())},
        "seconds": round(time.monotonic() - started, 1),
        "instruction": about.instruction,
    }


def describe(policy: act.RunPolicy, instruction: str, ddim_steps: int) -> artifact.Description:
    """What the artifact says of a run beside its weights."""
    sensor, loaded = policy.networks.sensor, policy.loaded
    calibration = jax.tree.map(np.asarray, aloha_calibration(sensor.height, sensor.width))
    training = {name: loaded.config[name] for name in SECTIONS if name in loaded.config} | {"step": loaded.step, "ddim_steps": ddim_steps}
    training |= {"data": data_sets(loaded.config), "pretrained_from": Path(loaded.config.get("init_from", "")).name}
    return artifact.Description(instruction, sensor.height, sensor.width, calibration, loaded.statistics, training)


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
    return report


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


def compare(policy: act.RunPolicy, folder: Path) -> float:
    """Largest difference (rad) between an artifact and the policy in memory on a made-up input; ValueError over TOLERANCE."""
    loaded = artifact.load_artifact(folder)
    inputs = artifact.example_inputs(loaded.spec, seed=1)
    difference = float(np.abs(loaded(inputs)["actions"][0] - in_memory(policy, inputs)).max())
    if not difference <= TOLERANCE:
        raise ValueError(f"the exported policy differs from the one in memory by {difference:.3g}, at most {TOLERANCE:.0e} is allowed")
    return difference


def in_memory(policy: act.RunPolicy, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Actions (50, 14) of a policy in memory, one example, without the exporter's code."""
    one = {name: value[0] for name, value in inputs.items()}
    calibration = aloha_calibration(policy.networks.sensor.height, policy.networks.sensor.width)
    known = {name: one[name] for name in Calibration._fields if name in one}
    fields = {name: one[name] for name in Observation._fields if name in one}
    observation = Observation(**fields, calibration=calibration._replace(**known))
    noise = jax.random.normal(jax.random.key(one["seed"]), (CHUNK, ACTION_DIM))
    return np.asarray(jax.jit(policy.act)(policy.params, observation, noise))


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
            result = export(args.checkpoint, args.out, **how)
    except (ValueError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
