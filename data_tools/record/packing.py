"""A data set of all finished episodes of a folder, as training and the viewer read any other. The same episodes give the same bytes."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clamp_jax.data.folders import META, Writer
from data_tools.record.files import read_episode, read_head, sync_folder
from data_tools.record.store import FOLDER, finished

DATA = "data"
_SAME = ("task", "hz", "images_hz", "cameras", "size", "actions", "object_names")


def pack(directory: Path, tell: Callable[[str], None] = lambda text: None) -> Path:
    """Write DIR/data anew of all of DIR/episodes; the path of the data set.

    It is written beside the one that is there, which is then replaced whole. ValueError that names the file for an episode that is
    damaged or of another kind than the first, for a folder without episodes, and for a DIR/data that is no data set; OSError for a
    full disk: what was there before stays.
    """
    paths = finished(directory / FOLDER)
    if not paths:
        raise ValueError(f"{directory / FOLDER} holds no finished episode; record one first")
    out, new, old = directory / DATA, directory / f"{DATA}.new", directory / f"{DATA}.old"
    if out.exists() and not (out / META).exists():
        raise ValueError(f"{out} is there and holds no finished data set; move it away")
    heads = [read_head(path) for path in paths]
    origin = _origin(paths, heads)
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        with Writer(new, task=heads[0]["task"], kind="image", origin=origin) as writer:
            for path in paths:
                tell(f"pack: {path.name}")
                writer.add(read_episode(path))
        _sync(new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    _replace(out, new, old)
    return out


def _origin(paths: list[Path], heads: list[dict[str, Any]]) -> dict[str, Any]:
    """What meta.json says of where the episodes come from."""
    for path, head in zip(paths, heads, strict=True):
        if wrong := [name for name in _SAME if head.get(name) != heads[0].get(name)]:
            told = f"{path} has {wrong[0]} {head.get(wrong[0])!r}, {paths[0].name} has {heads[0].get(wrong[0])!r}"
            raise ValueError(f"{told}; a data set has one kind of episodes: record the others into another folder")
    names = [name for name in _SAME if name not in ("task", "object_names")]
    return {name: heads[0][name] for name in names} | {"calibrations": sorted({head["calibration"] for head in heads})}


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)


def _replace(out: Path, new: Path, old: Path) -> None:
    """Between the two renames there is no data set, never a half one."""
    if out.exists():
        out.rename(old)
    new.rename(out)
    sync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)
