"""The file of one recorded episode: streamed while the arms move, whole or not there at all, with a SHA-256 over all its bytes.

16 bytes that say what it is, then blocks: four letters, the length as an unsigned 64-bit number, the content, all little endian.

    head  JSON: task, instruction, number, rates, cameras, size, calibration, where the actions come from
    tick  a row of `row_type`: tick, times, joints, command, positions of objects
    imgs  times of the k cameras (float64), then the bytes of `records.encode_frame`
    tail  JSON: how it ended

and the SHA-256 of everything before it. Times are seconds since the episode's first tick, on the monotonic clock.
"""

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from clamp_jax.data.records import Episode, Frame, decode_frame, encode_frame
from clamp_jax.structs import ACTION_DIM, Calibration

MAGIC = b"clamp.episode.1\n"
EPISODE, PARTIAL, DROPPED = ".episode", ".partial", ".dropped"  # finished; being written, or left by a kill; not wanted
SENT, MEASURED = "sent", "measured"  # actions: the commands as sent, or the joints measured a tick later
_BLOCK = struct.Struct("<4sQ")
_DIGEST = 32  # bytes
_PIECE = 1 << 20  # bytes hashed at once
CURE = "restore it from a copy, or remove it"


def row_type(objects: int) -> np.dtype:
    """A tick on disk; `objects`: how many have a position."""
    joints = ("<f4", (ACTION_DIM,))
    times = [("tick", "<i4"), ("joints_s", "<f8"), ("command_s", "<f8")]
    return np.dtype([*times, ("joints", *joints), ("command", *joints), ("objects", "<f4", (objects, 3))])


class EpisodeWriter:
    """Streams an episode to `<name>.partial`; `finish` makes it `<name>.episode`, `abort` removes it.

    OSError in words, with its errno, when the disk takes no more; what was written is then removed.
    """

    def __init__(self, path: Path, head: Mapping[str, Any]):
        """ValueError when the episode is there already."""
        self.path, self._partial = path, path.with_suffix(PARTIAL)
        if path.exists():
            raise ValueError(f"{path} is there already; a finished episode is never written over: choose another number")
        self._hash = hashlib.sha256()
        self._rows = row_type(len(head["object_names"]))
        with self._in_words():
            self._file = self._partial.open("wb")
            self._write(MAGIC)
            self._block(b"head", json.dumps(head, sort_keys=True).encode())

    def tick(self, *values: Any) -> None:
        """Add a row: tick, time of the joints, time of the command, joints (14,), command (14,), positions (o, 3)."""
        with self._in_words():
            self._block(b"tick", np.array([values], self._rows).tobytes())

    def frame(self, times_s: np.ndarray, frame: Frame) -> None:
        """Add the images of a tick; `times_s` (k,) of the exposures."""
        with self._in_words():
            self._block(b"imgs", np.asarray(times_s, "<f8").tobytes(), encode_frame(frame))

    def finish(self, tail: Mapping[str, Any]) -> Path:
        """Write the end, wait until the disk has all of it, and give the file its name."""
        with self._in_words():
            self._block(b"tail", json.dumps(tail, sort_keys=True).encode())
            self._write(self._hash.digest())
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.rename(self.path)
            sync_folder(self.path.parent)
        return self.path

    def abort(self) -> None:
        """Remove what was written; nothing after `finish`."""
        with contextlib.suppress(OSError):  # what could not be written cannot be flushed either
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def _block(self, kind: bytes, *parts: bytes) -> None:
        self._write(_BLOCK.pack(kind, sum(map(len, parts))), *parts)

    def _write(self, *parts: bytes) -> None:
        for part in parts:
            self._hash.update(part)
            self._file.write(part)
        self._file.flush()

    @contextlib.contextmanager
    def _in_words(self) -> Any:
        try:
            yield
        except OSError as error:
            with contextlib.suppress(AttributeError):  # the file could not even be opened
                self.abort()
            words = f"{self._partial} cannot be written ({error.strerror or error}); finished episodes are kept, this one is not: make room"
            raise OSError(error.errno, words) from error


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class EpisodeFile:
    """A finished episode as it lies on disk, read like a data set's Reader of one episode: numbers at once, images when asked for.

    ValueError that names the file for one that is not finished, damaged in any byte, or of another version.
    """

    kind = "image"

    def __init__(self, path: str | Path):
        self.directory = Path(path)
        self.fingerprint = _verified(self.directory)
        self._images: list[tuple[int, int]] = []  # offset, length
        with self.directory.open("rb") as file:
            self.head, self.rows, self.tail = self._scan(file)
        self.trajectories, self.task = self.fingerprint, self.head["task"]
        self.meta = {"cameras": [len(self.head["cameras"]), *self.head["size"]]}
        self.frame_s = np.array([self._times(number) for number in range(len(self._images))]).reshape(-1, len(self.head["cameras"]))
        self.numbers = self._numbers()
        self.ticks, self.frames = (np.array([len(each)], np.int32) for each in (self.numbers.actions, self._images))

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Episode:
        if index != 0:
            raise IndexError(f"episode {index} of {self.directory}, which is one episode")
        return self.numbers

    def frame(self, episode: int, number: int) -> Frame:
        """The `number`-th image frame."""
        if episode != 0 or not 0 <= number < len(self._images):
            raise IndexError(f"image frame {number} of {self.directory}, which has {len(self._images)}")
        return decode_frame(self._image(number)[8 * len(self.head["cameras"]) :])

    def whole(self) -> Episode:
        """The episode with all its images."""
        first, count, calibrations = self.frame(0, 0), len(self._images), []
        rgb, depth_m = np.empty((count, *first.rgb.shape), np.uint8), np.empty((count, *first.depth_m.shape), np.float32)
        for number in range(count):
            frame = self.frame(0, number)
            rgb[number], depth_m[number] = frame.rgb, frame.depth_m
            calibrations.append(frame.calibration)
        calibration = Calibration(*(np.stack(rows) for rows in zip(*calibrations, strict=True)))
        return self.numbers._replace(rgb=rgb, depth_m=depth_m, calibration=calibration)

    def _scan(self, file: BinaryIO) -> tuple[dict, np.ndarray, dict]:
        found: dict[bytes, list[bytes]] = {b"head": [], b"tick": [], b"tail": []}
        file.seek(len(MAGIC))
        while not found[b"tail"]:
            kind, length = _BLOCK.unpack(file.read(_BLOCK.size))
            if kind == b"imgs":
                self._images.append((file.tell(), length))
                file.seek(length, os.SEEK_CUR)
            else:
                found[kind].append(file.read(length))
        head, tail = (json.loads(found[kind][0]) for kind in (b"head", b"tail"))
        return head, np.frombuffer(b"".join(found[b"tick"]), row_type(len(head["object_names"]))), tail

    def _image(self, number: int, length: int | None = None) -> bytes:
        offset, whole = self._images[number]
        with self.directory.open("rb") as file:
            file.seek(offset)
            return file.read(whole if length is None else length)

    def _times(self, number: int) -> np.ndarray:
        return np.frombuffer(self._image(number, 8 * len(self.head["cameras"])), "<f8")

    def _numbers(self) -> Episode:
        rows, ticks = self.rows, self.rows["tick"]
        every = np.arange(ticks[-1] + 1)
        joints = filled(every, ticks, rows["joints"])
        kept = np.searchsorted(ticks, every, side="right") - 1  # while a deadline was missed the arms kept their last goal
        moved = np.concatenate([joints[1:], joints[-1:]])
        return Episode(
            task=self.head["task"],
            instruction=self.head["instruction"],
            seed=self.head["number"],
            joints=joints,
            actions=rows["command"][kept] if self.head["actions"] == SENT else moved,
            progress=(every / len(every)).astype(np.float32),
            object_names=tuple(self.head["object_names"]),
            object_positions=filled(every, ticks, rows["objects"]),
            kind="image",
            ticks=np.array(self.tail["frames"], np.int32),
        )


def filled(every: np.ndarray, ticks: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows (n, ...) of `ticks` (n,) at all of `every`; between two that were measured, on the straight line between them."""
    out = np.zeros((len(every), int(np.prod(rows.shape[1:]))), np.float32)
    for number, column in enumerate(rows.reshape(len(rows), -1).T):
        out[:, number] = np.interp(every, ticks, column)
    return out.reshape(len(every), *rows.shape[1:])


def read_episode(path: str | Path) -> Episode:
    """The episode in a file with all its images; ValueError that names the file when it is not as it was written."""
    return EpisodeFile(path).whole()


def read_head(path: Path) -> dict[str, Any]:
    """What a file says of its episode, quickly: its bytes are not verified. ValueError when it is no such file."""
    with path.open("rb") as file:
        begin = file.read(len(MAGIC) + _BLOCK.size)
        if not begin.startswith(MAGIC) or len(begin) < len(MAGIC) + _BLOCK.size:
            raise ValueError(f"{path} is no episode of this version ({begin[:16]!r}, {MAGIC!r} was expected); {CURE}")
        try:
            return json.loads(file.read(_BLOCK.unpack(begin[len(MAGIC) :])[1]))
        except (ValueError, OverflowError, MemoryError) as error:
            raise ValueError(f"{path} is damaged in its first block; {CURE}") from error


def _verified(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal, after it was compared with the one at its end."""
    if path.suffix == PARTIAL:
        raise ValueError(f"{path} was not finished; the next recording into this folder removes it")
    with path.open("rb") as file:
        left, found = os.fstat(file.fileno()).st_size - _DIGEST, hashlib.sha256()
        begin = file.read(len(MAGIC))
        if begin != MAGIC or left < len(MAGIC):
            raise ValueError(f"{path} is no episode of this version (it begins with {begin!r}, {MAGIC!r} was expected); {CURE}")
        file.seek(0)
        while left > 0:
            piece = file.read(min(left, _PIECE))
            found.update(piece)
            left -= len(piece)
        written = file.read()
    if written != found.digest():
        raise ValueError(f"{path} is damaged: its SHA-256 is {found.hexdigest()[:16]}, {written.hex()[:16]} was written; {CURE}")
    return found.hexdigest()
