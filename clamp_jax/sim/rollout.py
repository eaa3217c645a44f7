"""Closed-loop rollouts of a policy in a batch of simulated scenes, by one code for every engine.

The policy sees what the sensors give (observe.sense) and nothing else; the physics runs whole stretches of commands
between two replans, so an engine compiles for one shape.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float, Int, Key, UInt32

from clamp_jax import batching, observe, sensors
from clamp_jax.geometry import aloha, kinematics
from clamp_jax.geometry.aloha import HOME_COMMAND
from clamp_jax.structs import ACTION_DIM, CHUNK, HISTORY, Calibration, Observation, SceneState

HOME_ACTION = np.concatenate([HOME_COMMAND, HOME_COMMAND]).astype(np.float32)  # (14,) the command before the first one

_FINGER = (np.array(aloha.FINGER_LIMITS) - aloha.GRIPPER_CLOSED_M) / (aloha.GRIPPER_OPEN_M - aloha.GRIPPER_CLOSED_M)
# (14,) each: what the joints can do. A server holds a policy's commands to these, and physics its targets: one in memory is held alike
LOWEST, HIGHEST = np.tile(np.concatenate([aloha.JOINT_LIMITS, _FINGER[None]]), (2, 1)).T.astype(np.float32)

STATES = 1 + HISTORY  # kept for late sensors: the state now and those of the second before it, the longest delay there is

# batched observation, keys (b,) -> commands (b, t, 14), rad and gripper 0..1; t >= 1, of ours CHUNK
Policy = Callable[[Observation, Array], ArrayLike]
# states (b,s,q) up to now, newest last, past (b,t,14), mask (b,t), keys of the moment (b,), keys of the trials (b,)
Sense = Callable[[ArrayLike, ArrayLike, ArrayLike, Array, Array], Observation]


class Starts(NamedTuple):
    """Initial states of the trials, the same for every policy that is compared."""

    qpos: np.ndarray  # (b, q)
    variant: np.ndarray  # (b,) int32, which instruction of the task
    seed: int


class Rollout(NamedTuple):
    """What happened in b trials of at most t control steps."""

    success: np.ndarray  # (b,) bool, at any control step up to the limit
    steps: np.ndarray  # (b,) int32 control steps to the first success, the limit where there was none
    qpos: np.ndarray  # (b, t + 1, q) from the initial state on; repeated after a success
    actions: np.ndarray  # (b, t, 14) commands as executed


def initial_states(task: Any, trials: int, seed: int) -> Starts:
    """Draw the initial state of each trial from (seed, trial) alone, so that more trials keep the first ones."""
    if trials < 1:
        raise ValueError(f"trials is {trials}; at least one trial is needed")
    keys = _trial_keys(seed, trials)
    states = [task.reset(key) for key in keys]
    qpos, variant = (np.stack([np.asarray(state[i]) for state in states]) for i in range(2))
    return Starts(qpos.astype(np.float32), variant.astype(np.int32), seed)


def make_sense(scene: SceneState, calibration: Calibration, config: observe.SensorConfig) -> Sense:
    """Sensors of a batch of scenes that differ in qpos alone, drawn by one compiled function.

    scene: tables padded to config.capacity; its qpos is a template whose length the given ones are padded to.
    Late sensors look up the state of their moment in the states they are given, one a control step; before the first one
    the scene stood as in it. Noise is drawn by the keys of the moment, calibration error and looks by those of the trials.
    Raises ValueError for delays that are no whole control steps.
    """
    late = sensors.delays(config)

    def one(qpos: Array, measured: Array, past: Array, mask: Array, key: Array, trial_key: Array) -> Observation:
        padded = jnp.zeros(scene.qpos.shape, jnp.float32).at[: qpos.shape[0]].set(qpos)
        drawn = {"config": config, "key": key, "episode_key": trial_key}
        return observe.sense(scene._replace(qpos=padded), calibration, kinematics.joints_from_qpos(measured), past, mask, **drawn)

    draw = jax.jit(functools.partial(batching.each, one))

    def sense(states: Float[ArrayLike, "b s q"], past: ArrayLike, mask: ArrayLike, keys: Array, trial_keys: Array) -> Observation:
        shown, measured = (states[:, max(states.shape[1] - 1 - delay, 0)] for delay in late)
        return draw(shown, measured, past, mask, keys, trial_keys)

    return sense


def hold_still(observation: Observation, keys: Array) -> Array:
    """The baseline that repeats the last command (home before the first one), (b, CHUNK, 14)."""
    del keys
    sent = observation.past_mask[:, -1, None]
    last = jnp.where(sent, observation.past_actions[:, -1], jnp.asarray(HOME_ACTION)[None])
    return jnp.repeat(last[:, None], CHUNK, axis=1)


def rollout(engine: Any, policy: Policy, starts: Starts, sense: Sense, *, steps: int, replan: int = CHUNK, progress: Any = None) -> Rollout:
    """Run the policy in closed loop from every initial state, at most `steps` control steps of 0.02 s.

    replan: commands of a chunk that are executed before the next observation, 1..CHUNK (CHUNK: ALOHA Unleashed's habit); of a
    policy whose chunks are shorter, all.
    progress: called with the number of control steps done after each stretch (a bar).
    An episode ends at its first success: from then on the trial holds its last command and its trace stands still.
    Raises ValueError for a replan out of range or when the policy returns something that is no finite (b, t, 14).
    """
    if not 1 <= replan <= CHUNK:
        raise ValueError(f"replan is {replan}; a chunk has {CHUNK} commands, so give 1..{CHUNK}")
    trials = len(starts.qpos)
    physics, history = engine.start(starts.qpos, starts.variant), _History.empty(trials)
    record = _Record.start(starts.qpos, steps)
    states, keys = starts.qpos[:, None], _trial_keys(starts.seed, trials)
    trial_keys = _fold(keys, 0)  # no moment's: they count from 1
    begin = 0
    while begin < steps and not record.done.all():
        now = _fold(keys, 1 + begin)
        observation = sense(states, history.actions, history.mask, now, trial_keys)
        commands = _checked(policy(observation, now), trials)[:, :replan]
        commands = np.where(record.done[:, None, None], history.last()[:, None], commands)
        physics, trace = engine.run(physics, commands)
        record.add(begin, np.asarray(trace.qpos), np.asarray(trace.success), commands)
        begin += commands.shape[1]
        states = np.concatenate([states, np.asarray(trace.qpos)], 1)[:, -STATES:]
        history = history.extend(commands)
        if progress is not None:
            progress(min(begin, steps))
    return record.finish()


def noise_seed(key: Array) -> UInt32[Array, ""]:
    """The seed that a policy draws its noise from at the moment of a trial's key: a served one is sent it, one in memory uses it."""
    return jax.random.bits(jax.random.fold_in(key, 1), (), jnp.uint32)


def _trial_keys(seed: int, trials: int) -> Key[Array, " b"]:
    return jax.vmap(lambda trial: jax.random.fold_in(jax.random.key(seed), trial))(jnp.arange(trials))


def _fold(keys: Key[Array, " b"], number: int) -> Key[Array, " b"]:
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def _checked(commands: ArrayLike, trials: int) -> np.ndarray:
    commands = np.asarray(commands, np.float32)
    if commands.ndim != 3 or not commands.shape[1] or (commands.shape[0], commands.shape[2]) != (trials, ACTION_DIM):
        raise ValueError(f"the policy returned commands of shape {commands.shape}; expected ({trials}, t, {ACTION_DIM}) with t >= 1")
    if not np.isfinite(commands).all():
        trial = int(np.argwhere(~np.isfinite(commands))[0, 0])
        raise ValueError(f"the policy returned a command that is not finite in trial {trial}; check the checkpoint's training log")
    return commands


class _History(NamedTuple):
    """The last HISTORY commands of each trial, newest last."""

    actions: np.ndarray  # (b, HISTORY, 14)
    mask: np.ndarray  # (b, HISTORY) bool

    @classmethod
    def empty(cls, trials: int) -> "_History":
        return cls(np.zeros((trials, HISTORY, ACTION_DIM), np.float32), np.zeros((trials, HISTORY), bool))

    def last(self) -> np.ndarray:
        return np.where(self.mask[:, -1:], self.actions[:, -1], HOME_ACTION)

    def extend(self, commands: Float[np.ndarray, "b t 14"]) -> "_History":
        actions = np.concatenate([self.actions, commands], 1)[:, -HISTORY:]
        mask = np.concatenate([self.mask, np.ones(commands.shape[:2], bool)], 1)[:, -HISTORY:]
        return _History(actions, mask)


class _Record:
    """Traces that stop at a trial's first success."""

    def __init__(self, qpos: Float[np.ndarray, "b q"], limit: int):
        self.limit = limit
        self.done = np.zeros(len(qpos), bool)
        self.steps = np.full(len(qpos), limit, np.int32)
        self.qpos, self.actions = [qpos[:, None]], []

    @classmethod
    def start(cls, qpos: np.ndarray, limit: int) -> "_Record":
        return cls(np.asarray(qpos), limit)

    def add(self, begin: int, qpos: np.ndarray, success: np.ndarray, commands: np.ndarray) -> None:
        """Take over one stretch: qpos (b, t, q) after each step, success (b, t), commands (b, t, 14)."""
        kept = min(qpos.shape[1], self.limit - begin)
        qpos, success = qpos[:, :kept], success[:, :kept]
        first = np.where(success.any(1), success.argmax(1), kept)
        stop = np.where(self.done, -1, np.minimum(first, kept - 1))  # last live step of the stretch, -1: none
        self.qpos.append(self._frozen(qpos, stop))
        self.actions.append(commands[:, :kept])
        new = ~self.done & (first < kept)
        self.steps = np.where(new, begin + first + 1, self.steps).astype(np.int32)
        self.done = self.done | new

    def _frozen(self, qpos: np.ndarray, stop: Int[np.ndarray, " b"]) -> np.ndarray:
        """The stretch with every step after `stop` replaced by the state at `stop`, (b, t, q)."""
        whole = np.concatenate([self.qpos[-1][:, -1:], qpos], 1)
        index = np.minimum(np.arange(1, qpos.shape[1] + 1)[None], stop[:, None] + 1)
        return np.take_along_axis(whole, index[..., None], 1)

    def finish(self) -> Rollout:
        return Rollout(self.done, self.steps, np.concatenate(self.qpos, 1), np.concatenate(self.actions, 1))
