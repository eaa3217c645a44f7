"""Screwdriver in Caddy: put the screwdriver into the left or the right compartment."""

from clamp_jax.sim.tasks import caddy

SCREWDRIVER_IN_CADDY = caddy.task("screwdriver")
