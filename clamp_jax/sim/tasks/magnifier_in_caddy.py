"""Magnifier in Caddy: put the magnifier into the left or the right compartment."""

from clamp_jax.sim.tasks import caddy

MAGNIFIER_IN_CADDY = caddy.task("magnifier")
