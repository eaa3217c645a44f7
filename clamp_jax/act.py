"""The policy as one pure function: observation -> views -> embeddings -> DDIM -> actions in rad and gripper units."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from clamp_jax import checkpoint, diffusion, parallel
from clamp_jax.data.transforms import denormalise, normalise
from clamp_jax.geometry.aloha import WORKING_RANGE
from clamp_jax.models import folding
from clamp_jax.networks import Networks, make_networks
from clamp_jax.steps import ablate, embed, see
from clamp_jax.structs import ACTION_DIM, CAMERAS, CHUNK, HISTORY, Capacity, Frozen, Observation

DDIM_STEPS = 10  # usual at inference are 10 to 16 (ours)


@dataclasses.dataclass(frozen=True)  # not a tuple: jax.jit keeps a weak reference to what it compiles
class Act:
    """A policy for one moment: act(params, observation, noise (50, 14), frozen=None) -> actions (50, 14), rad and gripper 0..1.

    In two parts, of which the first is the same whatever is drawn and frozen. Batch either by jax.vmap.
    """

    look: Callable[[Any, Observation], Any]  # (params, observation) -> memory: what was seen, as the denoiser reads it
    decide: Callable[[Any, Any, ArrayLike, Frozen | None], Array]  # (params, memory, noise, frozen) -> actions

    def __call__(self, params: Any, observation: Observation, noise: ArrayLike, frozen: Frozen | None = None) -> Array:
        return self.decide(params, self.look(params, observation), noise, frozen)


class RunPolicy(NamedTuple):
    """The policy of a training run."""

    act: Act  # (params, observation, noise) -> actions
    params: Any
    networks: Networks
    loaded: checkpoint.Loaded  # with config, statistics and step


def make_policy(networks: Networks, *, steps: int = DDIM_STEPS) -> Act:
    """The policy of these networks, sampled by DDIM.

    With `frozen` the first rows are those given, and the rest goes on from them (diffusion.ddim's `known`).
    Pure: all randomness is in `noise`, standard normal; it exports with params as an argument. Raises ValueError, when traced,
    for an observation or noise of another shape than the networks were made for.
    """

    def look(params: Any, observation: Observation) -> Any:
        check_shapes(networks, observation)
        one = jax.tree.map(lambda x: jnp.asarray(x)[None], observation)
        # the subsample of the cloud is the same each time: what a policy does must not depend on hidden randomness
        inputs = see(networks, one, jax.random.key(0)[None])
        embeddings = ablate(networks, embed(networks, params, inputs), parallel.GLOBAL)
        return networks.policy.apply({"params": params["policy"]}, inputs.rgb, inputs.joints, *embeddings, method="encode")

    def decide(params: Any, memory: Any, noise: ArrayLike, frozen: Frozen | None = None) -> Float[Array, "t a"]:
        if np.shape(noise) != (CHUNK, ACTION_DIM):
            raise ValueError(f"noise has shape {np.shape(noise)}, the policy takes ({CHUNK}, {ACTION_DIM}): one row a future command")

        def denoise(noisy: Array, timestep: Array) -> Array:
            return networks.policy.apply({"params": params["policy"]}, memory, noisy, timestep, method="denoise")

        sample = functools.partial(diffusion.ddim, denoise, networks.schedule, jnp.asarray(noise)[None], steps)
        how = {"prediction": networks.policy.config.prediction}
        if frozen is None:
            return denormalise(sample(**how)[0])
        given = jnp.arange(CHUNK) < frozen.steps
        painted = denormalise(sample(known=diffusion.Known(normalise(jnp.asarray(frozen.actions))[None], given[None]), **how)[0])
        return jnp.where(given[:, None], frozen.actions, painted)  # to the last bit

    return Act(look, decide)


def check_shapes(networks: Networks, observation: Observation) -> None:
    """Raise ValueError that names the field, its shape or type and what the networks expect; works on traced values."""
    image = (len(CAMERAS), networks.sensor.height, networks.sensor.width)
    expected = {
        "rgb": ((*image, 3), np.uint8),
        "depth_m": (image, np.float32),
        "joints": ((ACTION_DIM,), np.float32),
        "past_actions": ((HISTORY, ACTION_DIM), np.float32),
        "past_mask": ((HISTORY,), np.bool_),
    }
    for name, (shape, dtype) in expected.items():
        found = getattr(observation, name)
        if np.shape(found) != shape or jnp.result_type(found) != dtype:
            raise ValueError(
                f"{name} is {jnp.result_type(found)}{list(np.shape(found))}, the policy takes {np.dtype(dtype).name}{list(shape)}; "
                "give one observation (vmap for several) at the size the policy was trained with"
            )


def load_run(run: str | Path, *, step: int | None = None, steps: int = DDIM_STEPS) -> RunPolicy:
    """The networks of a run's folder with their averaged weights; `step` of the checkpoint defaults to the newest.

    Raises CheckpointError for a damaged checkpoint, ValueError when its normalisation is not this program's.
    """
    loaded = checkpoint.load_params(run, step=step)
    check_working_range(loaded.statistics)
    config = loaded.config
    sections = {name: config[name] for name in ("model", "views", "sensor", "variant", "ablation") if name in config}
    networks = make_networks(**sections, capacity=Capacity(**config["data"]["capacity"]))
    return RunPolicy(make_policy(networks, steps=steps), loaded.params, networks, loaded)


def weights_hash(params: Any) -> str:
    """SHA-256 over names, types and bytes of a parameter tree, hexadecimal."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()


def load_policy(run: str | Path, *, step: int | None = None, steps: int = DDIM_STEPS) -> RunPolicy:
    """The policy of a run's folder as it is deployed (`fold`); raises what `load_run` raises."""
    return fold(load_run(run, step=step, steps=steps), steps=steps)


def fold(run: RunPolicy, *, steps: int = DDIM_STEPS) -> RunPolicy:
    """The deployed policy: frozen encoders with P folded in, no text, and the working ranges inside; its actions are the run's.

    Evaluation, export and a robot all use this one.
    """
    networks, params = run.networks, {"policy": jax.tree.map(jnp.asarray, run.params["policy"])}
    if networks.clamp is not None:
        clamp, params["clamp"] = folding.fold_clamp(networks.clamp, jax.tree.map(jnp.asarray, run.params["clamp"]))
        networks = networks._replace(clamp=clamp)
    networks = networks._replace(policy=folding.inference_policy(networks.policy))
    return RunPolicy(make_policy(networks, steps=steps), params, networks, run.loaded)


def check_working_range(statistics: Mapping[str, Any]) -> None:
    """Raise ValueError when weights were trained with another table of working ranges than this program normalises by."""
    saved = np.asarray(statistics["working_range"])
    if saved.shape != WORKING_RANGE.shape or not np.allclose(saved, WORKING_RANGE, atol=1e-9):
        raise ValueError(
            f"the weights were trained with the working range {saved.tolist()}, this program has {WORKING_RANGE.tolist()}; "
            "use the version of the program that trained them"
        )
