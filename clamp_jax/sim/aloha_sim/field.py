"""Distance between two objects of the public simulator: surface points of one in a field of distances round the other."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import mujoco
import numpy as np
import scipy.spatial
import trimesh
from jax import Array
from jaxtyping import ArrayLike, Float

from clamp_jax.geometry.transforms import invert, transform
from clamp_jax.sim.aloha_sim.build import load_object
from clamp_jax.sim.aloha_sim.models import MODELS

STEP_M = 0.0015  # of the field; between its nodes the distance is off by step^2 / (8 r) beside an edge of radius r: 0.2 mm at 1.5 mm
MARGIN_M = 0.004  # how far the field reaches beyond its object; farther away the distance is at least this
POINTS_M = 0.0025  # from one surface point to the next, about
_SKIN_M = 1e-5  # a point that is deeper in a piece is not on the outside
_NEAREST = 4  # samples whose triangles are looked at for the distance of a node


class Field(NamedTuple):
    """Distances (m, negative inside) on the nodes of a grid in an object's frame."""

    low: np.ndarray  # (3,) m, the first node
    values: np.ndarray  # (x, y, z)


def gap(folder: Path, first: str, second: str) -> Callable[[Array], Array]:
    """A function of first_from_second (4, 4) that gives the metres between two objects, negative where one is in the other.

    Exact to about 0.3 mm below MARGIN_M; where they are farther apart, at least that.
    """
    points, field = surface_points(folder, first), field_of(folder, second)

    def between(first_from_second: Float[ArrayLike, "4 4"]) -> Float[Array, ""]:
        return jnp.min(distance(field, transform(invert(jnp.asarray(first_from_second)), jnp.asarray(points))))

    return between


def distance(field: Field, points: Float[ArrayLike, "n 3"]) -> Float[Array, " n"]:
    """Metres from each point to the field's object, by trilinear interpolation; outside of the field: MARGIN_M."""
    values, shape = jnp.asarray(field.values), np.array(field.values.shape)
    place = (jnp.asarray(points) - jnp.asarray(field.low)[None]) / STEP_M
    inside = jnp.all((place >= 0) & (place < jnp.asarray(shape - 1, jnp.float32)[None]), -1)
    cell = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, jnp.asarray(shape - 2, jnp.int32)[None])
    part = place - cell
    strides = (int(shape[1] * shape[2]), int(shape[2]), 1)
    flat, total = values.reshape(-1), jnp.zeros(len(place), jnp.float32)
    for corner in np.ndindex(2, 2, 2):
        weight = jnp.ones(len(place), jnp.float32)
        index = jnp.zeros(len(place), jnp.int32)
        for axis, one in enumerate(corner):
            weight = weight * (part[:, axis] if one else 1 - part[:, axis])
            index = index + (cell[:, axis] + one) * strides[axis]
        total = total + weight * flat[index]
    return jnp.where(inside, total, MARGIN_M)


@functools.cache
def surface_points(folder: Path, name: str) -> np.ndarray:
    """Points (n, 3) float32 m on an object's collision pieces, in its frame, evenly spread; none is inside another piece."""
    return _surface(_hulls(folder, name), POINTS_M)[0].astype(np.float32)


@functools.cache
def field_of(folder: Path, name: str) -> Field:
    """The field of an object's collision pieces."""
    hulls = _hulls(folder, name)
    points, triangles = _surface(hulls, POINTS_M)
    low, high = (points.min(0) - MARGIN_M - STEP_M), (points.max(0) + MARGIN_M + STEP_M)
    axes = [np.arange(a, b + STEP_M, STEP_M) for a, b in zip(low, high, strict=True)]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    off = np.full(len(nodes), MARGIN_M)
    rough, nearest = scipy.spatial.cKDTree(points).query(nodes, k=_NEAREST, distance_upper_bound=MARGIN_M + POINTS_M, workers=-1)
    for rank in range(_NEAREST):
        near = np.flatnonzero(np.isfinite(rough[:, rank]))
        foot = trimesh.triangles.closest_point(triangles[nearest[near, rank]], nodes[near])
        off[near] = np.minimum(off[near], np.linalg.norm(foot - nodes[near], axis=1))
    values = np.where(_depth(hulls, nodes) > 0, -off, off)
    return Field(low.astype(np.float32), values.reshape([len(axis) for axis in axes]).astype(np.float32))


def _surface(hulls: list[trimesh.Trimesh], spacing_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 3) on the outside of the pieces, by area one for each square of that spacing, and their triangles (n, 3, 3)."""
    points, triangles = [], []
    for hull in hulls:
        found, faces = trimesh.sample.sample_surface(hull, int(np.ceil(hull.area / spacing_m**2)), seed=0)
        points += [hull.triangles.reshape(-1, 3), np.asarray(found)]  # edges and corners touch first
        triangles += [np.repeat(hull.triangles, 3, axis=0), hull.triangles[faces]]
    points, triangles = np.concatenate(points), np.concatenate(triangles)
    outside = _depth(hulls, points) < _SKIN_M
    return points[outside], triangles[outside]


def _depth(hulls: list[trimesh.Trimesh], points: np.ndarray) -> np.ndarray:
    """How deep (m) each point is in the convex piece that it is deepest in, (n,); negative outside of all."""
    deepest = np.full(len(points), -np.inf)
    for hull in hulls:
        near = np.flatnonzero(((points >= hull.bounds[0]) & (points <= hull.bounds[1])).all(1))
        if len(near):
            normals, offsets = np.asarray(hull.face_normals), (hull.face_normals * hull.triangles[:, 0]).sum(1)
            inside = (offsets[None] - points[near] @ normals.T).min(1)
            deepest[near] = np.maximum(deepest[near], inside)
    return deepest


def _hulls(folder: Path, name: str) -> list[trimesh.Trimesh]:
    """The convex pieces of an object in its frame, as MuJoCo collides them."""
    spec = load_object(folder, MODELS[name])
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    found = []
    for geom in np.flatnonzero(model.geom_contype):
        mesh = model.geom_dataid[geom]
        start, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        corners = model.mesh_vert[start : start + count] @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
        found.append(trimesh.convex.convex_hull(MODELS[name].local(corners)))
    return found
