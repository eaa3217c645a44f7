"""A run's folder -> an artifact: the numbers of training's own networks, and what stands beside them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import deployed
import jax
import jax.numpy as jnp
import pytest
import tiny

from clamp_jax import act, checkpoint, manifest
from clamp_jax.deploy import artifact, loader
from clamp_jax.structs import TrainState
from experiments import export
from experiments.benchmark import exporting

INSTRUCTION = "close the drawer"
pytestmark = pytest.mark.timeout(300)  # one export is compiled, in half a minute of a core


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint of the smallest networks whose every weight counts, Cayley's P among them; no data beside it.

    They predict clean actions: with random weights, the first step of the noise's prediction makes roundings a thousand times larger.
    """
    made = exporting.random_run("debug", overrides=(*tiny.OVERRIDES, ("policy.prediction", "sample")))
    folder = tmp_path_factory.mktemp("run")
    config = json.loads(json.dumps(made.loaded.config)) | {"data": made.loaded.config["data"] | {"paths": ["/gone/drawers"]}}
    with checkpoint.Checkpoints(folder) as store:
        params = jax.tree.map(jnp.asarray, made.params)
        store.save(TrainState(jnp.int32(7), params, {}, params), config, made.loaded.statistics)
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The artifact of that run with a report of its evaluation, and what the command told; compiled without optimisation, in seconds."""
    root = tmp_path_factory.mktemp("exported")
    report = {"task": "drawer_close", "backend": "native", "seed": 1, "limit_s": 8.0}
    report["success"] = {"clamp": {"successes": 3, "trials": 4, "low": 0.3, "high": 0.95}}
    (root / "judged.json").write_text(json.dumps(report))
    command = [sys.executable, "-m", "experiments.export", "--checkpoint", run, "--out", root / "artifact", "--ddim-steps", "2"]
    command += ["--instruction", INSTRUCTION, "--licence", "MIT", "--evaluation", root / "judged.json"]
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    }
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return root / "artifact", json.loads(done.stdout)


def test_the_artifact_acts_as_the_unfolded_networks_of_training(exported):
    folder, told = exported
    assert told["difference"] <= export.TOLERANCE and told["instruction"] == INSTRUCTION
    weights, _ = loader.read_safetensors(folder / "weights.safetensors")
    assert not any("mixer" in name or "text" in name for name in weights), "the artifact's networks are folded, the run's are not"


def stand_in(params, decide=deployed.act.decide):
    """The stand-in's policy as a run has it."""
    size = SimpleNamespace(sensor=SimpleNamespace(height=deployed.HEIGHT, width=deployed.WIDTH))
    return act.RunPolicy(act.Act(deployed.act.look, decide), params, size, None)


def test_what_differs_from_the_run_is_refused_with_and_without_frozen_actions(tmp_path):
    folder = artifact.write_artifact(tmp_path / "a", deployed.act, deployed.params(), deployed.description())
    inputs = artifact.stored_inputs(loader.read_spec(folder))
    actions, rounding = export.in_memory(stand_in(deployed.params()), inputs)
    assert rounding < export.TOLERANCE and export.compare(actions, inputs, folder) <= export.TOLERANCE
    forgets = lambda params, memory, noise, frozen=None: deployed.act.decide(params, memory, noise)  # noqa: E731
    for other in (stand_in(deployed.params(seed=1)), stand_in(deployed.params(), forgets)):
        with pytest.raises(ValueError, match="differs from the one in memory by .*, at most 1.0e-05 is allowed"):
            export.compare(export.in_memory(other, inputs)[0], inputs, folder)


def test_a_policy_that_every_rounding_moves_is_judged_by_how_far(tmp_path):
    """One that makes a millionth a hundredth: no other machine gives its numbers, and the tolerances know."""
    wild = lambda params, memory, noise, frozen=None: deployed.act.decide(params, memory, 1e4 * noise % 1.0, frozen)  # noqa: E731
    run = stand_in(deployed.params(), wild)
    spec = artifact.make_spec({}, deployed.description(), today=export.datetime.date.today())
    actions, rounding = export.in_memory(run, artifact.stored_inputs(spec))
    assert rounding > 1e-3
    about = deployed.description(rounding_rad=rounding)
    folder = artifact.write_artifact(tmp_path / "a", run.act, run.params, about)
    inputs = artifact.stored_inputs(spec)
    assert export.compare(actions + 0.9 * rounding, inputs, folder) <= rounding
    with pytest.raises(ValueError, match="differs"):
        export.compare(actions + 1.1 * rounding, inputs, folder)
    assert export.verify(folder)["tolerance"] == rounding


def test_the_specification_names_checkpoint_and_config(run, exported):
    spec = loader.read_spec(exported[0])
    assert spec["hashes"]["checkpoint"] == manifest.list_hash(run / "checkpoints" / "7")
    assert spec["hashes"]["config"] == loader.canonical_hash(checkpoint.load_params(run).config)
    assert spec["training"]["step"] == 7 and spec["training"]["ddim_steps"] == 2 and spec["instruction"] == INSTRUCTION


def test_the_card_is_of_this_run(exported):
    text = (exported[0] / "MODEL_CARD.md").read_text()
    assert "| clamp | 3 of 4 | 75 % [30, 95] |" in text and "| networks | debug |" in text and "| step | 7 |" in text and "MIT." in text


def test_a_report_that_is_none_and_data_that_are_gone_are_told_before_anything_is_written(run, tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        export.export(run, tmp_path / "a")
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(ValueError, match=r"report\.json is no report"):
        export.export(run, tmp_path / "a", instruction=INSTRUCTION, evaluations=[tmp_path / "report.json"])
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
