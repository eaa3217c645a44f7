"""A data set's folder: its writer and its reader.

It holds array-record shards and `meta.json`, which is written last: a folder without it is unfinished.
`episodes-*.array_record` has one record an episode, all its numbers. An *image* data set has beside it `frames-*.array_record`,
one record an image frame: whoever needs numbers alone (statistics, chunks of actions) reads no pixel.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from clamp_jax.data.records import KINDS, SCHEMAS, Episode, Frame, check_episode, decode, decode_frame, encode, encode_frame, frames_of
from clamp_jax.data.shards import ShardReader, ShardWriter, describe
from clamp_jax.data.shards import damages as shard_damages
from clamp_jax.data.transforms import SIZES, Sizes, check_sizes, count_geoms
from clamp_jax.structs import NOMINAL, Calibration, Capacity

META = "meta.json"
IMAGES_OF = "images_of"  # in `origin` of images that were drawn of states: the fingerprint of those states
CALIBRATIONS = "calibrations"  # in `origin` of recorded images: ids of the cells' calibrations (deploy/calibration.py)
SHARD_EPISODES, SHARD_FRAMES = 256, 4096


def _seal(meta: dict[str, Any]) -> str:
    """The hash that meta.json carries of its own content; also what tells two data sets apart."""
    content = {name: value for name, value in meta.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _text(meta: dict[str, Any]) -> str:
    """meta.json, letter for letter."""
    return json.dumps(meta, indent=1, sort_keys=True) + "\n"


class Writer:
    """Writes the episodes of one task to a folder: shards, then meta.json.

    Use as a context manager: on an error within or at the end, the shards are removed and no meta.json is written. A folder with a
    finished data set is refused, left-overs of an unfinished one are removed. With `resume` (state records) whole shards are
    kept instead, on an error too, and what is in them counts: `seeds` are those of the episodes that are there.
    origin: what the episodes were made with, for meta.json alone. `add` raises ValueError for an invalid episode, another task
    or kind, or a scene that overflows `sizes`, and OSError when the disk is full.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        task: str,
        kind: str = "state",
        sizes: Sizes = SIZES,
        shard_episodes: int = SHARD_EPISODES,
        resume: bool = False,
        origin: dict[str, Any] | None = None,
    ):
        self.directory, self.task, self.kind, self.sizes = Path(directory), task, kind, sizes
        if kind not in KINDS:
            raise ValueError(f"kind of a data set is {kind!r}; expected one of {KINDS}")
        if (self.directory / META).exists():
            raise ValueError(f"{self.directory} already holds a finished data set; choose another folder or remove it")
        self.directory.mkdir(parents=True, exist_ok=True)
        if resume and kind != "state":
            raise ValueError("only a data set of state records can be resumed")
        self._resume, self._origin = resume, origin
        self._episodes = ShardWriter(self.directory, "episodes", shard_episodes)
        self._remove_shards()
        self._frames = ShardWriter(self.directory, "frames", SHARD_FRAMES)
        self._lengths: list[int] = []
        self._images: list[int] = []
        self._instructions: dict[str, int] = {}
        self._names: dict[str, None] = {}  # of objects, in the order in which they came
        self._used = Sizes(0, 0, Capacity(0, 0, 0, 0, 0))
        self._cameras: list[int] | None = None
        self.seeds: list[int] = []
        there = self._episodes.finished() if resume else []
        for path in there:
            self._take_up(path, path == there[-1])

    def _take_up(self, path: Path, last: bool) -> None:
        """Count the episodes of a shard that was finished before; a short last one, of a run that ended while closing, is removed."""
        shard, whole = describe(path, ShardReader.count(path)), self._episodes.limit
        if last and 0 < shard["records"] < whole:
            path.unlink()
            return
        if shard["records"] != whole:
            raise ValueError(f"shard {path} cannot be read: {shard['records']} records, expected {whole}; remove it to have it made again")
        reader = ShardReader(self.directory, [shard])
        for index in range(shard["records"]):
            self._count(decode(reader.read(index)))
        self._episodes.shards.append(shard)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, error: type | None, *_: object) -> None:
        if error is not None:
            self.abort()
            return
        try:
            self.close()
        except BaseException:
            self.abort()
            raise

    def add(self, episode: Episode) -> None:
        """Append one episode."""
        check_episode(episode)
        if (episode.task, episode.kind) != (self.task, self.kind):
            raise ValueError(f"episode is of {(episode.task, episode.kind)}, the data set of {(self.task, self.kind)}; one folder each")
        if self.kind == "image":
            self._add_frames(episode)
        self._count(episode)
        self._episodes.write(encode(episode))

    def _count(self, episode: Episode) -> None:
        if self.kind == "state":
            self._count_sizes(episode)
        self.seeds.append(episode.seed)
        self._lengths.append(len(episode.actions))
        self._instructions[episode.instruction] = self._instructions.get(episode.instruction, 0) + 1
        self._names.update(dict.fromkeys(episode.object_names))

    def close(self) -> dict[str, Any]:
        """Finish the shards and write meta.json, which makes the data set readable; returns its content."""
        if not self._lengths:
            self.abort()
            raise ValueError(f"{self.directory}: no episode was added; a data set has at least one")
        self._episodes.finish()
        self._frames.finish()
        meta = {
            "schema": SCHEMAS[self.kind],
            "kind": self.kind,
            "task": self.task,
            "episodes": len(self._lengths),
            "ticks": self._lengths,
            "frames": self._images,
            "cameras": self._cameras,  # k, h, w
            "instructions": self._instructions,  # and the number of their episodes
            "object_names": list(self._names),
            "used": {**self._used._asdict(), "geoms": self._used.geoms._asdict()},
            "shards": {"episodes": self._episodes.shards, "frames": self._frames.shards},
        }
        if self._origin is not None:
            meta["origin"] = self._origin
        meta["sha256"] = _seal(meta)
        temporary = self.directory / f"{META}.tmp"
        temporary.write_text(_text(meta))
        temporary.rename(self.directory / META)
        return meta

    def abort(self) -> None:
        """Give up: close what is open and remove what was written; whole shards are kept with `resume`."""
        self._episodes.drop()
        self._frames.drop()
        self._remove_shards()

    def _remove_shards(self) -> None:
        keep = set(self._episodes.finished()) if self._resume else set()
        for pattern in ("episodes-?????.array_record*", "frames-?????.array_record*", f"{META}.tmp"):
            for path in self.directory.glob(pattern):
                if path not in keep:
                    path.unlink()

    def _count_sizes(self, episode: Episode) -> None:
        found = (len(episode.tree.parent), episode.qpos.shape[1], count_geoms(episode.geom_types))
        check_sizes(*found, self.sizes)
        geoms = Capacity(*map(max, self._used.geoms, found[2]))
        self._used = Sizes(max(self._used.bodies, found[0]), max(self._used.qpos, found[1]), geoms)

    def _add_frames(self, episode: Episode) -> None:
        if episode.rgb is None:
            raise ValueError("an image episode without rgb cannot be written; read it with its images (Reader.read_images)")
        cameras = list(episode.rgb.shape[1:4])
        if self._cameras not in (None, cameras):
            raise ValueError(f"images are {cameras} (k, h, w), the data set's {self._cameras}; one size and camera set a data set")
        self._cameras = cameras
        for frame in frames_of(episode):
            self._frames.write(encode_frame(frame))
        self._images.append(len(episode.ticks))


def _load_meta(directory: Path) -> dict[str, Any]:
    path = directory / META
    if not path.exists():
        raise ValueError(f"{directory} holds no finished data set ({META} is missing); make it again, or give the right folder")
    try:
        text = path.read_text(encoding="utf-8")
        meta = json.loads(text)
        seal, kind, schema = meta["sha256"], meta.get("kind"), meta.get("schema")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); make the data set again") from error
    latest = SCHEMAS.get(kind, max(SCHEMAS.values()))
    if schema not in range(1, latest + 1):
        raise ValueError(f"{path} has schema {schema!r}; this version reads 1 to {latest}: make the data set again")
    if seal != _seal(meta):
        raise ValueError(f"{path} was changed: its hash is {_seal(meta)}, it says {seal}; restore it or make the data set again")
    if text != _text(meta):
        raise ValueError(f"{path} was changed: it says the same in other letters than were written; restore it or make the data set again")
    return meta


def damages(directory: str | Path) -> list[str]:
    """Everything in a data set's folder that is not as it was written, a line each; every byte of it is read."""
    directory = Path(directory)
    try:
        shards = _load_meta(directory)["shards"]
    except (ValueError, OSError) as error:
        return [str(error)]
    return list(shard_damages(directory, shards["episodes"] + shards["frames"]))


@runtime_checkable
class Readable(Protocol):
    """What a data set's trajectories are read by: a Reader, or whatever has them lying otherwise."""

    directory: Path
    kind: str
    task: str
    meta: dict[str, Any]
    ticks: np.ndarray  # (episodes,) int32
    frames: np.ndarray  # (episodes,) int32; empty for state
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Episode: ...

    def frame(self, episode: int, number: int) -> Frame: ...


class Reader:
    """Reads a finished data set; `reader[i]` is its i-th episode without images, from any thread.

    Raises ValueError for an unfinished folder, a changed meta.json, a shard that is missing or of another length
    when opened, and for a damaged record or a shard that has gone when it is read (array-record's own checksums), each by name.
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        self.meta = _load_meta(self.directory)
        self.kind: str = self.meta["kind"]
        self.task: str = self.meta["task"]
        self.ticks = np.array(self.meta["ticks"], np.int32)  # (episodes,) length of each
        self.frames = np.array(self.meta["frames"], np.int32)  # (episodes,) image frames of each; empty for state
        self.fingerprint: str = self.meta["sha256"]
        self._frame_starts = np.cumsum(self.frames) - self.frames
        self._episodes = ShardReader(self.directory, self.meta["shards"]["episodes"])
        self._frames = ShardReader(self.directory, self.meta["shards"]["frames"])

    @property
    def trajectories(self) -> str:
        """Fingerprint of the recordings themselves: images that were drawn of states have the same one as the states."""
        return self.meta.get("origin", {}).get(IMAGES_OF, self.fingerprint)

    @property
    def calibrations(self) -> tuple[str, ...]:
        """Ids of the calibrations that it was recorded with, NOMINAL of what the simulator made; () where that is not said."""
        origin = self.meta.get("origin", {})
        made = self.kind == "state" or IMAGES_OF in origin
        return tuple(origin.get(CALIBRATIONS, (NOMINAL,) if made else ()))

    def __len__(self) -> int:
        return len(self.ticks)

    def __getitem__(self, index: int) -> Episode:
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} of {self.directory}, which has {len(self)}")
        return decode(self._episodes.read(index))

    def frame(self, episode: int, number: int) -> Frame:
        """The `number`-th image frame of an episode of an image data set."""
        if self.kind != "image" or not 0 <= number < self.frames[episode]:
            raise IndexError(f"image frame {number} of episode {episode}: {self.directory} ({self.kind}) has no such frame")
        return decode_frame(self._frames.read(int(self._frame_starts[episode]) + number))

    def record_hash(self, index: int) -> str:
        """SHA-256 over the bytes of an episode's records, its images' too: what was computed from them belongs to them alone."""
        start = int(self._frame_starts[index]) if self.kind == "image" else 0
        frames = range(start, start + int(self.frames[index])) if self.kind == "image" else ()
        found = hashlib.sha256(self._episodes.read(index))
        for number in frames:
            found.update(hashlib.sha256(self._frames.read(number)).digest())
        return found.hexdigest()

    def read_images(self, index: int) -> Episode:
        """An episode of an image data set with all its images."""
        frames = [self.frame(index, i) for i in range(self.frames[index])]
        calibration = Calibration(*(np.stack(x) for x in zip(*(f.calibration for f in frames), strict=True)))
        rgb, depth_m = np.stack([f.rgb for f in frames]), np.stack([f.depth_m for f in frames])
        return self[index]._replace(rgb=rgb, depth_m=depth_m, calibration=calibration)

    def verify(self) -> None:
        """Compare every byte of every shard with meta.json (SHA-256); raises ValueError that names all that differ."""
        wrong = damages(self.directory)
        if wrong:
            raise ValueError(f"{'; '.join(wrong)}. Restore what is named, or make the data set again")
