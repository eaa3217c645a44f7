"""Batches as a pure function of (seed, step): which trajectories, which frames, and their arrays.

Every data set has its own fixed slots in the batch. Each of its epochs is one permutation of its trajectories, cut into
whole batches, so that a batch never holds two frames of one trajectory, at the border of two epochs either (frames of
one trajectory are near-duplicates that the loss would call negatives). States and the images that were drawn of them are
the same trajectories and share one permutation. To resume, the step is all one needs to know.
"""

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np

from clamp_jax.data.caches import Cache
from clamp_jax.data.folders import Readable, Reader
from clamp_jax.data.prompts import WORKSPACE_HIGH, WORKSPACE_LOW, Tokenize, fitting_prompt, object_order
from clamp_jax.data.records import Episode
from clamp_jax.data.transforms import SIZES, Sizes, future_chunk, pad_geoms, pad_qpos, pad_tree, past_chunk
from clamp_jax.sensors import Delays
from clamp_jax.structs import Batch, Calibration, Capacity, Geoms, ImageExample, Labels, Observation, SceneState, StateExample, Target, Tree

TEXT_LENGTH = 77  # tokens of CLIP's text encoder
CACHE_BYTES = 256 << 20  # decoded episodes kept in memory, for each data set
_SPLIT_SEED = 2602  # fixed, so that a trajectory held out once is held out in every run


def split(count: int, held_out: Real) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the trajectories to train on and of those held out, a fraction of `count`; the same in every run.

    It depends on the number alone: a state data set and the images made of it are split alike.
    Raises ValueError for a fraction outside [0, 1) and when nothing is left to train on.
    """
    if not 0 <= held_out < 1:
        raise ValueError(f"held-out fraction is {held_out}; expected 0 <= fraction < 1")
    number = max(1, round(count * held_out)) if held_out else 0
    if number >= count:
        raise ValueError(f"holding out {held_out} of {count} trajectories leaves none to train on; lower it or add trajectories")
    order = np.random.default_rng([_SPLIT_SEED, count]).permutation(count)
    return np.sort(order[number:]), np.sort(order[:number])


class Dataset:
    """Some trajectories of a data set and their weight in a mixture; decoded ones are kept in memory, bounded."""

    def __init__(self, reader: Readable, episodes: Sequence[int] | np.ndarray, *, weight: Real = 1.0, cache_bytes: int = CACHE_BYTES):
        self.reader, self.episodes, self.weight = reader, np.asarray(episodes, np.int64), weight
        if len(self.episodes) == 0:
            raise ValueError(f"{reader.directory}: no trajectory is left; choose another part or fraction")
        if not 0 < weight < np.inf:
            raise ValueError(f"{reader.directory}: weight is {weight}; expected a positive number (leave the data set out instead)")
        self.episode: Callable[[int], Episode] = Cache(reader.__getitem__, cache_bytes)
        self.image = Cache(lambda key: reader.frame(*key), cache_bytes)

    @property
    def kind(self) -> str:
        return self.reader.kind

    def frames(self, episode: int) -> int:
        """Frames that examples can be made of: ticks of a state episode, images of a recorded one."""
        return int((self.reader.ticks if self.kind == "state" else self.reader.frames)[episode])


def open_dataset(directory: str | Path, *, part: str = "all", held_out: Real = 0.1, weight: Real = 1.0) -> Dataset:
    """A folder's data set: its part "train", "held_out" (by trajectory, a fixed fraction) or "all"."""
    reader = Reader(directory)
    if part not in ("all", "train", "held_out"):
        raise ValueError(f"part of {directory} is {part!r}; expected 'all', 'train' or 'held_out'")
    if part == "all":
        return Dataset(reader, np.arange(len(reader)), weight=weight)
    return Dataset(reader, split(len(reader), held_out)[part == "held_out"], weight=weight)


class ExampleMaker:
    """Makes an example of a frame: padded tables, chunks of actions, tokens of its sentence.

    `delays` are those of simulated sensors; what was recorded as images is as late as it was recorded.
    """

    def __init__(
        self,
        tokenize: Tokenize,
        *,
        text_length: int = TEXT_LENGTH,
        sizes: Sizes = SIZES,
        calibration: Calibration | None = None,
        delays: Delays = Delays(),  # noqa: B008 - immutable
        low: Sequence[Real] = WORKSPACE_LOW,
        high: Sequence[Real] = WORKSPACE_HIGH,
        embedded: Callable[[Dataset, int], np.ndarray] | None = None,
    ):
        self.embedded = embedded  # (data set, episode) -> (frames, 2, d): what recorded examples carry of frozen encoders
        self.tokenize, self.text_length, self.sizes, self.calibration = tokenize, text_length, sizes, calibration
        self.delays, self.low, self.high = delays, low, high
        self._tables = functools.lru_cache(maxsize=4096)(self._pad)

    def example_at(
        self, dataset: Dataset, episode: int, frame: int, *, trajectory: int | None = None, order_seed: Sequence[int] | None = None
    ) -> StateExample | ImageExample:
        """One example, numpy leaves: of tick `frame` of a state data set, or of image number `frame` of a recorded one.

        `trajectory` is its id in the mixture (default: the episode's index); objects are named in the order of `order_seed`.
        Where sensors are late, the images and the joints are those of earlier ticks, and all else is of the tick itself: past
        commands are known at once, and targets and labels (the sentence's positions too, so that it tells of one moment) say
        what a policy has to act on now.
        """
        numbers = dataset.episode(episode)
        tick = frame if dataset.kind == "state" else int(numbers.ticks[frame])
        tokens = self.sentence(numbers, tick, numbers.object_positions[tick], order_seed)[1]
        labels = Labels(tokens, np.int32(episode if trajectory is None else trajectory))
        target, past = Target(*future_chunk(numbers.actions, tick)), past_chunk(numbers.actions, tick)
        if dataset.kind == "state":
            return self._state(dataset, (episode, numbers), tick, (*past, labels, target))
        image = dataset.image((episode, frame))
        seen = Observation(image.rgb, image.depth_m, image.calibration, numbers.joints[tick], *past)
        return ImageExample(seen, labels, target, None if self.embedded is None else self.embedded(dataset, episode)[frame])

    def sentence(
        self, episode: Episode, tick: int, positions_m: np.ndarray, order_seed: Sequence[int] | None = None
    ) -> tuple[str, np.ndarray]:
        """The prompt of a tick and its tokens, with objects at the given world positions (o, 3)."""
        order = object_order(len(episode.object_names), order_seed)
        names, progress = [episode.object_names[i] for i in order], float(episode.progress[tick])
        bounds = {"low": self.low, "high": self.high}
        fit = {"tokenize": self.tokenize, "length": self.text_length}
        return fitting_prompt(episode.instruction, names, positions_m[order], progress, **fit, **bounds)

    def _state(self, dataset: Dataset, numbered: tuple[int, Episode], tick: int, rest: tuple) -> StateExample:
        if self.calibration is None:
            raise ValueError("a state data set needs the calibration of the cell that draws its images: aloha_calibration(height, width)")
        if dataset.reader.meta.get("origin", {}).get("geometry", "primitive") != "primitive":
            found = f"{dataset.reader.directory} is of a scene of meshes, which a state record does not hold"
            raise ValueError(f"{found}; draw its images: python -m data_tools.materialise")
        episode, numbers = numbered
        tree, geoms = self._tables(dataset, episode)
        # before the start all was at rest as in the first tick
        shown, measured = (max(tick - delay, 0) for delay in (self.delays.image, self.delays.joint))
        scene = SceneState(pad_qpos(numbers.qpos[shown], self.sizes.qpos), tree, geoms)
        return StateExample(scene, self.calibration, numbers.joints[measured], *rest)

    def _pad(self, dataset: Dataset, episode: int) -> tuple[Tree, Geoms]:
        numbers = dataset.episode(episode)
        return pad_tree(numbers.tree, self.sizes.bodies), pad_geoms(numbers.geom_types, numbers.geoms, self.sizes.geoms)


def stack(examples: Sequence[Any]) -> Any:
    """Examples along a new leading axis, numpy leaves; None of none."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *examples) if examples else None


def fill(examples: Iterable[Any], count: int) -> Any:
    """As `stack` of `count` examples, each put in its row as it comes: what it was decoded into is free for the next; None of none.

    Raises ValueError when they differ in what they hold, or there are not so many.
    """
    whole, made = None, 0
    for example in examples:
        leaves, structure = jax.tree.flatten(example)
        leaves = [np.asarray(leaf) for leaf in leaves]
        form = structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
        if whole is None:
            whole, expected = [np.empty((count, *leaf.shape), leaf.dtype) for leaf in leaves], form
        if form != expected:
            raise ValueError(f"example {made} of a batch holds {form}, the first {expected}; examples of one kind are alike")
        for rows, leaf in zip(whole, leaves, strict=True):
            rows[made] = leaf
        made += 1
    if made != count:
        raise ValueError(f"{made} examples came where {count} were expected")
    return None if whole is None else jax.tree.unflatten(expected[0], whole)


def slots_by_weight(weights: Sequence[Real], batch: int) -> np.ndarray:
    """Slots of each data set in a batch, by largest remainder; equal remainders go to the first."""
    shares = np.asarray(weights, np.float64) / np.sum(weights) * batch
    slots = np.floor(shares).astype(np.int64)
    order = np.argsort(slots - shares, kind="stable")
    slots[order[: batch - slots.sum()]] += 1
    return slots


@jax.jit
def _fold(numbers: jax.Array) -> jax.Array:
    key = jax.random.fold_in(jax.random.key(numbers[0]), numbers[1])
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers[2:])


def example_keys(seed: int, step: int, indices: np.ndarray) -> jax.Array:
    """Typed keys of a step's examples, fold_in(fold_in(key(seed), step), global index), (len(indices),)."""
    # put explicitly: a training loop may forbid implicit transfers
    return _fold(jax.device_put(np.concatenate([[seed, step], indices]).astype(np.uint32)))


class Row(NamedTuple):
    """One slot of a batch: which frame of which trajectory stands in it."""

    slot: int  # global index in the batch
    dataset: int
    episode: int
    frame: int


class RecordId(NamedTuple):
    """What stands in a slot of a batch, by names that mean the same in every run and on every machine."""

    slot: int  # global index in the batch
    dataset: str  # name of its folder
    fingerprint: str  # of the data set
    episode: int
    frame: int  # tick of a state episode, number of an image of a recorded one

    def __str__(self) -> str:
        return f"{self.dataset}@{self.fingerprint[:12]} episode {self.episode} frame {self.frame}"


class Batches:
    """The batches of a mixture of data sets, by step; `batch_at(step)` is a pure function of (seed, step)."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        maker: ExampleMaker,
        *,
        batch: int,
        seed: int,
        shuffle_objects: bool = False,
        process: tuple[int, int] = (0, 1),
    ):
        """Raises ValueError for slots that the data cannot fill, a data set given twice, or rows that processes cannot share.

        process is (index, count): process p takes rows p::count of the simulated examples and of the recorded ones.
        """
        self.datasets = sorted(datasets, key=lambda d: d.kind, reverse=True)  # simulated first, as Batch has them
        self.maker, self.batch, self.seed, self.shuffle_objects, self.process = maker, batch, seed, shuffle_objects, process
        if not datasets:
            raise ValueError("no data set was given; name at least one")
        self.slots = slots_by_weight([d.weight for d in self.datasets], batch)
        self.first_slot = np.cumsum(self.slots) - self.slots
        lengths = [len(d.reader) for d in self.datasets]
        self._first_trajectory = np.cumsum(lengths) - lengths
        self._order = functools.lru_cache(maxsize=64)(self._permutation)
        recordings = [d.reader.trajectories for d in self.datasets]
        self._source = [recordings.index(name) for name in recordings]  # the first data set of the same trajectories; mostly itself
        self._check()

    def _check(self) -> None:
        if len({d.reader.fingerprint for d in self.datasets}) < len(self.datasets):
            raise ValueError("a data set is given twice; a batch would hold two frames of one trajectory: give each once, with its weight")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed is {self.seed}; expected 0 <= seed < 2**31")
        for dataset, slots in zip(self.datasets, self.slots, strict=True):
            if slots == 0:
                where = f"{dataset.reader.directory} has weight {dataset.weight}"
                raise ValueError(f"{where}, which is no slot in a batch of {self.batch}; raise it or the batch")
        self._check_trajectories()
        cameras = {str(d.reader.directory): d.reader.meta["cameras"] for d in self.datasets if d.kind == "image"}
        if len(set(map(tuple, cameras.values()))) > 1:
            raise ValueError(f"images differ in cameras or size (k, h, w): {cameras}; materialise or convert them to one")
        for kind in ("state", "image"):
            number = sum(s for d, s in zip(self.datasets, self.slots, strict=True) if d.kind == kind)
            if number % self.process[1]:
                raise ValueError(f"{number} {kind} examples a batch cannot be shared by {self.process[1]} processes; choose a multiple")

    def _check_trajectories(self) -> None:
        """Refuse data sets whose trajectories, which several may have in common, do not fill their slots."""
        for i, dataset in enumerate(self.datasets):
            where, first = dataset.reader.directory, self.datasets[self._source[i]]
            if not np.array_equal(dataset.episodes, first.episodes):
                cure = "give both the same part and the same fraction held out"
                raise ValueError(f"{where} and {first.reader.directory} are of the same trajectories, but different parts of them; {cure}")
        for i, dataset in enumerate(self.datasets):
            slots, count = self._together(i)[0], len(dataset.episodes)
            if slots > count:
                where = f"{dataset.reader.directory} has {slots} slots"
                shared = "" if slots == self.slots[i] else " together with the data of the same trajectories"
                message = "a batch holds at most one frame of a trajectory: lower the batch, or make more trajectories"
                raise ValueError(f"{where}{shared} in a batch of {self.batch} but {count} trajectories; {message}")

    def _together(self, i: int) -> tuple[int, int]:
        """Slots of all data sets of the same trajectories, and how many of them are of sets before `i`."""
        slots = [s if source == self._source[i] else 0 for s, source in zip(self.slots.tolist(), self._source, strict=True)]
        return sum(slots), sum(slots[:i])

    def _permutation(self, dataset: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, dataset, epoch]).permutation(self.datasets[dataset].episodes)

    def rows(self, step: int) -> list[Row]:
        """What stands in every slot of the global batch of a step, without reading a record."""
        where = np.random.default_rng([self.seed, step]).random(self.batch)
        rows = []
        for i, (dataset, slots) in enumerate(zip(self.datasets, self.slots.tolist(), strict=True)):
            together, before = self._together(i)
            epoch, number = divmod(step, len(dataset.episodes) // together)
            start = number * together + before
            chosen = self._order(self._source[i], epoch)[start : start + slots]
            for slot, episode in enumerate(chosen.tolist(), int(self.first_slot[i])):
                rows.append(Row(slot, i, episode, int(where[slot] * dataset.frames(episode))))
        return rows

    def record_ids(self, step: int, *, own: bool = False) -> list[RecordId]:
        """What stands in the global batch of a step, in the order of its slots, without reading a record; `own`: this process's rows.

        The same whatever the number of processes, threads and devices: for the log of a run that stops on a batch.
        """
        rows = self.rows(step)
        rows = self._own(rows, "state") + self._own(rows, "image") if own else rows
        readers = [dataset.reader for dataset in self.datasets]
        names = [(reader.directory.resolve().name, reader.fingerprint) for reader in readers]
        return [RecordId(row.slot, *names[row.dataset], row.episode, row.frame) for row in rows]

    def with_embeddings(self, embedded: Callable[[Dataset, int], np.ndarray]) -> "Batches":
        """The same batches, whose recorded examples carry what frozen encoders gave of them: (data set, episode) -> (frames, 2, d)."""
        other = copy.copy(self)
        other.maker = copy.copy(self.maker)
        other.maker.embedded = embedded
        return other

    def _own(self, rows: list[Row], kind: str) -> list[Row]:
        index, count = self.process
        return [row for row in rows if self.datasets[row.dataset].kind == kind][index::count]

    def _example(self, step: int, row: Row) -> StateExample | ImageExample:
        order = (self.seed, step, row.slot) if self.shuffle_objects else None
        trajectory = int(self._first_trajectory[self._source[row.dataset]]) + row.episode
        return self.maker.example_at(self.datasets[row.dataset], row.episode, row.frame, trajectory=trajectory, order_seed=order)

    def batch_at(self, step: int) -> Batch:
        """The batch of a step (this process's rows of it): numpy leaves, keys of the global index."""
        rows = self.rows(step)
        states, images = self._own(rows, "state"), self._own(rows, "image")
        keys = example_keys(self.seed, step, np.array([row.slot for row in states + images]))
        return Batch(*(fill((self._example(step, row) for row in part), len(part)) for part in (states, images)), keys)

    def iterate(self, start_step: int = 0, *, stop_step: int = 2**31 - 1, threads: int = 2, ahead: int = 4) -> Iterator[Batch]:
        """Batches from `start_step` on, made ahead by grain in threads; as many are made or waiting as there are threads, `ahead` at least.

        Threads, not processes: grain's workers outlive a killed parent and leave shared memory behind.
        """
        steps = grain.MapDataset.range(start_step, stop_step).map(self.batch_at)
        # with room for fewer batches than threads the others would wait
        return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(ahead, threads))))


def make_batches(
    datasets: Sequence[Dataset],
    *,
    batch: int,
    seed: int,
    tokenize: Tokenize,
    start_step: int = 0,
    calibration: Calibration | None = None,
    text_length: int = TEXT_LENGTH,
    capacity: Capacity = SIZES.geoms,
    bodies: int = SIZES.bodies,
    qpos: int = SIZES.qpos,
    threads: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Batches of a mixture of data sets from `start_step` on: `Batches` and `ExampleMaker` with their usual options."""
    maker = ExampleMaker(tokenize, text_length=text_length, sizes=Sizes(bodies, qpos, capacity), calibration=calibration)
    batches = Batches(datasets, maker, batch=batch, seed=seed, process=(process_index, process_count))
    return batches.iterate(start_step, threads=threads)
