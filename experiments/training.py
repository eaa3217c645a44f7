"""What both stages share: open the data, keep a run's folder, and go round the loop."""

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clamp_jax import checkpoint, parallel, processes, sensors, steps
from clamp_jax.data import pipeline, stats
from clamp_jax.data.folders import CALIBRATIONS
from clamp_jax.data.placed import Placed
from clamp_jax.data.prompts import Tokenize
from clamp_jax.data.transforms import Sizes
from clamp_jax.geometry.aloha import WORKING_RANGE
from clamp_jax.geometry.kinematics import aloha_calibration
from clamp_jax.networks import Networks, make_networks
from clamp_jax.structs import Batch, Capacity, TrainState
from experiments import public, work
from experiments.configs import shared
from experiments.stopping import Signals, Stopped, TrainingError, Watch  # noqa: F401 - TrainingError: entry points catch it
from experiments.writers import Write

CONFIG_FILE, METRICS_FILE = "config.json", "metrics.jsonl"
# What may differ when a run is taken up again: nothing that changes a number. Data are compared by their statistics.
FREE = ("data.paths", "data.threads", "train.log_every", "train.save_every", "train.keep_last", "train.keep_every")
FREE += ("train.spike_factor", "train.spike_window")
# Fields whose absence means what was done before there were any: a run is taken up as it was begun.
ADDED = ("train.pair_loss", "train.mask_false_negatives")
# Fields that runs of earlier versions lack, at the values that mean what those did.
LATER = {
    "ablation": shared.ablation().to_dict(),
    "model": {"text": "own", "resnet": "own", "public": [], "dtype": "float32"},
    "train": {"accumulate": 1},
}

# Initialisation runs once: without optimisation its compilation takes a quarter of the time.
QUICK = {"xla_backend_optimization_level": 0}


RATES = {"samples_per_s": "{:.4g} samples/s", "tflops": "{:.3g} TFLOP/s", "mfu": "{:.0%} MFU"}


class Progress(NamedTuple):
    """Where a run stands, told at every line of the log."""

    step: int
    of: int
    metrics: dict[str, float]
    step_s: float  # mean of the steps since the last line
    wait_share: float  # of that time spent waiting for a batch
    left_s: float | None  # at this speed; None as long as it is not known
    rates: Mapping[str, float] = MappingProxyType({})  # samples_per_s, and tflops of one device and mfu where they are known

    def __str__(self) -> str:
        left = "?" if self.left_s is None else time.strftime("%H:%M:%S", time.gmtime(self.left_s))
        told = [f"step {self.step}/{self.of}", f"loss {self.metrics['loss']:.4f}", f"{self.step_s * 1e3:.0f} ms/step"]
        told += [form.format(self.rates[name]) for name, form in RATES.items() if name in self.rates]
        return "  ".join([*told, f"waits {self.wait_share:.0%}", f"left {left}"])


Tell = Callable[[Progress], None]


def print_progress(progress: Progress) -> None:
    """The default teller: one line."""
    print(progress, flush=True)


def open_batches(
    data: ConfigDict, networks: Networks, *, batch: int, seed: int, tokenize: Tokenize = public.NOTHING.tokenize
) -> tuple[pipeline.Batches, dict[str, Any]]:
    """The batches of a config's section `data`, and the statistics document that travels with the weights.

    Raises ValueError when there are no data, they leave the robot's working range, or cannot fill a batch.
    """
    paths, weights = list(data["paths"]), list(data["weights"]) or [1.0] * len(data["paths"])
    if not paths:
        raise ValueError("config.data.paths is empty; name at least one folder of records, e.g. --config.data.paths=\"('data/a',)\"")
    if len(weights) != len(paths):
        raise ValueError(f"config.data.weights has {len(weights)} numbers for {len(paths)} data sets; give one each, or () for equal ones")
    datasets = [
        pipeline.open_dataset(path, part="train" if data["held_out"] else "all", held_out=data["held_out"], weight=weight)
        for path, weight in zip(paths, weights, strict=True)
    ]
    statistics = stats.compute([dataset.reader for dataset in datasets])
    stats.check(statistics)
    maker = make_examples(data, networks, tokenize)
    about = {"shuffle_objects": data["shuffle_objects"], "process": processes.rank()}
    batches = pipeline.Batches(datasets, maker, batch=batch, seed=seed, **about)
    return batches, statistics_document(statistics) | calibrations_document(datasets)


def make_examples(data: ConfigDict, networks: Networks, tokenize: Tokenize = public.NOTHING.tokenize) -> pipeline.ExampleMaker:
    """How frames become examples, of a config's section `data`."""
    calibration = aloha_calibration(networks.sensor.height, networks.sensor.width)
    sizes = Sizes(data["bodies"], data["qpos"], Capacity(**data["capacity"]))
    about = {"calibration": calibration, "delays": sensors.delays(networks.sensor)}
    return pipeline.ExampleMaker(tokenize, text_length=networks.text_length, sizes=sizes, **about)


def statistics_document(statistics: stats.Statistics) -> dict[str, Any]:
    """What is saved beside weights: the data's statistics and the table by which actions are normalised."""
    return {"data": json.loads(stats.to_json(statistics)), "working_range": WORKING_RANGE.tolist()}


def calibrations_document(datasets: Sequence[pipeline.Dataset]) -> dict[str, Any]:
    """What is saved beside the statistics: the calibrations that the data were recorded with, as data/folders.py names them."""
    return {CALIBRATIONS: sorted({name for dataset in datasets for name in dataset.reader.calibrations})}


def make_spec(config: ConfigDict, stage: str) -> steps.Spec:
    """The static half of a run; `stage` is "pretrain" or "finetune"."""
    networks = make_networks(
        model=config.model.to_dict(),
        views=config.views.to_dict(),
        sensor=config.sensor.to_dict(),
        variant=config.variant,
        ablation=config.ablation.to_dict(),
        capacity=Capacity(**config.data.capacity),
    )
    trained = steps.trained_networks(networks, stage)
    missing = sorted(set(trained) - set(config.optimiser.rates))
    if missing:
        raise ValueError(f"config.optimiser.rates has no learning rate for {', '.join(missing)}; this stage trains {', '.join(trained)}")
    optimiser = steps.make_optimiser(
        {name: config.optimiser.rates[name] for name in trained},
        steps=config.train.steps,
        warmup=config.optimiser.warmup,
        weight_decay=config.optimiser.weight_decay,
        clip=config.optimiser.clip,
        frozen=steps.frozen_parts(networks),
    )
    masked = config.train.get("mask_false_negatives", False)
    average = (config.train.ema_power, config.train.ema_maximum)
    return steps.Spec(networks, optimiser, trained, *average, masked, config.train.get("accumulate", 1))


def as_begun(workdir: Path, config: ConfigDict) -> ConfigDict:
    """The config without those ADDED fields that the run in the folder, if there is one, was begun before."""
    path, config = workdir / CONFIG_FILE, config.copy_and_resolve_references()
    before = json.loads(path.read_text()) if path.exists() else plain(config)
    with config.unlocked():
        for section, field in (name.split(".") for name in ADDED):
            if field in config[section] and field not in before[section]:
                del config[section][field]
    return config


def enter(workdir: Path, config: ConfigDict, stage: str) -> None:
    """Begin a run in its folder, or take it up: the config is written first, and a later one must not differ.

    Raises ValueError that lists what differs.
    """
    path, now = workdir / CONFIG_FILE, plain(config) | {"stage": stage}
    if path.exists():
        differences = [line for line in compare(filled(json.loads(path.read_text())), now) if line.split(":")[0] not in FREE]
        if differences:
            raise ValueError(f"{workdir} holds a run of another config; {'; '.join(differences)}. Use another --workdir, or that config")
    processes.check_alike(now, "the config")
    workdir.mkdir(parents=True, exist_ok=True)
    if processes.first():
        write_text(path, json.dumps(now, indent=1, sort_keys=True))


def plain(config: ConfigDict) -> dict[str, Any]:
    """A config as JSON gives it back: dictionaries and lists."""
    return json.loads(config.to_json())


def filled(document: Mapping[str, Any], later: Mapping[str, Any] = LATER) -> dict[str, Any]:
    """A run's config with the fields that came after it, at the values that mean what was done before there were any."""
    added = {name: value for name, value in later.items() if name not in document}
    inner = {name: filled(document[name], value) for name, value in later.items() if name in document and isinstance(value, Mapping)}
    return dict(document) | added | inner


def compare(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Lines "path: was X, is Y" for everything that differs between two JSON documents."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted(before.keys() | now.keys()):
            yield from compare(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif before != now:
        yield f"{name}: was {before!r}, is {now!r}"


class Clock:
    """Times the steps between two lines of the log; what is done between `stop` and `start` does not count."""

    def __init__(self):
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0
        self.start()

    def start(self) -> None:
        self._begun = time.monotonic()

    def stop(self) -> None:
        self.seconds += time.monotonic() - self._begun

    def wait(self, get: Callable[[], Any]) -> Any:
        """What `get` returns; the time it takes is time waited for data."""
        begun = time.monotonic()
        value = get()
        self.waited += time.monotonic() - begun
        return value


def loop(
    step: Callable[[TrainState, Batch], tuple[TrainState, dict]],
    state: TrainState,
    *,
    batches: pipeline.Batches,
    on: Mesh,
    train: ConfigDict,
    threads: int,
    stop_at: int,
    log: Callable[[int, Mapping, Clock], None],
    watch: Watch,
    store: checkpoint.Checkpoints,
    save: Callable[[TrainState], Any],
    signals: Signals,
) -> TrainState:
    """Train from the state's step to `stop_at`, logging and saving on the way; the last step is always logged and saved.

    A save goes on while the next steps are made; its error ends the run at the next step. Raises Stopped between two steps when
    a signal asks for it, after that step has been logged and saved.
    """
    first = int(jax.device_get(state.step))
    if asked := signals.asked(first):
        raise stopped(asked, first)
    clock, source = Clock(), batches.iterate(first, stop_step=stop_at, threads=threads)
    with contextlib.closing(Placed(source, functools.partial(parallel.shard, on=on))) as incoming:
        for number in range(first + 1, stop_at + 1):
            with jax.transfer_guard("disallow"):  # what goes to a device or comes from it is put there or fetched by name
                batch = clock.wait(lambda: next(incoming))
                state, metrics = step(state, batch)
            clock.steps += 1
            store.check()
            watch(number, metrics)
            asked = signals.asked(number)
            saves = asked or number == stop_at or number % train.save_every == 0
            if saves or number % train.log_every == 0:  # a state is looked at before it is saved
                metrics = jax.device_get(metrics)
                clock.stop()
                log(number, metrics, clock)
                watch.settle()
                watch.look(number, {name: float(value) for name, value in metrics.items()})
                clock = Clock()
            if saves:
                clock.stop()
                save(state)
                clock.start()
            if asked:
                store.wait()
                raise stopped(asked, number)
    store.wait()
    return state


def stopped(signal_name: str, step: int) -> Stopped:
    """What a run leaves with that was asked to stop."""
    message = f"stopped by {signal_name} after step {step}, which is saved; the same command goes on"
    print(message, flush=True)
    return Stopped(message)


class Log:
    """metrics.jsonl of a run, one line each time, and the teller of progress."""

    def __init__(
        self,
        workdir: Path,
        *,
        first: int,
        of: int,
        batch: int,
        tell: Tell,
        write: Write = lambda step, figures: None,
        work: work.Work = work.UNKNOWN,
    ):
        """Lines of steps after `first` belong to a run that was cut off: they come again, so they are dropped. `write`: elsewhere."""
        self.path, self.first, self.of, self.batch, self.tell = workdir / METRICS_FILE, first, of, batch, tell
        self.write, self.work = write, work
        kept = [line for line in read_metrics(workdir) if line["step"] <= first]
        if processes.first():
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def __call__(self, step: int, metrics: Mapping[str, Any], clock: Clock) -> None:
        figures = {name: float(value) for name, value in metrics.items()}
        step_s, wait_share = clock.seconds / clock.steps, clock.waited / clock.seconds
        rates = {"samples_per_s": self.batch / step_s} | self.work.figures(self.batch / step_s)
        line = {"step": step, **figures, "step_s": step_s, "wait_share": wait_share, **rates}
        if processes.first():
            add_line(self.path, json.dumps(line))
        self.write(step, {name: value for name, value in line.items() if name != "step"})
        compiled = step - clock.steps == self.first  # the first line's time is mostly compilation
        left_s = None if compiled else step_s * (self.of - step)
        if processes.first():
            self.tell(Progress(step, self.of, figures, step_s, wait_share, left_s, rates))


def make_watch(workdir: Path, batches: pipeline.Batches, train: ConfigDict) -> Watch:
    """The watch of a run whose Log has been opened; a config that is older than its fields is watched as new ones are."""
    losses = [line["loss"] for line in read_metrics(workdir)]
    known = shared.spikes().to_dict()
    factor, window = (train.get(name, known[name]) for name in ("spike_factor", "spike_window"))
    return Watch(workdir, batches, factor=factor, window=window, losses=losses)


def read_metrics(workdir: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return read_lines(Path(workdir) / METRICS_FILE)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Documents of a file with one a line, none where there is no file; a line that a killed process left unfinished is dropped."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def fresh_state(
    spec: steps.Spec,
    seed: int,
    example: Batch,
    pretrained: Mapping[str, Any] = MappingProxyType({}),
    loaded: public.Public = public.NOTHING,
) -> TrainState:
    """The first state of a run for batches like `example`: the networks in `pretrained` as they are, the others fresh or `loaded`."""
    params = dict(pretrained)
    if set(params) != ({"policy"} if spec.networks.clamp is None else {"clamp", "policy"}):
        init = jax.jit(lambda key: steps.init_params(spec.networks, key, example), compiler_options=QUICK)
        params = public.insert(init(jax.random.key(seed)), loaded) | params
    return steps.begin(spec, params)


def state_shapes(spec: steps.Spec, example: Batch) -> TrainState:
    """Shapes and types of a run's state; raises what is wrong with the batches' sizes before anything is compiled."""
    return jax.eval_shape(lambda: steps.init(spec, jax.random.key(0), example))


def begin_or_resume(
    store: checkpoint.Checkpoints, fresh: Callable[[], TrainState], shapes: TrainState, *, statistics: Mapping, on: Mesh
) -> TrainState:
    """The newest state of a run, else a fresh one; on every device of the mesh. `shapes` are those of the fresh one.

    Raises CheckpointError when the run was begun on other data or with another model.
    """
    processes.check_alike(statistics, "the statistics of the data")
    if store.latest() is None:
        return parallel.replicate(fresh(), on)
    return store.restore(parallel.replicate_shapes(shapes, on), statistics=statistics)


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name and rename it. Raises OSError that names it, and leaves nothing, when the disk is full."""
    temporary = path.with_name(path.name + ".tmp")
    with _told(path):
        try:
            temporary.write_text(text)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def add_line(path: Path, line: str) -> None:
    """Write one more line at the end of a file. Raises OSError that names it when the disk is full."""
    with _told(path), path.open("a") as file:
        file.write(line + "\n")


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """A full disk's error says neither which file nor what to do."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        told = f"{path} cannot be written ({why}); make room or mend the cause, and the same command goes on"
        raise OSError(error.errno, told) from error
