"""The main job: from demonstrations to a moving robot, with one command.

    python -m experiments.demo --size small --out runs/demo

Makes demonstrations, pre-trains, fine-tunes the policies that are compared, measures retrieval and success, exports the CLAMP
policy, serves it and drives a simulated robot with it; report.html and report.json stand in the run's folder at the end.
A second run takes what is done already and has not changed; a failed or stopped run continues where it was.
"""

import argparse
import functools
import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clamp_jax import runtime

if __name__ == "__main__":
    runtime.setup(mjx=False)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # evaluation and server share the accelerator with this process

import jax
from rich.console import Console
from rich.table import Table

from clamp_jax import act
from clamp_jax.data import pipeline
from clamp_jax.data.transforms import count_geoms
from clamp_jax.networks import make_networks
from clamp_jax.sim import scene
from data_tools import generate
from experiments import export, finetune, pretrain, report, retrieve, run_robot, serve, sights
from experiments.configs import demo as demo_config
from experiments.configs import finetune as finetune_config
from experiments.configs import pretrain as pretrain_config
from experiments.stages import Result, StageError, Stages, bar
from experiments.training import Progress

ROOT = Path(__file__).parents[1]
OTHER_STAGES = 10  # settings, four data sets, pictures, retrieval, evaluation, export, robot
MOST_DEVICES = 8  # a batch of 32 gains little from more
HELD_OUT_SEED = 1_000_000  # demonstrations for retrieval alone begin at this seed, training's at 0


class Demo:
    """The stages of one demo in one folder; each method is one kind of stage and returns plain numbers."""

    def __init__(self, config: Any, run: Path, console: Console, *, total: int | None = None):
        """total: how many stages there will be; None: those of the demo."""
        self.config, self.run, self.console = config, run, console
        trained = len(config.policies) + sum(name != "scratch" for name in config.policies)
        self.stages = Stages(run, lambda line: console.print(f"[bold]·[/] {line}"), total=total or OTHER_STAGES + trained)

    def path(self, *parts: str) -> Path:
        """A path in the run's folder."""
        return self.run.joinpath(*parts)

    def do(self, name: str, work: Callable[[], Result], *, inputs: dict, **more: Any) -> Result:
        """One stage, with what jax keeps in memory let go after it."""
        result = self.stages.do(name, work, inputs=inputs, **more)
        jax.clear_caches()
        gc.collect()
        return result

    # ---- data -------------------------------------------------------------------------------------------------------

    def generate(self, name: str, task: str, episodes: int, seed: int) -> None:
        """Demonstrations of one task into data/<name>."""
        folder = f"data/{name}"
        inputs = {"task": task, "episodes": episodes, "seed": seed}

        def work() -> Result:
            with bar(f"generate {name}", self.console) as update:
                return generate.run(task, self.path(folder), episodes=episodes, seed=seed, tell=update)

        self.do(f"generate_{name}", work, inputs=inputs, outputs=[folder])

    def draw(self, name: str) -> None:
        """Pictures of one demonstration for the report."""
        settings = training(pretrain_config, self.config, [])
        sections = {name: settings[name] for name in ("model", "views", "sensor", "variant", "ablation")}
        work = lambda: sights.draw(self.path("data", name), self.path("pictures"), make_networks(**sections))  # noqa: E731
        inputs = {name: section if isinstance(section, str) else section.to_dict() for name, section in sections.items()}
        self.do("pictures", work, inputs=inputs, after=[f"generate_{name}"], outputs=["pictures"])

    # ---- training ---------------------------------------------------------------------------------------------------

    def pretrain(self, variant: str) -> None:
        """Stage (i) of a variant."""
        config, names = self.config, self.config.pretrain_tasks
        settings = training(pretrain_config, config, [self.path("data", name) for name in names])
        with settings.unlocked():
            settings.variant, settings.train.steps, settings.train.batch = variant, config.pretrain_steps, config.pretrain_batch
        self._train(f"pretrain_{variant}", pretrain.run, settings, [f"generate_{name}" for name in names])

    def finetune(self, variant: str) -> None:
        """Stage (ii) of a variant."""
        config, source = self.config, f"pretrain_{variant}"
        settings = training(finetune_config, config, [self.path("data", config.finetune_task)])
        pretrained = source in self.stages.results
        with settings.unlocked():
            settings.variant, settings.train.steps, settings.train.batch = variant, config.finetune_steps, config.finetune_batch
            settings.init_from = str(self.path(source)) if pretrained else ""
        after = [f"generate_{config.finetune_task}"] + [source] * pretrained
        self._train(f"finetune_{variant}", finetune.run, settings, after)

    def _train(self, name: str, train: Callable, settings: Any, after: Sequence[str]) -> None:
        def work() -> Result:
            with bar(name, self.console) as update:
                train(settings, self.path(name), tell=lambda progress: update(*told(progress)))
            return {"metrics": f"{name}/metrics.jsonl", "steps": settings.train.steps}

        self.do(name, work, inputs=settings.to_dict(), after=after, outputs=[name], resumable=True)

    # ---- what came of it --------------------------------------------------------------------------------------------

    def retrieve(self, data: str) -> None:
        """Retrieval accuracy of the CLAMP encoders."""
        config = self.config

        def work() -> Result:
            dataset = pipeline.open_dataset(self.path("data", data))
            found = retrieve.measure(act.load_run(self.path("pretrain_clamp")), dataset, size=config.pool, draws=config.pools)
            return {"pairs": found}

        self.do("retrieval", work, inputs={"pool": config.pool, "pools": config.pools}, after=["pretrain_clamp", f"generate_{data}"])

    def evaluate(self) -> None:
        """Success of all policies from the same initial states, in a process of its own: MJX on a CPU can hang."""
        config, after = self.config, [f"finetune_{name}" for name in self.config.policies]
        names = ("finetune_task", "trials", "limit_s", "replan", "backend", "evaluate_seed", "policies")
        inputs = {name: config[name] for name in names}
        self.do("evaluate", functools.partial(evaluate, self), inputs=inputs, after=after, outputs=["evaluation.json"])

    def export(self) -> None:
        """The CLAMP policy as an artifact, checked against the one in memory."""

        def work() -> Result:
            reports = [self.path("evaluation.json")]
            written = export.export(self.path("finetune_clamp"), self.path("artifact"), evaluations=reports)
            return written | {"verified": export.verify(self.path("artifact"))}

        self.do("export", work, inputs={}, after=["finetune_clamp", "evaluate"], outputs=["artifact"])

    def drive(self) -> None:
        """One episode of the simulated robot, in real time, through server and client."""
        config = self.config
        episode = run_robot.Episode(config.finetune_task, config.limit_s, config.evaluate_seed)

        def work() -> Result:
            with serve.server_process(self.path("artifact"), ready_s=config.server_timeout_s) as url:
                return run_robot.run_episode(url, episode)

        self.do("robot", work, inputs=episode._asdict(), after=["export"])


def told(progress: Progress) -> tuple[int, int, str]:
    """What a bar shows of a training step."""
    return progress.step, progress.of, f"loss {progress.metrics['loss']:.3f}, {progress.step_s * 1e3:.0f} ms a step"


def fitting_capacity(names: Sequence[str]) -> dict[str, int]:
    """The slots that the scenes of these tasks need, type by type: no more, since the ray caster pays for empty ones too."""
    counts = [count_geoms(scene.build(name).geom_types)._asdict() for name in names]
    return {kind: max(1, *(count[kind] for count in counts)) for kind in counts[0]}


def fitting_devices(cores: int, *batches: int) -> int:
    """Parts that a CPU is split into, so that a step's loops over examples run side by side: one a core, if batches divide so."""
    return max(count for count in range(1, min(cores, MOST_DEVICES) + 1) if not any(batch % count for batch in batches))


def training(module: Any, config: Any, data: Sequence[Path]) -> Any:
    """The config of a stage of training at the demo's scale, with its data."""
    settings = module.get_config(config.preset)
    with settings.unlocked():
        settings.seed = config.seed
        settings.data.paths = tuple(str(path) for path in data)
        settings.data.held_out = 0.0  # retrieval has demonstrations of its own
        settings.data.capacity.update(fitting_capacity((*config.pretrain_tasks, config.finetune_task)))
    return settings


def evaluate(demo: Demo) -> Result:
    """Run experiments.evaluate; if MJX fails or takes too long, again with native MuJoCo, and say so."""
    backend = demo.config.backend
    if backend == "auto":
        backend = "native" if jax.default_backend() == "cpu" else "mjx"
    try:
        return evaluate_with(demo, backend)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        if backend == "native":
            raise
        reason = "took too long" if isinstance(error, subprocess.TimeoutExpired) else f"failed (code {error.returncode})"
        note = f"The evaluation with {backend} {reason}; these successes were counted with native MuJoCo."
        demo.console.print(f"[yellow]{note}[/]")
        return evaluate_with(demo, "native") | {"fallback": note}


def evaluate_with(demo: Demo, backend: str) -> Result:
    """One try; what it says of errors goes to the stage's log."""
    config, target = demo.config, demo.path("evaluation.json")
    command = [sys.executable, "-m", "experiments.evaluate", "--policy", "hold_still", "--checkpoint"]
    command += [f"{name}={demo.path(f'finetune_{name}').absolute()}" for name in config.policies]
    command += ["--task", config.finetune_task, "--trials", str(config.trials), "--backend", backend]
    command += ["--seed", str(config.evaluate_seed), "--replan", str(config.replan), "--limit-s", str(config.limit_s)]
    command += ["--json", str(target.absolute()), "--video", str(demo.path("rollout.mp4").absolute())]
    subprocess.run(command, cwd=ROOT, check=True, timeout=config.evaluate_timeout_s)
    return json.loads(target.read_text())


def run(config: Any, folder: Path, console: Console) -> dict[str, Any]:
    """All stages of the demo, in order; returns the report's numbers."""
    demo = Demo(config, folder, console)
    first, second = config.pretrain_tasks
    demo.do("settings", lambda: config.to_dict(), inputs=config.to_dict())
    demo.generate(first, first, config.drawer_open_episodes, 0)
    demo.generate(second, second, config.can_opener_episodes, 0)
    demo.generate(config.finetune_task, config.finetune_task, config.drawer_close_episodes, 0)
    demo.generate("held_out", first, config.held_out_episodes, HELD_OUT_SEED)
    demo.draw(config.finetune_task)
    for variant in config.policies:
        if variant != "scratch":
            demo.pretrain(variant)
    for variant in config.policies:
        demo.finetune(variant)
    demo.retrieve("held_out")
    demo.evaluate()
    demo.export()
    demo.drive()
    return report.build(folder)


def summary(found: dict[str, Any]) -> Table:
    """The report's main numbers as a table for the terminal."""
    table = Table(title="What came of it", show_header=False)
    for name, entry in found["success"].items():
        share = entry["successes"] / entry["trials"]
        interval = f"Wilson 95 % {entry['low']:.0%} to {entry['high']:.0%}"
        table.add_row(f"success, {report.NAMES.get(name, name)}", f"{share:.0%}", f"{entry['successes']} of {entry['trials']}; {interval}")
    for pair, entry in found["retrieval"].items():
        note = f"chance {entry['chance']:.1%}; positions permuted {entry['top1_permuted']:.1%}"
        table.add_row(f"retrieval, {report.PAIRS.get(pair, pair)}", f"{entry['top1']:.1%}", note)
    latency, episode = found["latency_ms"], found["robot_episode"]
    if latency:
        table.add_row("policy call", f"{latency['p50']:.0f} ms", f"p99 {latency['p99']:.0f} ms, through the server")
    else:
        table.add_row("policy call", "no reply", "look at logs/robot.log")
    done = "completed" if episode["completed"] else "not completed"
    table.add_row("robot's episode", done, f"{episode['missed_deadlines']} missed deadlines")
    table.add_row("all stages", f"{sum(found['stages'].values()) / 60:.1f} min", f"{len(found['stages'])} stages")
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 1 with one message when a stage fails."""
    parser = argparse.ArgumentParser(description="From RGB-D cameras to a moving robot, the whole way.")
    parser.add_argument("--size", choices=demo_config.SIZES, default="small")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--fresh", action="store_true", help="remove what an earlier run left in --out")
    args = parser.parse_args(argv)
    console = Console()
    if args.fresh and args.out.exists():
        shutil.rmtree(args.out)
    config = demo_config.get_config(args.size)
    devices = fitting_devices(os.cpu_count() or 1, config.pretrain_batch, config.finetune_batch)
    runtime.setup(cpu_devices=devices, mjx=False)  # the evaluation has its own process
    try:
        found = run(config, args.out, console)
    except StageError as error:
        console.print(f"[red]{error}[/]", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("stopped; the same command continues here")
        return 130
    console.print(summary(found))
    console.print(f"report: {args.out / 'report.html'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
