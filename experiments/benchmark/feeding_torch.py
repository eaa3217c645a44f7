"""The same examples by torch's DataLoader with worker processes: the peer of our reader. The extra [bench] has torch."""

import functools
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax


class Rows:
    """A map-style data set: example i is row i of the batches one after the other. Opened anew in every process."""

    def __init__(self, folder: Path, batch: int, count: int):
        self.folder, self.batch, self.count = folder, batch, count
        self._batches: Any = None

    def __len__(self) -> int:
        return self.batch * self.count

    def __getitem__(self, index: int) -> list[Any]:
        from experiments.benchmark import feeding

        if self._batches is None:
            self._batches = feeding.make_batches(self.folder, self.batch)
            self._rows = functools.lru_cache(maxsize=8)(self._batches.rows)
        row = self._rows(index // self.batch)[index % self.batch]
        (dataset,) = self._batches.datasets
        example = self._batches.maker.example_at(dataset, row.episode, row.frame, order_seed=(0, row.slot))
        return [leaf.copy() for leaf in jax.tree.leaves(jax.device_get(example))]


def loader(folder: Path, batch: int, count: int, workers: int) -> Callable[[], Iterator[Any]]:
    """Makes iterators over the batches; the processes start with the first one and stay. ValueError without torch."""
    if importlib.util.find_spec("torch") is None:
        raise ValueError("torch is not installed; pip install '.[bench]', or leave --peers torch out")
    from torch.utils.data import DataLoader

    # spawned, not forked: a fork of a process in which jax runs threads may hang
    about = {"num_workers": workers, "multiprocessing_context": "spawn", "persistent_workers": True}
    made = DataLoader(Rows(folder, batch, count), batch_size=batch, shuffle=False, **about)
    return lambda: iter(made)
