"""Rollouts against a slow one-trial loop on a toy engine whose physics is: the joints jump to the command."""

import re
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clamp_jax.sim import rollout
from clamp_jax.structs import ACTION_DIM, CHUNK, HISTORY, Observation

Q = ACTION_DIM + 1


class Trace(NamedTuple):
    qpos: np.ndarray
    success: np.ndarray


class ToyEngine:
    """qpos is the command and a clock; a trial succeeds at the control steps named for it."""

    def __init__(self, successes):
        self.successes, self.commands = successes, []

    def start(self, qpos, variant):
        del variant
        return np.array(qpos)

    def run(self, physics, actions):
        self.commands.append(np.asarray(actions))
        clock = physics[:, -1:] + np.arange(1, actions.shape[1] + 1)[None]
        qpos = np.concatenate([actions, clock[..., None]], -1).astype(np.float32)
        success = np.stack([np.isin(clock[i], list(self.successes[i])) for i in range(len(qpos))])
        return qpos[:, -1], Trace(qpos, success)


def starts(trials, seed=0):
    return rollout.Starts(np.zeros((trials, Q), np.float32), np.zeros(trials, np.int32), seed)


def sense(states, past, mask, keys, trial_keys):
    """An observation whose `joints` are the whole toy state."""
    del keys, trial_keys
    return Observation(None, None, None, jnp.asarray(states[:, -1]), jnp.asarray(past), jnp.asarray(mask))


def counting(observation, keys):
    """Commands that name the state they were computed from: the clock, plus 0.01 a step of the chunk."""
    del keys
    ahead = 0.01 * jnp.arange(CHUNK)[None, :, None]
    return jnp.broadcast_to(observation.joints[:, -1][:, None, None] + ahead, (observation.joints.shape[0], CHUNK, ACTION_DIM))


def slow(successes, steps, replan):
    """One trial, one step at a time, with plain lists."""
    qpos, sent, states, chunk = np.zeros(Q, np.float32), [], [np.zeros(Q, np.float32)], []
    for step in range(steps):
        if step % replan == 0:
            chunk = [np.full(ACTION_DIM, qpos[-1] + 0.01 * i, np.float32) for i in range(CHUNK)]
        sent.append(chunk[step % replan])
        qpos = np.append(sent[-1], step + 1).astype(np.float32)
        states.append(qpos)
        if step + 1 in successes:
            return True, step + 1, states, sent
    return False, steps, states, sent


@pytest.mark.parametrize("replan", [CHUNK, 25, 7])
def test_equals_a_loop_of_one_trial(replan):
    successes, steps = [{3}, set(), {60, 61}, {8, 90}, {101}], 100
    result = rollout.rollout(ToyEngine(successes), counting, starts(5), sense, steps=steps, replan=replan)
    for i, wanted in enumerate(successes):
        success, count, states, sent = slow(wanted, steps, replan)
        assert (bool(result.success[i]), int(result.steps[i])) == (success, count)
        np.testing.assert_allclose(result.qpos[i, : count + 1], states, atol=1e-6)
        np.testing.assert_allclose(result.actions[i, :count], sent, atol=1e-6)
        assert (result.qpos[i, count:] == result.qpos[i, count]).all(), "the trace of a finished trial stands still"


def test_history_is_what_was_executed():
    seen = []

    def policy(observation, keys):
        seen.append((np.asarray(observation.past_actions), np.asarray(observation.past_mask)))
        return counting(observation, keys)

    engine = ToyEngine([set()])
    rollout.rollout(engine, policy, starts(1), sense, steps=75, replan=25)
    executed = np.concatenate(engine.commands, 1)
    assert not seen[0][1].any()
    np.testing.assert_array_equal(seen[1][0][0, -25:], executed[0, :25])
    np.testing.assert_array_equal(seen[1][1][0], np.arange(HISTORY) >= HISTORY - 25)
    np.testing.assert_array_equal(seen[2][0][0], executed[0, :50])


def test_finished_trials_hold_their_last_command():
    engine = ToyEngine([{3}, set()])
    rollout.rollout(engine, counting, starts(2), sense, steps=100, replan=50)
    np.testing.assert_array_equal(engine.commands[1][0], np.broadcast_to(engine.commands[0][0, -1], (50, ACTION_DIM)))
    assert np.ptp(engine.commands[1][1]) > 0


def test_stops_when_all_have_finished():
    engine = ToyEngine([{3}, {20}])
    rollout.rollout(engine, counting, starts(2), sense, steps=1000, replan=50)
    assert len(engine.commands) == 1


def test_hold_still_repeats_home_then_the_last_command():
    past = np.random.default_rng(0).normal(size=(2, HISTORY, ACTION_DIM)).astype(np.float32)
    mask = np.zeros((2, HISTORY), bool)
    mask[1, -1] = True
    actions = np.asarray(rollout.hold_still(sense(np.zeros((2, 1, Q)), past, mask, None, None), jax.random.split(jax.random.key(0))))
    np.testing.assert_array_equal(actions[0], np.broadcast_to(rollout.HOME_ACTION, (CHUNK, ACTION_DIM)))
    np.testing.assert_array_equal(actions[1], np.broadcast_to(past[1, -1], (CHUNK, ACTION_DIM)))


def test_initial_states_do_not_depend_on_the_number_of_trials():
    task = SimpleNamespace(reset=lambda key: (jax.random.uniform(key, (Q,)), jax.random.randint(key, (), 0, 3)))
    few, many = rollout.initial_states(task, 2, 42), rollout.initial_states(task, 5, 42)
    np.testing.assert_array_equal(few.qpos, many.qpos[:2])
    np.testing.assert_array_equal(few.variant, many.variant[:2])
    assert len(np.unique(many.qpos, axis=0)) == 5
    assert not np.array_equal(few.qpos, rollout.initial_states(task, 2, 43).qpos)


def test_draws_differ_between_trials_and_replans_and_repeat_with_the_seed():
    drawn = []

    def policy(observation, keys):
        drawn.append(np.asarray(jax.random.key_data(keys)))
        return counting(observation, keys)

    for _ in range(2):
        rollout.rollout(ToyEngine([set(), set()]), policy, starts(2, seed=7), sense, steps=100, replan=50)
    rows = np.concatenate(drawn[:2])
    assert len(np.unique(rows, axis=0)) == 4
    np.testing.assert_array_equal(rows, np.concatenate(drawn[2:]))


@pytest.mark.parametrize(("horizon", "replan"), [(7, 50), (7, 3), (1, 50), (60, 50)])
def test_a_policy_may_have_chunks_of_another_length(horizon, replan):
    def other(observation, keys):
        commands = np.asarray(counting(observation, keys))
        return np.concatenate([commands, commands + 9], 1)[:, :horizon]

    told = []
    found = rollout.rollout(ToyEngine([{20}, set()]), other, starts(2), sense, steps=45, replan=replan, progress=told.append)
    expected = rollout.rollout(ToyEngine([{20}, set()]), counting, starts(2), sense, steps=45, replan=min(horizon, replan))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    np.testing.assert_array_equal(found.steps, [20, 45])
    assert told[-1] == 45


def test_bad_policies_are_refused():
    def run(policy, replan=50):
        return rollout.rollout(ToyEngine([set()] * 2), policy, starts(2), sense, steps=50, replan=replan)

    for shape in ((2, 0, 14), (2, 50, 13), (1, 50, 14), (50, 14)):
        with pytest.raises(ValueError, match=rf"shape {re.escape(str(shape))}; expected \(2, t, 14\)"):
            run(lambda observation, keys, shape=shape: np.zeros(shape))
    with pytest.raises(ValueError, match="not finite in trial 1"):
        run(lambda observation, keys: np.stack([np.zeros((50, 14)), np.full((50, 14), np.nan)]))
    with pytest.raises(ValueError, match="replan is 51"):
        run(counting, replan=51)
    with pytest.raises(ValueError, match="at least one trial"):
        rollout.initial_states(SimpleNamespace(reset=None), 0, 1)
