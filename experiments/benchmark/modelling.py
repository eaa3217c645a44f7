"""The work of the model benchmark, in a process of its own: python -m experiments.benchmark.modelling PART CASE; JSON to stdout.

PART   cost    parameters, FLOPs, memory and, unless CASE says compile_only, time of one preset
       memory  bytes of its training step alone
       agree   the same training in float32 and in bfloat16: experiments/benchmark/agree.py
CASE   the fields of experiments/benchmark/case.py as JSON
"""

import functools
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from clamp_jax import runtime
from experiments.benchmark.case import Case, read_case

if __name__ == "__main__":
    runtime.setup(mjx=False, cpu_devices=read_case(sys.argv[2]).devices)
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # what compiling costs is one of the figures

import jax

from clamp_jax import metrics, parallel, steps
from clamp_jax.models import presets
from clamp_jax.structs import Batch, TrainState
from experiments import flops, training
from experiments.benchmark.agree import agree
from experiments.benchmark.rows import make_config, make_rows
from experiments.benchmark.timing import spread
from experiments.benchmark.trace import largest_shares

PROFILED = 3  # steps in a trace
SHARES = 5  # kinds of operation that are named
ABSOLUTE = ("clamp.image.transformer.position", "absolute")


def cost(case: Case) -> dict[str, Any]:
    """All figures of one preset."""
    config = make_config(case.preset, case.changes)
    spec = training.make_spec(config, "pretrain")
    sizes = presets.override(presets.preset(case.preset), dict(case.changes))
    rows = make_rows(config, spec.networks, case)
    on = parallel.mesh(jax.devices()[: case.devices])
    shapes = training.state_shapes(spec, rows)
    found = {"preset": case.preset, "batch": case.batch, "dtype": case.dtype, "remat": case.remat, "records": case.records}
    found |= {"parameters": parameters(shapes.params), "hand": hand_count(sizes)}
    programs = {"prepare": _prepare(spec), "forward": _forward(spec), "train_step": _train(spec, on)}
    arguments = {"prepare": (rows,), "forward": (shapes.params, *prepared(spec, rows)), "train_step": (shapes, rows)}
    compiled = {}
    for name, program in programs.items():
        compiled[name], found[name] = compile_program(program, arguments[name], case)
    found["train_step"]["memory"] |= {"state_bytes": size_bytes(shapes), "gradient_bytes": size_bytes(shapes.params)}
    found["kept_for_backward_bytes"] = step_kept_bytes(spec, shapes, rows)
    for name, hand in (("forward", found["hand"]["forward"]), ("train_step", found["hand"]["train"])):
        found[name]["xla_over_hand"] = found[name]["xla_flops"] / hand
    if not case.compile_only:
        run(case, spec, rows, on, compiled, found)
    return found | {"peak_host_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def step_memory(case: Case) -> dict[str, int]:
    """Bytes that a training step takes on one device, by the compiler and by the trace; of compile-only cases."""
    config = make_config(case.preset, case.changes)
    spec = training.make_spec(config, "pretrain")
    rows, on = make_rows(config, spec.networks, case), parallel.mesh(jax.devices()[: case.devices])
    shapes = training.state_shapes(spec, rows)
    parts = {"state_bytes": size_bytes(shapes), "gradient_bytes": size_bytes(shapes.params)}
    kept = step_kept_bytes(spec, shapes, rows) // on.size + size_bytes(rows) // on.size
    found = {"batch": case.batch, "trace": sum(parts.values()) + kept} | parts
    if case.trace_only:
        return found
    taken = compile_program(_train(spec, on), (shapes, rows), case)[1]["memory"]
    return found | {"compiler": taken["total_bytes"], "memory": taken}


def parameters(params: dict[str, Any]) -> dict[str, int]:
    """Numbers of scalars by network; "other" are projections, embeddings and the like."""
    clamp, policy = (metrics.parameter_counts(params[name]) for name in ("clamp", "policy"))
    resnets = sum(count for name, count in policy.items() if name.startswith("resnets"))
    found = {"view": clamp["image"], "action": clamp["action"], "text": clamp["text"], "clamp": sum(clamp.values())}
    found |= {"resnets": resnets, "encoder": policy["encoder"], "decoder": policy["decoder"], "policy": sum(policy.values())}
    return found | {"total": found["clamp"] + found["policy"]}


def hand_count(sizes: presets.Preset) -> dict[str, Any]:
    """FLOPs a sample, of networks and of a training step."""
    by_network = flops.forward(sizes)
    return {"by_network": by_network, "forward": sum(by_network.values()), "train": flops.train(sizes)}


def prepared(spec: steps.Spec, rows: Batch) -> Any:
    """Shapes of a batch's inputs and goals."""
    return jax.eval_shape(lambda rows: steps.prepare(spec.networks, rows, parallel.GLOBAL), rows)


def _prepare(spec: steps.Spec) -> Callable:
    return jax.jit(lambda rows: steps.prepare(spec.networks, rows, parallel.GLOBAL))


def losses(spec: steps.Spec, params: dict, inputs: steps.Inputs, goals: steps.Goals) -> jax.Array:
    """The total loss of stage (i) of inputs that are at hand."""
    found, embeddings, _ = steps.contrast(spec.networks, params, inputs, goals, parallel.GLOBAL)
    return found + steps.diffuse(spec.networks, params["policy"], inputs, goals, jax.lax.stop_gradient(embeddings), parallel.GLOBAL)


def _forward(spec: steps.Spec) -> Callable:
    return jax.jit(functools.partial(losses, spec))


def _train(spec: steps.Spec, on: Any) -> Callable:
    return parallel.map_step(functools.partial(steps.pretrain_step, spec), on)


def _train_stored(spec: steps.Spec, on: Any) -> Callable:
    """The very same step, of a batch that is inputs and goals already."""

    def stored(state: TrainState, ready: tuple[steps.Inputs, steps.Goals], reduction: parallel.Reduction) -> tuple[TrainState, dict]:
        with mock.patch.object(steps, "prepare", lambda networks, batch, reduction: batch):  # while it is traced
            return steps.pretrain_step(spec, state, ready, reduction)

    return parallel.map_step(stored, on)


def compile_program(program: Callable, arguments: tuple, case: Case) -> tuple[Callable, dict[str, Any]]:
    """A compiled program, and XLA's own figures of it: FLOPs a sample, bytes of memory, seconds of compilation.

    Where nothing is to be run it is compiled without LLVM's optimisation, which changes neither FLOPs nor memory.
    """
    quick = training.QUICK if (case.compile_only or case.quick) and jax.default_backend() == "cpu" else None
    begin = time.perf_counter()
    lowered = program.lower(*arguments)
    middle = time.perf_counter()
    compiled = lowered.compile(compiler_options=quick)
    seconds = {"trace_s": middle - begin, "compile_s": time.perf_counter() - middle}
    return compiled, {"xla_flops": xla_flops(compiled) / case.batch, "memory": memory(compiled), **seconds}


def xla_flops(compiled: Any) -> float:
    """What XLA counts of a compiled program."""
    analysis = compiled.cost_analysis()
    return float((analysis[0] if isinstance(analysis, list) else analysis)["flops"])


def memory(compiled: Any) -> dict[str, int]:
    """Bytes on one device; donated arguments are counted once in "total_bytes"."""
    found = compiled.memory_analysis()
    sizes = {"argument_bytes": found.argument_size_in_bytes, "output_bytes": found.output_size_in_bytes}
    sizes |= {"temporary_bytes": found.temp_size_in_bytes, "donated_bytes": found.alias_size_in_bytes}
    whole = sizes["argument_bytes"] + sizes["output_bytes"] - sizes["donated_bytes"] + sizes["temporary_bytes"]
    return sizes | {"total_bytes": whole}


def size_bytes(tree: Any) -> int:
    """Bytes of a tree of arrays or shapes."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def kept_bytes(loss: Callable, params: Any, *ready: Any) -> int:
    """Bytes that stay from loss(params, *ready) for its backward pass, `ready` too, as jax traces them before XLA fuses anything.

    Parameters do not count, but copies of them in another type do. The types are those that are asked for, which on a CPU
    they are not: its compiler makes float32 of bfloat16.
    """

    def backward(params: Any, *ready: Any) -> list[jax.Array]:
        return jax.tree.leaves(jax.vjp(lambda params: loss(params, *ready), params)[1])

    jaxpr = jax.make_jaxpr(backward)(params, *ready).jaxpr
    given = {id(variable) for variable in jaxpr.invars}
    made = {id(variable): variable.aval for variable in jaxpr.outvars if id(variable) not in given}
    return size_bytes(list(made.values())) + size_bytes(ready)


def step_kept_bytes(spec: steps.Spec, shapes: TrainState, rows: Batch) -> int:
    """The same of a training step's losses."""
    return kept_bytes(functools.partial(losses, spec), shapes.params, *prepared(spec, rows))


def run(case: Case, spec: steps.Spec, rows: Batch, on: Any, compiled: dict[str, Callable], found: dict[str, Any]) -> None:
    """Times of the programs into `found`, and what follows from them."""
    ready = compiled["prepare"](rows)
    holder, placed = [parallel.replicate(training.fresh_state(spec, 0, rows), on)], parallel.shard(rows, on)

    def train() -> Any:
        holder[0], told = compiled["train_step"](holder[0], placed)
        return told

    calls = {"prepare": lambda: compiled["prepare"](rows), "forward": lambda: compiled["forward"](holder[0].params, *ready)}
    calls["train_step"] = train
    if case.ratio_to_stored:
        calls["stored"] = stored_call(case, ready, rows, on, found)
    told = {name: float(value) for name, value in train().items()}
    times = in_turns(calls, case.repeats)
    for name, values in times.items():
        found[name] |= spread("ms", values) | {"samples_per_s": 1e3 * case.batch / statistics.median(values)}
    if case.ratio_to_stored:
        found["stored_over_ours"] = spread("ratio", [a / b for a, b in zip(times["stored"], times["train_step"], strict=True)])
    found |= utilisation(case, found, on.size) | {"first_losses": {name: value for name, value in told.items() if name.startswith("loss")}}
    if case.profile:
        found["largest_shares"] = profile(train, Path(case.profile))


def stored_call(case: Case, ready: tuple, rows: Batch, on: Any, found: dict[str, Any]) -> Callable[[], Any]:
    """A step on stored views with absolute positions, compiled into `found`."""
    spec = training.make_spec(make_config(case.preset, (*case.changes, ABSOLUTE)), "pretrain")
    holder, ready = [parallel.replicate(training.fresh_state(spec, 0, rows), on)], shard_rows(ready, on)
    compiled, found["stored"] = compile_program(_train_stored(spec, on), (holder[0], ready), case)

    def train() -> Any:
        holder[0], told = compiled(holder[0], ready)
        return told

    return train


def shard_rows(tree: Any, on: Any) -> Any:
    """A tree of rows split over the mesh, as parallel.shard does with a batch."""
    return jax.device_put(tree, jax.sharding.NamedSharding(on, jax.sharding.PartitionSpec(parallel.AXIS)))


def in_turns(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each call, one after the other, after a first round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            jax.block_until_ready(call())
            if turn:
                times[name].append(1e3 * (time.perf_counter() - begin))
    return times


def utilisation(case: Case, found: dict[str, Any], devices: int) -> dict[str, Any]:
    """MFU of the whole step: the hand count over what the devices could have done in that time; None where no peak is known."""
    kind = jax.devices()[0].device_kind
    peak = case.peak_tflops or flops.peak_tflops(kind, case.dtype)
    done = found["hand"]["train"] * case.batch / (found["train_step"]["median_ms"] / 1e3) / 1e12
    about = {"device_kind": kind, "devices_used": devices, "tflops_done": done, "peak_tflops": peak}
    if peak is None:
        return about | {"mfu": None, "mfu_note": f"no peak is known for {kind!r}; --peak-tflops gives it"}
    return about | {"mfu": done / (peak * devices)}


def profile(train: Callable[[], Any], folder: Path) -> list[dict[str, Any]]:
    """Trace some steps into a folder (for xprof or Perfetto), and name the kinds of operation that took longest."""
    with jax.profiler.trace(str(folder)):
        for _ in range(PROFILED):
            jax.block_until_ready(train())
    return largest_shares(folder, SHARES)


def main() -> None:
    """One part, named by the command line."""
    part, case = sys.argv[1], read_case(sys.argv[2])
    print(json.dumps({"cost": cost, "memory": step_memory, "agree": agree}[part](case)))


if __name__ == "__main__":
    main()
