"""Whether two oriented boxes overlap."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, Bool, Float

_EDGE_EPSILON = 1e-6  # below it two edges count as parallel and their cross product separates nothing


def boxes_overlap(
    a_from_b: Float[ArrayLike, "4 4"], half_a: Float[ArrayLike, "3"], half_b: Float[ArrayLike, "3"]
) -> Bool[Array, ""]:
    """Whether two boxes centred on frames a and b overlap (touching counts); half sizes in m.

    Source: separating axes (Gottschalk et al. 1996): two boxes are apart if and only if one of 15 directions tells them apart,
    the three face normals of each and the nine cross products of their edges.
    """
    a_from_b, half_a, half_b = jnp.asarray(a_from_b), jnp.asarray(half_a), jnp.asarray(half_b)
    rotation, offset = a_from_b[:3, :3], a_from_b[:3, 3]
    edges = jnp.cross(jnp.eye(3, dtype=rotation.dtype)[:, None, :], rotation.T[None, :, :]).reshape(9, 3)
    axes = jnp.concatenate([jnp.eye(3, dtype=rotation.dtype), rotation.T, edges])
    reach = jnp.sum(jnp.abs(axes) * half_a[None], -1) + jnp.sum(jnp.abs(jnp.sum(axes[:, :, None] * rotation[None], 1)) * half_b[None], -1)
    distance = jnp.abs(jnp.sum(axes * offset[None], -1))
    usable = jnp.sum(axes * axes, -1) > _EDGE_EPSILON
    return jnp.all((distance <= reach) | ~usable)
