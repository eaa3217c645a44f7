"""Runs frozen encoders once over recorded data, so that stage (ii) need not at every step; says first how long it takes."""

import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clamp_jax import act, steps
from clamp_jax.data.embeddings import Store
from clamp_jax.data.pipeline import Batches, Dataset, ExampleMaker, stack
from clamp_jax.networks import Networks
from clamp_jax.structs import Observation

AUTO, OFF = "auto", "off"
ROWS = 16  # frames at a time


class Plan(NamedTuple):
    """What there is to do."""

    episodes: tuple[tuple[Dataset, int], ...]  # that have no embeddings yet
    frames: int
    gib: float  # on disk
    hours: float  # at the speed of the first frames

    def __str__(self) -> str:
        return f"embedding {len(self.episodes)} episodes, {self.frames} frames: about {self.hours:.2g} h and {self.gib:.2g} GiB"


def why_not(networks: Networks, datasets: Sequence[Dataset], processes: int) -> str:
    """Why embeddings cannot be kept for a run, "" when they can."""
    if networks.clamp is None or not networks.variant.embeddings:
        return "this variant reads no encoder's embedding"
    if networks.policy.config.embeddings == "tokens":
        return "the policy reads the encoders' tokens, which are too many to keep"
    if networks.views.points:
        return "config.views.points draws another part of each cloud at every step"
    if any(dataset.kind != "image" for dataset in datasets):
        return "simulated records get new images at every step"
    return "several processes share the data; fill the folder with one process and name it" if processes > 1 else ""


def choose(flag: str, workdir: Path, networks: Networks, datasets: Sequence[Dataset], processes: int) -> Path | None:
    """The folder for the embeddings of a run, None to run the encoders at every step; ValueError where a named folder is of no use."""
    if flag == OFF:
        return None
    reason = why_not(networks, datasets, processes)
    if flag != AUTO and reason:
        raise ValueError(f"embeddings cannot be kept in {flag}: {reason}; leave --embeddings out")
    return None if reason else (workdir / "embeddings" if flag == AUTO else Path(flag))


def weights_hash(networks: Networks, params: Mapping[str, Any]) -> str:
    """Hash of all that an embedding depends on beside the record: the encoders' weights and form, and the views."""
    about = (networks.clamp.config, networks.views, act.weights_hash(params))
    return hashlib.sha256(repr(about).encode()).hexdigest()


def keep(folder: Path, networks: Networks, clamp: Any, batches: Batches, *, tell: Callable[[str], None]) -> Batches:
    """The batches with the embeddings of their recorded examples, which are made where they are missing."""
    clamp = jax.device_put(clamp)
    store = Store(folder, weights_hash(networks, clamp), networks.embedding)
    fill(store, batches.datasets, batches.maker, make_embed(networks, clamp), tell=tell)
    return batches.with_embeddings(store)


def fill(store: Store, datasets: Sequence[Dataset], maker: ExampleMaker, embed: Callable, *, tell: Callable[[str], None]) -> Plan:
    """Make what is missing, an episode after the other; a run that was stopped goes on with those that it has not written."""
    missing = tuple((d, int(e)) for d in datasets for e in d.episodes if store.read(d, int(e)) is None)
    frames = sum(d.frames(e) for d, e in missing)
    gib = frames * 2 * store.width * 4 / 2**30
    plan = Plan(missing, frames, gib, 0.0)
    if not missing:
        return plan
    plan = plan._replace(hours=_seconds(embed, maker, *missing[0]) * -(-frames // ROWS) / 3600)
    tell(f"{plan}, in {store.folder}")
    for dataset, episode in missing:
        store.write(dataset, episode, embed_episode(embed, maker, dataset, episode))
    return plan


def _seconds(embed: Callable, maker: ExampleMaker, dataset: Dataset, episode: int) -> float:
    """Of ROWS frames, reading included; the first call, which compiles, does not count."""
    rows = np.arange(ROWS) % dataset.frames(episode)
    times = []
    for _ in range(2):
        began = time.monotonic()
        embed(_observations(maker, dataset, episode, rows))
        times.append(time.monotonic() - began)
    return times[-1]


def embed_episode(embed: Callable, maker: ExampleMaker, dataset: Dataset, episode: int) -> np.ndarray:
    """(frames, 2, d) of an episode; the last rows are filled up, so that one shape is compiled."""
    count, found = dataset.frames(episode), []
    for start in range(0, count, ROWS):
        rows = np.minimum(np.arange(start, start + ROWS), count - 1)
        found.append(embed(_observations(maker, dataset, episode, rows)))
    return np.concatenate(found)[:count]


def _observations(maker: ExampleMaker, dataset: Dataset, episode: int, rows: np.ndarray) -> Observation:
    return stack([maker.example_at(dataset, episode, int(frame)).observation for frame in rows])


def make_embed(networks: Networks, clamp: Any) -> Callable[[Observation], np.ndarray]:
    """Observations (b, ...) -> (b, 2, d), compiled; the encoders are stage (ii)'s own, with their parameters as an argument."""

    @jax.jit
    def run(params: Mapping[str, Any], observation: Observation) -> jax.Array:
        keys = jnp.broadcast_to(jax.random.key(0), len(observation.joints))  # views that draw nothing read none
        image, action = steps.embed(networks, params, steps.see(networks, observation, keys))
        return jnp.stack([image.pooled, action.pooled], axis=1)

    return lambda observation: np.asarray(functools.partial(run, {"clamp": clamp})(observation))
