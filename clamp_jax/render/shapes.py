"""Where a ray meets a primitive, and its surface there; MuJoCo's sizes, in the geom's own frame, z its axis.

A ray is an origin and a direction of components (x, y, z) that broadcast against one another, so one function serves all
geoms of a type against all pixels. `meet` gives its parameter, inf where it misses; of a ray that starts inside a solid
it is inf or negative. `surface` gives a nearby point's height over the surface and the unit normal outwards.
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
        """Parameter at which rays enter."""

    def surface(self, point: Vector, size: Vector) -> tuple[Array, Vector]:
        """Height over the surface, m, and unit normal there, of points close to it."""

    def extent(self, along: Vector, size: Vector) -> Array:
        """How far the shape reaches from its middle along a vector whose components along the geom's axes are `along`."""


def _away_from_zero(x: Array) -> Array:
    return jnp.where(jnp.abs(x) < _TINY, _TINY, x)


def _enter_round(ray: Ray, radius: Array, axes: range) -> tuple[Array, Array]:
    """Parameter of entry into a sphere (axes 0..2) or an endless cylinder along z (axes 0..1), and whether it is met.

    From the point of closest approach, whose distance does not cancel as the textbook discriminant does in float32.
    """
    o, d = [ray.origin[i] for i in axes], [ray.direction[i] for i in axes]
    inverse = 1 / jnp.maximum(sum(x * x for x in d), _TINY)
    closest = -sum(x * y for x, y in zip(o, d, strict=True)) * inverse
    inside = radius * radius - sum((x + closest * y) ** 2 for x, y in zip(o, d, strict=True))
    return closest - jnp.sqrt(jnp.maximum(inside, 0) * inverse), inside >= 0


def _scaled(vector: Vector, factor: Array) -> Vector:
    return tuple(component * factor for component in vector)


def _length(vector: tuple[Array, ...]) -> Array:
    return jnp.sqrt(sum(component * component for component in vector))


def _round(offset: Vector, radius: Array) -> tuple[Array, Vector]:
    """Height over, and normal of, a sphere about the origin (or a cylinder where the offset has no z)."""
    length = jnp.sqrt(jnp.maximum(sum(component * component for component in offset), _TINY))
    return length - radius, _scaled(offset, 1 / length)


class Plane:
    def meet(self, ray, size):
        t = -ray.origin[2] / _away_from_zero(ray.direction[2])
        x, y, _ = ray.at(t)
        inside = ((jnp.abs(x) <= size[0]) | (size[0] <= 0)) & ((jnp.abs(y) <= size[1]) | (size[1] <= 0))
        return jnp.where(inside & (t > 0), t, jnp.inf)

    def surface(self, point, size):
        zero = jnp.zeros_like(point[2])
        return point[2], (zero, zero, jnp.ones_like(zero))

    def extent(self, along, size):
        endless = (size[0] <= 0) | (size[1] <= 0)
        return jnp.where(endless, jnp.inf, size[0] * jnp.abs(along[0]) + size[1] * jnp.abs(along[1]))


class Sphere:
    def meet(self, ray, size):
        t, met = _enter_round(ray, size[0], range(3))
        return jnp.where(met, t, jnp.inf)

    def surface(self, point, size):
        return _round(point, size[0])

    def extent(self, along, size):
        return size[0] * _length(along)


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

    def surface(self, point, size):
        x, y, z = point
        return _round((x, y, z - jnp.clip(z, -size[1], size[1])), size[0])

    def extent(self, along, size):
        return size[0] * _length(along) + size[1] * jnp.abs(along[2])


class Cylinder:
    def meet(self, ray, size):
        t, met = _enter_round(ray, size[0], range(2))
        z = ray.origin[2] + t * ray.direction[2]
        t_end = (jnp.clip(z, -size[1], size[1]) - ray.origin[2]) / _away_from_zero(ray.direction[2])
        x, y, _ = ray.at(t_end)
        body = jnp.abs(z) <= size[1]
        return jnp.where(met & (body | (x * x + y * y <= size[0] * size[0])), jnp.where(body, t, t_end), jnp.inf)

    def surface(self, point, size):
        x, y, z = point
        side, (nx, ny, _) = _round((x, y, jnp.zeros_like(z)), size[0])
        over = jnp.abs(z) - size[1]
        end = over > side
        normal = jnp.where(end, 0, nx), jnp.where(end, 0, ny), jnp.where(end, jnp.sign(z), 0)
        return jnp.where(end, over, side), normal

    def extent(self, along, size):
        return size[0] * _length(along[:2]) + size[1] * jnp.abs(along[2])


class Box:
    def meet(self, ray, size):
        slope = [1 / _away_from_zero(d) for d in ray.direction]
        middle = [-o * s for o, s in zip(ray.origin, slope, strict=True)]
        half = [h * jnp.abs(s) for h, s in zip(size, slope, strict=True)]
        enter = jnp.maximum(jnp.maximum(middle[0] - half[0], middle[1] - half[1]), middle[2] - half[2])
        leave = jnp.minimum(jnp.minimum(middle[0] + half[0], middle[1] + half[1]), middle[2] + half[2])
        return jnp.where(enter <= leave, enter, jnp.inf)

    def surface(self, point, size):
        over = [jnp.abs(p) - s for p, s in zip(point, size, strict=True)]
        most = jnp.maximum(jnp.maximum(over[0], over[1]), over[2])
        return most, tuple(jnp.where(o >= most, jnp.sign(p), 0) for o, p in zip(over, point, strict=True))

    def extent(self, along, size):
        return sum(half * jnp.abs(component) for half, component in zip(size, along, strict=True))


SHAPES: tuple[Shape, ...] = (Plane(), Sphere(), Capsule(), Cylinder(), Box())  # in the order of Capacity
