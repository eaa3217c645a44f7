"""Demonstrations by scripted experts, written as state records by all cores.

    python -m data_tools.generate --tasks drawer_open,drawer_close --episodes 200 --out runs/data
    python -m data_tools.generate --tasks near,far --episodes 4500 --out runs/data --dry-run

Candidate i of a task is made from seed + i alone, its reset and its physics (masses, friction, distractors); the successful ones
are kept in the order of their seeds. So the same seed gives the same bytes, whatever the number of workers, and however often it
was stopped, by a full disk too: the same command again goes on after the last whole shard, and no episode is lost or there twice.
"""

import argparse
import collections
import ctypes
import errno
import functools
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from clamp_jax import runtime

if __name__ == "__main__":
    runtime.setup("cpu", mjx=False)

import jax
import mujoco
import numpy as np
from tqdm import tqdm

from clamp_jax.data.folders import META, Writer
from clamp_jax.data.records import Episode
from clamp_jax.geometry import aloha
from clamp_jax.sim import experts, randomise, scene, tasks
from clamp_jax.sim.engines import native
from clamp_jax.sim.randomise import Variety
from clamp_jax.structs import ACTION_DIM
from experiments import geometry

AFTER_SUCCESS = 25  # ticks an episode goes on after its success, so that the policy learns to come to rest
PATIENCE = 40  # candidates without a single success after which the expert is taken as broken
BEGUN = "generation.json"  # in the folder of an unfinished data set: what it was begun with
SETS = {"all": tuple(sorted(tasks.TASKS)), "paper": tasks.PAPER, "near": tasks.NEAR, "far": tasks.FAR}
PROBES = 4  # candidates of a task that --dry-run tries
NOMINAL = randomise.PHYSICS["nominal"]
_PR_SET_PDEATHSIG = 1

PHYSICS_HELP = "random (default): masses, friction and distractors differ from episode to episode; nominal: the same in all"

Tell = Callable[[int, int, str], None]


class Attempt(NamedTuple):
    """What came of one candidate: an episode, or the reason why there is none."""

    episode: Episode | None
    reason: str = ""


class Source(NamedTuple):
    """What candidates are made of."""

    task: str
    seed: int  # of the first candidate
    variety: Variety

    def origin(self) -> dict[str, Any]:
        """The same for a JSON file, with a hash of the models: episodes of two worlds do not belong into one data set."""
        ranges = {name: list(between) for name, between in self.variety.ranges._asdict().items()}
        physics = {"physics": physics_of(self.task, self.variety), "ranges": ranges, "distractors": self.variety.distractors}
        return {"task": self.task, "seed": self.seed, "geometry": self.variety.geometry, **physics}


def run(
    task: str,
    folder: str | Path,
    *,
    episodes: int,
    seed: int = 0,
    workers: int | None = None,
    variety: Variety = NOMINAL,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Write `episodes` successful demonstrations of a task to a data set; returns {episodes, candidates, reasons}.

    variety: by how much physics differs from one candidate to the next. An unfinished data set in the folder, begun with the
    same seed and physics, is continued; `reasons` are those of the candidates of this run. tell(done, of, note) is called after
    each kept or rejected candidate; without it a bar is shown. Raises ValueError for an unknown task, a folder that holds a
    data set already or one begun otherwise, or fewer than one episode; RuntimeError when the expert fails PATIENCE candidates
    without one success; OSError when the disk is full. On an error whole shards are kept.
    """
    tasks.get(task)
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; at least one is needed")
    _refuse_foreign(Path(folder))
    source = Source(task, seed, variety)
    if tell is None:
        with _bar(task, episodes) as shown:
            return _write(source, Path(folder), episodes, workers, shown)
    return _write(source, Path(folder), episodes, workers, tell)


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder that holds anything but a data set, finished (the writer refuses it) or left unfinished by a kill."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    foreign = [path.name for path in entries if path.suffix not in (".array_record", ".tmp") and path.name not in (META, BEGUN)]
    if foreign:
        raise ValueError(f"{folder} holds {foreign[0]!r} and {len(foreign) - 1} other things that are no data set; choose another folder")


class _bar:
    """A tqdm bar behind `tell`."""

    def __init__(self, task: str, episodes: int):
        self._bar = tqdm(total=episodes, desc=f"generate {task}", unit="episode", file=sys.stderr)

    def __enter__(self) -> Tell:
        return self._tell

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _tell(self, done: int, of: int, note: str) -> None:
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)


def _write(source: Source, folder: Path, episodes: int, workers: int | None, tell: Tell) -> dict[str, Any]:
    reasons, seed, origin = collections.Counter(), source.seed, source.origin()
    try:
        with Writer(folder, task=source.task, resume=_begin(folder, origin), origin=origin) as writer:
            first = writer.seeds[-1] + 1 if writer.seeds else seed
            if len(writer.seeds) > episodes:
                raise ValueError(f"{folder} holds {len(writer.seeds)} episodes already; ask for as many or more, or remove it")
            if len(writer.seeds) < episodes:
                told = (tell, first - seed - len(writer.seeds), reasons)
                _fill(writer, source, episodes, range(first, sys.maxsize), workers, told)
            kept, candidates = len(writer.seeds), writer.seeds[-1] - seed + 1
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:  # the note goes with the last shard that it explains, or when the data set is finished
        if (folder / META).exists() or not any(folder.glob("*.array_record")):
            (folder / BEGUN).unlink(missing_ok=True)
    return {"episodes": kept, "candidates": candidates, "reasons": dict(reasons)}


def _cannot_write(folder: Path, error: OSError) -> OSError:
    """The error for a reader: what is the matter, what is there, what to do."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = f"no space left on the disk of {folder}" if full else f"{folder}: {error.strerror or error}"
    there = len(list(folder.glob("*.array_record")))
    return OSError(f"{what}; what is there is whole ({there} shards): {'make room, and ' if full else ''}the same command goes on")


def _fill(
    writer: Writer, source: Source, episodes: int, seeds: range, workers: int | None, count: tuple[Tell, int, collections.Counter]
) -> None:
    """Add episodes until there are so many; count: whom to tell, candidates rejected before, and reasons of those rejected now."""
    tell, earlier, reasons = count
    with _pool(workers) as pool:
        for attempt in _in_order(pool, functools.partial(attempt_episode, source.task, variety=source.variety), iter(seeds)):
            if attempt.episode is None:
                reasons[attempt.reason] += 1
            else:
                writer.add(attempt.episode)
            kept, rejected = len(writer.seeds), earlier + sum(reasons.values())
            tell(kept, episodes, f"{rejected / (kept + rejected):.1%} rejected")
            if kept == episodes:
                break
            if not kept and rejected >= PATIENCE:
                raise RuntimeError(f"the expert of {source.task!r} failed {rejected} of {rejected} candidates: {dict(reasons)}")


def _begin(folder: Path, origin: dict[str, Any]) -> bool:
    """Note what a data set is begun with; whether one that was begun so is there to be continued.

    Raises ValueError if the folder holds an unfinished one that was begun otherwise: half of it would be of another world.
    """
    note = folder / BEGUN
    if (folder / META).exists():
        return False  # the writer refuses it
    if note.exists():
        found = json.loads(note.read_text())
        if found != origin:
            changed = ", ".join(key for key in origin if found.get(key) != origin[key])
            raise ValueError(f"{folder} holds an unfinished data set with another {changed} ({found}); remove it or name another folder")
        return True
    folder.mkdir(parents=True, exist_ok=True)
    temporary = note.with_suffix(".tmp")
    try:
        temporary.write_text(json.dumps(origin))
        temporary.rename(note)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def physics_of(task: str, variety: Variety = NOMINAL) -> str:
    """Hash of a task's compiled model, with all distractors that it may have."""
    built = scene.build(task, variety.geometry)
    if variety.distractors:
        built = scene.build(task, variety.geometry, randomise.kinds(built))
    model = built.model
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return hashlib.sha256(buffer).hexdigest()[:16]


def _pool(workers: int | None) -> ProcessPoolExecutor:
    count = workers or len(os.sched_getaffinity(0))
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=begin_worker)


def begin_worker() -> None:
    """A worker dies with its parent (Linux), leaves Ctrl-C to it, and runs jax on the CPU."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    runtime.setup("cpu", mjx=False)


def _in_order(pool: ProcessPoolExecutor, work: Callable[[int], Attempt], seeds: Iterator[int]) -> Iterator[Attempt]:
    """Results in the order of the seeds, with a few candidates per worker under way; the rest is cancelled at the end."""
    ahead: collections.deque[Future] = collections.deque(pool.submit(work, next(seeds)) for _ in range(4 * pool._max_workers))
    try:
        while True:
            result = ahead.popleft().result()
            ahead.append(pool.submit(work, next(seeds)))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def attempt_episode(task_name: str, seed: int, variety: Variety = NOMINAL) -> Attempt:
    """Reset by `seed`, let the expert plan with the same seed, run it in native MuJoCo; no episode unless it succeeds.

    The expert plans in the nominal scene, without distractors; it is run in the one that variety and seed make.
    """
    task = tasks.get(task_name, variety.geometry)
    qpos0, variant = (np.asarray(value) for value in _reset(task)(jax.random.key(seed)))
    try:
        actions = experts.plan(task, scene.build(task_name, variety.geometry), qpos0, int(variant), seed)
    except (experts.PlanError, experts.IKError) as error:
        return Attempt(None, f"no plan ({type(error).__name__})")
    actions = np.concatenate([actions, np.repeat(actions[-1:], AFTER_SUCCESS, axis=0)])
    built, qpos0 = randomise.candidate(task_name, qpos0, variety, seed)
    engine = _engine(task_name, variety.geometry).in_scene(built)
    _, trace = engine.run(engine.start(qpos0[None], variant[None]), actions[None])
    if not trace.success[0].any():
        return Attempt(None, "no success")
    length = min(int(np.argmax(trace.success[0])) + 1 + AFTER_SUCCESS, len(actions))
    qpos = np.concatenate([qpos0[None], np.asarray(trace.qpos[0])])[:length]
    return Attempt(record(task, built, qpos, actions[:length], variant=int(variant), seed=seed))


@functools.cache
def _engine(task_name: str, kind: str) -> native.Engine:
    return native.Engine(scene.build(task_name, kind), tasks.get(task_name, kind), threads=1)


@functools.cache
def _reset(task: tasks.Task) -> Callable:
    return jax.jit(task.reset)


def record(task: tasks.Task, built: scene.Scene, qpos: np.ndarray, actions: np.ndarray, *, variant: int, seed: int) -> Episode:
    """The state record of an episode: qpos (t, q) before each of the actions (t, 14).

    Ours: distractors are seen and not named. They are none of the instruction's business, and the 77 tokens of a sentence take
    five or six objects: named in shuffled order, they would drive out those that matter.
    """
    return Episode(
        task=task.name,
        instruction=task.instructions[variant],
        seed=seed,
        joints=measured_joints(qpos),
        actions=np.asarray(actions, np.float32),
        progress=np.linspace(0, 1, len(actions), dtype=np.float32),
        object_names=built.object_names,
        object_positions=object_positions(built, qpos),
        qpos=np.asarray(qpos, np.float32),
        tree=built.tree,
        geom_types=built.geom_types,
        geoms=built.geoms,
    )


def measured_joints(qpos: np.ndarray) -> np.ndarray:
    """Joint state (t, 14): rad, gripper 0 closed to 1 open; the left finger of each hand counts."""
    sides = np.asarray(qpos, np.float64)[:, :16].reshape(-1, 2, 8)
    gripper = (sides[..., 6:7] - aloha.GRIPPER_CLOSED_M) / (aloha.GRIPPER_OPEN_M - aloha.GRIPPER_CLOSED_M)
    return np.concatenate([sides[..., :6], gripper], axis=2).reshape(-1, ACTION_DIM).astype(np.float32)


def object_positions(built: scene.Scene, qpos: np.ndarray) -> np.ndarray:
    """World positions (t, o, 3) m of the named objects."""
    data, found = mujoco.MjData(built.model), np.empty((len(qpos), len(built.object_names), 3), np.float32)
    for tick, row in enumerate(qpos):
        data.qpos[:] = row
        mujoco.mj_kinematics(built.model, data)
        found[tick] = data.xpos[built.object_bodies]
    return found


def expect(source: Source, episodes: int) -> dict[str, float]:
    """What so many episodes would take, by a few candidates on this core: {candidates, core_hours, gib}; ValueError if none succeeds."""
    task, seed, variety = source
    attempt_episode(task, seed, variety)  # compiles what a worker compiles once
    begin, found = time.perf_counter(), [attempt_episode(task, seed + i, variety).episode for i in range(PROBES)]
    seconds, kept = time.perf_counter() - begin, [episode for episode in found if episode is not None]
    if not kept:
        raise ValueError(f"none of {PROBES} candidates of {task!r} succeeded; try another --seed")
    with tempfile.TemporaryDirectory() as folder:
        with Writer(Path(folder, "probe"), task=task) as writer:
            for episode in kept:
                writer.add(episode)
        size = sum(path.stat().st_size for path in Path(folder, "probe").iterdir()) / len(kept)
    candidates = episodes * PROBES / len(kept)
    return {"candidates": candidates, "core_hours": candidates * seconds / PROBES / 3600, "gib": episodes * size / 2**30}


def dry_run(names: list[str], episodes: int, seed: int, workers: int, variety: Variety = NOMINAL) -> None:
    """Print what a run would take."""
    total = collections.Counter()
    for name in names:
        found = expect(Source(name, seed, variety), episodes)
        total.update(found)
        hours = found["core_hours"] / workers
        print(
            f"{name}: {episodes} episodes of {found['candidates']:.0f} candidates, {hours:.2f} h on {workers} cores, {found['gib']:.2f} GiB"
        )
    print(f"all: {episodes * len(names)} episodes, {total['core_hours'] / workers:.1f} h on {workers} cores, {total['gib']:.1f} GiB")


def named(text: str, kind: str = "primitive") -> list[str]:
    """Names of tasks, of words separated by commas that are names or sets; ValueError for an unknown one.

    kind: a geometry; of a set those that there are in it are meant. FileNotFoundError where that geometry's models are not there.
    """
    names = [name for word in text.split(",") for name in there(SETS.get(word, ()), kind) or (word,)]
    for name in names:
        tasks.get(name, kind)
    return list(dict.fromkeys(names))


def there(names: tuple[str, ...], kind: str) -> tuple[str, ...]:
    """Those of some tasks that there are in a geometry."""
    return tuple(name for name in names if kind == "primitive" or tasks.TASKS[name].things)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", required=True, help=f"sets ({', '.join(SETS)}) or names, by commas: {', '.join(sorted(tasks.TASKS))}")
    parser.add_argument("--episodes", type=int, default=200, help="successful episodes of each task")
    geometry.add_arguments(parser)
    parser.add_argument("--physics", choices=tuple(randomise.PHYSICS), default="random", help=PHYSICS_HELP)
    parser.add_argument("--distractors", type=int, help="most of them in an episode; default: 3 with random physics, else 0")
    parser.add_argument("--out", type=Path, required=True, help="folder; each task gets a folder of its name in it")
    parser.add_argument("--seed", type=int, default=0, help="of the first candidate")
    parser.add_argument("--workers", type=int, help="processes; default: one for each core")
    parser.add_argument("--dry-run", action="store_true", help="only say how long it would take and how big it would be")
    args = parser.parse_args()
    try:
        geometry.choose_assets(args.assets)
        names, variety = named(args.tasks, args.geometry), randomise.variety(args.physics, args.distractors, args.geometry)
        print(f"physics: {randomise.told(variety)}")
        if args.dry_run:
            dry_run(names, args.episodes, args.seed, args.workers or len(os.sched_getaffinity(0)), variety)
            return
        for name in names:
            if (args.out / name / META).exists():
                raise ValueError(f"{args.out / name} already holds a finished data set; choose another --out or remove it")
        for name in names:
            done = run(name, args.out / name, episodes=args.episodes, seed=args.seed, workers=args.workers, variety=variety)
            print(f"{name}: {done['episodes']} of {done['candidates']} candidates kept in {args.out / name}")
            print(f"  rejected: {done['reasons'] or 'none'}")
    except KeyboardInterrupt:
        sys.exit("generate: stopped; the same command goes on after the last whole shard")
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"generate: {error}")


if __name__ == "__main__":
    main()
