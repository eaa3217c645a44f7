"""The splat against an obvious loop, pixel by pixel, and what must not change it."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax import export

from clamp_jax.geometry import bins
from clamp_jax.geometry import camera as cam
from clamp_jax.geometry.transforms import compose, look_at, pose, transform
from clamp_jax.render.splat import splat, visible

HEIGHT, WIDTH, NEAR = 24, 32, 0.05
draw = jax.jit(lambda points, valid, camera: splat(points, valid, camera, height=HEIGHT, width=WIDTH, near=NEAR))
SEEN_FROM = jax.jit(look_at)(*np.float32([[0.9, -0.7, 0.8], [0, 0, 0.1], [0, 0, 1]]))
CAMERAS = {
    "pinhole": cam.pinhole(np.float32([30, 25, 15.5, 12.2]), SEEN_FROM),
    "orthographic": cam.orthographic(np.float32([20, 22, 16, 12]), SEEN_FROM),
    "lens": cam.pinhole(np.float32([30, 25, 15.5, 12.2]), SEEN_FROM, np.float32([-0.06, 0.07, 0.001, -0.0008, -0.02])),
}


def points_and_marks(seed: int = 0, count: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Points in front of the camera, behind it, beside it, on one another, and some that are not finite."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1.5, 1.5, (count, 3)).astype(np.float32)
    points[count // 2 :] = points[rng.integers(0, count // 2, count - count // 2)]  # ties
    points[::101, 1], points[::103, 2] = np.nan, np.inf
    return points, rng.random(count) < 0.9


def see(points: np.ndarray, valid: np.ndarray, camera: cam.Camera) -> tuple[np.ndarray, ...]:
    """What is kept, u, v and depth of each point in float64, straight from the definitions."""
    points = np.float64(points)
    with np.errstate(all="ignore"):
        camera_from_world = np.linalg.inv(np.float64(camera.world_from_camera))
        x, y, z = camera_from_world[:3, :3] @ points.T + camera_from_world[:3, 3:]
        divisor = 1 if camera.orthographic else z
        x, y = x / divisor, y / divisor
        if camera.distortion is not None:
            k1, k2, p1, p2, k3 = np.float64(camera.distortion)
            r2 = x**2 + y**2
            radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
            x, y = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2), y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
        fx, fy, cx, cy = np.float64(camera.intrinsics)
        u, v = fx * x + cx, fy * y + cy
        kept = valid & np.isfinite(points).all(axis=1) & (z > NEAR)
    return kept, u, v, z


def loop(points: np.ndarray, valid: np.ndarray, camera: cam.Camera, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Index of each pixel's point, -1 for none, one point after another."""
    index, nearest = np.full((height, width), -1), np.full((height, width), np.inf)
    kept, u, v, z = see(points, valid, camera)
    for i in np.flatnonzero(kept):
        column, row = math.floor(u[i]), math.floor(v[i])
        if 0 <= row < height and 0 <= column < width and z[i] < nearest[row, column]:
            index[row, column], nearest[row, column] = i, z[i]
    return index


def near_edges(points: np.ndarray, valid: np.ndarray, camera: cam.Camera, height: int, width: int) -> np.ndarray:
    """Pixels (height, width) bool round the points that fall within 1e-4 px of a pixel's edge: float32 may put them on either side."""
    kept, u, v, _ = see(points, valid, camera)
    with np.errstate(all="ignore"):
        close = kept & (np.minimum(np.abs(u - np.round(u)), np.abs(v - np.round(v))) < 1e-4)
        close &= (u > -1) & (u < width + 1) & (v > -1) & (v < height + 1)
    marked = np.zeros((height + 2, width + 2), bool)
    for i in np.flatnonzero(close):
        rows, columns = np.floor(v[i] + [-1e-4, 1e-4]).astype(int) + 1, np.floor(u[i] + [-1e-4, 1e-4]).astype(int) + 1
        marked[np.clip(rows, 0, height + 1)[:, None], np.clip(columns, 0, width + 1)[None]] = True
    return marked[1:-1, 1:-1]


@pytest.mark.parametrize("form", [None, *bins.FORMS])
@pytest.mark.parametrize("kind", CAMERAS)
def test_equals_a_loop_over_points(kind, form):
    points, valid = points_and_marks(1)
    expected = loop(points, valid, CAMERAS[kind])
    found = np.asarray(jax.jit(lambda *a: visible(*a, height=HEIGHT, width=WIDTH, near=NEAR, form=form))(points, valid, CAMERAS[kind]))
    assert (found != expected).sum() <= 1 and (expected >= 0).sum() > 100
    assert not ((found != expected) & ~near_edges(points, valid, CAMERAS[kind], HEIGHT, WIDTH)).any()


@pytest.mark.parametrize("kind", CAMERAS)
def test_300k_points_have_the_winners_of_float64(kind):
    rng, size = np.random.default_rng(7), 224
    points, valid = rng.uniform(-0.6, 0.6, (300_000, 3)).astype(np.float32), rng.random(300_000) < 0.97
    camera = CAMERAS[kind]._replace(intrinsics=CAMERAS[kind].intrinsics * jnp.float32(7))
    found = np.asarray(jax.jit(lambda *a: visible(*a, height=size, width=size, near=NEAR))(points, valid, camera))
    expected = loop(points, valid, camera, size, size)
    different = found != expected
    depth = see(points, valid, camera)[3]
    tied = different & (found >= 0) & (expected >= 0) & (np.abs(depth[found] - depth[expected]) < 2e-7)  # equal in float32
    assert (expected >= 0).sum() > 10_000 and different.sum() <= 5
    assert not (different & ~tied & ~near_edges(points, valid, camera, size, size)).any()


COORDINATE = st.one_of(st.floats(-1.5, 1.5, width=32), st.sampled_from([0.0, 0.25, -0.5, np.nan, np.inf, -np.inf, 1e30, -1e-30]))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(CAMERAS)), count=st.sampled_from([0, 1, 2, 17]), radius=st.sampled_from([0, 1]))
def test_any_scene_has_the_winners_of_float64(data, kind, count, radius):
    points = data.draw(arrays(np.float32, (count, 3), elements=COORDINATE))
    valid = data.draw(arrays(bool, count))
    camera = CAMERAS[kind]
    images = [np.asarray(indices(points, valid, camera, radius, form)) for form in bins.FORMS]
    np.testing.assert_array_equal(*images)
    found = images[0] if not radius else np.asarray(indices(points, valid, camera, 0, "packed"))
    expected, (_, _, _, depth) = loop(points, valid, camera), see(points, valid, camera)
    different = found != expected
    for row, column in np.argwhere(different & ~near_edges(points, valid, camera, HEIGHT, WIDTH)):
        one, other = found[row, column], expected[row, column]
        assert one >= 0 and other >= 0 and abs(depth[one] - depth[other]) < 1e-6, "only float32's ties may differ"
        assert (points[one] != points[other]).any(), "equal points are told apart by index"


def indices(points, valid, camera, radius, form):
    return _indices(points, valid, camera, radius=radius, form=form)


@functools.partial(jax.jit, static_argnames=("radius", "form"))
def _indices(points, valid, camera, *, radius, form):
    return visible(points, valid, camera, height=HEIGHT, width=WIDTH, near=NEAR, radius_px=radius, form=form)


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


def test_a_radius_in_metres_is_what_it_measures_at_each_depth():
    rng = np.random.default_rng(3)
    points = np.concatenate([rng.uniform(-1, 1, (150, 2)), rng.uniform(0.3, 3, (150, 1))], axis=1).astype(np.float32)
    camera = cam.pinhole(np.float32([30, 20, 16, 12]), np.eye(4, dtype=np.float32))
    for each, limit in ((camera, 8), (camera, 2), (cam.orthographic(np.float32([30, 20, 16, 12]), np.eye(4, dtype=np.float32)), 8)):
        options = {"height": HEIGHT, "width": WIDTH, "radius_m": 0.06, "limit_px": limit}
        found = jax.jit(functools.partial(visible, **options))(points, np.ones(150, bool), each)
        _, u, v, z = see(points, np.ones(150, bool), each)
        expected, nearest = np.full((HEIGHT, WIDTH), -1), np.full((HEIGHT, WIDTH), np.inf)
        for i in np.argsort(z, kind="stable"):
            across, down = (min(int(np.round(0.06 * f / (1 if each.orthographic else z[i]))), limit) for f in (30, 20))
            row, column = math.floor(v[i]), math.floor(u[i])
            if not (0 <= row < HEIGHT and 0 <= column < WIDTH):
                continue
            square = slice(max(row - down, 0), row + down + 1), slice(max(column - across, 0), column + across + 1)
            free = z[i] < nearest[square]
            expected[square][free], nearest[square][free] = i, z[i]
        np.testing.assert_array_equal(found, expected)


def test_colours_are_the_winners():
    points, valid = points_and_marks()
    colours = np.random.default_rng(1).random((len(points), 2)).astype(np.float32)
    options = {"height": HEIGHT, "width": WIDTH, "near": NEAR}
    image = np.asarray(jax.jit(lambda *a: splat(*a, CAMERAS["pinhole"], colours=colours, **options))(points, valid))
    index = np.asarray(indices(points, valid, CAMERAS["pinhole"], 0, None))
    assert image.shape == (HEIGHT, WIDTH, 6)
    np.testing.assert_array_equal(image[..., 4:], np.where(index[..., None] >= 0, colours[index], 0))
    np.testing.assert_allclose(image[..., :4], draw(points, valid, CAMERAS["pinhole"]), rtol=1e-6)


def test_bad_options_are_refused():
    points, valid = points_and_marks()
    for options, message in (
        ({"radius_px": 1, "radius_m": 0.1}, "give one of them"),
        ({"radius_px": -1}, "expected 0 or more"),
        ({"form": "magic"}, "expected one of packed, two_pass"),
    ):
        with pytest.raises(ValueError, match=message):
            visible(points, valid, CAMERAS["pinhole"], height=HEIGHT, width=WIDTH, **options)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_each_platform_gets_its_form(platform):
    points, valid = points_and_marks()
    lowered = jax.jit(lambda *a: visible(*a, CAMERAS["pinhole"], height=HEIGHT, width=WIDTH)).trace(points, valid).lower(
        lowering_platforms=(platform,)
    )
    assert ("ui64" in lowered.as_text()) == (platform == "cpu")


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
