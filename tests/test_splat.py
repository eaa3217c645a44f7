"""The splat against an obvious loop, pixel by pixel, and what must not change it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from clamp_jax.geometry import camera as cam
from clamp_jax.geometry.transforms import compose, look_at, pose, transform
from clamp_jax.render.splat import splat, visible

HEIGHT, WIDTH, NEAR = 24, 32, 0.05
draw = jax.jit(lambda points, valid, camera: splat(points, valid, camera, height=HEIGHT, width=WIDTH, near=NEAR))
SEEN_FROM = jax.jit(look_at)(*np.float32([[0.9, -0.7, 0.8], [0, 0, 0.1], [0, 0, 1]]))
CAMERAS = {
    "pinhole": cam.pinhole(np.float32([30, 25, 15.5, 12.2]), SEEN_FROM),
    "orthographic": cam.orthographic(np.float32([20, 22, 16, 12]), SEEN_FROM),
}


def points_and_marks(seed: int = 0, count: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Points in front of the camera, behind it, beside it, on one another, and some that are not finite."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1.5, 1.5, (count, 3)).astype(np.float32)
    points[count // 2 :] = points[rng.integers(0, count // 2, count - count // 2)]  # ties
    points[::101, 1], points[::103, 2] = np.nan, np.inf
    return points, rng.random(count) < 0.9


def loop(points: np.ndarray, valid: np.ndarray, camera: cam.Camera) -> tuple[np.ndarray, np.ndarray]:
    """The image and the index of each pixel's point, one point after another in float64, and how far each is from a pixel's edge."""
    image, index = np.zeros((HEIGHT, WIDTH, 4)), np.full((HEIGHT, WIDTH), -1)
    camera_from_world = np.linalg.inv(np.float64(camera.world_from_camera))
    fx, fy, cx, cy = np.float64(camera.intrinsics)
    for i, (point, counts) in enumerate(zip(points.astype(np.float64), valid, strict=True)):
        if not counts or not np.isfinite(point).all():
            continue
        x, y, z = (camera_from_world @ [*point, 1])[:3]
        if z <= NEAR:
            continue
        divisor = 1 if camera.orthographic else z
        column, row = int(np.floor(fx * x / divisor + cx)), int(np.floor(fy * y / divisor + cy))
        if 0 <= row < HEIGHT and 0 <= column < WIDTH and (index[row, column] < 0 or z < image[row, column, 0]):
            image[row, column], index[row, column] = [z, *point], i
    return image, index


@pytest.mark.parametrize("kind", CAMERAS)
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_a_loop_over_points(kind, seed):
    points, valid = points_and_marks(seed)
    expected, _ = loop(points, valid, CAMERAS[kind])
    found = np.asarray(draw(points, valid, CAMERAS[kind]))
    # float32 rounding may put a point within 2e-5 px of an edge into the next pixel: count, do not bound
    wrong = np.abs(found - expected).max(axis=-1) > 1e-5
    assert wrong.sum() <= 1 and (expected[..., 0] > 0).sum() > 100


def test_ties_go_to_the_lower_index():
    points, valid = points_and_marks()
    index = np.asarray(jax.jit(lambda *a: visible(*a, height=HEIGHT, width=WIDTH, near=NEAR))(points, valid, CAMERAS["pinhole"]))
    shown = index[index >= 0]
    for i in shown:
        assert i == np.flatnonzero((points == points[i]).all(axis=1) & valid)[0]


def test_dropped_points_leave_the_image_empty():
    camera = cam.pinhole(np.float32([10, 10, 16, 12]), np.eye(4, dtype=np.float32))
    points = np.float32([[0, 0, -1], [0, 0, 0], [0, 0, NEAR], [np.nan, 0, 1], [0, 0, np.inf], [0, np.inf, 1], [5, 0, 1], [0, 0, 1]])
    valid = np.array([True] * 7 + [False])
    assert not np.asarray(draw(points, valid, camera)).any()
    valid[-1] = True
    image = np.asarray(draw(points, valid, camera))
    np.testing.assert_array_equal(np.argwhere(image[..., 0]), [[12, 16]])
    np.testing.assert_array_equal(image[12, 16], [1, 0, 0, 1])


@pytest.mark.parametrize("radius", [1, 2])
def test_radius_equals_the_nearest_winner_in_the_square(radius):
    points, valid = points_and_marks(2, 400)
    camera = CAMERAS["pinhole"]
    drawn = jax.jit(splat, static_argnames=("height", "width", "near", "radius_px"))
    single, found = (np.asarray(drawn(points, valid, camera, height=HEIGHT, width=WIDTH, near=NEAR, radius_px=r)) for r in (0, radius))
    for row in range(HEIGHT):
        for column in range(WIDTH):
            window = single[max(row - radius, 0) : row + radius + 1, max(column - radius, 0) : column + radius + 1].reshape(-1, 4)
            window = window[window[:, 0] > 0]
            expected = window[window[:, 0].argmin()] if len(window) else np.zeros(4)
            np.testing.assert_array_equal(found[row, column], expected)


@pytest.mark.parametrize("kind", CAMERAS)
def test_permuting_points_changes_nothing(kind):
    points, valid = points_and_marks()
    order = np.random.default_rng(5).permutation(len(points))
    np.testing.assert_array_equal(draw(points, valid, CAMERAS[kind]), draw(points[order], valid[order], CAMERAS[kind]))


@pytest.mark.parametrize("kind", CAMERAS)
def test_a_common_rigid_motion_leaves_depth(kind):
    points, valid = points_and_marks()
    valid = valid & np.isfinite(points).all(axis=1)
    motion = jax.jit(pose)(np.float32([0.3, -0.2, 0.5]), np.float32([0.7, 0.1, -0.5, 0.3]))
    camera = CAMERAS[kind]
    moved = camera._replace(world_from_camera=jax.jit(compose)(motion, camera.world_from_camera))
    before = np.asarray(draw(points, valid, camera))
    after = np.asarray(draw(np.asarray(jax.jit(transform)(motion, points)), valid, moved))
    same = np.abs(before[..., 0] - after[..., 0]) < 1e-5
    assert same.mean() > 0.995  # points on a pixel's edge may change sides
    back = before[..., 1:] @ np.asarray(motion)[:3, :3].T + np.asarray(motion)[:3, 3]
    shown = same & (before[..., 0] > 0)
    np.testing.assert_allclose(after[shown][:, 1:], back[shown], atol=1e-4)


@pytest.mark.parametrize("kind", CAMERAS)
def test_every_pixel_shows_a_point_of_the_cloud_that_projects_into_it(kind):
    points, valid = points_and_marks()
    image = np.asarray(draw(points, valid, CAMERAS[kind]))
    cloud = {point.tobytes() for point in points[valid]}
    rows, columns = np.nonzero(image[..., 0])
    xyz = image[rows, columns, 1:]
    assert all(point.tobytes() in cloud for point in xyz)
    uv, depth = jax.jit(cam.project)(CAMERAS[kind], xyz)
    np.testing.assert_array_equal(np.floor(uv), np.stack([columns, rows], -1))
    np.testing.assert_allclose(image[rows, columns, 0], depth, atol=1e-6)


def test_gradients_reach_the_winners_alone():
    camera = cam.pinhole(np.float32([10, 10, 16, 12]), np.eye(4, dtype=np.float32))
    points = np.float32([[0, 0, 1], [0, 0, 2], [0.3, 0, 1]])
    gradient = jax.grad(lambda p: jnp.sum(draw(p, np.ones(3, bool), camera) * jnp.float32(2)))(points)
    np.testing.assert_array_equal(gradient, [[2, 2, 4], [0, 0, 0], [2, 2, 4]])  # z counts in depth and in z


def test_exports_with_a_symbolic_batch_for_every_platform():
    batched = jax.jit(jax.vmap(lambda p, v: splat(p, v, CAMERAS["pinhole"], height=HEIGHT, width=WIDTH, near=NEAR)))
    (b,) = export.symbolic_shape("b")
    specs = jax.ShapeDtypeStruct((b, 500, 3), jnp.float32), jax.ShapeDtypeStruct((b, 500), jnp.bool_)
    exported = export.export(batched, platforms=("cpu", "cuda", "tpu"))(*specs)
    again = export.deserialize(exported.serialize())
    points, valid = points_and_marks(3, 1000)
    points, valid = points.reshape(2, 500, 3), valid.reshape(2, 500)
    np.testing.assert_array_equal(again.call(points, valid), batched(points, valid))
