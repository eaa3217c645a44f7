"""Pictures of a run's first batch, just as the networks get it: most mistakes of units, axes and order are seen in a second."""

from pathlib import Path

import jax
import numpy as np

from clamp_jax import steps
from clamp_jax.networks import Networks
from clamp_jax.structs import Batch, Observation
from experiments import pictures, sights, training

EXAMPLES = 2  # of each kind of record
CAMERAS, VIEWS = "first_batch_cameras.png", "first_batch_views.png"


def draw(networks: Networks, batch: Batch, folder: Path) -> list[Path]:
    """Write the cameras (colour above depth) of the first examples of each kind, and their views; returns the files.

    A policy without sight gets no picture, one without encoders none of views.
    """
    if not networks.variant.sight:
        return []
    few = first(batch, EXAMPLES)
    observation, views = jax.device_get(jax.jit(lambda few: _seen(networks, few), compiler_options=training.QUICK)(few))
    rows = range(len(observation.joints))
    cameras = [sights.camera_picture(jax.tree.map(lambda x, i=i: x[i], observation)) for i in rows]
    found = [pictures.write_png(folder / CAMERAS, pictures.column(cameras))]
    if views is not None:
        found.append(pictures.write_png(folder / VIEWS, pictures.column([sights.view_picture(views[i], networks.views) for i in rows])))
    return found


def first(batch: Batch, count: int) -> Batch:
    """The first examples of each kind with their keys."""
    parts = [None if part is None else jax.tree.map(lambda x: x[:count], part) for part in batch[:2]]
    states = 0 if batch.states is None else len(batch.states.joints)
    keys = [batch.keys[:states][:count], batch.keys[states:][:count]]
    return Batch(*parts, jax.numpy.concatenate(keys))


def _seen(networks: Networks, few: Batch) -> tuple[Observation, np.ndarray | None]:
    """The observations and views of `steps.prepare`, by the same keys."""
    keys = jax.vmap(lambda key: jax.random.split(key, 3))(few.keys)
    observation = steps.observations(networks, few, keys[:, 0])
    return observation, steps.see(networks, observation, keys[:, 1]).views
