"""What the networks cost: parameters, FLOPs by XLA and by hand, memory and time, each preset in a process of its own.

XLA counts the body of a loop once (the examples that are rendered one after the other, Gauss-Jordan's eliminations in STRING)
and counts what is done number by number, which the hand count leaves out.
"""

import argparse
import ast
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clamp_jax.models.presets import DTYPES, PRESETS

ROOT = Path(__file__).parents[2]
BATCHES = {"debug": 32, "demo": 32, "Ti/16": 2, "S/16": 1, "B/16": 1}
FIT_PRESETS = ("S/16", "B/16")
FIT_BATCHES = (1, 2, 3)  # a line through the first two, held against the third
MEMORIES_GIB = (16, 40, 80)
KEPT_BACK = 0.1  # of a device's memory, for what the programs do not tell of
GIB = 1 << 30
SAME = ("dtype", "remat", "implementation", "records", "devices", "repeats", "compile_only", "trace_only", "quick", "ratio_to_stored")
SAME += ("peak_tflops", "learning_rate")  # arguments that are fields of a case
KINDS = ("compiler", "trace")  # where a figure of memory is from: see `fitted`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured, and how."""
    parser.add_argument("--presets", nargs="+", choices=PRESETS, help=f"default: all; with --fit {FIT_PRESETS}, with --agree-steps demo")
    parser.add_argument("--batch", type=int, help=f"of all devices together; default: {BATCHES}")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the computation")
    parser.add_argument("--remat", action="store_true", help="recompute the transformers' blocks in the backward pass")
    parser.add_argument("--implementation", choices=("auto", "plain", "xla", "cudnn"), help="of attention; default: the preset's")
    parser.add_argument("--override", nargs="*", default=[], metavar="PATH=VALUE", help="of the preset, e.g. clamp.text.vocabulary=49408")
    parser.add_argument("--records", choices=("states", "images"), default="states", help="states: ray-cast in the step; images: RGB-D")
    parser.add_argument("--devices", type=int, help="default: all; on a CPU it is split into so many")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile-only", action="store_true", help="FLOPs and memory alone")
    parser.add_argument("--quick", action="store_true", help="on a CPU: compile without LLVM's optimisation, for slower programs")
    parser.add_argument("--ratio-to-stored", action="store_true", help="beside the same step with stored views and absolute positions")
    parser.add_argument("--peak-tflops", type=float, help="of one device; default: of a table of known ones")
    parser.add_argument("--profile", metavar="DIR", help="trace some steps into this folder, and name the largest shares")
    parser.add_argument("--fit", action="store_true", help=f"what batch fits {MEMORIES_GIB} GiB, by compilations at batches {FIT_BATCHES}")
    parser.add_argument("--trace-only", action="store_true", help="with --fit: by jax's trace alone, nothing is compiled")
    parser.add_argument("--agree-steps", type=int, metavar="N", help="train N steps in float32 and in bfloat16; needs --data")
    parser.add_argument("--data", nargs="+", default=[], metavar="FOLDER", help="of records, for --agree-steps")
    parser.add_argument("--learning-rate", type=float, help="for --agree-steps: its peak; default: the config's")
    parser.add_argument("--limit-s", type=float, default=3600, help="of each process")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures; a preset that fails or takes too long is told as its reason. ValueError for bad arguments."""
    check(args)
    if args.fit:
        return {"fit": fit(args)}
    if args.agree_steps:
        return {"agree": [run("agree", make_case(args, name), args.limit_s) for name in args.presets or ("demo",)]}
    found = []
    for name in args.presets or PRESETS:
        found.append({"preset": name} | run("cost", make_case(args, name), args.limit_s))
        print(line(found[-1]), file=sys.stderr, flush=True)
    return {"presets": found}


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for numbers out of range and for what does not go together."""
    numbers = [args.repeats, 1 if args.batch is None else args.batch, 1 if args.devices is None else args.devices]
    if min(numbers) < 1 or args.limit_s <= 0 or (args.peak_tflops is not None and args.peak_tflops <= 0):
        raise ValueError("give 1 or more repeats, examples and devices, and a limit and a peak over 0")
    if args.compile_only and (args.ratio_to_stored or args.profile):
        raise ValueError("--compile-only runs nothing; leave out --ratio-to-stored and --profile, or it")
    if args.agree_steps is not None and not args.data:
        raise ValueError("--agree-steps needs --data: folders of records, e.g. of python -m data_tools.generate")
    if args.profile and Path(args.profile).exists() and not Path(args.profile).is_dir():
        raise ValueError(f"--profile {args.profile} is a file; name a folder")
    overrides(args.override)


def overrides(texts: Sequence[str]) -> list[tuple[str, Any]]:
    """Pairs of a path and a value of PATH=VALUE; ValueError for another form."""
    pairs = []
    for text in texts:
        path, equals, value = text.partition("=")
        try:
            pairs.append((path, ast.literal_eval(value)))
        except (ValueError, SyntaxError):
            equals = ""
        if not equals:
            raise ValueError(f"--override {text!r}; expected PATH=VALUE with a Python literal, e.g. policy.encoder.depth=4")
    return pairs


def make_case(args: argparse.Namespace, preset: str) -> dict[str, Any]:
    """The fields of modelling.Case."""
    case = {name: getattr(args, name) for name in SAME}
    profile = str(Path(args.profile).resolve() / preset.replace("/", "_")) if args.profile else None
    data = [str(Path(path).resolve()) for path in args.data]
    about = {"preset": preset, "batch": args.batch or BATCHES[preset], "overrides": overrides(args.override)}
    return case | about | {"profile": profile, "data": data, "agree_steps": args.agree_steps or 0}


def run(part: str, case: dict[str, Any], limit_s: float) -> dict[str, Any]:
    """One part of modelling.py in its own process: its figures, or {"failed": why}."""
    command = [sys.executable, "-m", "experiments.benchmark.modelling", part, json.dumps(case)]
    try:
        done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit_s:g} s"}
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return {"failed": f"{reason} (exit status {done.returncode}; -9 is a want of memory)" if done.returncode < 0 else reason}
    return json.loads(done.stdout.splitlines()[-1])


def line(found: dict[str, Any]) -> str:
    """A preset's figures in a line, so that a long run can be followed."""
    if "failed" in found:
        return f"{found['preset']}: {found['failed']}"
    step, hand = found["train_step"], found["hand"]
    parts = [f"{found['preset']}: {found['parameters']['total'] / 1e6:.1f} M parameters"]
    parts.append(f"{hand['train'] / 1e9:.4g} GFLOP a sample, XLA's count {step['xla_over_hand']:.3f} of it")
    parts.append(f"{step['memory']['total_bytes'] / GIB:.2f} GiB at batch {found['batch']}")
    if "median_ms" in step:
        parts.append(f"{step['median_ms']:.4g} ms a step, MFU {'not known' if found['mfu'] is None else format(found['mfu'], '.1%')}")
    if "stored_over_ours" in found:
        parts.append(f"stored over ours {found['stored_over_ours']['median_ratio']:.2f}")
    return ", ".join(parts)


def fit(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Memory of a train step as a line in the batch, and what batch fits; each preset with and without remat."""
    rows = []
    for preset in args.presets or FIT_PRESETS:
        for remat in (False, True):
            case = make_case(args, preset) | {"remat": remat, "compile_only": True}
            measured = [run("memory", case | {"batch": batch}, args.limit_s) for batch in FIT_BATCHES]
            rows.append({"preset": preset, "dtype": args.dtype, "remat": remat} | fitted(measured))
            print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(table(rows), file=sys.stderr, flush=True)
    return rows


def fitted(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The line through the first two of FIT_BATCHES, its error at the third, and the batches that fit.

    "compiler": XLA's own figures on this backend. "trace": state, gradients and what is kept for the backward pass in the
    types that were asked for, before XLA fuses or works in place: a bound from above but for its scratch memory.
    """
    failed = [entry["failed"] for entry in measured if "failed" in entry]
    if failed:
        return {"failed": failed[0]}
    found = {}
    for kind in (kind for kind in KINDS if kind in measured[0]):
        first, second, third = (entry[kind] for entry in measured)
        slope = (second - first) / (FIT_BATCHES[1] - FIT_BATCHES[0])
        fixed = first - slope * FIT_BATCHES[0]
        error = (fixed + slope * FIT_BATCHES[2]) / third - 1
        fits = {str(size): max(0, int((size * GIB * (1 - KEPT_BACK) - fixed) // slope)) for size in MEMORIES_GIB}
        found[kind] = {"fixed_bytes": fixed, "sample_bytes": slope, "error_at_third": error, "fits": fits}
    return found | {"state_bytes": measured[0]["state_bytes"], "gradient_bytes": measured[0]["gradient_bytes"], "measured": list(measured)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The fits as Markdown."""
    head = "| preset | type | remat | compiler: fixed + a sample, GiB | batch in " + " / ".join(map(str, MEMORIES_GIB)) + " GiB "
    lines = [head + "| trace: fixed + a sample | batch |", "|---" * 7 + "|"]
    for row in rows:
        cells = [row["preset"], row["dtype"], "yes" if row["remat"] else "no"]
        for kind in KINDS if "failed" not in row else ():
            if kind not in row:
                cells += ["", ""]
                continue
            part = row[kind]
            cells.append(f"{part['fixed_bytes'] / GIB:.2f} + {part['sample_bytes'] / GIB:.3f}")
            cells.append(" / ".join(map(str, part["fits"].values())))
        lines.append("| " + " | ".join(cells + ([row["failed"]] if "failed" in row else [])) + " |")
    return "\n".join(lines)
