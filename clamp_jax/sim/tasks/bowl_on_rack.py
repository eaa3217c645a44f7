"""Bowl on Rack: put the bowl on the drying rack."""

from clamp_jax.sim.tasks import rack

BOWL_ON_RACK = rack.task("small_bowl")
