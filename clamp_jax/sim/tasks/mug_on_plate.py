"""Mug on Plate: put the red mug on the plate. Reset and success are the public simulator's."""

from jax import Array
from jaxtyping import ArrayLike, Bool, Float, Int

from clamp_jax.sim.distance import TOUCHING_M, Gap
from clamp_jax.sim.tasks import dining
from clamp_jax.sim.tasks.placing import still


def success(
    qpos: Float[ArrayLike, " q"], qvel: Float[ArrayLike, " v"], variant: Int[ArrayLike, ""], *, gap: Gap = dining.plate_to_mug
) -> Bool[Array, ""]:
    """The mug touches the plate, and neither moves."""
    del variant
    touches = gap(dining.first_from_second(qpos, "plate", "mug")) < TOUCHING_M
    return touches & still(qvel, dining.QVEL["mug"], dining.QVEL["plate"])


MUG_ON_PLATE = dining.task("mug_on_plate", "put the red mug on the plate", success, ("mug", "plate"), pair=("plate", "mug"))
