"""How far training in bfloat16 goes from training in float32: the same parameters, batches and keys, step by step.

Training magnifies any difference, so a third run says what a difference at the start alone comes to: float32 again, from
parameters that were rounded to bfloat16 once.
"""

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
RUNS = {"float32": "float32", "bfloat16": "bfloat16", "float32_rounded_start": "float32"}  # a name and a type


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
    if case.learning_rate is not None:
        config.optimiser.rates.update({name: case.learning_rate for name in config.optimiser.rates})
    losses = train_all(config, case)
    found = {"preset": case.preset, "batch": case.batch, "steps": case.agree_steps, "window": WINDOW}
    found |= {"rates": config.optimiser.rates.to_dict(), "warmup": config.optimiser.warmup}
    exact, rounded, control = losses.values()
    found["largest_relative_difference"] = {name: difference(exact[name], rounded[name]) for name in exact}
    found["of_a_rounded_start"] = {name: difference(exact[name], control[name]) for name in exact}
    found["of_single_steps"] = {name: difference(exact[name], rounded[name], 1) for name in exact}
    return found | {"losses": {run: {name: values.tolist() for name, values in told.items()} for run, told in losses.items()}}


def train_all(config: Any, case: Case) -> dict[str, dict[str, np.ndarray]]:
    """The losses of every step, of each of RUNS."""
    specs = {}
    for dtype in dict.fromkeys(RUNS.values()):
        config.model.overrides = case._replace(dtype=dtype).changes
        specs[dtype] = training.make_spec(config, "pretrain")
    batches, _ = training.open_batches(config.data, specs["float32"].networks, batch=case.batch, seed=config.seed)
    on = parallel.mesh(jax.devices()[: case.devices])
    bodies = {dtype: functools.partial(steps.pretrain_step, spec) for dtype, spec in specs.items()}
    mapped = {dtype: parallel.map_step(body, on, compiler_options=EXACT) for dtype, body in bodies.items()}
    first = jax.tree.map(np.asarray, training.fresh_state(specs["float32"], config.seed, batches.batch_at(0)).params)
    starts = {"float32": first, "bfloat16": first, "float32_rounded_start": jax.tree.map(once_rounded, first)}
    states = {run: parallel.replicate(steps.begin(specs[RUNS[run]], params), on) for run, params in starts.items()}
    told: dict[str, list[dict]] = {run: [] for run in RUNS}
    for number in range(case.agree_steps):
        batch = parallel.shard(batches.batch_at(number), on)
        for run, dtype in RUNS.items():
            states[run], metrics = mapped[dtype](states[run], batch)
            told[run].append({name: float(value) for name, value in metrics.items() if name.startswith("loss")})
    return {run: {name: np.asarray([line[name] for line in lines]) for name in lines[0]} for run, lines in told.items()}


def once_rounded(values: np.ndarray) -> np.ndarray:
    """Numbers as bfloat16 holds them, in their own type."""
    return np.asarray(jax.numpy.asarray(values, jax.numpy.bfloat16).astype(values.dtype))


def difference(one: np.ndarray, other: np.ndarray, window: int = WINDOW) -> float:
    """The largest difference of two series' running means over `window`, relative to the first's."""
    one, other = (np.convolve(values, np.ones(window) / window, mode="valid") for values in (one, other))
    return float(np.max(np.abs(one - other) / np.abs(one)))
