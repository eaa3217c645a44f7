"""Scissors in Caddy."""

import functools

from clamp_jax.sim.experts import caddy

plan = functools.partial(caddy.plan, name="scissors")
