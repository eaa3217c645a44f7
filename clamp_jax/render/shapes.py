"""Where a ray meets a primitive, and the surface's normal there; MuJoCo's sizes, in the geom's own frame, z its axis.

A ray is an origin and a direction of components (x, y, z) that broadcast against one another, so one function serves all
geoms of a type against all pixels. Its parameter is returned, inf where it misses; a ray that starts inside misses.
"""

from typing import NamedTuple, Protocol

import jax.numpy as jnp
from jax import Array

_TINY = 1e-12  # keeps a ray parallel to an axis or a face finite

Vector = tuple[Array, Array, Array]


class Ray(NamedTuple):
    """Rays in the frame of geoms."""

    origin: Vector
    direction: Vector

    def at(self, t: Array) -> Vector:
        """The points at parameter t."""
        return tuple(o + t * d for o, d in zip(self.origin, self.direction, strict=True))


class Shape(Protocol):
    """A type of geom."""

    def meet(self, ray: Ray, size: Vector) -> Array:
        """Parameter at which rays enter, inf where they miss."""

    def normal(self, point: Vector, size: Vector) -> Vector:
        """Outward normal of any length at points of the surface."""


def _away_from_zero(x: Array) -> Array:
    return jnp.where(jnp.abs(x) < _TINY, _TINY, x)


def _enter_round(ray: Ray, radius: Array, axes: range) -> tuple[Array, Array]:
    """Parameter of entry into a sphere (axes 0..2) or an endless cylinder along z (axes 0..1), and whether it is met.

    From the point of closest approach, whose distance does not cancel as the textbook discriminant does in float32.
    """
    o, d = [ray.origin[i] for i in axes], [ray.direction[i] for i in axes]
    a = jnp.maximum(sum(x * x for x in d), _TINY)
    closest = -sum(x * y for x, y in zip(o, d, strict=True)) / a
    inside = radius * radius - sum((x + closest * y) ** 2 for x, y in zip(o, d, strict=True))
    return closest - jnp.sqrt(jnp.maximum(inside, 0) / a), inside >= 0


class Plane:
    def meet(self, ray, size):
        falling = ray.direction[2] < 0
        t = -ray.origin[2] / jnp.where(falling, ray.direction[2], -1)
        x, y, _ = ray.at(t)
        inside = ((jnp.abs(x) <= size[0]) | (size[0] <= 0)) & ((jnp.abs(y) <= size[1]) | (size[1] <= 0))
        return jnp.where(falling & inside, t, jnp.inf)

    def normal(self, point, size):
        zero = jnp.zeros_like(point[2])
        return zero, zero, jnp.ones_like(zero)


class Sphere:
    def meet(self, ray, size):
        t, met = _enter_round(ray, size[0], range(3))
        return jnp.where(met, t, jnp.inf)

    def normal(self, point, size):
        return point


class Capsule:
    def meet(self, ray, size):
        t, met = _enter_round(ray, size[0], range(2))
        z = ray.origin[2] + t * ray.direction[2]
        end = jnp.clip(z, -size[1], size[1])
        x, y, _ = ray.origin
        # Entered past an end of the endless cylinder, only that end's sphere can be met.
        t_end, met_end = _enter_round(Ray((x, y, ray.origin[2] - end), ray.direction), size[0], range(3))
        body = jnp.abs(z) <= size[1]
        return jnp.where(met & (body | met_end), jnp.where(body, t, t_end), jnp.inf)

    def normal(self, point, size):
        x, y, z = point
        return x, y, z - jnp.clip(z, -size[1], size[1])


class Cylinder:
    def meet(self, ray, size):
        t, met = _enter_round(ray, size[0], range(2))
        z = ray.origin[2] + t * ray.direction[2]
        t_end = (jnp.clip(z, -size[1], size[1]) - ray.origin[2]) / _away_from_zero(ray.direction[2])
        x, y, _ = ray.at(t_end)
        body = jnp.abs(z) <= size[1]
        return jnp.where(met & (body | (x * x + y * y <= size[0] * size[0])), jnp.where(body, t, t_end), jnp.inf)

    def normal(self, point, size):
        x, y, z = point
        end = jnp.abs(z) * size[0] > jnp.sqrt(x * x + y * y) * size[1]
        return jnp.where(end, 0, x), jnp.where(end, 0, y), jnp.where(end, z, 0)


class Box:
    def meet(self, ray, size):
        slope = [1 / _away_from_zero(d) for d in ray.direction]
        middle = [-o * s for o, s in zip(ray.origin, slope, strict=True)]
        half = [h * jnp.abs(s) for h, s in zip(size, slope, strict=True)]
        enter = jnp.maximum(jnp.maximum(middle[0] - half[0], middle[1] - half[1]), middle[2] - half[2])
        leave = jnp.minimum(jnp.minimum(middle[0] + half[0], middle[1] + half[1]), middle[2] + half[2])
        return jnp.where(enter <= leave, enter, jnp.inf)

    def normal(self, point, size):
        reach = [jnp.abs(p) / jnp.maximum(s, _TINY) for p, s in zip(point, size, strict=True)]
        most = jnp.maximum(jnp.maximum(reach[0], reach[1]), reach[2])
        return tuple(jnp.where(r >= most, jnp.sign(p), 0) for r, p in zip(reach, point, strict=True))


SHAPES: tuple[Shape, ...] = (Plane(), Sphere(), Capsule(), Cylinder(), Box())  # in the order of Capacity
