"""Tensors of public weights files (safetensors): read by name, those that are wanted alone, each with the shape it must have."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import ml_dtypes  # noqa: F401 - with it numpy knows bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open

FLOATS = ("F32", "F16", "BF16", "F64")  # all become float32
Shape = tuple[int, ...]

_SHOWN = 4  # names of a kind in an error; a wrong file has hundreds


class PublicFile(NamedTuple):
    """Names, shapes and types of a safetensors file; no tensor has been read."""

    path: Path
    what: str  # what it should be, for errors
    shapes: Mapping[str, Shape]
    types: Mapping[str, str]

    def shape(self, name: str, axes: int) -> Shape:
        """Shape of a tensor; ValueError if it is missing or has another number of axes."""
        if name not in self.shapes:
            raise self.error([f"missing is {name!r}"])
        if len(self.shapes[name]) != axes:
            raise self.error([f"{name!r} has shape {self.shapes[name]}, expected {axes} axes"])
        return self.shapes[name]

    def read(self, wanted: Mapping[str, Shape], unread: re.Pattern) -> dict[str, np.ndarray]:
        """The wanted tensors by name, float32; names that match `unread` as a whole are known and left alone.

        ValueError names every kind of what is missing, not known, misshapen, of a type that is no float, or not finite.
        """
        problems = self._problems(wanted, unread)
        if problems:
            raise self.error(problems)
        with safe_open(self.path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name).astype(np.float32) for name in wanted}
        bad = [repr(name) for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
        if bad:
            raise self.error([f"not finite are numbers of {_some(bad)}"])
        return tensors

    def error(self, problems: Sequence[str]) -> ValueError:
        """What is wrong with the file, and what to do."""
        return ValueError(f"{self.path} is not {self.what}: {'; '.join(problems)}. docs/models.md says which public files are read")

    def _problems(self, wanted: Mapping[str, Shape], unread: re.Pattern) -> list[str]:
        there = [name for name in wanted if name in self.shapes]
        missing = [f"{name!r} {wanted[name]}" for name in wanted if name not in self.shapes]
        extra = [f"{name!r} {shape}" for name, shape in self.shapes.items() if name not in wanted and not unread.fullmatch(name)]
        odd = [f"{name!r} {self.shapes[name]} in place of {wanted[name]}" for name in there if self.shapes[name] != wanted[name]]
        types = [f"{name!r} {self.types[name]} in place of one of {', '.join(FLOATS)}" for name in there if self.types[name] not in FLOATS]
        kinds = {"missing is": missing, "not known is": extra, "of another shape is": odd, "of another type is": types}
        return [f"{kind} {_some(names)}" for kind, names in kinds.items() if names]


def open_weights(path: str | Path, what: str) -> PublicFile:
    """The header of a safetensors file, or of model.safetensors in a folder; `what` it should be is for errors.

    FileNotFoundError if it is not there, ValueError if it is no safetensors file.
    """
    path = _find(Path(path), what)
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            return PublicFile(path, what, shapes, {name: part.get_dtype() for name, part in slices.items()})
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file ({error}); pass the weights of {what} as safetensors") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _find(path: Path, what: str) -> Path:
    expected = f"expected {what}: a safetensors file, or a folder that holds it as model.safetensors"
    if path.is_dir():
        if not (path / "model.safetensors").is_file():
            held = _some(sorted(entry.name for entry in path.iterdir())) or "nothing"
            raise FileNotFoundError(f"{path} holds {held}, and no model.safetensors; {expected} (docs/models.md)")
        return path / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file and no folder; {expected} (docs/models.md)")
    return path


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
