"""Hand Over Pen."""

import functools

from clamp_jax.sim.experts import hand_over

plan = functools.partial(hand_over.plan, thing="pen")
