"""RealSense frames on librealsense's software device: the vendor's library carries simulated frames to our reader."""

import numpy as np
import pytest

from clamp_jax import sensors
from clamp_jax.deploy.calibration import CalibratedCamera
from clamp_jax.deploy.cameras import CameraLost
from clamp_jax.deploy.cameras.realsense import Reader, RealSense

rs = pytest.importorskip("pyrealsense2", exc_type=ImportError)  # its wheel wants libusb-1.0 of the system
from experiments.software_d405 import UNIT_M, Device  # noqa: E402 - without the wheel there is none

W, H = 64, 48
OPTICS = CalibratedCamera(np.array([60.0, 61, 32, 24]), np.array([0.1, -0.02, 0.001, 0.002, 0.003]), (H, W), "world", np.eye(4))


@pytest.fixture
def camera():
    made = Device(OPTICS)
    yield made
    made.close()


def test_depth_is_in_metres_by_the_devices_own_unit_and_noise_stays_what_it_is(camera):
    rng = np.random.default_rng(0)
    true_m = np.tile(np.linspace(0.1, 1.0, W), (H, 1))
    sigma_m = sensors.preset("d405").depth_noise_m * true_m**2
    raw = np.round((true_m + sigma_m * rng.normal(size=(H, W))) / UNIT_M).astype(np.uint16)
    raw[3:7, 5:9] = 0  # a hole
    rgb = rng.integers(0, 256, (H, W, 3), np.uint8)
    frame = Reader("overhead", camera.unit_m())(*camera.see(rgb, raw, 1000.0))
    np.testing.assert_array_equal(frame.rgb, rgb)
    np.testing.assert_array_equal(frame.depth_m == 0, raw == 0)
    error = np.where(raw > 0, frame.depth_m - true_m, 0.0) / sigma_m
    assert frame.depth_m.dtype == np.float32 and 0.9 < error.std() < 1.1


def test_intrinsics_are_the_devices_with_our_pixel_centres(camera):
    frame = Reader("overhead", camera.unit_m())(*camera.see(np.zeros((H, W, 3), np.uint8), np.ones((H, W), np.uint16), 0.0))
    np.testing.assert_allclose(frame.intrinsics, [60, 61, 32, 24])
    np.testing.assert_allclose(frame.distortion, [0.1, -0.02, 0.001, 0.002, 0.003], atol=1e-7)


def test_a_frame_that_comes_late_was_not_taken_late(camera, monkeypatch):
    clock = iter([100.0, 100.04, 100.30, 100.34])  # made, then seen three times: the second delivery hangs
    monkeypatch.setattr("clamp_jax.deploy.cameras.realsense.time.monotonic", lambda: next(clock))
    reader, blank = Reader("overhead", UNIT_M), (np.zeros((H, W, 3), np.uint8), np.ones((H, W), np.uint16))
    times = [reader(*camera.see(*blank, milliseconds)).time_s for milliseconds in (5000.0, 5060.0, 5300.0)]
    np.testing.assert_allclose(np.diff(times), [0.06, 0.24], atol=1e-3)
    assert times[0] == pytest.approx(100.04, abs=1e-6)


def test_colour_and_depth_of_other_pixels_are_refused():
    camera = Device(OPTICS, OPTICS._replace(intrinsics=np.array([50.0, 61, 32, 24])))
    try:
        pair = camera.see(np.zeros((H, W, 3), np.uint8), np.ones((H, W), np.uint16), 0.0)
        with pytest.raises(ValueError, match="'overhead'.*not of the same pixels"):
            Reader("overhead", UNIT_M)(*pair)
    finally:
        camera.close()


def test_what_is_missing_is_named(camera):
    colour, _ = camera.see(np.zeros((H, W, 3), np.uint8), np.ones((H, W), np.uint16), 0.0)
    with pytest.raises(CameraLost, match="'overhead' delivers no depth"):
        Reader("overhead", UNIT_M)(colour, None)
    with pytest.raises(ValueError, match="depth unit of camera 'overhead' is 1.0"):
        Reader("overhead", 1.0)
    with pytest.raises(CameraLost, match="'overhead': no device with serial 'never made'"):
        RealSense({"overhead": "never made"})
