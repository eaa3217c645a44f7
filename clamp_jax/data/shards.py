"""Array-record files: numbered shards of a folder, written whole or not at all, read at random with errors that name them."""

import contextlib
import errno
import hashlib
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

# One record a chunk: a random read decompresses nothing else. zstd 3 makes states a tenth smaller than 1, read as fast; 9 no more.
WRITER_OPTIONS = "group_size:1,zstd:3"
READER_OPTIONS = "readahead_buffer_size:0"  # reads are random: reading ahead would cost 16 MB a shard


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ShardWriter:
    """Numbered array-record files of one kind of record, each written to a temporary name and renamed when full.

    `write` and `finish` raise OSError (with the errno of a full disk) when a shard cannot be written; nothing of it stays.
    """

    def __init__(self, directory: Path, stem: str, limit: int):
        self.directory, self.stem, self.limit = directory, stem, limit
        self.shards: list[dict[str, Any]] = []
        self._writer: Any = None
        self._count = 0

    @property
    def _name(self) -> str:
        return f"{self.stem}-{len(self.shards):05d}.array_record"

    @property
    def _temporary(self) -> Path:
        return self.directory / f"{self._name}.tmp"

    @contextlib.contextmanager
    def _whole_or_not(self) -> Iterator[None]:
        """Array-record tells of a full disk by a RuntimeError: an OSError here, and what was written of the shard is removed."""
        try:
            yield
        except (RuntimeError, OSError) as error:
            self.drop()
            known = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            number = error.errno if isinstance(error, OSError) else next((n for n in known if os.strerror(n) in str(error)), errno.EIO)
            raise OSError(number, f"shard {self.directory / self._name} cannot be written ({error})") from error

    def write(self, record: bytes) -> None:
        with self._whole_or_not():
            if self._writer is None:
                self._writer, self._count = ArrayRecordWriter(str(self._temporary), WRITER_OPTIONS), 0
            self._writer.write(record)
        self._count += 1
        if self._count == self.limit:
            self.finish()

    def finished(self) -> list[Path]:
        """Shards that were written whole before and have no gap before them."""
        paths = [self.directory / f"{self.stem}-{number:05d}.array_record" for number in range(100_000)]
        return list(itertools.takewhile(Path.exists, paths))

    def drop(self) -> None:
        """Close an unfinished shard without making it one, and remove it."""
        if self._writer is not None:
            with contextlib.suppress(RuntimeError):
                self._writer.close()
            self._writer = None
        self._temporary.unlink(missing_ok=True)

    def finish(self) -> None:
        if self._writer is None:
            return
        path = self.directory / self._name
        with self._whole_or_not():
            self._writer.close()  # most of a shard is written no sooner
            found = ArrayRecordReader(str(self._temporary), READER_OPTIONS).num_records()
            if found != self._count:
                raise OSError(errno.EIO, f"{found} of {self._count} records are in it")
            self._temporary.rename(path)
        self._writer = None
        self.shards.append(describe(path, self._count))


def describe(path: Path, records: int) -> dict[str, Any]:
    """What meta.json says of a finished shard."""
    return {"name": path.name, "records": records, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def damages(directory: Path, shards: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each shard that is not, byte for byte, what meta.json says was written."""
    for shard in shards:
        path = directory / shard["name"]
        try:
            same, found = sha256_of(path) == shard["sha256"], path.stat().st_size
        except OSError as error:
            yield f"shard {path} cannot be read ({error.strerror})"
            continue
        if not same:
            yield f"shard {path} is not what was written: it has {found} bytes, {shard['bytes']} were written"


class ShardReader:
    """Random access to the records of a list of shards; errors name the shard."""

    @staticmethod
    def count(path: Path) -> int:
        """Records of a finished shard; ValueError if it is none."""
        try:
            return ArrayRecordReader(str(path), READER_OPTIONS).num_records()
        except RuntimeError as error:
            raise ValueError(f"shard {path} cannot be read ({error}); remove it to have it made again") from error

    def __init__(self, directory: Path, shards: list[dict[str, Any]]):
        self.directory, self.shards = directory, shards
        self.ends = np.cumsum([shard["records"] for shard in shards])
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()
        for shard in shards:
            self._check_size(shard)

    def _check_size(self, shard: dict[str, Any]) -> None:
        path = self.directory / shard["name"]
        found = path.stat().st_size if path.exists() else None
        if found != shard["bytes"]:
            raise ValueError(f"shard {path} has {found} bytes (None: missing); expected {shard['bytes']}: restore it or make it again")

    def _opened(self, number: int) -> Any:
        with self._lock:
            if number not in self._readers:
                self._readers[number] = ArrayRecordReader(str(self.directory / self.shards[number]["name"]), READER_OPTIONS)
            return self._readers[number]

    def read(self, index: int) -> bytes:
        """The bytes of a record; ValueError naming the shard when it is damaged there, or has gone since."""
        number = int(np.searchsorted(self.ends, index, side="right"))
        shard = self.shards[number]
        try:
            return self._opened(number).read([index - int(self.ends[number]) + shard["records"]])[0]
        except (RuntimeError, IndexError, OSError) as error:
            message = f"shard {self.directory / shard['name']} cannot be read at record {index} ({error}); restore it or make it again"
            raise ValueError(message) from error
