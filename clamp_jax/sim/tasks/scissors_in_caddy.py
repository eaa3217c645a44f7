"""Scissors in Caddy: put the scissors into the left or the right compartment."""

from clamp_jax.sim.tasks import caddy

SCISSORS_IN_CADDY = caddy.task("scissors")
