"""Data sets on disk: the schema of a record, its bytes, and a folder's writer and reader.

A folder holds array-record shards and `meta.json`, which is written last: a folder without it is unfinished.
`episodes-*.array_record` has one record an episode, all its numbers: for a *state* data set qpos, tree and geoms too,
of which sensors make images later. An *image* data set has beside it `frames-*.array_record`, one record an image frame
(RGB, depth, calibration): whoever needs numbers alone (statistics, chunks of actions) reads no pixel.
A record is a safetensors container: arrays and one JSON string, no code. The same episodes give the same bytes.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from clamp_jax.data.shards import ShardReader, ShardWriter, describe, sha256_of
from clamp_jax.data.transforms import SIZES, Sizes, check_sizes, count_geoms
from clamp_jax.structs import ACTION_DIM, Calibration, Capacity, Geoms, Tree

SCHEMA = 1
KINDS = ("state", "image")
META = "meta.json"
SHARD_EPISODES, SHARD_FRAMES = 256, 4096

_NUMBERS = ("qpos", "joints", "actions", "object_positions", "progress")
_INT_FIELDS = {"parent", "joint", "qpos_start", "body", "mount"}


class Frame(NamedTuple):
    """The images of one tick of a recorded episode."""

    tick: int  # row of the episode's joints and actions
    rgb: np.ndarray  # (k, h, w, 3) uint8
    depth_m: np.ndarray  # (k, h, w) float32 m, 0 = no measurement
    calibration: Calibration


class Episode(NamedTuple):
    """One trajectory at 50 Hz, numpy arrays; row t is the state before command t is given."""

    task: str
    instruction: str
    seed: int  # of the simulator or the recording's number
    joints: np.ndarray  # (T, 14) float32 measured: rad, gripper 0 closed 1 open
    actions: np.ndarray  # (T, 14) float32 commands as executed
    progress: np.ndarray  # (T,) float32 in [0, 1]
    object_names: tuple[str, ...]
    object_positions: np.ndarray  # (T, o, 3) float32 m, world
    kind: str = "state"
    qpos: np.ndarray | None = None  # (T, q) float32, whole scene, robot first; state only
    tree: Tree | None = None  # unpadded; state only
    geom_types: np.ndarray | None = None  # (g,) int32 MuJoCo's mjtGeom; state only
    geoms: Geoms | None = None  # unpadded; state only
    ticks: np.ndarray | None = None  # (f,) int32 increasing: the ticks that have images; image only
    rgb: np.ndarray | None = None  # (f, k, h, w, 3) uint8; image only
    depth_m: np.ndarray | None = None  # (f, k, h, w) float32; image only
    calibration: Calibration | None = None  # one a frame, leading axis f; image only


def _expect(name: str, array: Any, shape: tuple[int | None, ...], cure: str = "") -> None:
    """Refuse an array of another shape (None is any length) or with a value that is not finite."""
    if array is None:
        raise ValueError(f"episode.{name} is missing; expected an array of shape {shape}{cure}")
    found = np.shape(array)
    if len(found) != len(shape) or any(s not in (None, f) for s, f in zip(shape, found, strict=True)):
        raise ValueError(f"episode.{name} has shape {found}; expected {shape} (None: any){cure}")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"episode.{name} holds a value that is not finite; drop the episode or mend its source")


def check_episode(episode: Episode) -> None:
    """Raise ValueError that names the field, what was found and what was expected, unless the episode is valid."""
    if episode.kind not in KINDS:
        raise ValueError(f"episode.kind is {episode.kind!r}; expected one of {KINDS}")
    steps = len(episode.actions)
    if steps == 0:
        raise ValueError("episode.actions is empty; an episode has at least one tick")
    _expect("actions", episode.actions, (steps, ACTION_DIM))
    _expect("joints", episode.joints, (steps, ACTION_DIM))
    _expect("progress", episode.progress, (steps,))
    _expect("object_positions", episode.object_positions, (steps, len(episode.object_names), 3), ": one row a name")
    if np.min(episode.progress) < 0 or np.max(episode.progress) > 1:
        raise ValueError(f"episode.progress spans {np.min(episode.progress)} to {np.max(episode.progress)}; expected 0 to 1")
    (_check_state if episode.kind == "state" else _check_images)(episode, steps)


def _check_state(episode: Episode, steps: int) -> None:
    _expect("qpos", episode.qpos, (steps, None))
    if episode.tree is None or episode.geoms is None or episode.geom_types is None:
        raise ValueError("a state episode needs tree, geoms and geom_types; one of them is missing")
    bodies, geoms = len(episode.tree.parent), len(episode.geom_types)
    for name, array in episode.tree._asdict().items():
        _expect(f"tree.{name}", array, (bodies, *np.shape(array)[1:]))
    parent, start = np.asarray(episode.tree.parent), np.asarray(episode.tree.qpos_start)
    if np.any(parent[1:] >= np.arange(1, bodies)) or np.any(parent < 0):
        raise ValueError(f"episode.tree.parent is {parent.tolist()}; expected parents before their children, row 0 the world")
    if np.any(start < 0) or np.any(start >= np.shape(episode.qpos)[1]):
        raise ValueError(f"episode.tree.qpos_start spans {start.min()} to {start.max()}; qpos has {np.shape(episode.qpos)[1]} entries")
    for name, array in episode.geoms._asdict().items():
        _expect(f"geoms.{name}", array, (geoms, *np.shape(array)[1:]))
    if geoms and not 0 <= np.min(episode.geoms.body) <= np.max(episode.geoms.body) < bodies:
        raise ValueError(f"episode.geoms.body spans {np.min(episode.geoms.body)} to {np.max(episode.geoms.body)}; the tree has {bodies}")


def _check_images(episode: Episode, steps: int) -> None:
    _expect("ticks", episode.ticks, (None,))
    count = len(episode.ticks)
    if count == 0 or np.any(np.diff(episode.ticks) <= 0) or episode.ticks[0] < 0 or episode.ticks[-1] >= steps:
        raise ValueError(f"episode.ticks must increase from 0 to at most {steps - 1}, one or more; found {np.asarray(episode.ticks)}")
    if episode.rgb is None:  # the numbers alone, as `Reader.read` returns them
        return
    _expect("rgb", episode.rgb, (count, None, None, None, 3))
    if episode.rgb.dtype != np.uint8:
        raise ValueError(f"episode.rgb is {episode.rgb.dtype}; expected uint8 in 0..255, RGB order")
    _expect("depth_m", episode.depth_m, episode.rgb.shape[:-1])
    if not np.issubdtype(episode.depth_m.dtype, np.floating) or np.min(episode.depth_m) < 0:
        raise ValueError(f"episode.depth_m is {episode.depth_m.dtype} from {np.min(episode.depth_m)}; expected metres as float32, 0 = none")
    if episode.calibration is None:
        raise ValueError("an image episode needs a calibration with one row a frame")
    cameras = episode.rgb.shape[1]
    shapes = Calibration((count, cameras, 4), (count, cameras, 4, 4), (count, cameras), (count, 2, 4, 4))
    for name, array, shape in zip(Calibration._fields, episode.calibration, shapes, strict=True):
        _expect(f"calibration.{name}", array, shape)


def _pack(arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> bytes:
    # safetensors keeps its metadata in an unordered map: a single JSON string keeps the bytes the same in every process
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return safetensors.numpy.save(arrays, metadata={"json": json.dumps(attributes, sort_keys=True)})


def _unpack(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        return safetensors.numpy.load(data), json.loads(header["__metadata__"]["json"])
    except (safetensors.SafetensorError, KeyError, ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"a record of {len(data)} bytes is no safetensors container of this project: {error}") from error


def _flatten(prefix: str, fields: Any) -> dict[str, np.ndarray]:
    """Fields of a NamedTuple as named arrays: int32 where they count or name, else float32."""
    return {f"{prefix}.{n}": np.asarray(x, np.int32 if n in _INT_FIELDS else np.float32) for n, x in fields._asdict().items()}


def _unflatten(kind: type, prefix: str, arrays: dict[str, np.ndarray]) -> Any:
    return kind(**{name: arrays[f"{prefix}.{name}"] for name in kind._fields})


def encode(episode: Episode) -> bytes:
    """Bytes of an episode's record, without its images: float32 and int32 arrays and one JSON string."""
    arrays = {n: np.asarray(getattr(episode, n), np.float32) for n in _NUMBERS if getattr(episode, n) is not None}
    if episode.kind == "state":
        arrays |= _flatten("tree", episode.tree) | _flatten("geoms", episode.geoms)
        arrays["geom_types"] = np.asarray(episode.geom_types, np.int32)
    else:
        arrays["ticks"] = np.asarray(episode.ticks, np.int32)
    names = ("task", "instruction", "kind")
    attributes = {n: getattr(episode, n) for n in names} | {"seed": int(episode.seed), "object_names": list(episode.object_names)}
    return _pack(arrays, attributes | {"schema": SCHEMA})


def decode(data: bytes) -> Episode:
    """Inverse of `encode`; raises ValueError for bytes that are no such record."""
    arrays, attributes = _unpack(data)
    if attributes.get("schema") != SCHEMA:
        raise ValueError(f"the record has schema {attributes.get('schema')!r}; this version reads {SCHEMA}: make the data set again")
    numbers = {name: arrays[name] for name in (*_NUMBERS, "ticks", "geom_types") if name in arrays}
    if attributes["kind"] == "state":
        numbers |= {"tree": _unflatten(Tree, "tree", arrays), "geoms": _unflatten(Geoms, "geoms", arrays)}
    names = tuple(attributes.pop("object_names"))
    del attributes["schema"]
    return Episode(**attributes, **numbers, object_names=names)


def encode_frame(frame: Frame) -> bytes:
    """Bytes of an image frame's record; uint8 colours and float32 depth are kept as they are."""
    arrays = {"rgb": frame.rgb, "depth_m": np.asarray(frame.depth_m, np.float32)} | _flatten("calibration", frame.calibration)
    return _pack(arrays, {"schema": SCHEMA, "tick": int(frame.tick)})


def decode_frame(data: bytes) -> Frame:
    """Inverse of `encode_frame`; raises ValueError for bytes that are no such record."""
    arrays, attributes = _unpack(data)
    return Frame(attributes["tick"], arrays["rgb"], arrays["depth_m"], _unflatten(Calibration, "calibration", arrays))


def frames_of(episode: Episode) -> Iterator[Frame]:
    """The image frames of an image episode, in order."""
    for i, tick in enumerate(episode.ticks):
        yield Frame(int(tick), episode.rgb[i], episode.depth_m[i], Calibration(*(np.asarray(x)[i] for x in episode.calibration)))


def _seal(meta: dict[str, Any]) -> str:
    """The hash that meta.json carries of its own content; also what tells two data sets apart."""
    content = {name: value for name, value in meta.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
            "schema": SCHEMA,
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
        temporary.write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n")
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
        meta = json.loads(path.read_text())
        seal = meta["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); make the data set again") from error
    if meta.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {meta.get('schema')!r}; this version reads {SCHEMA}: make the data set again")
    if seal != _seal(meta):
        raise ValueError(f"{path} was changed: its hash is {_seal(meta)}, it says {seal}; restore it or make the data set again")
    return meta


class Reader:
    """Reads a finished data set; `reader[i]` is its i-th episode without images, from any thread.

    Raises ValueError for an unfinished folder, a changed meta.json, a shard that is missing or of another length
    when opened, and for a damaged record when it is read (array-record's own checksum), each by name.
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

    def read_images(self, index: int) -> Episode:
        """An episode of an image data set with all its images."""
        frames = [self.frame(index, i) for i in range(self.frames[index])]
        calibration = Calibration(*(np.stack(x) for x in zip(*(f.calibration for f in frames), strict=True)))
        rgb, depth_m = np.stack([f.rgb for f in frames]), np.stack([f.depth_m for f in frames])
        return self[index]._replace(rgb=rgb, depth_m=depth_m, calibration=calibration)

    def verify(self) -> None:
        """Compare the SHA-256 of every shard with meta.json; raises ValueError naming those that differ."""
        shards = self.meta["shards"]["episodes"] + self.meta["shards"]["frames"]
        wrong = [shard["name"] for shard in shards if sha256_of(self.directory / shard["name"]) != shard["sha256"]]
        if wrong:
            raise ValueError(f"{self.directory}: shards {wrong} differ from {META}; restore them or make the data set again")
