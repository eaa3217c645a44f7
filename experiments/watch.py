"""Watch a run's checkpoints and roll each policy out in simulation, beside the training or after it.

    python -m experiments.watch --run runs/finetune --task drawer_close --trials 50 --every 40000

Every evaluation is a line of RUN/evaluations.jsonl and a point of RUN/evaluations.html, successes with their Wilson 95 % interval. It
ends with the run's last step. What has been evaluated is not evaluated again, so a watcher that was stopped goes on with the same
command. The paper rolls out 50 trials every 40k steps (arXiv 2602.00937).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clamp_jax import runtime

if __name__ == "__main__":
    runtime.setup(mjx=False)

from clamp_jax import act, checkpoint
from clamp_jax.sim import tasks
from clamp_jax.sim.engines.base import OverflowedError
from experiments import charts, evaluate, training

LINES, CURVE = "evaluations.jsonl", "evaluations.html"
ROOT = Path(__file__).parents[1]


def waiting(run: Path, every: int, done: Sequence[int]) -> list[int]:
    """Steps of checkpoints, multiples of `every` (0: all) and the run's last one, that have not been evaluated, in order."""
    folder = checkpoint.folder(run)
    found = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    last = last_step(run)
    return sorted(step for step in found if step not in done and (not every or step % every == 0 or step == last))


def last_step(run: Path) -> int | None:
    """The step at which the run's config ends; None as long as there is no run."""
    path = run / training.CONFIG_FILE
    return json.loads(path.read_text())["train"]["steps"] if path.is_file() else None


def read_lines(run: Path) -> list[dict[str, Any]]:
    """What has been evaluated so far; a line that was cut off is dropped."""
    return training.read_lines(run / LINES)


class Watcher:
    """Evaluates checkpoints of one run, each compiled program used for all of them."""

    def __init__(self, run: Path, settings: evaluate.Settings):
        self.run, self.settings, self._first = run, settings, None
        self.lines = read_lines(run)
        others = [line for line in self.lines if {name: line.get(name) for name in settings._fields} != settings._asdict()]
        if others:
            differ = [name for name, value in settings._asdict().items() if others[0].get(name) != value]
            raise ValueError(f"{run / LINES} was made with other settings ({', '.join(differ)}); use the same ones, or remove it")

    def candidate(self, step: int) -> evaluate.Candidate:
        """The policy of a checkpoint; raises CheckpointError when it is gone or damaged."""
        loaded = act.load_policy(self.run, step=step)
        if self._first is None:
            sensor = evaluate.fixed_looks(loaded.networks.sensor)
            self._first = evaluate.Candidate(evaluate.batched(loaded.act, loaded.params), sensor)
            return self._first
        return self._first._replace(policy=evaluate.with_params(self._first.policy, loaded.params))

    def evaluate(self, step: int) -> dict[str, Any]:
        """Roll one checkpoint out, and write its line and the curve."""
        begin, name = time.monotonic(), str(step)
        found = evaluate.summarise(evaluate.run_all({name: self.candidate(step)}, self.settings))[name]
        line = {"step": step} | found | self.settings._asdict() | {"seconds": round(time.monotonic() - begin, 1)}
        self.lines.append(line)
        training.write_text(self.run / LINES, "".join(json.dumps(line) + "\n" for line in self.lines))
        training.write_text(self.run / CURVE, page(self.run.name, self.lines))
        return line


def page(name: str, lines: Sequence[dict[str, Any]]) -> str:
    """The curve of successes over steps as a page of its own."""
    points = sorted((line["step"], line["successes"] / line["trials"], line["low"], line["high"]) for line in lines)
    title = f"{lines[0]['task']}: success of {lines[0]['trials']} trials, Wilson 95 %"
    chart = charts.interval_chart({name: points}, title=title, x_label="training steps", size=(760, 360))
    return f'<!doctype html><meta charset="utf-8"><title>{title}</title><body style="font-family:sans-serif;max-width:800px">{chart}'


def watch(watcher: Watcher, every: int, *, poll_s: float = 20.0, once: bool = False, parent: int | None = None) -> None:
    """Evaluate what comes until the run's last step has been; `once`: what is there. One that is gone is told and passed over."""
    missed: set[int] = set()
    while True:
        done = [line["step"] for line in watcher.lines]
        for step in waiting(watcher.run, every, [*done, *missed]):
            try:
                print(told(watcher.evaluate(step)), flush=True)
            except checkpoint.CheckpointError as error:  # training keeps the newest alone
                print(f"step {step} was not evaluated: {error}", file=sys.stderr, flush=True)
                missed.add(step)
        last = last_step(watcher.run)
        over = last is not None and last in {line["step"] for line in watcher.lines} | missed
        if once or over or (parent is not None and os.getppid() != parent):
            return
        time.sleep(poll_s)


def told(line: dict[str, Any]) -> str:
    """A line for the terminal."""
    share = line["successes"] / line["trials"]
    return f"step {line['step']}: {line['successes']}/{line['trials']} = {share:.0%} [{line['low']:.0%}, {line['high']:.0%}]"


def start(run: str | Path, task: str, *, trials: int, every: int) -> subprocess.Popen:
    """A watcher in a process of its own, on the CPU, which ends with this one or after the run's last step."""
    tasks.get(task)
    command = [sys.executable, "-m", "experiments.watch", "--run", str(Path(run).resolve()), "--task", task, "--backend", "native"]
    command += ["--trials", str(trials), "--every", str(every), "--parent", str(os.getpid())]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"})


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.watch", description="Evaluate a run's checkpoints as they come.")
    parser.add_argument("--run", type=Path, required=True, help="folder of a training run")
    evaluate.add_settings(parser, trials=50, backend="native")  # the paper's 50
    parser.add_argument("--every", type=int, default=0, help="steps whose multiples are evaluated; 0: every checkpoint. The paper's: 40000")
    parser.add_argument("--once", action="store_true", help="evaluate what is there and end")
    parser.add_argument("--poll-s", type=float, default=20.0)
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Watch."""
    args = parse(argv)
    try:
        if args.trials < 1 or args.every < 0 or args.poll_s <= 0:
            raise ValueError("give 1 or more trials, 0 or more steps and a time over 0")
        settings = evaluate.from_arguments(args)
        tasks.get(args.task, args.geometry)
        if args.once and last_step(args.run) is None:
            raise ValueError(f"{args.run} holds no run; name the --workdir of a training")
        watch(Watcher(args.run, settings), args.every, poll_s=args.poll_s, once=args.once, parent=args.parent)
    except (ValueError, OSError, ImportError, OverflowedError) as error:
        print(f"watch: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
