"""Messages that are almost right: a valid request as a tree of maps, and everything that a stranger may put into it.

Arrays are the maps that they are on the wire, so that a mutation reaches dtypes, shapes and bytes as it reaches values.
"""

from collections.abc import Callable
from random import Random
from typing import Any

import msgpack
import numpy as np

Tree = dict | list
DTYPES = ("|b1", "|u1", "|i1", "<u2", "<i4", "<i8", "<u8", "<f2", "<f4", "<f8", ">f4", "|O")
DTYPES += ("|S8", "<U4", "<M8[s]", "<c8", "|V4", "", "f4", "<f4 ")
NUMBERS = (0, 1, -1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1, -(2**63), 0.0, -0.0, 1e-9, 5e-324, 1e9, 1e38, 1e39, 1.8e308)
NUMBERS += (float("nan"), float("inf"), -float("inf"), True, False)


def array(value: Any) -> dict:
    """The map that an array is on the wire."""
    value = np.ascontiguousarray(value)
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": list(value.shape)}


def tree(message: Any) -> Any:
    """A request with numpy arrays -> the same with arrays as maps; maps and lists are copies."""
    if isinstance(message, dict):
        return {name: tree(value) for name, value in message.items()}
    if isinstance(message, list):
        return [tree(value) for value in message]
    return array(message) if isinstance(message, np.ndarray) else message


def pack(message: Any) -> bytes:
    """Any tree as msgpack, whether a server would take it or not."""
    return msgpack.packb(message, use_bin_type=True)


def places(node: Any) -> list[tuple[Tree, Any]]:
    """Every (container, key) of a tree."""
    keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
    return [place for key in keys for place in [(node, key), *places(node[key])]]


def arrays(node: Any) -> list[dict]:
    """Every array of a tree."""
    return [holder[key] for holder, key in places(node) if isinstance(holder[key], dict) and b"__ndarray__" in holder[key]]


def mutate(message: dict, random: Random) -> str:
    """Change a tree in place in one way; gives the way's name. What comes out may still be a valid request."""
    way = random.choice(WAYS)
    way(message, random)
    return way.__name__.removeprefix("_")


def poison(random: Random) -> Any:
    """A value that has no business anywhere."""
    return random.choice(_POISONS)(random)


def _nested(random: Random) -> Any:
    value: Any = random.choice(NUMBERS)
    for _ in range(random.choice((1, 6, 9, 60, 400))):
        value = {"x": value} if random.random() < 0.5 else [value]
    return value


_POISONS: tuple[Callable[[Random], Any], ...] = (
    lambda random: random.choice(NUMBERS),
    lambda random: random.choice((None, "", b"", [], {}, "nan", "\x00\n\x1b[2J", "ä" * 70)),
    lambda random: "x" * random.choice((1, 64, 65, 5_000)),
    lambda random: random.randbytes(random.choice((1, 40, 5_000))),
    lambda random: [random.choice(NUMBERS) for _ in range(random.choice((1, 14, 5_000)))],
    lambda random: ["x" * random.choice((1, 3_000)) for _ in range(random.choice((2, 300)))],  # numpy pads strings to the longest
    lambda random: [{}, [1.0], "a", None][: random.randrange(1, 5)],
    _nested,
    lambda random: array(np.full(random.choice(((), (0,), (14,), (50, 14), (1, 1, 1, 1, 1, 1, 1, 1))), random.choice(NUMBERS[-8:]))),
    lambda random: {b"__npgeneric__": True, b"data": random.choice(NUMBERS), b"dtype": random.choice(DTYPES)},
    lambda random: {random.choice(NUMBERS): 1, b"k": 2, "k": 3},
    lambda random: msgpack.ExtType(random.randrange(128), random.randbytes(4)),
    lambda random: msgpack.Timestamp(random.randrange(2**31)),
)


def _replace(message: dict, random: Random) -> None:
    holder, key = random.choice(places(message))
    holder[key] = poison(random)


def _remove(message: dict, random: Random) -> None:
    holder, key = random.choice(places(message))
    del holder[key]


def _add(message: dict, random: Random) -> None:
    holder = random.choice([message, *(h for h, _ in places(message) if isinstance(h, dict))])
    holder[random.choice(("qpos", b"\xff", "images ", "x" * 300, "__ndarray__", b"__ndarray__"))] = poison(random)


def _rename(message: dict, random: Random) -> None:
    holder, key = random.choice([place for place in places(message) if isinstance(place[0], dict)])
    holder[random.choice(("cam_high", "State", "state", "images", "depth_m", b"data"))] = holder.pop(key)


def _swap(message: dict, random: Random) -> None:
    (one, first), (other, second) = random.choices([p for p in places(message) if p[0] is message], k=2)
    one[first], other[second] = other[second], one[first]


def _retype(message: dict, random: Random) -> None:
    found = arrays(message)
    if found:
        random.choice(found)[b"dtype"] = random.choice(DTYPES)


def _reshape(message: dict, random: Random) -> None:
    found = arrays(message)
    if found:
        chosen = random.choice(found)
        shape = chosen[b"shape"] if isinstance(chosen.get(b"shape"), list) else []
        odd = ([2**32, 2**32], [2**16] * 4, [-1], [0], [1.0], [True], [2**63], [[1]], None, "14", [1] * 40, [0, 2**31])
        chosen[b"shape"] = random.choice((shape[::-1], [1, *shape], shape[1:], [*shape, 1], *odd))


def _values(message: dict, random: Random) -> None:
    """Right type and shape, other numbers."""
    found = [a for a in arrays(message) if a.get(b"dtype") in ("<f4", "<f8") and isinstance(a.get(b"data"), bytes)]
    if found:
        chosen = random.choice(found)
        data, kind = bytearray(chosen[b"data"]), np.dtype(chosen[b"dtype"])
        with np.errstate(over="ignore"):
            number = np.asarray(random.choice((*NUMBERS, 3.0e3, 1e30, -0.5)), kind).tobytes()
        at = random.randrange(max(len(data) // kind.itemsize, 1)) * kind.itemsize
        data[at : at + kind.itemsize] = number
        chosen[b"data"] = bytes(data) if random.random() < 0.7 else number * (len(data) // kind.itemsize)


def _options(message: dict, random: Random) -> None:
    name = random.choice(("seed", "deadline_ms", "request_id", "client_time", "protocol_version", "prompt", "calibration_id"))
    message[name] = random.choice((random.choice(NUMBERS), poison(random), 1, "1"))


def _calibrate(message: dict, random: Random) -> None:
    """Another calibration: right, mirrored, scaled, turned by a float's dust, far away, or without a focal length."""
    eye = np.tile(np.eye(4, dtype=random.choice(("f4", "f8"))), (4, 1, 1))
    turned, far, scaled, mirrored = (eye.copy() for _ in range(4))
    turned[0, 0, 1], far[0, :3, 3], mirrored[1, 2, 2] = random.choice((1e-4, 1e-2, np.nan)), random.choice(NUMBERS[10:15]), -1
    scaled[2, :3, :3] *= random.choice((1.0001, 1.1, 0, 1e30))
    focal = random.choice((9, 9, 9, 0, -1, 1e-30, 1e38, np.nan))
    known = {"intrinsics": array(np.tile(np.float32([focal, 9, 4, 3]), (4, 1)))}
    known["parent_from_camera"] = array(random.choice((eye, turned, far, scaled, mirrored, eye[:3])))
    known["world_from_base"] = array(random.choice((eye[:2], eye[:2], mirrored[:2], eye)))
    message["calibration"] = known


def _freeze(message: dict, random: Random) -> None:
    rows = np.full((random.choice((0, 1, 49, 50, 3)), random.choice((14, 14, 14, 13))), random.choice((0, 0.5, np.nan, 1e38)), np.float32)
    message["frozen_actions"] = array(rows)


WAYS = (_replace, _remove, _add, _rename, _swap, _retype, _reshape, _values, _options, _calibrate, _freeze)


def bend(data: bytes, random: Random) -> bytes:
    """Valid bytes -> bytes with a few wrong ones, cut short, with a part taken out or put in, or anything at all."""
    way = random.randrange(6)
    at = random.randrange(len(data))
    if way == 0:
        return random.randbytes(random.choice((0, 1, 30, 3_000)))
    if way == 1:
        return data[:at]
    if way == 2:
        return data[:at] + data[at + random.randrange(1, 200) :]
    if way == 3:
        return data[:at] + random.choice((random.randbytes(8), data[:at])) + data[at:]
    changed = bytearray(data)
    heads = [i for i in range(len(data)) if data[i] >= 0x80] if way == 4 else range(len(data))  # msgpack's own headers among them
    for _ in range(random.choice((1, 1, 2, 5))):
        changed[random.choice(heads)] ^= 1 << random.randrange(8)
    return bytes(changed)


def duplicated(message: dict, random: Random) -> bytes:
    """A map in which one key stands twice, the second time with another value."""
    pairs = list(message.items())
    pairs.insert(random.randrange(len(pairs) + 1), (random.choice(pairs)[0], poison(random)))
    return msgpack.Packer(use_bin_type=True).pack_map_pairs(pairs)
