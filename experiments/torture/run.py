"""The run that is tortured: `debug` networks cut down further, on made-up recorded episodes.

Everything is stage (i)'s own but one thing: the compiled step and the first state are made once and kept beside the data,
so that a restart need not trace and compile again.
"""

import contextlib
import functools
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from clamp_jax import checkpoint, parallel, steps
from clamp_jax.data.folders import Writer
from clamp_jax.data.records import Episode
from clamp_jax.geometry import aloha
from clamp_jax.structs import CAMERAS, Calibration, TrainState
from experiments import training
from experiments.configs import pretrain as presets

SIZE = 8  # pixels of an image's side
EPISODES, TICKS, EVERY = 12, 60, 20  # of the data set, of an episode, and between two images
SMALLER = (
    ("camera_height", SIZE),
    ("camera_width", SIZE),
    ("policy.resnet.blocks", (1,)),
    ("policy.resnet.channels", (8,)),
    # of one patch an image: a norm over the two numbers of a group makes of a rounding of their difference a hundred times as much
    ("policy.resnet.groups", 1),
    ("draws", 2),
    ("clamp.text.transformer.depth", 0),
    ("clamp.action.transformer.depth", 0),
    ("policy.encoder.depth", 0),
)


COMPILED, DATA, BEGUN = "compiled", "data", "begun"


class Plan(NamedTuple):
    """What a run is: the same plan gives the same losses."""

    folder: Path  # of the data and of what is kept
    steps: int
    save_every: int
    variant: str = "clamp"


def config(plan: Plan) -> ConfigDict:
    """The `debug` preset on the plan's data, with smaller networks; every step is logged and no loss is called a leap."""
    found = presets.get_config("debug")
    with found.unlocked():
        found.variant = plan.variant
        found.model.overrides = SMALLER
        found.data.paths = (str(plan.folder / DATA),)
        found.train.update({"steps": plan.steps, "save_every": plan.save_every, "spike_factor": 0.0})
    return found


def make_data(folder: Path, episodes: int = EPISODES) -> Path:
    """A data set of made-up recorded episodes; all of it follows from their numbers. Nothing is done when it is there."""
    if not folder.exists():
        with Writer(folder, task="torture", kind="image") as writer:
            for number in range(episodes):
                writer.add(_episode(number))
    return folder


def _episode(number: int) -> Episode:
    rng = np.random.default_rng([2602, number])
    time_s = np.arange(TICKS)[:, None] / 50
    swing = np.where(np.arange(14) % 7 == 6, 0.0, 0.2 * np.sin(2 * np.pi * rng.uniform(0.3, 1, 14) * time_s))
    joints = (np.tile(aloha.HOME_COMMAND, 2) + swing).astype(np.float32)
    ticks = np.arange(0, TICKS, EVERY, dtype=np.int32)
    shape = (len(ticks), len(CAMERAS), SIZE, SIZE)
    return Episode(
        task="torture",
        instruction="keep still",
        seed=number,
        joints=joints,
        actions=np.concatenate([joints[1:], joints[-1:]]),
        progress=np.linspace(0, 1, TICKS, dtype=np.float32),
        object_names=("red box",),
        object_positions=np.tile(np.float32([0.1, 0.0, 0.05]), (TICKS, 1, 1)),
        kind="image",
        ticks=ticks,
        rgb=rng.integers(0, 256, (*shape, 3), np.uint8),
        depth_m=rng.uniform(0.2, 1.5, shape).astype(np.float32),
        calibration=Calibration(*(np.repeat(part[None], len(ticks), axis=0) for part in calibration(SIZE, SIZE))),
    )


def calibration(height: int, width: int) -> Calibration:
    """Four cameras that look straight down from where the cell's are; numpy alone, for a quick start."""
    mounts = [aloha.CAMERA_MOUNTS[name] for name in CAMERAS]
    poses = np.tile(np.diag([1.0, -1, -1, 1]), (len(mounts), 1, 1))
    poses[:, :3, 3] = [mount.pos for mount in mounts]
    bases = np.tile(np.eye(4), (2, 1, 1))
    bases[:, :3, 3] = [aloha.BASES[side][0] for side in aloha.SIDES]
    bases[1, :2, :2] *= -1  # the right arm is turned by half a turn
    intrinsics = np.tile(aloha.d405_intrinsics(height, width), (len(mounts), 1))
    mount = np.array([mount.mount for mount in mounts], np.int32)
    return Calibration(*(part.astype(np.float32) for part in (intrinsics, poses)), mount, bases.astype(np.float32))


def prepare(plan: Plan) -> None:
    """Make the data, the first state and the compiled step of a plan."""
    spec, batches, _ = _open(plan)
    example = batches.batch_at(0)
    on = parallel.mesh(jax.devices()[:1])
    state = parallel.replicate(training.fresh_state(spec, 0, example), on)
    mapped = parallel.map_step(functools.partial(steps.pretrain_step, spec), on, compiler_options=dict(config(plan).train.compiler_options))
    with _without_cache():  # what comes from jax's cache cannot be written out again: "function not found" when it is read
        compiled = mapped.lower(state, parallel.shard(example, on)).compile()
    payload = serialize_executable.serialize(compiled)[0]
    _, metrics = compiled(jax.tree.map(jax.numpy.copy, state), parallel.shard(example, on))
    structure = jax.tree.map(lambda _: 0, example)
    (plan.folder / COMPILED).write_bytes(pickle.dumps((payload, jax.device_get(state), jax.device_get(metrics), structure)))


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    before = jax.config.jax_enable_compilation_cache
    _use_cache(False)
    try:
        yield
    finally:
        _use_cache(before)


def _use_cache(enabled: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", enabled)
    compilation_cache.reset_cache()


def train(plan: Plan, workdir: Path, *, tell: training.Tell = lambda progress: None) -> TrainState:
    """Train until the last step of the plan, taking up what is in the folder."""
    payload, first, metrics, batch = pickle.loads((plan.folder / COMPILED).read_bytes())
    inside, outside = jax.tree.structure(((first, batch), {})), jax.tree.structure((first, metrics))
    step = serialize_executable.deserialize_and_load(payload, inside, outside)
    _, batches, statistics = _open(plan)
    found, on = config(plan), parallel.mesh(jax.devices()[:1])
    training.enter(workdir, found, "pretrain")
    shapes = jax.eval_shape(lambda: first)
    with training.Signals() as signals, checkpoint.Checkpoints(workdir, keep_last=2) as store:
        state = training.begin_or_resume(store, lambda: first, shapes, statistics=statistics, on=on)
        begun = int(state.step)
        log = training.Log(workdir, first=begun, of=plan.steps, batch=found.train.batch, tell=tell)
        with (workdir / BEGUN).open("a") as file:
            file.write(f"{begun}\n")
        return training.loop(
            step,
            state,
            batches=batches,
            on=on,
            train=found.train,
            threads=found.data.threads,
            stop_at=plan.steps,
            log=log,
            watch=training.make_watch(workdir, batches, found.train),
            signals=signals,
            store=store,
            save=lambda state: store.save(state, training.plain(found), statistics),
        )


def _open(plan: Plan) -> tuple[Any, Any, dict]:
    found = config(plan)
    make_data(plan.folder / DATA)
    spec = training.make_spec(found, "pretrain")
    return spec, *training.open_batches(found.data, spec.networks, batch=found.train.batch, seed=found.seed)
