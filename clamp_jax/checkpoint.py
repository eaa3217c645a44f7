"""Save and restore a TrainState with orbax; config and statistics travel with the weights, under one SHA-256 manifest.

One step is one folder, `<run>/checkpoints/<step>/`: items `state` (step, params, opt_state), `ema`, `config`, `statistics`, and
`manifest.json`, written after the last of them and before orbax renames the folder, so that a folder with a number for a name
is whole. orbax alone restores 9 of 10 flipped bits as wrong values without a word.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from clamp_jax.structs import TrainState

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that orbax has not renamed yet
AFTER_COMMIT = ("_CHECKPOINT_METADATA", "commit_success.txt")  # orbax writes these two once more after the manifest


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another model."""


class Loaded(NamedTuple):
    """What evaluation, export and stage (ii) need of a run."""

    params: Any  # the exponential moving average, nested dicts
    config: dict
    statistics: dict
    step: int


class Checkpoints:
    """The checkpoints of one run, `<run>/checkpoints`, for writing; a context manager.

    Opening removes what a killed process left: orbax's temporary folders and empty step folders (which orbax takes for the
    latest step).
    """

    def __init__(self, run: str | os.PathLike, *, keep_last: int = 2, keep_every: int | None = None):
        self.folder = folder(run)
        self.folder.mkdir(parents=True, exist_ok=True)
        clean(self.folder)
        logging.getLogger("absl").addFilter(_is_news)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep_last,
            keep_period=keep_every,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._write_manifest),
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=_handlers())

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """The newest step that has been saved, None when there is none."""
        return latest_step(self.folder)

    def save(self, state: TrainState, config: Mapping, statistics: Mapping) -> Path:
        """Save a state under its own step and wait until it is on disk; returns the step's folder.

        Raises CheckpointError when that step or a later one is there already (orbax would return False and save nothing).
        """
        step, newest = int(state.step), self.latest()
        if newest is not None and step <= newest:
            raise CheckpointError(f"step {step} cannot be saved: {self.folder} already holds step {newest}; use another run's folder")
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_without_ema(state)),
            ema=ocp.args.StandardSave(state.ema),
            config=ocp.args.JsonSave(dict(config)),
            statistics=ocp.args.JsonSave(dict(statistics)),
        )
        if not self._manager.save(step, args=items, force=True):
            raise CheckpointError(f"orbax refused to save step {step} in {self.folder}")
        self._manager.wait_until_finished()
        self._manager.check_for_errors()
        return self.folder / str(step)

    def restore(self, like: TrainState, *, step: int | None = None, statistics: Mapping | None = None) -> TrainState:
        """The state saved at a step (default: the newest), verified, with the shapes, dtypes and shardings of `like`.

        `like` holds arrays or jax.ShapeDtypeStructs. Raises CheckpointError when a file is damaged, when a leaf's name, shape or
        dtype differs (orbax would cast), or when `statistics` are given and are not those the weights were saved with.
        """
        step = _need_step(self.folder, step)
        verify(self.folder / str(step))
        if statistics is not None:
            check_statistics(read_document(self.folder / str(step), "statistics"), statistics)
        abstract = jax.tree.map(_abstract, like)
        items = {"state": _without_ema(abstract), "ema": abstract.ema}
        found = self._manager.item_metadata(step)
        for name, item in items.items():
            check_structure(found[name].tree, item, f"{name} of step {step}")
        args = ocp.args.Composite(**{name: ocp.args.StandardRestore(item) for name, item in items.items()})
        restored = self._manager.restore(step, args=args)
        return TrainState(**restored["state"], ema=restored["ema"])

    def _write_manifest(self) -> None:
        """orbax calls this in its own thread when all files are there and before the rename; it names no folder."""
        found = sorted(self.folder.glob(f"*{UNFINISHED}*"))
        if len(found) != 1:
            raise CheckpointError(f"expected one unfinished checkpoint in {self.folder}, found {[path.name for path in found]}")
        write_manifest(found[0])


def load_params(run: str | os.PathLike, *, step: int | None = None) -> Loaded:
    """The EMA parameters of a run with its config and statistics, verified; `step` defaults to the newest.

    Nothing of the optimiser is read. Raises CheckpointError when there is no checkpoint or one of its files is damaged.
    """
    where = folder(run)
    step = _need_step(where, step)
    verify(where / str(step))
    handler = ocp.StandardCheckpointHandler()
    like = jax.tree.map(_host, handler.metadata(where / str(step) / "ema").tree)
    params = handler.restore(where / str(step) / "ema", args=ocp.args.StandardRestore(like))
    documents = {name: read_document(where / str(step), name) for name in ("config", "statistics")}
    return Loaded(params, step=step, **documents)


def part(loaded: Loaded, name: str) -> Any:
    """The parameters of one network of a run: "clamp" (the encoders) or "policy". Raises CheckpointError when it has none."""
    if name not in loaded.params:
        raise CheckpointError(f"the checkpoint of step {loaded.step} has no network {name!r}; it has {sorted(loaded.params)}")
    return loaded.params[name]


def folder(run: str | os.PathLike) -> Path:
    """Where the checkpoints of a run stand (absolute: orbax takes no relative path)."""
    return Path(run).absolute() / FOLDER


def latest_step(checkpoints: Path) -> int | None:
    """The newest step folder that is not empty, None when there is none."""
    if not checkpoints.is_dir():
        return None
    steps = [int(path.name) for path in checkpoints.iterdir() if path.name.isdigit() and any(path.iterdir())]
    return max(steps, default=None)


def clean(checkpoints: Path) -> None:
    """Remove unfinished checkpoints and step folders with nothing in them.

    Ours, since orbax's own `cleanup_tmp_directories` leaves a temporary folder that was killed before its metadata was written.
    """
    for path in checkpoints.iterdir():
        if UNFINISHED in path.name:
            shutil.rmtree(path)
        elif path.name.isdigit() and path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def check_structure(found: Any, expected: Any, name: str) -> None:
    """Raise CheckpointError that names the leaves whose presence, shape or dtype differs between a checkpoint and a model."""
    have, want = _signatures(found), _signatures(expected)
    problems = [f"{path}: checkpoint has {have.get(path, 'nothing')}, the model {want.get(path, 'nothing')}"
                for path in sorted(have.keys() | want.keys()) if have.get(path) != want.get(path)]  # fmt: skip
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise CheckpointError(
            f"the {name} does not fit the model: {'; '.join(problems[:5])}{more}; use the config the checkpoint was made with"
        )


def check_statistics(saved: Mapping, given: Mapping) -> None:
    """Raise CheckpointError when statistics are not those that the weights were saved with."""
    ours, theirs = digest(saved), digest(given)
    if ours != theirs:
        raise CheckpointError(
            f"the statistics given (sha256 {theirs[:12]}) do not belong to the weights, which were saved with {ours[:12]}; "
            "train on the data set the run began with, or begin in another folder"
        )


def digest(document: Mapping) -> str:
    """SHA-256 of a JSON document in one canonical form, hexadecimal."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_manifest(step_folder: Path) -> None:
    """Write the SHA-256 of every file of a checkpoint, and of that list itself."""
    files = {path: _hash(step_folder / path) for path in _files(step_folder)}
    text = json.dumps({"files": files, "sha256": digest(files)}, indent=1)
    temporary = step_folder / f"{MANIFEST}.tmp"
    temporary.write_text(text)
    temporary.rename(step_folder / MANIFEST)


def verify(step_folder: Path) -> None:
    """Check every file of a checkpoint against its manifest. Raises CheckpointError that names the first that differs."""
    files = _read_manifest(step_folder)
    present = set(_files(step_folder))
    for path, expected in files.items():
        if path not in present:
            raise CheckpointError(f"{step_folder / path} is missing; the checkpoint is damaged, restore an earlier step")
        found = _hash(step_folder / path)
        if found != expected:
            raise CheckpointError(
                f"{step_folder / path} has sha256 {found[:12]}, the manifest says {expected[:12]}; "
                "the checkpoint is damaged, restore an earlier step"
            )
    extra = sorted(present - set(files))
    if extra:
        raise CheckpointError(f"{step_folder / extra[0]} is not in the manifest; remove it or restore an earlier step")


def read_document(step_folder: Path, name: str) -> dict:
    """The config or the statistics of a checkpoint."""
    return json.loads((step_folder / name / "metadata").read_text())


def _read_manifest(step_folder: Path) -> dict[str, str]:
    path = step_folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; the checkpoint is damaged, restore an earlier step")
    try:
        manifest = json.loads(path.read_text())
        files, expected = manifest["files"], manifest["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a manifest ({error}); the checkpoint is damaged, restore an earlier step") from error
    if digest(files) != expected:
        raise CheckpointError(f"{path} does not carry its own sha256; the checkpoint is damaged, restore an earlier step")
    return files


def _files(step_folder: Path) -> list[str]:
    skip = {*AFTER_COMMIT, MANIFEST}
    names = (path.relative_to(step_folder).as_posix() for path in step_folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name not in skip)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_news(record: logging.LogRecord) -> bool:
    """False for orbax's advice not to wait for a save: `save` does, on purpose."""
    return "Waiting for previous save" not in record.getMessage()


def _handlers() -> dict[str, ocp.CheckpointHandler]:
    """Named, so that a manager that has saved nothing yet can read them."""
    arrays = {name: ocp.StandardCheckpointHandler() for name in ("state", "ema")}
    return arrays | {name: ocp.JsonCheckpointHandler() for name in ("config", "statistics")}


def _need_step(checkpoints: Path, step: int | None) -> int:
    found = latest_step(checkpoints) if step is None else step
    if found is None or not (checkpoints / str(found)).is_dir():
        wanted = "" if step is None else f" of step {step}"
        raise CheckpointError(f"no checkpoint{wanted} in {checkpoints}; train first, or pass the folder of a run")
    return found


def _without_ema(state: TrainState) -> dict:
    return {"step": state.step, "params": state.params, "opt_state": state.opt_state}


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def _host(leaf: Any) -> np.ndarray:
    return np.empty(leaf.shape, leaf.dtype)


def _signatures(tree: Any) -> dict[str, str]:
    """"path" -> "dtype(shape)"; the path names dictionary keys, attributes and positions alike, as orbax does."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(_key(entry) for entry in path): f"{np.dtype(leaf.dtype).name}{tuple(leaf.shape)}" for path, leaf in leaves}


def _key(entry: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)
