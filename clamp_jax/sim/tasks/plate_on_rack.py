"""Plate on Rack: put the plate on the drying rack."""

from clamp_jax.sim.tasks import rack

PLATE_ON_RACK = rack.task("small_plate")
