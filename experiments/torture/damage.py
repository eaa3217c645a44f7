"""Bits, truncations and deletions over a checkpoint and an artifact: each is named before a value of the file is used."""

import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clamp_jax import checkpoint, manifest
from clamp_jax.act import Act
from clamp_jax.deploy import artifact, loader
from clamp_jax.geometry import aloha
from clamp_jax.structs import CAMERAS, Calibration, Frozen, TrainState

WAYS = ("flip", "truncate", "delete")


class Target(NamedTuple):
    """Something on disk that says when it is damaged."""

    folder: Path
    check: Callable[[Path], object]  # raises ValueError or OSError that names the file, before anything of it is used
    unread: tuple[str, ...] = ()  # files of it that are never read and are left out


def torture(folder: Path, cases: int, *, seed: int = 0) -> dict[str, Any]:
    """Damage a checkpoint and an artifact that are made in `folder`, in turn; returns what came of it as plain values."""
    targets = {"checkpoint": make_checkpoint(folder / "run"), "artifact": make_artifact(folder / "artifact")}
    random, named, missed = Random(seed), Counter(), []
    for case in range(cases):
        kind = list(targets)[case % len(targets)]
        way, name, told = damage(targets[kind], random)
        good = told is not None and Path(name).name in told
        named[f"{kind} {way}"] += good
        missed += [] if good else [f"{kind} {way} {name}: {told}"]
    for target in targets.values():
        target.check(target.folder)
    return {"cases": cases, "named": dict(named), "missed": missed, "good": not missed}


def damage(target: Target, random: Random) -> tuple[str, str, str | None]:
    """Damage one file of a target in one way and mend it: (way, file, what the check said or None)."""
    names = sorted(path.relative_to(target.folder).as_posix() for path in target.folder.rglob("*") if path.is_file())
    name = random.choice([name for name in names if Path(name).as_posix() not in target.unread])
    path, way = target.folder / name, random.choice(WAYS)
    before = path.read_bytes()
    if not before:
        way = "delete"
    _DAMAGE[way](path, before, random)
    try:
        target.check(target.folder)
    except (ValueError, OSError) as error:
        return way, name, str(error)
    finally:
        path.write_bytes(before)
    return way, name, None


def _flip(path: Path, before: bytes, random: Random) -> None:
    changed = bytearray(before)
    changed[random.randrange(len(before))] ^= 1 << random.randrange(8)
    path.write_bytes(changed)


def _truncate(path: Path, before: bytes, random: Random) -> None:
    path.write_bytes(before[: random.randrange(len(before))])


def _delete(path: Path, before: bytes, random: Random) -> None:
    path.unlink()


_DAMAGE = {"flip": _flip, "truncate": _truncate, "delete": _delete}


def make_checkpoint(run: Path) -> Target:
    """A checkpoint of two small networks."""
    rng = np.random.default_rng(0)
    params = {name: {"w": jnp.asarray(rng.normal(size=(20, 30)).astype(np.float32))} for name in ("clamp", "policy")}
    state = TrainState(jnp.int32(7), params, {"mu": params}, params)
    with checkpoint.Checkpoints(run) as store:
        store.save(state, {"seed": 0}, {"count": 3})
    check = functools.partial(_load_checkpoint, run)
    return Target(checkpoint.folder(run) / "7", check, unread=manifest.AFTER_COMMIT)


def _load_checkpoint(run: Path, _: Path) -> None:
    checkpoint.load_params(run)


def make_artifact(folder: Path) -> Target:
    """An artifact of a policy of one matrix."""
    rng = np.random.default_rng(0)
    eye = np.tile(np.eye(4, dtype=np.float32), (len(CAMERAS), 1, 1))
    mount = np.array([aloha.CAMERA_MOUNTS[name].mount for name in CAMERAS], np.int32)
    calibration = Calibration(np.tile(np.float32([9, 9, 4, 3]), (len(CAMERAS), 1)), eye, mount, eye[:2])
    statistics = {"working_range": aloha.WORKING_RANGE.tolist()}
    about = artifact.Description("keep still", 6, 8, calibration, statistics, {"step": 7})
    weights = {"w": rng.normal(size=(14, 14)).astype(np.float32)}
    artifact.write_artifact(folder, Act(lambda params, seen: seen.joints, _decide), weights, about)
    return Target(folder, loader.load_artifact)


def _decide(params: Any, joints: jax.Array, noise: jax.Array, frozen: Frozen | None = None) -> jax.Array:
    free = joints[None] + 0.1 * jnp.tanh(noise @ params["w"])
    return free if frozen is None else jnp.where(jnp.arange(len(free))[:, None] < frozen.steps, frozen.actions, free)
