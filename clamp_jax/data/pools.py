"""Pools for measuring retrieval: one frame each of held-out trajectories of one task, at about one progress."""

from collections.abc import Iterator
from numbers import Real
from typing import NamedTuple

import numpy as np

from clamp_jax.data.pipeline import Dataset, ExampleMaker, example_keys, stack
from clamp_jax.structs import Batch


class Pool(NamedTuple):
    """n examples of one task, each of another trajectory, and the same sentences with another one's positions."""

    batch: Batch  # of n examples, in labels.tokens the true sentences
    permuted_tokens: np.ndarray  # (n, l) int32: instruction, names and progress kept, positions of another trajectory
    prompts: tuple[str, ...]
    permuted_prompts: tuple[str, ...]
    frames: np.ndarray  # (n, 2) trajectory and frame of each


def near_progress(dataset: Dataset, episode: int, progress: Real, window: Real) -> np.ndarray:
    """Frames of an episode whose progress is within `window` of the given one, both in [0, 1]."""
    numbers = dataset.episode(episode)
    values = numbers.progress if dataset.kind == "state" else numbers.progress[numbers.ticks]
    return np.flatnonzero(np.abs(values - progress) <= window + 1e-6)


def _choose(dataset: Dataset, size: int, progress: Real, window: Real, rng: np.random.Generator) -> np.ndarray:
    chosen = []
    for episode in rng.permutation(dataset.episodes).tolist():
        frames = near_progress(dataset, episode, progress, window)
        if len(frames):
            chosen.append((episode, int(rng.choice(frames))))
        if len(chosen) == size:
            return np.array(chosen)
    where = f"{dataset.reader.directory} has {len(chosen)} trajectories with a frame within {window} of progress {progress:.2f}"
    raise ValueError(f"{where}; a pool needs {size}: make more trajectories, hold out more of them, or lower the pool's size")


def _another(count: int, rng: np.random.Generator) -> np.ndarray:
    """A random cycle: for each of `count` another one, no one its own."""
    order, other = rng.permutation(count), np.empty(count, np.int64)
    other[order] = np.roll(order, 1)
    return other


def _pool(dataset: Dataset, maker: ExampleMaker, chosen: np.ndarray, seed: int, draw: int) -> Pool:
    examples = [maker.example_at(dataset, episode, frame) for episode, frame in chosen.tolist()]
    numbers = [dataset.episode(episode) for episode in chosen[:, 0].tolist()]
    ticks = chosen[:, 1] if dataset.kind == "state" else np.array([n.ticks[f] for n, f in zip(numbers, chosen[:, 1], strict=True)])
    positions = [n.object_positions[tick] for n, tick in zip(numbers, ticks, strict=True)]
    other = _another(len(chosen), np.random.default_rng([seed, draw, 1]))
    true = [maker.sentence(n, int(tick), p) for n, tick, p in zip(numbers, ticks, positions, strict=True)]
    moved = [maker.sentence(n, int(tick), positions[j]) for n, tick, j in zip(numbers, ticks, other, strict=True)]
    states, images = (examples, []) if dataset.kind == "state" else ([], examples)
    batch = Batch(stack(states), stack(images), example_keys(seed, draw, np.arange(len(chosen))))
    return Pool(batch, np.stack([t for _, t in moved]), tuple(p for p, _ in true), tuple(p for p, _ in moved), chosen)


def retrieval_pools(
    dataset: Dataset,
    maker: ExampleMaker,
    *,
    seed: int,
    size: int = 64,
    draws: int = 5,
    progress: Real | None = None,
    window: Real = 0.1,
) -> Iterator[Pool]:
    """Draw `draws` pools of `size` trajectories, one frame each within +-window of a progress in [0, 1].

    Without a progress each draw has its own, in [window, 1 - window]. Give the held-out part of a data set. Raises
    ValueError when there are too few trajectories. Ours: near-equal progress, or progress alone would tell frames apart.
    """
    if size < 2:
        raise ValueError(f"size of a pool is {size}; expected 2 or more")
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw])
        aim = float(rng.uniform(window, 1 - window)) if progress is None else progress
        yield _pool(dataset, maker, _choose(dataset, size, aim, window, rng), seed, draw)
