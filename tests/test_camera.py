"""Pixel and axis conventions, and that the extrinsics of the cell are right in MuJoCo's own frames."""

import frames
import jax
import numpy as np
import pytest

from clamp_jax.geometry import camera as cam
from clamp_jax.geometry.kinematics import aloha_calibration, camera_poses, joints_from_qpos
from clamp_jax.geometry.transforms import invert, look_at
from clamp_jax.structs import CAMERAS

RNG = np.random.default_rng(0)
INTRINSICS = np.float32([70, 50, 41, 29])  # anisotropic, off the middle
SIZE = (60, 80)
project, unproject, pixel_points = jax.jit(cam.project), jax.jit(cam.unproject), jax.jit(jax.vmap(cam.unproject))


def some_camera(make) -> cam.Camera:
    pose = jax.jit(look_at)(*np.float32([[0.8, -0.9, 1.0], [0, 0, 0.1], [0, 0, 1]]))
    return make(INTRINSICS, pose)


@pytest.mark.parametrize("make", [cam.pinhole, cam.orthographic])
def test_project_equals_the_formula_in_float64(make):
    camera, points = some_camera(make), RNG.uniform(-0.4, 0.4, (200, 3)).astype(np.float32)
    uv, depth_m = map(np.asarray, project(camera, points))
    fx, fy, cx, cy = INTRINSICS.astype(np.float64)
    for point, found, depth in zip(points, uv, depth_m, strict=True):
        x, y, z, _ = np.linalg.inv(np.float64(camera.world_from_camera)) @ [*point, 1]
        divisor = 1 if make is cam.orthographic else z
        np.testing.assert_allclose([*found, depth], [fx * x / divisor + cx, fy * y / divisor + cy, z], atol=2e-4)


def lens(intrinsics, world_from_camera) -> cam.Camera:
    """A pinhole with the distortion of a wide lens: its corners move by some ten pixels of 80."""
    return cam.pinhole(intrinsics, world_from_camera, np.float32([-0.25, 0.09, 0.002, -0.003, -0.01]))


@pytest.mark.parametrize("make", [cam.pinhole, cam.orthographic, lens])
def test_unproject_then_project_hits_pixel_centres(make):
    camera, depth = some_camera(make), RNG.uniform(0.3, 2.0, SIZE).astype(np.float32)
    uv, depth_m = project(camera, unproject(camera, depth).reshape(-1, 3))
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    np.testing.assert_allclose(np.asarray(uv).reshape(*SIZE, 2), np.stack([columns + 0.5, rows + 0.5], -1), atol=5e-4)
    np.testing.assert_allclose(np.asarray(depth_m).reshape(SIZE), depth, atol=2e-6)


def test_a_pixel_without_measurement_is_finite_and_masked():
    points = np.asarray(unproject(some_camera(cam.pinhole), np.zeros(SIZE, np.float32)))
    np.testing.assert_allclose(points, np.broadcast_to(np.float32([0.8, -0.9, 1.0]), points.shape), atol=1e-6)
    depth = np.float32([0, 0.5, np.nan, np.inf, -1])
    np.testing.assert_array_equal(jax.jit(cam.measured)(depth), [False, True, False, False, False])


def test_known_pixels_of_a_known_camera():
    camera = cam.pinhole(np.float32([100, 50, 32, 24]), np.eye(4, dtype=np.float32))
    uv, depth_m = project(camera, np.float32([[0, 0, 2], [1, 1, 2], [-1, 0, 1]]))
    np.testing.assert_allclose(uv, [[32, 24], [82, 49], [-68, 24]])
    np.testing.assert_allclose(depth_m, [2, 2, 1])


def test_stack_keeps_each_camera():
    two = cam.stack([some_camera(cam.pinhole), some_camera(cam.orthographic)])
    np.testing.assert_array_equal(two.orthographic, [False, True])
    np.testing.assert_array_equal(two.intrinsics, np.stack([INTRINSICS] * 2))


def test_converters():
    pose = np.asarray(some_camera(cam.pinhole).world_from_camera)
    gl = pose @ np.diag(np.float32([1, -1, -1, 1]))
    np.testing.assert_array_equal(cam.world_from_camera_opengl(gl), pose)
    np.testing.assert_allclose(cam.world_from_camera_inverse(np.linalg.inv(pose)), pose, atol=1e-6)
    np.testing.assert_allclose(cam.depth_from_raw(np.uint16([0, 1, 10000]), 0.0001), [0, 0.0001, 1.0])
    near, far, depth = 0.1, 10.0, np.float32([0.1, 0.5, 3.0])
    buffer = np.append(far * (depth - near) / (depth * (far - near)), 1).astype(np.float32)  # OpenGL's own formula, inverted
    np.testing.assert_allclose(cam.depth_from_gl(buffer, near, far), [*depth, 0], atol=1e-4)
    matrix = np.float32([[70, 0, 40.5], [0, 50, 28.5], [0, 0, 1]])
    np.testing.assert_array_equal(cam.intrinsics_from_integer_centres(cam.intrinsics_from_matrix(matrix)), INTRINSICS)


def test_resized_intrinsics_see_the_same_rays():
    double = cam.resize_intrinsics(INTRINSICS, SIZE, (120, 40))
    np.testing.assert_allclose(double, INTRINSICS * [0.5, 2, 0.5, 2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cam.depth_from_raw(np.zeros(3, np.uint16), 1.0), "depth unit is 1.0 m.*a D405's is 0.0001"),
        (lambda: cam.depth_from_gl(np.zeros(3, np.float32), 1.0, 0.5), "near plane is 1.0 m and far plane 0.5 m"),
        (lambda: cam.intrinsics_from_matrix(np.float32([[1, 1, 0], [0, 1, 0], [0, 0, 1]])), "skew 1, expected 0"),
    ],
)
def test_converters_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# From here on: MuJoCo's own frames.


def unprojected(recorded: frames.Recorded) -> np.ndarray:
    """World points of the four cameras' frames, the cameras placed by the calibration and the joints alone."""
    depth = recorded.frames.depth_m
    cameras = jax.jit(camera_poses)(aloha_calibration(*depth.shape[1:]), joints_from_qpos(recorded.qpos))
    return np.asarray(pixel_points(cameras, depth))


def check_table(recorded: frames.Recorded) -> None:
    """Every camera that sees the table finds its plane and the edges it sees."""
    half, seen_sides, cameras = np.array([0.61, 0.381]), set(), 0
    for points, geom, depth in zip(unprojected(recorded), recorded.frames.geom, recorded.frames.depth_m, strict=True):
        table = geom == recorded.table
        if table.sum() < 50:
            continue
        cameras += 1
        assert np.abs(points[table][:, 2] - 0.030).max() < 0.002
        seen_sides |= edge_sides(points, table, depth, half)
    assert cameras == len(CAMERAS) and seen_sides >= {(0, -1), (0, 1), (1, 1)}  # no camera sees the near edge


def edge_sides(points: np.ndarray, table: np.ndarray, depth: np.ndarray, half: np.ndarray) -> set[tuple[int, int]]:
    """Sides (axis, sign) of the table's edges that one image shows, each border pixel within two footprints of an edge.

    A border pixel has the table on one side and on the other nothing or what lies over 5 cm farther.
    """
    seen = set()
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        beyond, inward = np.roll(depth, -step, axis), np.roll(table, step, axis)
        border = table & inward & ~np.roll(table, -step, axis) & ((beyond == 0) | (beyond > depth + 0.05))
        border[[0, -1]] = border[:, [0, -1]] = False  # np.roll wraps round
        footprint = np.linalg.norm(points - np.roll(points, step, axis), axis=-1)[border]
        gap = half - np.abs(points[border][:, :2])  # to the edges across x and across y
        assert (gap > -0.002).all() and (gap.min(axis=1) < 2 * footprint).all()
        seen |= {(int(i), int(np.sign(point[i]))) for i, point in zip(gap.argmin(axis=1), points[border], strict=True)}
    return seen


def check_bystanders(recorded: frames.Recorded) -> None:
    """Each camera's points agree with the depth of cameras that were not used, at their own sub-pixel place."""
    beside = recorded.bystanders
    for points, depth in zip(unprojected(recorded), recorded.frames.depth_m, strict=True):
        errors = []
        for i, image in enumerate(beside.depth_m):
            uv, z = project(jax.tree.map(lambda leaf, i=i: leaf[i], beside.cameras), points[depth > 0])
            errors.append(frames.disagreement(np.asarray(uv), np.asarray(z), image))
        errors = np.concatenate(errors)
        assert len(errors) > 50
        assert np.median(errors) < 1e-4 and np.quantile(errors, 0.9) < 3e-3


@pytest.mark.parametrize("name", frames.SCENES[1:])
def test_the_table_of_recorded_frames_is_where_it_is(name):
    check_table(frames.load(name))


@pytest.mark.parametrize("name", frames.SCENES[1:])
def test_points_of_recorded_frames_agree_with_cameras_that_were_not_used(name):
    check_bystanders(frames.load(name))


def test_real_cell_extrinsics(aloha_sim_assets, tmp_path):
    recorded = frames.load("cell", frames.record(tmp_path / "cell.npz", "--assets", str(aloha_sim_assets)))
    check_table(recorded)
    check_bystanders(recorded)


def test_world_from_camera_is_the_recorded_one():
    recorded = frames.load("drawer_open")
    cameras = jax.jit(camera_poses)(aloha_calibration(*SIZE), joints_from_qpos(recorded.qpos))
    np.testing.assert_allclose(cameras.world_from_camera, recorded.frames.cameras.world_from_camera, atol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(invert))(cameras.world_from_camera)[:, 3], [[0, 0, 0, 1]] * 4)


def test_distortion_is_brown_and_conradys_and_undistort_its_inverse():
    k1, k2, p1, p2, k3 = coefficients = [-0.25, 0.09, 0.002, -0.003, -0.01]
    x, y = RNG.uniform(-0.6, 0.6, (2, 500))
    r2 = x**2 + y**2
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    bent = jax.jit(cam.distort)(np.float32(x), np.float32(y), np.float32(coefficients))
    np.testing.assert_allclose(bent[0], x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2), atol=1e-6)
    np.testing.assert_allclose(bent[1], y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y, atol=1e-6)
    assert np.abs(np.stack(bent) - [x, y]).max() > 0.05
    straight = jax.jit(cam.undistort)(*bent, np.float32(coefficients))
    np.testing.assert_allclose(np.stack(straight), [x, y], atol=3e-6)
