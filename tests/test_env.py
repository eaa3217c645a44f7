"""The pure environment: what MJX's engine is made of. Its numbers are checked against native MuJoCo in test_engines.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clamp_jax.sim import env, tasks

BATCH = 3


@pytest.fixture(scope="module")
def drawer():
    return env.make("drawer_open")


def test_resets_are_the_tasks_at_rest(drawer):
    keys = jax.random.split(jax.random.key(1), BATCH)
    states = jax.jit(jax.vmap(drawer.reset))(keys)
    qpos, variant = jax.vmap(tasks.get("drawer_open").reset)(keys)
    np.testing.assert_array_equal(states.qpos, qpos)
    np.testing.assert_array_equal(states.variant, variant)
    assert not np.any(states.qvel) and not np.any(states.warmstart) and not np.any(states.time)
    assert np.ptp(np.asarray(states.qpos)[:, 16]) > 0


def test_a_step_keeps_the_states_shapes_so_that_it_can_be_scanned(drawer):
    states = jax.eval_shape(jax.vmap(drawer.reset), jax.random.split(jax.random.key(1), BATCH))
    after, seen = jax.eval_shape(jax.vmap(drawer.step), states, jnp.zeros((BATCH, 14)))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), states)
    assert seen.overflow.shape == seen.success.shape == (BATCH,) and seen.qpos.shape == (BATCH, 26) and seen.success.dtype == bool


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="did you mean 'drawer_open'"):
        env.make("drawer_opne")
    with pytest.raises(ValueError, match="geometry is 'meshes'"):
        env.make("drawer_open", "meshes")
    with pytest.raises(ValueError, match="impl is 'cuda'; expected one of jax, warp"):
        env.make("drawer_open", impl="cuda")


@pytest.mark.timeout(900)
def test_warps_environment_is_the_same_alone_and_in_a_batch():
    pytest.importorskip("warp", reason="needs the [warp] extra")
    made, keys = env.make("drawer_close", impl="warp"), jax.random.split(jax.random.key(1), 2)
    states, action = jax.jit(jax.vmap(made.reset))(keys), jnp.zeros(14)
    together, seen = jax.jit(jax.vmap(made.step, in_axes=(0, None)))(states, action)
    alone, one = jax.jit(made.step)(jax.tree.map(lambda leaf: leaf[1], states), action)
    np.testing.assert_allclose(alone.qpos, together.qpos[1], atol=1e-5)
    np.testing.assert_allclose(alone.time, 0.02, atol=1e-7)
    assert np.abs(alone.qvel).max() > 0.1 and not one.overflow and not np.any(seen.overflow)
