"""Roll policies out in simulation from the same initial states and count successes.

    python -m experiments.evaluate --checkpoint runs/finetune --task drawer_close --trials 64 --backend mjx --json out.json
    python -m experiments.evaluate --checkpoint clamp=runs/a scratch=runs/b --policy hold_still --task drawer_close --video out.mp4
    python -m experiments.evaluate --checkpoint runs/finetune --policy mine=ws://127.0.0.1:8000 --task drawer_close --trials 64

Every policy meets the same initial states (seed and number of the trial decide them) and the same draws of sensor noise and
diffusion noise; success is counted at any control step and comes with its Wilson 95 % interval. Each pair of policies is compared
on its discordant trials, those that one of the two solves, by McNemar's exact test. A served policy (experiments/served.py) may be
any that speaks the wire of docs/deploy.md; a server that needs an API key gets the environment variable CLAMP_API_KEY.
"""

import argparse
import contextlib
import functools
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clamp_jax import runtime

if __name__ == "__main__":
    runtime.setup(mjx=False)

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

from clamp_jax import act, metrics, observe, sensors
from clamp_jax.data import transforms
from clamp_jax.geometry import kinematics
from clamp_jax.sim import engines, rollout, scene, tasks
from clamp_jax.sim.engines.base import OverflowedError
from clamp_jax.structs import ACTION_DIM, CHUNK, CONTROL_HZ, Capacity, Observation, SceneState
from experiments import geometry, pictures, served, stages

POLICY_BATCH = 8  # examples the policy takes at once: bounds memory, not the result
FILM_RATE = 25  # frames a second
FILM_CELL = (168, 224)  # height, width in pixels of one trial
GREEN, GREY = (34, 197, 94), (148, 163, 184)


class Settings(NamedTuple):
    """One evaluation; everything that decides its result but the policies."""

    task: str
    trials: int = 64
    seed: int = 42
    backend: str = "mjx"  # or native, warp
    replan: int = CHUNK  # commands executed of each chunk; CHUNK is ALOHA Unleashed's habit
    limit_s: float | None = None  # None: the task's own horizon
    geometry: str = "primitive"  # of tasks.GEOMETRIES
    sensors: str | None = None  # a preset of clamp_jax/sensors.py; None: those that each policy was trained with, looks fixed


class Candidate(NamedTuple):
    """A policy with the images it was made for."""

    policy: rollout.Policy
    sensor: observe.SensorConfig


def padded_scene(built: Any) -> tuple[SceneState, Capacity]:
    """The tables of one scene as the sensors take them, with exactly the slots that this scene needs."""
    capacity = transforms.count_geoms(built.geom_types)
    geoms = transforms.pad_geoms(built.geom_types, built.geoms, capacity)
    state = SceneState(np.zeros(built.model.nq, np.float32), built.tree, geoms, scene.surface_of(built))
    return jax.tree.map(jnp.asarray, state), capacity


def hold_still() -> Candidate:
    """The baseline that keeps the last command; what its cameras see does not matter."""
    return Candidate(rollout.hold_still, observe.clean(8))


def limit_steps(settings: Settings) -> int:
    """Control steps an episode may take."""
    limit_s = settings.limit_s if settings.limit_s is not None else tasks.get(settings.task).horizon_s
    return round(limit_s * CONTROL_HZ)


def run_all(candidates: Mapping[str, Candidate], settings: Settings, tell: Callable | None = None) -> dict[str, rollout.Rollout]:
    """Roll every candidate out from the same initial states; tell(name, steps done, of) reports how far one is."""
    task = tasks.get(settings.task, settings.geometry)
    built = scene.build(settings.task, settings.geometry)
    engine = engines.make(settings.backend, built, task)
    starts = rollout.initial_states(task, settings.trials, settings.seed)
    steps, results = limit_steps(settings), {}
    for name, candidate in candidates.items():
        sense = make_sense(settings.task, with_preset(candidate.sensor, settings.sensors), settings.geometry)
        progress = functools.partial(tell, name, of=steps) if tell else lambda done: None
        progress(0)
        how = {"steps": steps, "replan": settings.replan, "progress": progress}
        results[name] = rollout.rollout(engine, candidate.policy, starts, sense, **how)
        progress(steps)
    return results


def make_sense(task: str, sensor: observe.SensorConfig, kind: str = "primitive") -> rollout.Sense:
    """The compiled sensors of a task's scenes; their tables hold just what the scene needs, whatever sensor.capacity says."""
    return _make_sense(task, sensor._replace(capacity=Capacity()), kind)


@functools.cache
def _make_sense(task: str, sensor: observe.SensorConfig, kind: str) -> rollout.Sense:
    state, capacity = padded_scene(scene.build(task, kind))
    return rollout.make_sense(state, kinematics.aloha_calibration(sensor.height, sensor.width), sensor._replace(capacity=capacity))


def summarise(results: Mapping[str, rollout.Rollout]) -> dict[str, dict[str, Any]]:
    """Successes, trials, Wilson 95 % interval and the mean time to success (s, of those that succeeded) of each policy."""
    summary = {}
    for name, result in results.items():
        successes, trials = int(result.success.sum()), len(result.success)
        low, high = metrics.wilson(successes, trials)
        mean_s = float(result.steps[result.success].mean() / CONTROL_HZ) if successes else None
        summary[name] = {"successes": successes, "trials": trials, "low": float(low), "high": float(high), "mean_success_s": mean_s}
    return summary


def compare(results: Mapping[str, rollout.Rollout]) -> list[dict[str, Any]]:
    """Each pair of policies on their common trials: their names, the four counts and the exact test's p (metrics.mcnemar)."""
    pairs = itertools.combinations(results.items(), 2)
    return [{"first": a, "second": b} | metrics.mcnemar(x.success, y.success)._asdict() for (a, x), (b, y) in pairs]


def write_film(result: rollout.Rollout, built: scene.Scene, path: Path, trials: int = 6) -> str | None:
    """Film the first trials side by side, green once they have succeeded; returns None, or in one line why there is none."""
    frames = film_frames(result, built, min(trials, len(result.success)))
    return pictures.film(frames, path, FILM_RATE)


def film_frames(result: rollout.Rollout, built: scene.Scene, trials: int) -> Iterator[np.ndarray]:
    """Pictures (h, w, 3) uint8 of a grid of trials, one every CONTROL_HZ / FILM_RATE control steps, the last one for 1 s longer."""
    state, capacity = padded_scene(built)
    render = pictures.make_film_renderer(state, capacity, *FILM_CELL)
    last = int(max(result.steps[:trials]))
    ticks = list(range(0, last + 1, CONTROL_HZ // FILM_RATE)) + [last] * FILM_RATE
    known: dict[int, np.ndarray] = {}
    for tick in ticks:
        if tick not in known:
            known = {tick: np.asarray(render(jnp.asarray(result.qpos[:trials, min(tick, result.qpos.shape[1] - 1)])))}
        done = result.success[:trials] & (result.steps[:trials] <= tick)
        cells = [pictures.framed(image, GREEN if ok else GREY) for image, ok in zip(known[tick], done, strict=True)]
        yield _grid(cells)


def _grid(cells: Sequence[np.ndarray], across: int = 3) -> np.ndarray:
    across = min(across, len(cells))
    blank = np.full_like(cells[0], 255)
    padded = list(cells) + [blank] * (-len(cells) % across)
    return np.concatenate([np.concatenate(padded[i : i + across], 1) for i in range(0, len(padded), across)], 0)


def batched(single: act.Act, params: Any) -> rollout.Policy:
    """A policy for a batch of single(params, observation, noise (CHUNK, 14)), with noise drawn from each trial's key.

    Its commands are held to the joints' limits, as a server holds them.
    """

    def one(params: Any, observation: Observation, key: jax.Array) -> jax.Array:
        noise = jax.random.normal(jax.random.key(rollout.noise_seed(key)), (CHUNK, ACTION_DIM))  # as an artifact draws it
        return jnp.clip(single(params, observation, noise), rollout.LOWEST[None], rollout.HIGHEST[None])

    @jax.jit
    def policy(params: Any, observation: Observation, keys: jax.Array) -> jax.Array:
        return jax.lax.map(lambda x: one(params, *x), (observation, keys), batch_size=POLICY_BATCH)

    return functools.partial(policy, jax.tree.map(jnp.asarray, params))


def with_params(policy: rollout.Policy, params: Any) -> rollout.Policy:
    """The policy that `batched` made, with other parameters; nothing is compiled again."""
    return functools.partial(policy.func, jax.tree.map(jnp.asarray, params))


def add_settings(parser: argparse.ArgumentParser, *, trials: int, backend: str) -> None:
    """The command line's part of Settings, with these defaults."""
    parser.add_argument("--task", required=True)
    parser.add_argument("--trials", type=int, default=trials)
    parser.add_argument("--backend", choices=("mjx", "native", "warp"), default=backend)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--replan", type=int, default=CHUNK, help=f"commands executed of each chunk of {CHUNK}")
    parser.add_argument("--limit-s", type=float, help="time limit of an episode; default: the task's")
    geometry.add_arguments(parser)
    parser.add_argument("--sensors", choices=tuple(sensors.PRESETS), help="default: those of the policy's training, looks fixed")


def from_arguments(args: argparse.Namespace) -> Settings:
    """The settings of a command line; also names the models' folder and prepares XLA for MJX, before the first array is made."""
    if args.backend != "native":
        os.environ["XLA_FLAGS"] = runtime.xla_flags(os.environ.get("XLA_FLAGS", ""))
    geometry.choose_assets(args.assets)
    return Settings(**{name: getattr(args, name) for name in Settings._fields})


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; a checkpoint is DIR or NAME=DIR."""
    parser = argparse.ArgumentParser(description="Success of policies in simulation, from the same initial states.")
    parser.add_argument("--checkpoint", nargs="*", default=[], metavar="[NAME=]DIR", help="folders of fine-tuned policies")
    also = "hold_still: also that baseline; or the address of a served policy, of any framework"
    parser.add_argument("--policy", nargs="+", action="extend", default=[], metavar="hold_still|[NAME=]ws://HOST:PORT", help=also)
    add_settings(parser, trials=64, backend="mjx")
    add_served(parser)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument("--video", type=Path, help="film of the first policy's first trials (.mp4)")
    return parser.parse_args(argv)


def add_served(parser: argparse.ArgumentParser) -> None:
    """The command line's part of served.How."""
    how = served.How()
    group = parser.add_argument_group("served policies")
    wire = "what servers get whose metadata has no protocol_version: state, prompt, and images (h, w, 3); openpi: (3, h, w)"
    group.add_argument("--wire", choices=served.WIRES, default=how.wire, help=wire)
    size = "pixels of their images where their metadata names no image_size; default: %(default)s"
    group.add_argument("--image-size", type=int, nargs=2, metavar=("H", "W"), default=how.image_size, help=size)
    group.add_argument("--connections", type=int, default=how.connections, help="requests at a time")
    group.add_argument("--timeout-s", type=float, default=how.timeout_s, help="of one reply; the first may wait for a compilation")


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, print a line for each policy, write JSON and film."""
    args = parse(argv)
    try:
        settings = from_arguments(args)
        how = served.How(args.wire, tuple(args.image_size), args.connections, args.timeout_s, os.environ.get("CLAMP_API_KEY"))
        with contextlib.ExitStack() as stack:
            candidates = named_candidates(args.checkpoint, args.policy, lambda *named: open_served(stack, settings, how, *named))
            report = evaluate(candidates, settings, args.video)
    except (ValueError, OSError, ImportError, OverflowedError, served.ServedError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines(report)))
    if args.json:
        stages.write_json(args.json, report)
    return 0


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report in words: a line a policy, and one for each pair of them."""
    for name, entry in report["success"].items():
        share = entry["successes"] / entry["trials"]
        yield f"{name}: {entry['successes']}/{entry['trials']} = {share:.0%}, Wilson 95 % {entry['low']:.0%} to {entry['high']:.0%}"
    for pair in report["pairs"]:
        first, second = (f"{pair[f'{which}_only']} by {pair[which]} alone" for which in ("first", "second"))
        yield f"{pair['first']} and {pair['second']}: {first}, {second}, exact McNemar p = {pair['p_value']:.2g}"


def evaluate(candidates: Mapping[str, Candidate], settings: Settings, video: Path | None = None) -> dict[str, Any]:
    """Everything of one evaluation with progress bars, as the JSON report."""
    begin = time.monotonic()
    with stages.bars() as bars:
        rows = {name: bars.add_task(name, total=limit_steps(settings), note="", start=False) for name in candidates}
        results = run_all(candidates, settings, functools.partial(_show, bars, rows))
    report = settings._asdict() | {"limit_s": limit_steps(settings) / CONTROL_HZ, "success": summarise(results), "pairs": compare(results)}
    abouts = {name: c.policy.about for name, c in candidates.items() if isinstance(c.policy, served.ServedPolicy)}
    report |= {"served": abouts} if abouts else {}
    if video is not None:
        problem = write_film(next(iter(results.values())), scene.build(settings.task, settings.geometry), video)
        report["video"] = problem or video.name
        print(problem or f"wrote {video}")
    return report | {"seconds": round(time.monotonic() - begin, 1)}


def _show(bars: Progress, rows: Mapping[str, Any], name: str, done: int, of: int) -> None:
    if done == 0:
        bars.start_task(rows[name])
    bars.update(rows[name], completed=of if done >= of else done)


def named_candidates(folders: Sequence[str], policies: Sequence[str], opened: Callable[[str, str], Candidate]) -> dict[str, Candidate]:
    """Candidates by name of [NAME=]DIR and of hold_still or [NAME=]ws://host:port, which `opened(name, url)` connects to.

    ValueError when there is none, when two have one name or when a policy is neither.
    """
    named = [(name or Path(folder).name, load, (Path(folder),)) for name, _, folder in (text.rpartition("=") for text in folders)]
    for text in policies:
        named.append((text, hold_still, ()) if text == "hold_still" else (served.parse(text)[0], opened, served.parse(text)))
    if not named:
        raise ValueError("nothing to evaluate; give --checkpoint DIR, --policy hold_still or --policy ws://host:port")
    names = [name for name, *_ in named]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two policies are called {twice!r}; name them: --checkpoint first=DIR second=DIR --policy third=ws://host:port")
    return {name: make(*arguments) for name, make, arguments in named}


def open_served(stack: contextlib.ExitStack, settings: Settings, how: served.How, name: str, url: str) -> Candidate:
    """A served policy, connected until the stack is left; its cameras are those it asks for, looks fixed."""
    policy = served.ServedPolicy(name, url, how, instructions(settings))
    stack.callback(policy.close)
    return Candidate(policy, fixed_looks(policy.sensor))


@functools.cache
def instructions(settings: Settings) -> tuple[str, ...]:
    """The instruction of each trial."""
    task = tasks.get(settings.task, settings.geometry)
    if len(task.instructions) == 1:
        return task.instructions * settings.trials
    return tuple(task.instructions[variant] for variant in rollout.initial_states(task, settings.trials, settings.seed).variant)


def load(folder: Path) -> Candidate:
    """The policy of a fine-tuning run's newest checkpoint (its averaged weights)."""
    run = act.load_policy(folder)
    return Candidate(batched(run.act, run.params), fixed_looks(run.networks.sensor))


def with_preset(sensor: observe.SensorConfig, name: str | None) -> observe.SensorConfig:
    """A preset's faults at a policy's size of image, all of them: calibration error and looks are drawn once a trial.

    Without a name the policy's own sensors.
    """
    if name is None:
        return sensor
    return sensors.preset(name)._replace(height=sensor.height, width=sensor.width, capacity=sensor.capacity)


def fixed_looks(sensor: observe.SensorConfig) -> observe.SensorConfig:
    """Training's sensors without what training draws afresh: colours, light and cameras as they are; noise, holes and delays kept."""
    return sensor._replace(colour_jitter=0.0, light_jitter=0.0, camera_jitter_m=0.0, camera_jitter_rad=0.0)


if __name__ == "__main__":
    raise SystemExit(main())
