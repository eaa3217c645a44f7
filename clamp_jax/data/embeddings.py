"""What frozen encoders gave of recorded episodes, kept on disk: a file an episode, under the hash of the weights and of the record.

A changed weight, view or pixel has another name, so that nothing stale is ever read; a file that is damaged is made again.
"""

import hashlib
import os
import threading
from pathlib import Path

import numpy as np

from clamp_jax.data.pipeline import Dataset

_HASH_BYTES = 32  # SHA-256 of the numbers, at the end of each file


class Store:
    """Embeddings (frames, 2, d) float32 of image and action encoder by episode, of one set of weights; safe among threads."""

    def __init__(self, folder: str | Path, weights: str, width: int):
        """`weights`: hash of all that the embeddings depend on beside the record; `width`: d."""
        self.folder, self.width = Path(folder) / weights[:16], width
        self._weights, self._known, self._paths = weights, {}, {}
        self._lock = threading.Lock()

    def __call__(self, dataset: Dataset, episode: int) -> np.ndarray:
        """The embeddings of an episode; ValueError when there are none."""
        key = (dataset.reader.fingerprint, episode)
        with self._lock:
            if key in self._known:
                return self._known[key]
        found = self.read(dataset, episode)
        if found is None:
            raise ValueError(f"no embeddings of episode {episode} of {dataset.reader.directory} in {self.folder}; make them first")
        with self._lock:
            self._known[key] = found
        return found

    def path(self, dataset: Dataset, episode: int) -> Path:
        """Where the embeddings of an episode stand."""
        key = (dataset.reader.fingerprint, episode)
        if key not in self._paths:  # an episode's images are read whole for it
            name = hashlib.sha256(f"{self._weights} {dataset.reader.record_hash(episode)}".encode()).hexdigest()
            self._paths[key] = self.folder / f"{name[:40]}.f32"
        return self._paths[key]

    def read(self, dataset: Dataset, episode: int) -> np.ndarray | None:
        """The embeddings of an episode, None where there are none or the file is damaged."""
        try:
            content = self.path(dataset, episode).read_bytes()
        except FileNotFoundError:
            return None
        numbers, seal = content[:-_HASH_BYTES], content[-_HASH_BYTES:]
        shape = (dataset.frames(episode), 2, self.width)
        if hashlib.sha256(numbers).digest() != seal or len(numbers) != 4 * np.prod(shape):
            return None
        return np.frombuffer(numbers, "<f4").reshape(shape)

    def write(self, dataset: Dataset, episode: int, embeddings: np.ndarray) -> None:
        """Keep the embeddings of an episode; ValueError for another shape, or for values that are not finite."""
        shape = (dataset.frames(episode), 2, self.width)
        if embeddings.shape != shape or not np.isfinite(embeddings).all():
            found = f"{embeddings.shape}, finite: {bool(np.isfinite(embeddings).all())}"
            raise ValueError(f"embeddings of episode {episode} of {dataset.reader.directory} are {found}; expected finite numbers {shape}")
        numbers = np.ascontiguousarray(embeddings, "<f4").tobytes()
        path = self.path(dataset, episode)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(numbers + hashlib.sha256(numbers).digest())
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
