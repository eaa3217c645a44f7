"""How fast records become batches, decoding included, and how long training waits for them.

Every record is read and decoded anew: what the pipeline would keep in memory is switched off. The peer is the plainest reader,
one thread that makes the same examples one after the other and stacks them; torch's DataLoader with a process a core is another.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clamp_jax.data.folders import Reader, Writer
from clamp_jax.data.pipeline import Batches, Dataset, ExampleMaker, stack
from clamp_jax.data.records import round_depth
from clamp_jax.data.transforms import count_geoms
from clamp_jax.geometry.kinematics import aloha_calibration
from clamp_jax.sensors import preset
from experiments import pretrain, public, training
from experiments.benchmark import formats
from experiments.benchmark.timing import spread
from experiments.configs import pretrain as pretrain_config

TASK = "drawer_open"
FORMAT_FRAMES = 16  # on which the forms are compared
PER_FRAME = ("ticks", "rgb", "depth_m", "calibration")  # fields of an image episode with a row a frame
TRAINED_UNWATCHED = 10  # steps before the share of waiting is counted: compilation is in them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is read, and how."""
    parser.add_argument("--states", type=Path, help=f"folder of state records; default: some of {TASK} are made")
    parser.add_argument("--images", type=Path, help="folder of image records; default: some frames of those states are drawn, as by D405")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"), help="of the images that are made")
    parser.add_argument("--batch", type=int, default=32, help="of all, and of training")
    parser.add_argument("--batches", type=int, default=32, help="of states a measurement; of images an eighth of it")
    parser.add_argument("--threads", type=int, nargs="+", default=None, help="default: 1, 2, 4 ... up to the number of cores")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", nargs="*", choices=("plain", "torch"), default=["plain"])
    parser.add_argument("--skip-formats", action="store_true", help="leave out the forms in which images may be kept")
    parser.add_argument("--train-steps", type=int, default=40, help="of stage (i) on the states, whose waiting is counted; 0 for none")
    parser.add_argument("--train-preset", default="demo", help="of experiments/configs/pretrain.py")
    parser.add_argument("--train-model", help="of clamp_jax/models/presets.py; default: the preset's")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures; ValueError for bad arguments."""
    cores = os.cpu_count() or 1
    threads = args.threads or [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= max(2, cores)]
    if min(args.batch, args.batches, args.repeats, *threads, *args.size) < 1 or args.train_steps < 0:
        raise ValueError("give 1 or more examples, batches, repeats, threads and pixels, and no negative number of steps")
    if 0 < args.train_steps <= TRAINED_UNWATCHED:
        raise ValueError(f"--train-steps is {args.train_steps}; the first {TRAINED_UNWATCHED} are not counted, so give more, or 0")
    with tempfile.TemporaryDirectory() as folder:
        states, images = _data(args, Path(folder))
        found: dict[str, Any] = {"cores": cores, "batch": args.batch}
        for kind, data, batches in (("states", states, args.batches), ("images", images, max(1, args.batches // 8))):
            found[kind] = feed(data, args.batch, batches, threads, args.repeats, peers=args.peers)
            _tell(kind, found[kind])
        if not args.skip_formats:
            reader = Reader(images)
            frames = [reader.frame(i % len(reader), 0) for i in range(min(len(reader), FORMAT_FRAMES))]
            found["formats"] = formats.measure(frames, Path(folder), args.repeats, cores)
        if args.train_steps:
            found["training"] = wait_share(states, Path(folder) / "run", args)
    return found


def _tell(kind: str, found: dict[str, Any]) -> None:
    ways = ", ".join(f"{name} {figures['median_samples_per_s']:.0f}" for name, figures in found["ways"].items())
    print(f"{kind}: samples/s {ways}; {found['bytes_a_record']:.0f} bytes a record", file=sys.stderr, flush=True)


# ---- records ------------------------------------------------------------------------------------------------------------


def _data(args: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """Folders of state and image records: those that are named, else made."""
    states, images = args.states, args.images
    if states is None:
        from data_tools import generate  # MuJoCo is wanted for this alone

        states = folder / "states"
        generate.run(TASK, states, episodes=args.batch)
    if images is None:
        images = folder / "images"
        _draw(states, images, args.batch, tuple(args.size))
    return states, images


def _draw(states: Path, images: Path, count: int, size: tuple[int, int]) -> None:
    """`count` recorded trajectories of one frame each, several of one episode: their records are as large as any."""
    from data_tools import materialise

    config, reader = preset("d405")._replace(height=size[0], width=size[1]), Reader(states)
    with Writer(images, task=reader.task, kind="image") as writer:
        for i in range(-(-count // materialise.CHUNK_FRAMES)):
            episode, key = reader[i], jax.random.fold_in(jax.random.key(0), i)
            fitting = config._replace(capacity=count_geoms(episode.geom_types))  # empty slots cost time and draw nothing
            every = -(-len(episode.actions) // materialise.CHUNK_FRAMES)
            drawn = materialise.materialise(episode, every=every, config=fitting, key=key)
            for one in range(min(count - materialise.CHUNK_FRAMES * i, len(drawn.ticks))):
                kept = {name: jax.tree.map(lambda x, one=one: x[one : one + 1], getattr(drawn, name)) for name in PER_FRAME}
                writer.add(drawn._replace(**kept | {"depth_m": round_depth(kept["depth_m"])}))


# ---- feeding ------------------------------------------------------------------------------------------------------------


def make_batches(folder: Path, batch: int) -> Batches:
    """The batches of a data set, as the demo's, with nothing kept in memory."""
    reader = Reader(folder)
    maker = ExampleMaker(public.NOTHING.tokenize, calibration=aloha_calibration(64, 64))
    return Batches([Dataset(reader, np.arange(len(reader)), cache_bytes=0)], maker, batch=batch, seed=0, shuffle_objects=True)


def feed(folder: Path, batch: int, count: int, threads: list[int], repeats: int, *, peers: list[str]) -> dict[str, Any]:
    """Samples/s of a data set by the number of threads and of the peers, which take turns, and the ratio of the best to each peer."""
    batches = make_batches(folder, batch)
    ways: dict[str, Callable[[], Iterator[Any]]] = {}
    for number in threads:
        ways[f"{number} threads"] = lambda number=number: batches.iterate(0, stop_step=count, threads=number)
    if "plain" in peers:
        ways["plain"] = lambda: plain(batches, count)
    if "torch" in peers:
        from experiments.benchmark import feeding_torch

        ways["torch"] = feeding_torch.loader(folder, batch, count, max(threads))
    rates, spent_ms = {name: [] for name in ways}, {name: [] for name in ways}
    for repeat in range(-1, repeats):  # the first round is thrown away
        for name, way in ways.items():
            wall_s, cpu_s = _seconds(way, count)
            rates[name] += [batch * count / wall_s] if repeat >= 0 else []
            spent_ms[name] += [1e3 * cpu_s / (batch * count)] if repeat >= 0 else []
    shards = [shard for part in batches.datasets[0].reader.meta["shards"].values() for shard in part]
    records = int(sum(batches.datasets[0].reader.frames)) or len(batches.datasets[0].reader)
    best = max(np.median(rates[f"{number} threads"]) for number in threads)
    ratios = {f"best_over_{peer}": float(best / np.median(rates[peer])) for peer in peers}
    figures = {name: spread("samples_per_s", values) for name, values in rates.items()}
    for name in figures.keys() - {"torch"}:  # whose processes' time is not this one's
        figures[name] |= spread("cpu_ms", spent_ms[name])
    return {"ways": figures, "bytes_a_record": sum(shard["bytes"] for shard in shards) / records, "batches": count} | ratios


def plain(batches: Batches, count: int) -> Iterator[Any]:
    """One thread: the examples of each batch one after the other, stacked."""
    (dataset,) = batches.datasets
    for step in range(count):
        yield stack([batches.maker.example_at(dataset, row.episode, row.frame, order_seed=(0, row.slot)) for row in batches.rows(step)])


def _seconds(way: Callable[[], Iterator[Any]], count: int) -> tuple[float, float]:
    """Of the clock and of the processor, from the making of an iterator to its last batch: nothing is made before the clock starts."""
    spent, begun = time.process_time(), time.perf_counter()
    number = sum(1 for _ in way())
    wall_s, cpu_s = time.perf_counter() - begun, time.process_time() - spent
    if number != count:
        raise ValueError(f"{number} batches came where {count} were asked for")
    return wall_s, cpu_s


# ---- training -----------------------------------------------------------------------------------------------------------


def wait_share(states: Path, workdir: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Share of the time that a training loop waits for data, over all its steps but the first ones."""
    config = pretrain_config.get_config(args.train_preset)
    reader, train = Reader(states), {"steps": args.train_steps, "save_every": args.train_steps, "log_every": TRAINED_UNWATCHED}
    with config.unlocked():
        config.train.update(train)
        config.optimiser.warmup = min(config.optimiser.warmup, args.train_steps - 1)
        config.train.batch = args.batch
        config.data.paths, config.data.held_out = (str(states),), 0.0
        config.data.capacity.update(reader.meta["used"]["geoms"])
        if args.train_model:
            config.model.preset = args.train_model
        if config.model.text != "own":
            config.model.text = "own"  # no public weights are at hand
    pretrain.run(config, workdir, tell=lambda progress: print(progress, file=sys.stderr, flush=True))
    lines = [line for line in training.read_metrics(workdir) if line["step"] > TRAINED_UNWATCHED]
    share = {name: [line[name] for line in lines] for name in ("wait_share", "step_s", "samples_per_s")}
    about = {"preset": args.train_preset, "model": config.model.preset, "steps": args.train_steps - TRAINED_UNWATCHED}
    return about | {key: value for name, values in share.items() for key, value in spread(name, values).items()}
