"""The one place for pixel and axis conventions: projection, unprojection, and converters for foreign ones.

Camera axes are OpenCV's (x right, y down, z forward), extrinsics are world_from_camera, depth is metres along z, the
centre of pixel (row i, column j) is (u, v) = (j + 0.5, i + 0.5) and a point lies in pixel floor(u), floor(v).
One formula serves both kinds: u = fx x / s + cx, v = fy y / s + cy with s = z (pinhole) or 1 (orthographic). A pinhole with
distortion bends (x / s, y / s) before the intrinsics, by Brown and Conrady's model with OpenCV's coefficients.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, UInt16

from clamp_jax.geometry.transforms import invert, transform
from clamp_jax.structs import Camera

_UNDISTORT_STEPS = 8  # of Newton's method; five are enough for a lens whose edges move by a tenth of the image


def pinhole(
    intrinsics: Float[ArrayLike, "*k 4"],
    world_from_camera: Float[ArrayLike, "*k 4 4"],
    distortion: Float[ArrayLike, "*k 5"] | None = None,
) -> Camera:
    """Perspective cameras, one or a stack of them; distortion k1, k2, p1, p2, k3 (OpenCV's order)."""
    intrinsics = jnp.asarray(intrinsics, jnp.float32)
    lens = None if distortion is None else jnp.asarray(distortion, jnp.float32)
    return Camera(intrinsics, jnp.asarray(world_from_camera, jnp.float32), jnp.zeros(intrinsics.shape[:-1], bool), lens)


def orthographic(intrinsics: Float[ArrayLike, "*k 4"], world_from_camera: Float[ArrayLike, "*k 4 4"]) -> Camera:
    """Orthographic cameras, one or a stack of them; fx and fy in pixels per metre."""
    return pinhole(intrinsics, world_from_camera)._replace(orthographic=jnp.ones(np.shape(intrinsics)[:-1], bool))


def stack(cameras: Sequence[Camera]) -> Camera:
    """Several cameras as one with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *cameras)


def project(camera: Camera, points_world: Float[ArrayLike, "n 3"]) -> tuple[Float[Array, "n 2"], Float[Array, " n"]]:
    """Image coordinates (u, v) in pixels and depth (m along z) of world points.

    A pinhole's (u, v) means nothing where depth <= 0: the caller drops those points.
    """
    points = transform(invert(camera.world_from_camera), points_world)
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    divisor = jnp.where(camera.orthographic, 1.0, z)
    fx, fy, cx, cy = (jnp.asarray(camera.intrinsics)[i] for i in range(4))
    if camera.distortion is None:
        return jnp.stack([fx * x / divisor + cx, fy * y / divisor + cy], axis=-1), z
    x, y = distort(x / divisor, y / divisor, camera.distortion)
    return jnp.stack([fx * x + cx, fy * y + cy], axis=-1), z


def distort(x: Float[Array, "*n"], y: Float[Array, "*n"], coefficients: Float[ArrayLike, "5"]) -> tuple[Array, Array]:
    """Where a lens shows the direction (x, y, 1): k1, k2, p1, p2, k3 of Brown and Conrady, in OpenCV's order and formula."""
    k1, k2, p1, p2, k3 = (jnp.asarray(coefficients)[i] for i in range(5))
    square = x * x + y * y
    radial = 1 + square * (k1 + square * (k2 + square * k3))
    across = x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x)
    return across, y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y


def undistort(x: Float[Array, "*n"], y: Float[Array, "*n"], coefficients: Float[ArrayLike, "5"]) -> tuple[Array, Array]:
    """The direction (x, y, 1) that a lens shows at (x, y): the inverse of `distort`, by Newton's method from (x, y) on.

    Within the part of the image where the lens is one to one, which is all of it for an RGB-D camera's.
    """
    target = jnp.stack([x, y])
    lens = lambda at: jnp.stack(distort(at[0], at[1], coefficients))  # noqa: E731
    one, zero = jnp.ones_like(x), jnp.zeros_like(x)

    def step(_: Array, at: Array) -> Array:
        value, (a, c) = jax.jvp(lens, (at,), (jnp.stack([one, zero]),))
        _, (b, d) = jax.jvp(lens, (at,), (jnp.stack([zero, one]),))
        left = value - target
        determinant = a * d - b * c
        return at - jnp.stack([(d * left[0] - b * left[1]) / determinant, (a * left[1] - c * left[0]) / determinant])

    found = jax.lax.fori_loop(0, _UNDISTORT_STEPS, step, target)
    return found[0], found[1]


def pixel_rays(camera: Camera, height: int, width: int) -> tuple[Float[Array, "h w 3"], Float[Array, "h w 3"]]:
    """Origin and direction of every pixel centre's ray in the camera's frame; direction z is 1: its parameter is depth."""
    fx, fy, cx, cy = (jnp.asarray(camera.intrinsics)[i] for i in range(4))
    u, v = jnp.arange(width, dtype=jnp.float32) + 0.5, jnp.arange(height, dtype=jnp.float32) + 0.5
    x, y = jnp.broadcast_arrays(((u - cx) / fx)[None, :], ((v - cy) / fy)[:, None])
    if camera.distortion is not None:
        x, y = undistort(x, y, camera.distortion)
    zero, one = jnp.zeros_like(x), jnp.ones_like(x)
    flat = camera.orthographic
    origin = jnp.stack([jnp.where(flat, x, zero), jnp.where(flat, y, zero), zero], axis=-1)
    direction = jnp.stack([jnp.where(flat, zero, x), jnp.where(flat, zero, y), one], axis=-1)
    return origin, direction


def unproject(camera: Camera, depth_m: Float[ArrayLike, "h w"]) -> Float[Array, "h w 3"]:
    """World points (m) of the pixel centres of a depth image.

    Depth 0 (no measurement) gives a finite point, the camera's centre for a pinhole: mask by depth_m > 0.
    """
    depth_m = jnp.asarray(depth_m)
    origin, direction = pixel_rays(camera, *depth_m.shape)
    return transform(camera.world_from_camera, origin + direction * depth_m[..., None])


def measured(depth_m: Float[ArrayLike, "*n"]) -> Bool[Array, "*n"]:
    """Where a depth image holds a measurement: finite and over 0."""
    depth_m = jnp.asarray(depth_m)
    return jnp.isfinite(depth_m) & (depth_m > 0)


def resize_intrinsics(intrinsics: Float[ArrayLike, "*k 4"], source: tuple[int, int], target: tuple[int, int]) -> Float[Array, "*k 4"]:
    """Intrinsics of images resized from `source` to `target` (height, width); each axis scales by itself."""
    down, across = target[0] / source[0], target[1] / source[1]
    scale = jnp.array([across, down, across, down], jnp.float32)
    intrinsics = jnp.asarray(intrinsics, jnp.float32)
    return intrinsics * jnp.broadcast_to(scale, intrinsics.shape)


def intrinsics_from_matrix(matrix: Float[ArrayLike, "3 3"]) -> Float[Array, "4"]:
    """fx, fy, cx, cy of a 3 x 3 camera matrix whose pixel centres stand at +0.5; refuses skew.

    Where centres stand at integers (OpenCV's calibration, ROS), use `intrinsics_from_integer_centres` on the result.
    """
    m = np.asarray(matrix)
    if abs(m[0, 1]) > 1e-6 * abs(m[0, 0]):
        raise ValueError(f"camera matrix has skew {m[0, 1]:.6g}, expected 0: rectify the images first")
    return jnp.array([m[0, 0], m[1, 1], m[0, 2], m[1, 2]], jnp.float32)


def intrinsics_from_integer_centres(intrinsics: Float[ArrayLike, "*k 4"]) -> Float[Array, "*k 4"]:
    """Intrinsics for pixel centres at +0.5, of intrinsics for which the first pixel's centre is (0, 0) (OpenCV, RealSense)."""
    intrinsics = jnp.asarray(intrinsics, jnp.float32)
    return intrinsics + jnp.broadcast_to(jnp.array([0.0, 0.0, 0.5, 0.5], jnp.float32), intrinsics.shape)


def world_from_camera_opengl(world_from_camera_gl: Float[ArrayLike, "4 4"]) -> Float[Array, "4 4"]:
    """Extrinsics with OpenCV axes, of extrinsics with OpenGL's (x right, y up, z backward; MuJoCo, Blender, NeRF)."""
    return jnp.asarray(world_from_camera_gl, jnp.float32) * jnp.asarray(np.array([[1, -1, -1, 1]] * 4, np.float32))


def world_from_camera_inverse(camera_from_world: Float[ArrayLike, "4 4"]) -> Float[Array, "4 4"]:
    """Extrinsics world_from_camera of camera_from_world (OpenCV's solvePnP, COLMAP), OpenCV axes."""
    return invert(jnp.asarray(camera_from_world, jnp.float32))


def depth_from_raw(raw: UInt16[ArrayLike, "*n"], unit_m: float) -> Float[Array, "*n"]:
    """Metres of a sensor's integers; `unit_m` is the sensor's depth unit (a D405's is 0.0001, a D435's 0.001)."""
    if not 0 < unit_m < 0.1:
        raise ValueError(f"depth unit is {unit_m} m, expected metres per count, over 0 and under 0.1; a D405's is 0.0001")
    return jnp.asarray(raw, jnp.float32) * jnp.float32(unit_m)


def depth_from_gl(buffer: Float[ArrayLike, "*n"], near_m: float, far_m: float) -> Float[Array, "*n"]:
    """Metres along z of a normalised GL depth buffer (0 at the near plane, 1 at the far); the far plane is no measurement, 0."""
    if not 0 < near_m < far_m:
        raise ValueError(f"near plane is {near_m} m and far plane {far_m} m, expected 0 < near < far")
    buffer = jnp.asarray(buffer)
    depth_m = near_m * far_m / (far_m - buffer * (far_m - near_m))
    return jnp.where(buffer < 1, depth_m, 0.0)
