"""The SHA-256 of every file of a checkpoint, in a list that carries its own.

orbax alone restores 9 of 10 flipped bits as wrong values without a word.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

MANIFEST = "manifest.json"
# orbax writes these two once more after the manifest; they say when and where, and nothing here reads them
AFTER_COMMIT = ("_CHECKPOINT_METADATA", "commit_success.txt")
CURE = "the checkpoint is damaged: remove its folder to go on from the one before, or copy it again"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, cannot be written or is of another model."""


def digest(document: Mapping) -> str:
    """SHA-256 of a JSON document in one canonical form, hexadecimal."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write(step_folder: Path) -> None:
    """Write the SHA-256 of every file of a checkpoint, and of that list itself; all of them are on the disk before it has its name."""
    files = {path: _hash(step_folder / path, sync=True) for path in _files(step_folder)}
    temporary = step_folder / f"{MANIFEST}.tmp"
    with temporary.open("w") as file:
        file.write(json.dumps({"files": files, "sha256": digest(files)}, indent=1))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(step_folder / MANIFEST)


def verify(step_folder: Path, items: Sequence[str] | None = None) -> None:
    """Check the files of a checkpoint against its manifest, those of some `items` (its folders) or all of them.

    Raises CheckpointError that names the first that differs, is missing or does not belong there.
    """
    files = {path: expected for path, expected in _read(step_folder).items() if _is_of(path, items)}
    present = {path for path in _files(step_folder) if _is_of(path, items)}
    for path, expected in files.items():
        if path not in present:
            raise CheckpointError(f"{step_folder / path} is missing; {CURE}")
        found = _hash(step_folder / path)
        if found != expected:
            raise CheckpointError(f"{step_folder / path} has sha256 {found[:12]}, the manifest says {str(expected)[:12]}; {CURE}")
    extra = sorted(present - set(files))
    if extra:
        raise CheckpointError(f"{step_folder / extra[0]} is not in the manifest; remove it, or the checkpoint's folder")


def list_hash(step_folder: Path) -> str:
    """SHA-256 of a checkpoint's list of hashes, so of all that is in it. Raises CheckpointError when the list is damaged."""
    return digest(_read(step_folder))


def _read(step_folder: Path) -> dict[str, str]:
    path = step_folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; {CURE}")
    try:
        manifest = json.loads(path.read_text())
        files, expected = manifest["files"], manifest["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a manifest ({error}); {CURE}") from error
    if digest(files) != expected:
        raise CheckpointError(f"{path} does not carry its own sha256; {CURE}")
    return files


def _is_of(path: str, items: Sequence[str] | None) -> bool:
    return items is None or path.split("/")[0] in items


def _files(step_folder: Path) -> list[str]:
    skip = {*AFTER_COMMIT, MANIFEST}
    names = (path.relative_to(step_folder).as_posix() for path in step_folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name not in skip)


def _hash(path: Path, *, sync: bool = False) -> str:
    """SHA-256 of a file; `sync` waits until the disk has it: a rename may outlive a power cut that the bytes do not."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if sync:
            os.fsync(file.fileno())
    return found
