"""Hand Over Banana: from the right arm to the left and into its container."""

from clamp_jax.sim.tasks import hand_over

HAND_OVER_BANANA = hand_over.task("banana")
