"""The wire format: msgpack with numpy arrays as maps, as openpi's policy servers and clients write it. Numpy and msgpack only.

An array is a map with bytes keys `__ndarray__`, `data` (C order), `dtype` ("<f4"), `shape`; a numpy scalar a map with
`__npgeneric__`, `data`, `dtype`. Ours is strict where a stranger's bytes come in: the message is walked before anything is
allocated (size, number of items, nesting), dtypes come from a whitelist, and the product of a shape must be the length of its
data. Nothing is ever unpickled.
"""

from typing import Any, NamedTuple

import msgpack
import numpy as np

PROTOCOL_VERSION = 1
DTYPES = frozenset(
    ["|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8"]  # numbers, little endian: no objects, no strings
)
_ARRAY_KEYS = frozenset([b"__ndarray__", b"data", b"dtype", b"shape"])
_SCALAR_KEYS = frozenset([b"__npgeneric__", b"data", b"dtype"])


class Limits(NamedTuple):
    """What a message may hold (ours: four 720 x 1280 RGB-D cameras are 26 MB and some 150 items)."""

    size: int = 32 * 2**20  # bytes of the message
    items: int = 4096  # scalars, strings, arrays and maps together
    depth: int = 8  # maps and lists inside one another
    dims: int = 6  # dimensions of an array
    arrays: int = 256  # arrays and numpy scalars


class ProtocolError(ValueError):
    """A message that is not of this protocol, or that is over its limits."""


def pack(message: Any) -> bytes:
    """Encode a message of maps, lists, strings, numbers, None and numpy arrays; ValueError at any other type or dtype."""
    return msgpack.packb(message, default=_encode, use_bin_type=True)


def unpack(data: bytes, limits: Limits = Limits()) -> Any:  # noqa: B008 - an immutable tuple
    """Decode one message; arrays are read-only views of `data`. ProtocolError names what was found and what is allowed."""
    scan(data, limits)
    try:
        return msgpack.unpackb(data, object_hook=_Decoder(limits), raw=False, strict_map_key=True)
    except ProtocolError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"message is not valid msgpack: {type(error).__name__}: {error}"[:200]) from None


def _encode(value: Any) -> dict:
    if isinstance(value, np.ndarray):
        dtype = _little_endian(value.dtype)
        data = np.ascontiguousarray(value, dtype).tobytes()
        return {b"__ndarray__": True, b"data": data, b"dtype": dtype.str, b"shape": list(value.shape)}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": _little_endian(value.dtype).str}
    raise ProtocolError(f"a message cannot hold {type(value).__name__}; pass maps, lists, strings, numbers or numpy arrays")


def _little_endian(dtype: np.dtype) -> np.dtype:
    little = dtype.newbyteorder("<")
    if little.str not in DTYPES:
        raise ProtocolError(f"dtype {dtype} cannot be sent; allowed are {', '.join(sorted(DTYPES))}")
    return little


class _Decoder:
    """What msgpack calls for each map of one message."""

    def __init__(self, limits: Limits):
        self._limits, self._arrays = limits, 0

    def __call__(self, found: dict) -> Any:
        if b"__ndarray__" in found or b"__npgeneric__" in found:
            self._arrays += 1
            if self._arrays > self._limits.arrays:
                raise ProtocolError(f"message has more than {self._limits.arrays} arrays")
            return _decode_array(found, self._limits) if b"__ndarray__" in found else _decode_scalar(found)
        for key in found:
            if not isinstance(key, str):
                raise ProtocolError(f"map key {key!r} is not a string"[:120])
        return found


def _decode_array(found: dict, limits: Limits) -> np.ndarray:
    if found.keys() != _ARRAY_KEYS:
        raise ProtocolError("array map has other keys than __ndarray__, data, dtype, shape")
    dtype, shape, data = _dtype(found[b"dtype"]), found[b"shape"], found[b"data"]
    if not isinstance(shape, list) or len(shape) > limits.dims or not all(type(n) is int and 0 <= n <= limits.size for n in shape):
        raise ProtocolError(f"array shape {shape!r} is not a list of at most {limits.dims} sizes"[:200])
    count = int(np.prod(shape, dtype=object)) if shape else 1
    if not isinstance(data, bytes) or count * dtype.itemsize != len(data):
        found_bytes = len(data) if isinstance(data, bytes) else type(data).__name__
        raise ProtocolError(f"array of shape {shape} and dtype {dtype.str} needs {count * dtype.itemsize} bytes, found {found_bytes}"[:200])
    if dtype.str == "|b1" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise ProtocolError("boolean array has bytes other than 0 and 1")
    return np.frombuffer(data, dtype).reshape(shape)


def _decode_scalar(found: dict) -> np.generic:
    if found.keys() != _SCALAR_KEYS or not isinstance(found[b"data"], bool | int | float):
        raise ProtocolError("numpy scalar map needs the keys __npgeneric__, data (a number), dtype")
    dtype = _dtype(found[b"dtype"])
    try:
        with np.errstate(all="raise"):
            return dtype.type(found[b"data"])
    except (ArithmeticError, ValueError):
        raise ProtocolError(f"{found[b'data']!r} does not fit dtype {dtype.str}"[:120]) from None


def _dtype(text: Any) -> np.dtype:
    if not isinstance(text, str) or text not in DTYPES:
        raise ProtocolError(f"dtype {text!r} is not allowed; allowed are {', '.join(sorted(DTYPES))}"[:200])
    return np.dtype(text)


def scan(data: bytes, limits: Limits) -> None:
    """Walk a message's headers without building anything; ProtocolError when it is cut short or over a limit.

    ours: a decoder builds 9 bytes of Python lists for a byte of nested empty lists, so counting after decoding is too late.
    """
    if len(data) > limits.size:
        raise ProtocolError(f"message has {len(data)} bytes, at most {limits.size} are allowed")
    position, items, open_containers = 0, 0, [1]  # values still to come of each container that is open
    while open_containers:
        if open_containers[-1] == 0:
            open_containers.pop()
            continue
        open_containers[-1] -= 1
        items += 1
        if items > limits.items:
            raise ProtocolError(f"message has more than {limits.items} items")
        position, children = _header(data, position)
        if children:
            open_containers.append(children)
            if len(open_containers) > limits.depth + 1:
                raise ProtocolError(f"message is nested deeper than {limits.depth}")
    if position != len(data):
        raise ProtocolError(f"message ends at byte {position} but has {len(data)}")


# first byte -> bytes of the value after it, for scalars of fixed size (msgpack's specification)
_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # bytes and strings: bytes of their length
_COUNTED = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}  # lists and maps: bytes of their count, values an entry


def _header(data: bytes, position: int) -> tuple[int, int]:
    """(position after this value's own bytes, number of values that it contains)."""
    if position >= len(data):
        raise ProtocolError("message is cut short")
    first, after = data[position], position + 1
    children = 0
    if first <= 0x7F or first >= 0xE0:  # small integers
        pass
    elif first <= 0x8F:
        children = 2 * (first & 0x0F)
    elif first <= 0x9F:
        children = first & 0x0F
    elif first <= 0xBF:
        after += first & 0x1F
    elif first in _FIXED:
        after += _FIXED[first]
    elif first in _SIZED:
        after += _SIZED[first] + _length(data, after, _SIZED[first])
    elif first in _COUNTED:
        width, values = _COUNTED[first]
        children = values * _length(data, after, width)
        after += width
    else:
        raise ProtocolError(f"msgpack type 0x{first:02x} is not allowed")  # extension types and the unused byte
    if after > len(data):
        raise ProtocolError("message is cut short")
    return after, children


def _length(data: bytes, position: int, width: int) -> int:
    if position + width > len(data):
        raise ProtocolError("message is cut short")
    return int.from_bytes(data[position : position + width], "big")
