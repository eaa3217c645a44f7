"""Damages of a data set's folder, and what becomes of them: whatever is read is what was written, or an error names the file.

Run: PYTHONPATH=. python tests/damage.py --count 1000
"""

import argparse
import collections
import shutil
import tempfile
from pathlib import Path

import numpy as np
import synthetic

from clamp_jax.data.folders import Reader, damages
from clamp_jax.data.records import encode, encode_frame

PAGE = 4096  # bytes that a disk loses at once


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    """One bit is another."""
    changed = bytearray(data)
    changed[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def truncate(data: bytes, rng: np.random.Generator) -> bytes:
    """The end is missing."""
    return data[: rng.integers(len(data))]


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    """A stretch in the middle is missing."""
    start, end = np.sort(rng.choice(len(data), 2, replace=False))
    return data[:start] + data[end:]


def blank(data: bytes, rng: np.random.Generator) -> bytes:
    """A page is zeros."""
    start = int(rng.integers(-(-len(data) // PAGE))) * PAGE
    return data[:start] + bytes(len(data[start : start + PAGE])) + data[start + PAGE :]


def remove(data: bytes, rng: np.random.Generator) -> None:
    """The file is gone."""


KINDS = {"flip": flip, "truncate": truncate, "cut": cut, "blank": blank, "remove": remove}


def records(folder: Path) -> list[bytes | str]:
    """Every record of a data set as bytes, or what is said of it; one text alone where the folder is refused as a whole."""
    try:
        reader = Reader(folder)
    except ValueError as error:
        return [str(error)]
    found: list[bytes | str] = []
    for episode in range(len(reader)):
        found.append(_read(lambda episode=episode: encode(reader[episode])))
        for number in range(reader.frames[episode] if reader.kind == "image" else 0):
            found.append(_read(lambda episode=episode, number=number: encode_frame(reader.frame(episode, number))))
    return found


def _read(get) -> bytes | str:
    try:
        return get()
    except ValueError as error:
        return str(error)


def damaged(folder: Path, into: Path, kind: str, rng: np.random.Generator) -> str:
    """Copy a data set with one file damaged at random; returns the file's name. A page that was zeros already is no damage."""
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(folder, into)
    path = rng.choice(sorted(into.iterdir()))
    before = path.read_bytes()
    after = KINDS[kind](before, rng)
    while after == before:
        after = KINDS[kind](before, rng)
    path.unlink()
    if after is not None:
        path.write_bytes(after)
    return path.name


def outcome(folder: Path, expected: list[bytes | str], name: str) -> str:
    """What becomes of a damage of the file `name`; AssertionError for a wrong value, and for one that is not named."""
    verified = damages(folder)
    assert len(verified) == 1 and name in verified[0], (name, verified)
    found = records(folder)
    if len(found) < len(expected):
        assert name in found[0], (name, found)
        return "named when opened"
    texts = [text for text in found if isinstance(text, str)]
    assert all(name in text for text in texts), (name, texts)
    wrong = [i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if isinstance(a, bytes) and a != b]
    assert not wrong, f"records {wrong} came back otherwise from a damaged {name}"
    return "named when read" if texts else "touches no record, named by verify"


def count(root: Path, number: int, seed: int = 0) -> collections.Counter:
    """Outcomes of that many damages over a state and an image data set, by kind."""
    rng, found = np.random.default_rng(seed), collections.Counter()
    folders = [synthetic.write(root / kind, 4, kind=kind) for kind in ("state", "image")]
    whole = [records(folder) for folder in folders]
    for i in range(number):
        which, kind = int(rng.integers(2)), list(KINDS)[i % len(KINDS)]
        name = damaged(folders[which], root / "damaged", kind, rng)
        found[kind, outcome(root / "damaged", whole[which], name)] += 1
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for (kind, what), times in sorted(count(Path(folder), options.count, options.seed).items()):
            print(f"{kind:10} {what:36} {times}")
