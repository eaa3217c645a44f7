"""Banana in Bowl: put the banana into the bowl. Reset and success are the public simulator's."""

from jax import Array
from jaxtyping import ArrayLike, Bool, Float, Int

from clamp_jax.sim.tasks import dining
from clamp_jax.sim.tasks.placing import still


def success(qpos: Float[ArrayLike, " q"], qvel: Float[ArrayLike, " v"], variant: Int[ArrayLike, ""]) -> Bool[Array, ""]:
    """The banana is in the middle of the bowl, and neither moves."""
    del variant
    return dining.overlaps(qpos, "banana", "bowl", dining.IN_BOWL) & still(qvel, dining.QVEL["banana"], dining.QVEL["bowl"])


BANANA_IN_BOWL = dining.task("banana_in_bowl", "put the banana in the bowl", success, ("banana", "bowl"))
