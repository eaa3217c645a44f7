"""Images as a policy takes them: against a plain loop over pixels, a lens that is known, and what must not mix."""

import numpy as np
import pytest

from clamp_jax.deploy.calibration import CalibratedCamera, CalibrationError, CellCalibration, scaled
from clamp_jax.deploy.cameras import Frame
from clamp_jax.deploy.imaging import SizedCameras, fit
from clamp_jax.deploy.projection import project, unproject

NO_LENS, LENS = np.zeros(5), np.array([0.2, -0.05, 0.002, -0.003, 0.01])
SOURCE, SIZE = (48, 80), (16, 20)  # three rows and four columns of the camera's to a pixel


def camera(lens=NO_LENS, size=SOURCE):
    return CalibratedCamera(np.array([60.0, 61.0, 41.0, 23.0]), lens, size, "world", np.eye(4), "7")


def frame(rgb, depth_m, lens=NO_LENS):
    return Frame(rgb, depth_m, 1.5, camera().intrinsics, lens, "7")


def noise(seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*SOURCE, 3), np.uint8), rng.uniform(0.2, 1.0, SOURCE).astype(np.float32)


def test_without_a_lens_colours_are_means_of_blocks_and_depth_is_the_value_at_the_middle():
    rgb, depth_m = noise()
    small, near = fit(frame(rgb, depth_m), camera(), SIZE)
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            block = rgb[3 * row : 3 * row + 3, 4 * column : 4 * column + 4].reshape(-1, 3)
            np.testing.assert_allclose(small[row, column], block.mean(axis=0), atol=0.5 + 1e-4)
            assert near[row, column] == depth_m[3 * row + 1, 4 * column + 2]


def test_the_same_size_without_a_lens_is_the_image_itself():
    rgb, depth_m = noise()
    same, depth = fit(frame(rgb, depth_m), camera(), SOURCE)
    np.testing.assert_array_equal(same, rgb)
    np.testing.assert_array_equal(depth, depth_m)


def test_points_of_a_fitted_depth_lie_where_the_lens_saw_them():
    """A slanted plane seen through the lens, taken out again: its points lie on the plane."""
    rays = unproject(np.ones(SOURCE), camera().intrinsics, LENS)
    depth_m = (0.5 / (1 + 0.3 * rays[:, 0] - 0.2 * rays[:, 1])).reshape(SOURCE).astype(np.float32)  # z + 0.3 x - 0.2 y = 0.5
    size = (24, 40)
    _, seen = fit(frame(noise()[0], depth_m, LENS), camera(LENS), size)
    points = unproject(seen, scaled(camera().intrinsics, SOURCE, size), NO_LENS)[seen.reshape(-1) > 0]
    off = points @ [0.3, -0.2, 1.0] - 0.5
    assert len(points) > 0.85 * seen.size and np.abs(off).max() < 0.006  # half a pixel of 1 / 60 of the depth, times the slant
    wrong = unproject(depth_m, camera().intrinsics, NO_LENS) @ [0.3, -0.2, 1.0] - 0.5
    assert np.abs(wrong).max() > 0.012  # the lens matters


def test_a_mark_stands_where_the_pinhole_shows_it():
    rgb, depth_m = np.zeros((*SOURCE, 3), np.uint8), np.full(SOURCE, 0.4, np.float32)
    point = np.array([[0.22, -0.13, 0.4]])
    u, v = project(point, camera().intrinsics, LENS)[0]
    rgb[int(v), int(u)] = 255
    small, _ = fit(frame(rgb, depth_m, LENS), camera(LENS), SOURCE)
    row, column = np.unravel_index(small[..., 0].argmax(), SOURCE)
    straight = project(point, camera().intrinsics, NO_LENS)[0]
    assert np.abs(straight - [column + 0.5, row + 0.5]).max() <= 1.0
    assert np.abs(straight - [u, v]).max() > 1.5


def test_depth_is_never_a_mixture_and_holes_stay_holes():
    depth_m = np.where(np.random.default_rng(1).random(SOURCE) < 0.5, np.float32(0.3), np.float32(0.9))
    depth_m[::5] = 0
    _, small = fit(frame(noise()[0], depth_m, LENS), camera(LENS), (31, 53))
    assert set(np.unique(small)) == {np.float32(0), np.float32(0.3), np.float32(0.9)}


class Fixed:
    def __init__(self, **frames):
        self._frames = frames

    def frames(self):
        return self._frames


def test_cameras_are_fitted_by_their_own_calibration_and_say_their_new_intrinsics():
    rgb, depth_m = noise()
    calibration = CellCalibration({"overhead": camera(LENS)}, np.tile(np.eye(4), (2, 1, 1)))
    seen = SizedCameras(Fixed(overhead=frame(rgb, depth_m, LENS)), calibration, SIZE).frames()["overhead"]
    expected = fit(frame(rgb, depth_m, LENS), camera(LENS), SIZE)
    np.testing.assert_array_equal(seen.rgb, expected[0])
    np.testing.assert_array_equal(seen.depth_m, expected[1])
    np.testing.assert_allclose(seen.intrinsics, [15, 61 / 3, 10.25, 23 / 3])
    assert not seen.distortion.any() and (seen.time_s, seen.serial) == (1.5, "7")


def test_what_was_not_calibrated_is_refused_by_name():
    calibration = CellCalibration({"overhead": camera()}, np.tile(np.eye(4), (2, 1, 1)))
    wide = Frame(np.zeros((50, 80, 3), np.uint8), np.zeros((50, 80), np.float32), 0.0, camera().intrinsics, NO_LENS)
    with pytest.raises(CalibrationError, match="'overhead': colour is 50 x 80, the camera was calibrated at 48 x 80"):
        SizedCameras(Fixed(overhead=wide), calibration, SIZE).frames()
    with pytest.raises(CalibrationError, match="no camera 'left'"):
        SizedCameras(Fixed(left=wide), calibration, SIZE).frames()
