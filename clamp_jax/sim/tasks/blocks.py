"""What the tasks with blocks share: where things stand, and when one lies in or on another."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, Key

from clamp_jax.sim.tasks.placing import first_apart

LOW, HIGH = np.float32([-0.22, -0.18]), np.float32([0.22, 0.18])  # m: where things may stand


def places(key: Key[Array, ""], count: int, apart_m: float, reach_m: float = 1.0) -> Float[Array, "c 2"]:
    """x, y of things that stand at least so far from one another, and the second at most so far from the first."""

    def draw(key: Array) -> Array:
        return jnp.asarray(LOW)[None] + jax.random.uniform(key, (count, 2)) * jnp.asarray(HIGH - LOW)[None]

    def apart(found: Array) -> Array:
        first, second = np.triu_indices(count, 1)
        way = jnp.sqrt(jnp.sum((found[first] - found[second]) ** 2, -1))
        return jnp.all(way > apart_m) & (way[0] < reach_m)

    return first_apart(draw, apart, key)


def within(place: Float[ArrayLike, "2"], centre: Float[ArrayLike, "2"], half_m: float) -> Bool[Array, ""]:
    """Whether a place lies in the square of that half size round a centre."""
    return jnp.all(jnp.abs(jnp.asarray(place) - jnp.asarray(centre)) <= half_m)
