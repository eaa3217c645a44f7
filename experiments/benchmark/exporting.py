"""What an artifact costs at a preset's size, with random weights: files, time and memory to write, to load and to act."""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clamp_jax import act, checkpoint, steps
from clamp_jax.deploy import loader
from clamp_jax.geometry.aloha import WORKING_RANGE
from clamp_jax.geometry.kinematics import aloha_calibration
from clamp_jax.networks import Networks, make_networks
from clamp_jax.optim import path_name
from clamp_jax.structs import ACTION_DIM, CAMERAS, CHUNK, HISTORY, Batch, Capacity, ImageExample, Labels, Observation, Target
from experiments import export
from experiments.benchmark import loading
from experiments.configs import finetune as finetune_config

ROOT = Path(__file__).parents[2]
SECTIONS = ("model", "views", "sensor", "ablation", "variant")


def random_run(preset: str, *, seed: int = 0, overrides: tuple = ()) -> act.RunPolicy:
    """A policy with the networks of a preset of experiments/configs/finetune.py, as a run's folder would hold it.

    Its weights are drawn, none is 0: what training starts as nothing counts here too.
    """
    config = finetune_config.get_config(preset)
    with config.unlocked():
        config.model.overrides = overrides
    config = config.to_dict()
    networks = make_networks(**{name: config[name] for name in SECTIONS}, capacity=Capacity(**config["data"]["capacity"]))
    shapes = jax.eval_shape(lambda key: steps.init_params(networks, key, _shapes(networks)), jax.random.key(seed))
    rng = np.random.default_rng(seed)
    params = jax.tree_util.tree_map_with_path(lambda path, leaf: _drawn(path, leaf, rng), shapes)
    loaded = checkpoint.Loaded(params, config, {"working_range": WORKING_RANGE.tolist()}, step=0)
    return act.RunPolicy(act.make_policy(networks), params, networks, loaded)


def _drawn(path: tuple, leaf: jax.ShapeDtypeStruct, rng: np.random.Generator) -> np.ndarray:
    """Kernels keep the size of what goes through them, scales are about 1, the rest is small."""
    values = rng.standard_normal(leaf.shape, np.float32)
    if path_name(path).endswith("scale"):
        return 1 + 0.02 * values
    return values * np.float32(math.prod(leaf.shape[:-1]) ** -0.5 if len(leaf.shape) > 1 else 0.02)


def _shapes(networks: Networks) -> Batch:
    """One recorded example, as shapes and types."""
    shape, size = jax.ShapeDtypeStruct, (len(CAMERAS), networks.sensor.height, networks.sensor.width)
    calibration = jax.tree.map(lambda x: shape(jnp.shape(x), x.dtype), aloha_calibration(*size[1:]))
    seen = Observation(
        rgb=shape((*size, 3), jnp.uint8),
        depth_m=shape(size, jnp.float32),
        calibration=calibration,
        joints=shape((ACTION_DIM,), jnp.float32),
        past_actions=shape((HISTORY, ACTION_DIM), jnp.float32),
        past_mask=shape((HISTORY,), jnp.bool_),
    )
    labels = Labels(shape((networks.text_length,), jnp.int32), shape((), jnp.int32))
    target = Target(shape((CHUNK, ACTION_DIM), jnp.float32), shape((CHUNK,), jnp.bool_))
    example: Any = jax.tree.map(lambda x: shape((1, *x.shape), x.dtype), ImageExample(seen, labels, target))
    return Batch(None, example, jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `python -m experiments.benchmark artifact`."""
    parser.add_argument("--preset", default="demo", help="of experiments/configs/finetune.py; \"paper\" is the paper's size")
    parser.add_argument("--batches", type=int, nargs="+", default=[1], help="sizes of batch that are compiled and timed")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each")
    parser.add_argument("--out", type=Path, help="where the artifact stays; left out: nowhere")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Write an artifact with random weights, and load it in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.out or Path(scratch) / "artifact"
        wrote = write(args.preset, folder)
        command = [sys.executable, "-m", "experiments.benchmark.loading", str(folder.absolute()), "--repeats", str(args.repeats)]
        fresh = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}  # every compilation is paid
        batches = ["--batches", *map(str, args.batches)]
        done = subprocess.run([*command, *batches], cwd=ROOT, env=fresh | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE)
        if done.returncode:
            raise RuntimeError(f"loading {folder} ended with code {done.returncode}; its own words stand above")
        return {"preset": args.preset, "write": wrote, "load": json.loads(done.stdout)}


def write(preset: str, folder: Path) -> dict[str, Any]:
    """Write the artifact of `random_run`: sizes, seconds, memory, and how far its actions are from those of the run's networks."""
    run = random_run(preset)
    told = export.write(run, folder, export.describe(run, "nothing: its weights are random", act.DDIM_STEPS), ddim_steps=act.DDIM_STEPS)
    return {
        "weights_million": round(told["bytes"][loader.WEIGHTS] / 4e6, 1),
        "program_kb": round(told["bytes"][loader.PROGRAM] / 1e3, 1),
        "weights_mb": round(told["bytes"][loader.WEIGHTS] / 1e6, 1),
        "peak_gib": loading.peak_gib(),
    } | {name: told[name] for name in ("seconds", "difference", "rounding")}
