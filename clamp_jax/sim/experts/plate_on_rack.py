"""Plate on Rack: the plate stood on edge in a slot."""

import functools

from clamp_jax.sim.experts import rack

plan = functools.partial(rack.plan, name="small_plate")
