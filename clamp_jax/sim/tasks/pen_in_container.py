"""Pen in Container: put the pen into the white cup. Reset and success are the public simulator's."""

from jax import Array
from jaxtyping import ArrayLike, Bool, Float, Int

from clamp_jax.sim.tasks import dining
from clamp_jax.sim.tasks.placing import still


def success(qpos: Float[ArrayLike, " q"], qvel: Float[ArrayLike, " v"], variant: Int[ArrayLike, ""]) -> Bool[Array, ""]:
    """The pen reaches from the cup's floor to above its rim, and neither moves."""
    del variant
    return dining.overlaps(qpos, "pen", "cup", dining.IN_CUP) & still(qvel, dining.QVEL["pen"], dining.QVEL["cup"])


PEN_IN_CONTAINER = dining.task("pen_in_container", "put the pen in the white cup", success, ("pen", "cup"))
