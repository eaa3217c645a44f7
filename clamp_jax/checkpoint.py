"""Save and restore a TrainState with orbax; config and statistics travel with the weights, under one SHA-256 manifest.

One step is one folder, `<run>/checkpoints/<step>/`: items `state` (step, params, opt_state), `ema_<network>` for each network,
`config`, `statistics`, and `manifest.json`, written after the last of them and before orbax renames the folder, so that a
folder with a number for a name is whole. No key is kept: each step's are made of the config's seed and the step.
"""

import contextlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from clamp_jax import leaks, manifest
from clamp_jax.manifest import MANIFEST, CheckpointError, digest
from clamp_jax.structs import TrainState

leaks.stop()

FOLDER = "checkpoints"
AVERAGE = "ema_"  # and a network's name: an item of its own, so that a stage that needs one network reads no other
WHOLE_AVERAGE = "ema"  # the item of checkpoints that were written before
DOCUMENTS = ("config", "statistics")
LATER = ("calibrations",)  # fields of the statistics that older runs lack, which go on all the same
NOISE = ("Waiting for previous save", "Handler Commit operations or the Commit", "_SignalingThread.run() raised", "(save_finalize) failed")
PATIENCE_S = 60.0  # for a writer to end
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that orbax has not renamed yet


class Loaded(NamedTuple):
    """What evaluation, export and stage (ii) need of a run."""

    params: Any  # the exponential moving average, nested dicts
    config: dict
    statistics: dict
    step: int


class Checkpoints:
    """The checkpoints of one run, `<run>/checkpoints`, for writing; a context manager, which waits for what is being written.

    Opening removes what a killed process left: orbax's temporary folders and empty step folders (which orbax takes for the
    latest step). `verified=False` restores without the manifest: then only names, shapes and types of the arrays are compared,
    and the statistics; bytes that have changed go unseen.
    """

    def __init__(self, run: str | os.PathLike, *, keep_last: int = 2, keep_every: int | None = None, verified: bool = True):
        self.folder, self._verified, self._running = folder(run), verified, None
        self.folder.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            clean(self.folder)
        logger = logging.getLogger("absl")
        logger.removeFilter(_is_news)
        logger.addFilter(_is_news)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep_last,
            keep_period=keep_every,
            lightweight_initialize=True,  # what it would read is not in the manifest
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._write_manifest),
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        """Wait for a save that is still running; its error is raised, unless another is on its way."""
        try:
            self.wait()
        except CheckpointError as error:
            if kind is None:
                raise
            logging.getLogger(__name__).error("%s", error)
        finally:
            with contextlib.suppress(Exception):  # orbax says once more what a save failed of
                self._manager.close()

    def latest(self) -> int | None:
        """The newest step that is on disk, None when there is none."""
        return latest_step(self.folder)

    def save(self, state: TrainState, config: Mapping, statistics: Mapping) -> Path:
        """Begin to save a state under its own step; returns the step's folder, which is there once `wait` returns.

        When this returns, the state has been copied to the host, and may be donated (on a CPU the copy is the buffer itself,
        which jax then does not give away). An earlier save is waited for. Raises CheckpointError when the earlier one failed,
        a value is not finite, or that step or a later one is there already (orbax would return False and save nothing).
        """
        self.wait()
        step, newest = int(jax.device_get(state.step)), self.latest()
        if newest is not None and step <= newest:
            raise CheckpointError(f"step {step} cannot be saved: {self.folder} already holds step {newest}; use another run's folder")
        check_finite(state)
        averages = {AVERAGE + name: ocp.args.StandardSave(tree) for name, tree in state.ema.items()}
        documents = {name: ocp.args.JsonSave(dict(value)) for name, value in (("config", config), ("statistics", statistics))}
        items = ocp.args.Composite(state=ocp.args.StandardSave(_without_ema(state)), **averages, **documents)
        self._running = step
        try:
            begun = self._manager.save(step, args=items, force=True)
        except Exception as error:
            raise self._failed(error) from error
        if not begun:
            raise CheckpointError(f"orbax refused to save step {step} in {self.folder}")
        return self.folder / str(step)

    def check(self) -> None:
        """Raise the CheckpointError of a save that has failed meanwhile; waits for nothing."""
        if self._running is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Wait until what is being saved has its name on disk. Raises CheckpointError when it could not be written."""
        if self._running is None:
            return
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failed(error) from error
        step, self._running = self._running, None
        if not (self.folder / str(step) / MANIFEST).is_file():
            raise CheckpointError(f"step {step} was saved without a word and is not in {self.folder}; see to the disk")

    def restore(self, like: TrainState, *, step: int | None = None, statistics: Mapping | None = None) -> TrainState:
        """The state saved at a step (default: the newest), verified, with the shapes, dtypes and shardings of `like`.

        `like` holds arrays or jax.ShapeDtypeStructs, on any number of devices. Raises CheckpointError when a file is damaged,
        when a leaf's name, shape or dtype differs (orbax would cast), or when `statistics` are given and are not those the
        weights were saved with.
        """
        self.wait()
        step = _need_step(self.folder, step)
        where = self.folder / str(step)
        if self._verified:
            manifest.verify(where)
        if statistics is not None:
            check_statistics(read_document(where, "statistics"), statistics)
        abstract = jax.tree.map(_abstract, like)
        state = _read_tree(where / "state", _without_ema(abstract), f"state of step {step}")
        return TrainState(**state, ema=_read_averages(where, abstract.ema, f"ema of step {step}"))

    def _failed(self, error: Exception) -> CheckpointError:
        """What to say of a save that failed; what it left is removed, since a disk may be full of it."""
        step, self._running = self._running, None
        if jax.process_index() == 0:
            _clean_after_writers(self.folder)
        told, newest = str(error).strip().splitlines() or [type(error).__name__], self.latest()
        kept = "there is no earlier one" if newest is None else f"step {newest} is the last that is there, and whole"
        return CheckpointError(
            f"the checkpoint of step {step} could not be written to {self.folder} ({told[0]}); {kept}: "
            "make room or mend the cause, and the same command goes on"
        )

    def _write_manifest(self) -> None:
        """orbax calls this in its own thread when all files are there and before the rename; it names no folder."""
        found = sorted(self.folder.glob(f"*{UNFINISHED}*"))
        if len(found) != 1:
            raise CheckpointError(f"expected one unfinished checkpoint in {self.folder}, found {[path.name for path in found]}")
        manifest.write(found[0])


def load_params(
    run: str | os.PathLike, *, step: int | None = None, networks: Sequence[str] | None = None, verified: bool = True
) -> Loaded:
    """The EMA parameters of a run with its config and statistics, verified; `step` defaults to the newest.

    networks: names of those to read ("clamp", "policy"; default: all); nothing of the others and of the optimiser is read.
    Raises CheckpointError when there is no checkpoint, a network is not in it, or a file that is read is damaged.
    """
    checkpoints = folder(run)
    step = _need_step(checkpoints, step)
    where = checkpoints / str(step)
    items = _average_items(where)
    chosen = sorted(items) if networks is None else list(networks)
    missing = [name for name in chosen if name not in items]
    if missing and WHOLE_AVERAGE not in items:
        raise CheckpointError(f"the checkpoint of step {step} has no network {missing[0]!r}; it has {sorted(items)}")
    read = [items[name] for name in chosen] if WHOLE_AVERAGE not in items else [WHOLE_AVERAGE]
    if verified:
        manifest.verify(where, None if networks is None else [*read, *DOCUMENTS])
    if WHOLE_AVERAGE in items:
        params = _read_as_saved(where / WHOLE_AVERAGE)
        params = {name: params[name] for name in params if networks is None or name in networks}
    else:
        params = {name: _read_as_saved(where / items[name]) for name in chosen}
    return Loaded(params, step=step, **{name: read_document(where, name) for name in DOCUMENTS})


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
    for step in sorted((int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()), reverse=True):
        try:
            if any((checkpoints / str(step)).iterdir()):
                return step
        except FileNotFoundError:  # an old one that the run is removing just now
            continue
    return None


def clean(checkpoints: Path) -> None:
    """Remove unfinished checkpoints and step folders with nothing in them.

    Ours, since orbax's own `cleanup_tmp_directories` leaves a temporary folder that was killed before its metadata was written.
    """
    for path in checkpoints.iterdir():
        if UNFINISHED in path.name:
            shutil.rmtree(path)
        elif path.name.isdigit() and path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _clean_after_writers(checkpoints: Path) -> None:
    """After one of orbax's writers has failed the others still write, and make folders anew that were removed: wait for them.

    What outlives even this the next opening removes.
    """
    for thread in threading.enumerate():
        if type(thread).__name__ == "_SignalingThread" and thread is not threading.current_thread():
            with contextlib.suppress(Exception):  # its join raises what it met
                thread.join(PATIENCE_S)
    with contextlib.suppress(OSError):
        clean(checkpoints)


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
    """Raise CheckpointError when statistics are not those that the weights were saved with; what those lack of LATER is no difference."""
    given = {name: value for name, value in given.items() if name in saved or name not in LATER}
    ours, theirs = digest(saved), digest(given)
    if ours != theirs:
        raise CheckpointError(
            f"the statistics given (sha256 {theirs[:12]}) do not belong to the weights, which were saved with {ours[:12]}: "
            f"{_difference(saved, given)}; train on the data set the run began with, or begin in another folder"
        )


def _difference(before: Any, now: Any, name: str = "") -> str:
    """The first place where two JSON documents differ, with what stood there and what stands there now."""
    if isinstance(before, list | tuple) and isinstance(now, list | tuple) and len(before) == len(now):
        before, now = dict(enumerate(before)), dict(enumerate(now))
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                return _difference(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    return f"{name} was {str(before)[:60]}, is {str(now)[:60]}"


def check_finite(state: TrainState) -> None:
    """Raise CheckpointError that names the leaves of a state with a value that is not finite: such a state is worth nothing."""
    trees = {"params": state.params, "opt_state": state.opt_state, "ema": state.ema}
    leaves = jax.tree_util.tree_leaves_with_path(trees)
    named = [(".".join(_key(entry) for entry in path), leaf) for path, leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    finite = jax.device_get(_all_finite([leaf for _, leaf in named]))
    bad = [name for (name, _), good in zip(named, finite, strict=True) if not good]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        step = int(jax.device_get(state.step))
        raise CheckpointError(f"step {step} is not saved: {', '.join(bad[:3])}{more} not finite; lower the learning rate")


@jax.jit
def _all_finite(leaves: list[Any]) -> list[Any]:
    return [jnp.isfinite(leaf).all() for leaf in leaves]


def read_document(step_folder: Path, name: str) -> dict:
    """The config or the statistics of a checkpoint."""
    return json.loads((step_folder / name / "metadata").read_text())


def _average_items(step_folder: Path) -> dict[str, str]:
    """Network -> its item; {"ema": "ema"} of a checkpoint that has all of them in one."""
    found = {path.name.removeprefix(AVERAGE): path.name for path in step_folder.glob(f"{AVERAGE}*")}
    return found or {WHOLE_AVERAGE: WHOLE_AVERAGE}


def _read_averages(step_folder: Path, like: Mapping, name: str) -> dict[str, Any]:
    items = _average_items(step_folder)
    if WHOLE_AVERAGE in items:
        return _read_tree(step_folder / WHOLE_AVERAGE, like, name)
    handler = ocp.StandardCheckpointHandler()
    found = {network: handler.metadata(step_folder / item).tree for network, item in items.items()}
    check_structure(found, like, name)
    return {network: handler.restore(step_folder / items[network], args=ocp.args.StandardRestore(like[network])) for network in like}


def _read_tree(item: Path, like: Any, name: str) -> Any:
    """An item with the shapes, dtypes and shardings of `like`, which it must have already."""
    handler = ocp.StandardCheckpointHandler()
    check_structure(handler.metadata(item).tree, like, name)
    return handler.restore(item, args=ocp.args.StandardRestore(like))


def _read_as_saved(item: Path) -> Any:
    """An item as numpy arrays."""
    handler = ocp.StandardCheckpointHandler()
    return handler.restore(item, args=ocp.args.StandardRestore(jax.tree.map(_host, handler.metadata(item).tree)))


def _is_news(record: logging.LogRecord) -> bool:
    """False for orbax's advice not to save so often, and for its tracebacks of what is raised here in words."""
    told = record.getMessage()
    return not any(part in told for part in NOISE)


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
