"""Small stand-ins for the tests of deployment: a policy, its specification without an artifact, and valid requests."""

import datetime

import jax
import jax.numpy as jnp
import numpy as np

from clamp_jax.act import Act
from clamp_jax.deploy import artifact, request
from clamp_jax.geometry import aloha
from clamp_jax.structs import CAMERAS, Calibration

HEIGHT, WIDTH = 6, 8
INSTRUCTION = "close the drawer"
HOME = np.tile(aloha.HOME_COMMAND, 2)


def look(params, observation):
    """Reads every part of an observation: a change of any changes the actions."""
    calibration = observation.calibration
    parts = [jnp.mean(observation.rgb.astype(jnp.float32)) / 255, jnp.mean(observation.depth_m), jnp.sum(calibration.intrinsics) / 1e3]
    mounted = calibration.parent_from_camera * calibration.mount[:, None, None]
    parts += [jnp.sum(mounted) / 10, jnp.sum(calibration.world_from_base) / 10, jnp.sum(observation.past_actions * 0.01)]
    parts += [jnp.sum(jnp.where(observation.past_mask, 0.01, 0.0))]
    return observation.joints + 0.1 * jnp.tanh(jnp.stack(parts) @ params["see"]["kernel"])


def decide(params, memory, noise, frozen=None):
    """What is frozen comes out as it is, and changes the rest."""
    free = memory[None] + 0.1 * jnp.tanh(noise @ params["move"])
    if frozen is None:
        return free
    given = jnp.arange(50)[:, None] < frozen.steps
    return jnp.where(given, frozen.actions, free + 0.01 * jnp.sum(jnp.where(given, frozen.actions, 0)))


act = Act(look, decide)


def params(seed=0):
    rng = np.random.default_rng(seed)
    return {"see": {"kernel": rng.normal(size=(7, 14)).astype(np.float32)}, "move": rng.normal(size=(14, 14)).astype(np.float32)}


def calibration():
    eye = np.tile(np.eye(4, dtype=np.float32), (4, 1, 1))
    return Calibration(np.tile(np.float32([9, 9, 4, 3]), (4, 1)), eye, np.array([0, 0, 1, 2], np.int32), eye[:2])


def description(**changes):
    statistics = {"working_range": aloha.WORKING_RANGE.tolist()}
    return artifact.Description(INSTRUCTION, HEIGHT, WIDTH, calibration(), statistics, {"step": 3})._replace(**changes)


def specification():
    """What a server needs of an artifact, without exporting one."""
    return artifact.make_spec({}, description(), today=datetime.date(2026, 1, 31))


class StubPolicy:
    """Answers with the joints of the request at every action; `before` runs first, in the worker thread."""

    def __init__(self, before=lambda inputs: None):
        self.spec, self.before, self.seen = specification(), before, []

    def __call__(self, inputs):
        self.seen.append(inputs)
        self.before(inputs)
        return {"actions": np.repeat(inputs["joints"][:, None], 50, axis=1)}


def warm():
    return artifact.example_inputs(specification())


def message(**changes):
    """A request that a server accepts, with `changes`; a change to None leaves the name out."""
    values = {
        "images": {name: np.full((HEIGHT, WIDTH, 3), i, np.uint8) for i, name in enumerate(CAMERAS)},
        "depth_m": {name: np.full((HEIGHT, WIDTH), 0.1 * i, np.float32) for i, name in enumerate(CAMERAS)},
        "state": HOME.astype(np.float32),
        "past_actions": np.zeros((50, 14), np.float32),
        "past_mask": np.zeros(50, bool),
        "calibration_id": request.calibration_id(specification()),
    }
    return {name: value for name, value in (values | changes).items() if value is not None}


def in_memory(tree, inputs, index):
    """The stand-in's actions (50, 14) for one example of a batch of inputs, without the exporter."""
    one = {name: value[index] for name, value in inputs.items()}
    known = {name: one[name] for name in ("intrinsics", "parent_from_camera", "world_from_base")}
    fields = {name: one[name] for name in ("rgb", "depth_m", "joints", "past_actions", "past_mask")}
    observation = artifact.Observation(calibration=calibration()._replace(**known), **fields)
    noise = jax.random.normal(jax.random.key(one["seed"]), (50, 14))
    return np.asarray(act(tree, observation, noise))
