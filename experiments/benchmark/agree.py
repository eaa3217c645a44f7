"""How far training in bfloat16 goes from training in float32: the same parameters, batches and keys, step by step."""

import functools
from typing import Any

import jax
import numpy as np

from clamp_jax import parallel, steps
from clamp_jax.structs import Capacity
from experiments import training
from experiments.benchmark.case import Case
from experiments.benchmark.rows import make_config

WINDOW = 20  # steps of a running mean: a single batch's loss is mostly noise
# XLA may else leave out the rounding of a product's operands, which a CPU computes in float32
EXACT = {"xla_allow_excess_precision": False}
DTYPES = ("float32", "bfloat16")


def agree(case: Case) -> dict[str, Any]:
    """Train a preset in both types on the same data; the largest relative difference of the running means of each loss.

    Raises ValueError without data or with fewer steps than a running mean has.
    """
    if not case.data:
        raise ValueError("training in two types needs records; name folders of them with --data, e.g. of data_tools.generate")
    if case.agree_steps < WINDOW:
        raise ValueError(f"{case.agree_steps} steps are fewer than the {WINDOW} of a running mean; give more")
    config = make_config(case.preset)
    config.data.paths = case.data
    config.data.capacity.update(Capacity()._asdict())  # of any task
    losses = train_both(config, case)
    found = {name: difference(*(np.asarray([line[name] for line in losses[dtype]]) for dtype in DTYPES)) for name in losses[DTYPES[0]][0]}
    ends = {dtype: {name: float(np.mean([line[name] for line in lines[-WINDOW:]])) for name in found} for dtype, lines in losses.items()}
    about = {"preset": case.preset, "batch": case.batch, "steps": case.agree_steps, "window": WINDOW}
    return about | {"largest_relative_difference": found, "last_means": ends, "first_losses": {d: lines[0] for d, lines in losses.items()}}


def train_both(config: Any, case: Case) -> dict[str, list[dict[str, float]]]:
    """The losses of every step, of each type."""
    specs = {}
    for dtype in DTYPES:
        config.model.overrides = case._replace(dtype=dtype).changes
        specs[dtype] = training.make_spec(config, "pretrain")
    batches, _ = training.open_batches(config.data, specs[DTYPES[0]].networks, batch=case.batch, seed=config.seed)
    on = parallel.mesh(jax.devices()[: case.devices])
    first = training.fresh_state(specs[DTYPES[0]], config.seed, batches.batch_at(0))
    states = {dtype: parallel.replicate(jax.tree.map(np.asarray, first), on) for dtype in DTYPES}
    bodies = {dtype: functools.partial(steps.pretrain_step, spec) for dtype, spec in specs.items()}
    mapped = {dtype: parallel.map_step(body, on, compiler_options=EXACT) for dtype, body in bodies.items()}
    told: dict[str, list[dict[str, float]]] = {dtype: [] for dtype in DTYPES}
    for number in range(case.agree_steps):
        batch = parallel.shard(batches.batch_at(number), on)
        for dtype in DTYPES:
            states[dtype], metrics = mapped[dtype](states[dtype], batch)
            told[dtype].append({name: float(value) for name, value in metrics.items() if name.startswith("loss")})
    return told


def difference(one: np.ndarray, other: np.ndarray, window: int = WINDOW) -> float:
    """The largest difference of two series' running means over `window`, relative to the first's."""
    one, other = (np.convolve(values, np.ones(window) / window, mode="valid") for values in (one, other))
    return float(np.max(np.abs(one - other) / np.abs(one)))
