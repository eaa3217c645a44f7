"""Records on disk: what an episode holds, how it is checked, and its bytes.

A *state* episode holds qpos, tree and geoms, of which sensors make images later; an *image* episode RGB, depth and calibration.
A record is a safetensors container: arrays and one JSON string, no code. The same episodes give the same bytes.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from jaxtyping import ArrayLike, Float
from jaxtyping import Float32 as F32

from clamp_jax.structs import ACTION_DIM, Calibration, Geoms, Tree

KINDS = ("state", "image")
EPISODE_SCHEMA = 1  # of an episode's record
FRAME_SCHEMA = 2  # of an image frame's: 1 kept depth as float32 metres alone
SCHEMAS = {"state": EPISODE_SCHEMA, "image": FRAME_SCHEMA}  # of a data set's meta.json; each earlier one is read too
DEPTHS_PER_M = 10_000  # a stored depth counts tenths of a millimetre, as a D405's does

_NUMBERS = ("qpos", "joints", "actions", "object_positions", "progress")
_INT_FIELDS = {"parent", "joint", "qpos_start", "body", "mount"}
_TYPES = {"U8": "<u1", "I32": "<i4", "F32": "<f4"}  # safetensors' names of all types that a record has


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
    """The arrays of a record, which are read-only views of its bytes (safetensors' reader copies 6 MB of an image frame), and its JSON."""
    try:
        begin = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:begin])
        attributes = json.loads(header.pop("__metadata__")["json"])
        arrays, ends = {}, begin
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            first, last = (begin + offset for offset in entry["data_offsets"])
            if first != ends:
                raise ValueError(f"{name!r} begins at byte {first}, {ends} was expected")
            kind, ends = np.dtype(_TYPES[entry["dtype"]]), last
            arrays[name] = np.frombuffer(data, kind, (last - first) // kind.itemsize, first).reshape(entry["shape"])
        if ends != len(data):
            raise ValueError(f"its arrays end at byte {ends}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # ValueError: JSON and numpy's
        raise ValueError(f"a record of {len(data)} bytes is no safetensors container of this project: {error}") from error
    return arrays, attributes


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
    return _pack(arrays, attributes | {"schema": EPISODE_SCHEMA})


def decode(data: bytes) -> Episode:
    """Inverse of `encode`; raises ValueError for bytes that are no such record."""
    arrays, attributes = _unpack(data)
    if attributes.get("schema") != EPISODE_SCHEMA:
        found = f"the record has schema {attributes.get('schema')!r}"
        raise ValueError(f"{found}; this version reads {EPISODE_SCHEMA}: make the data set again")
    numbers = {name: arrays[name] for name in (*_NUMBERS, "ticks", "geom_types") if name in arrays}
    if attributes["kind"] == "state":
        numbers |= {"tree": _unflatten(Tree, "tree", arrays), "geoms": _unflatten(Geoms, "geoms", arrays)}
    names = tuple(attributes.pop("object_names"))
    del attributes["schema"]
    return Episode(**attributes, **numbers, object_names=names)


def round_depth(depth_m: Float[ArrayLike, "*shape"]) -> F32[np.ndarray, "*shape"]:
    """Depth in m as a recorder keeps it, in whole tenths of a millimetre: float32, and what `encode_frame` stores in two bytes."""
    return (np.rint(np.asarray(depth_m, np.float64) * DEPTHS_PER_M) / DEPTHS_PER_M).astype(np.float32)


def _pack_depth(depth_m: np.ndarray) -> np.ndarray:
    """Low, then high bytes (2, k, h, w) of counts of 0.1 mm where those give every value back to the bit, else the float32 as it is."""
    depth_m = np.asarray(depth_m, np.float32)
    counts = np.clip(np.rint(depth_m * np.float32(DEPTHS_PER_M)), 0, 2**16 - 1).astype(np.uint16)
    planes = np.stack([counts & 255, counts >> 8]).astype(np.uint8)
    return planes if np.array_equal(_unpack_depth(planes), depth_m) else depth_m


def _unpack_depth(depth: np.ndarray) -> np.ndarray:
    if depth.dtype != np.uint8:
        return depth
    low, high = depth
    counts = high.astype(np.uint16)
    counts <<= 8
    counts |= low
    return counts / np.float32(DEPTHS_PER_M)


def encode_frame(frame: Frame) -> bytes:
    """Bytes of an image frame's record, which give it back to the bit: depth in two bytes where it counts tenths of a millimetre.

    Ours: measured beside other forms in docs/scale.md.
    """
    arrays = {"rgb": frame.rgb, "depth": _pack_depth(frame.depth_m)} | _flatten("calibration", frame.calibration)
    return _pack(arrays, {"schema": FRAME_SCHEMA, "tick": int(frame.tick)})


def decode_frame(data: bytes) -> Frame:
    """Inverse of `encode_frame`, of records of schema 1 too; raises ValueError for bytes that are no such record."""
    arrays, attributes = _unpack(data)
    if attributes.get("schema") not in range(1, FRAME_SCHEMA + 1):
        found = f"the frame's record has schema {attributes.get('schema')!r}"
        raise ValueError(f"{found}; this version reads 1 to {FRAME_SCHEMA}: make the data set again")
    depth = arrays["depth_m" if attributes["schema"] == 1 else "depth"]
    return Frame(attributes["tick"], arrays["rgb"], _unpack_depth(depth), _unflatten(Calibration, "calibration", arrays))


def frames_of(episode: Episode) -> Iterator[Frame]:
    """The image frames of an image episode, in order."""
    for i, tick in enumerate(episode.ticks):
        yield Frame(int(tick), episode.rgb[i], episode.depth_m[i], Calibration(*(np.asarray(x)[i] for x in episode.calibration)))
