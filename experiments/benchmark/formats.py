"""Forms in which the RGB-D of a frame's four cameras may be kept: bytes, and what it costs to get the images back.

Every form gives the same images back to the bit; array-record compresses what is named so, with zstd.
"""

import io
import os
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from clamp_jax.data.records import DEPTHS_PER_M, Frame
from clamp_jax.data.shards import READER_OPTIONS, WRITER_OPTIONS
from experiments.benchmark.timing import spread

ZSTD, PLAIN = WRITER_OPTIONS, "group_size:1,uncompressed"


class Images(NamedTuple):
    """A frame's images, depth as counts of 0.1 mm."""

    rgb: np.ndarray  # (k, h, w, 3) uint8
    depth: np.ndarray  # (k, h, w) uint16


class Form(NamedTuple):
    """How a frame becomes bytes and back; `options` are array-record's."""

    encode: Callable[[Images], bytes]
    decode: Callable[[np.ndarray, tuple[int, int, int]], tuple[np.ndarray, np.ndarray]]  # (bytes, (k, h, w)) -> rgb, depth_m
    options: str = ZSTD


def metres(counts: np.ndarray) -> np.ndarray:
    """Counts of 0.1 mm as float32 m."""
    return counts / np.float32(DEPTHS_PER_M)


def images_of(frame: Frame) -> Images:
    """A frame's images; ValueError where depth is no multiple of 0.1 mm."""
    counts = np.rint(frame.depth_m * np.float32(DEPTHS_PER_M)).astype(np.uint16)
    if not np.array_equal(metres(counts), frame.depth_m):
        raise ValueError("depth is no multiple of 0.1 mm; make the images with data_tools.materialise, without --exact-depth")
    return Images(frame.rgb, counts)


def _cut(data: np.ndarray, shape: tuple[int, int, int], *kinds: Any) -> list[np.ndarray]:
    """The arrays (k, h, w), of types that may add an axis, that stand one after the other in bytes."""
    found, start = [], 0
    for kind in map(np.dtype, kinds):
        end = start + int(np.prod(shape)) * kind.itemsize
        found.append(data[start:end].view(kind.base).reshape(*shape, *kind.shape))
        start = end
    return found


def _float32() -> Form:
    def decode(data: np.ndarray, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        depth_m, rgb = _cut(data, shape, np.float32, (np.uint8, 3))
        return rgb, depth_m

    return Form(lambda images: metres(images.depth).tobytes() + images.rgb.tobytes(), decode)


def _uint16(options: str = ZSTD) -> Form:
    def decode(data: np.ndarray, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        depth, rgb = _cut(data, shape, np.uint16, (np.uint8, 3))
        return rgb, metres(depth)

    return Form(lambda images: images.depth.tobytes() + images.rgb.tobytes(), decode, options)


def _byte_planes() -> Form:
    """The low bytes of all depths, then the high ones."""

    def encode(images: Images) -> bytes:
        return (images.depth & 255).astype(np.uint8).tobytes() + (images.depth >> 8).astype(np.uint8).tobytes() + images.rgb.tobytes()

    def decode(data: np.ndarray, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        low, high, rgb = _cut(data, shape, np.uint8, np.uint8, (np.uint8, 3))
        return rgb, metres(low + high.astype(np.uint16) * np.uint16(256))

    return Form(encode, decode)


def _rows() -> Form:
    """Every row less the one above it, modulo what the type holds; depth in byte planes beside it."""
    planes = _byte_planes()

    def less(rows: np.ndarray) -> np.ndarray:
        return np.concatenate([rows[:, :1], rows[:, 1:] - rows[:, :-1]], axis=1)

    def encode(images: Images) -> bytes:
        return planes.encode(Images(less(images.rgb), less(images.depth)))

    def summed(differences: np.ndarray) -> np.ndarray:
        rows = differences.copy()
        for i in range(1, rows.shape[1]):  # row by row is several times as fast as a cumulative sum along the axis
            rows[:, i] += rows[:, i - 1]
        return rows

    def decode(data: np.ndarray, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        low, high, rgb = _cut(data, shape, np.uint8, np.uint8, (np.uint8, 3))
        return summed(rgb), metres(summed(low + high.astype(np.uint16) * np.uint16(256)))

    return Form(encode, decode)


def _zlib() -> Form:
    plain = _uint16(PLAIN)
    return Form(
        lambda images: zlib.compress(plain.encode(images), 1),
        lambda data, shape: plain.decode(np.frombuffer(zlib.decompress(data), np.uint8), shape),
        PLAIN,
    )


def _png() -> Form:
    """A PNG an image, of 8 bits for colour and 16 for depth, each after its length."""
    from PIL import Image

    def encode(images: Images) -> bytes:
        parts = []
        for image in (*images.rgb, *images.depth):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG", compress_level=1)
            parts.append(file.getvalue())
        return np.array([len(part) for part in parts], np.uint32).tobytes() + b"".join(parts)

    def decode(data: np.ndarray, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        lengths, start = data[: 8 * shape[0]].view(np.uint32), 8 * shape[0]
        ends = start + np.cumsum(lengths)
        images = [np.asarray(Image.open(io.BytesIO(data[end - n : end]))) for n, end in zip(lengths, ends, strict=True)]
        return np.stack(images[: shape[0]]), metres(np.stack(images[shape[0] :]).astype(np.uint16))

    return Form(encode, decode, PLAIN)


def forms() -> dict[str, Form]:
    """All forms by name; PNG where Pillow is installed."""
    found = {
        "float32, zstd (schema 1)": _float32(),
        "uint16, zstd": _uint16(),
        "uint16, not compressed": _uint16(PLAIN),
        "uint16 in byte planes, zstd (schema 2)": _byte_planes(),
        "rows less the row above, byte planes, zstd": _rows(),
        "uint16, zlib 1": _zlib(),
    }
    try:
        return found | {"PNG 1": _png()}
    except ImportError:
        return found


def measure(frames: Sequence[Frame], folder: Path, repeats: int, cores: int) -> dict[str, dict[str, float]]:
    """Of each form the bytes a frame, milliseconds of processor time to read and decode one, and frames/s with all cores.

    The forms take turns, so that what else the machine does is in all of them. ValueError where a form gives other images back.
    """
    images, table, times = [images_of(frame) for frame in frames], forms(), {}
    for number, (name, form) in enumerate(table.items()):
        path = folder / f"{number}.array_record"
        writer = ArrayRecordWriter(str(path), form.options)
        for image in images:
            writer.write(form.encode(image))
        writer.close()
        _compare(name, form, path, images)
        times[name] = (path, [], [])
    for _ in range(repeats):
        for name, (path, each_ms, rates) in times.items():
            spent_s, wall_s = _read(table[name], path, images[0].depth.shape, len(images), cores)
            each_ms.append(1e3 * spent_s / len(images))
            rates.append(len(images) / wall_s)
    return {name: _figures(path, len(images), each_ms, rates) for name, (path, each_ms, rates) in times.items()}


def _figures(path: Path, count: int, each_ms: list[float], rates: list[float]) -> dict[str, float]:
    return {"bytes_a_frame": os.path.getsize(path) / count} | spread("cpu_ms", each_ms) | spread("frames_per_s", rates)


def _compare(name: str, form: Form, path: Path, images: Sequence[Images]) -> None:
    reader = ArrayRecordReader(str(path), READER_OPTIONS)
    for i, image in enumerate(images):
        rgb, depth_m = form.decode(np.frombuffer(reader.read([i])[0], np.uint8), image.depth.shape)
        if not (np.array_equal(rgb, image.rgb) and np.array_equal(depth_m, metres(image.depth))):
            raise ValueError(f"the form {name!r} gives other images back than went in")


def _read(form: Form, path: Path, shape: tuple[int, int, int], count: int, cores: int) -> tuple[float, float]:
    """Seconds of processor time and of the clock in which every frame of a file is read and decoded, by a thread a core."""
    reader = ArrayRecordReader(str(path), READER_OPTIONS)
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(lambda i: form.decode(np.frombuffer(reader.read([i])[0], np.uint8), shape), range(min(count, cores))))
        spent, begun = time.process_time(), time.perf_counter()
        list(pool.map(lambda i: form.decode(np.frombuffer(reader.read([i])[0], np.uint8), shape)[1].shape, range(count)))
        return time.process_time() - spent, time.perf_counter() - begun
