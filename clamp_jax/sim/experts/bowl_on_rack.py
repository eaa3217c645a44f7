"""Bowl on Rack: the bowl stood on edge in a slot."""

import functools

from clamp_jax.sim.experts import rack

plan = functools.partial(rack.plan, name="small_bowl")
