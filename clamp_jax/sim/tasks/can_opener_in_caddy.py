"""Can Opener in Caddy: put the can opener into the left or the right compartment."""

from clamp_jax.sim.tasks import caddy

CAN_OPENER_IN_CADDY = caddy.task("can_opener")
