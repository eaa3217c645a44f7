"""RealSense frames on librealsense's software device: the vendor's library carries simulated frames to our reader."""

import numpy as np
import pytest

from clamp_jax import sensors
from clamp_jax.deploy.cameras import CameraLost
from clamp_jax.deploy.cameras.realsense import Reader, RealSense

rs = pytest.importorskip("pyrealsense2", exc_type=ImportError)  # its wheel wants libusb-1.0 of the system
W, H, UNIT_M = 64, 48, 1e-4


class SoftwareD405:
    """Two sensors whose pixels are handed in."""

    def __init__(self, depth_fx=60.0):
        self._device = rs.software_device()
        self._sensors = [self._device.add_sensor(name) for name in ("Stereo", "RGB")]
        streams = (_stream(rs.stream.depth, rs.format.z16, 2, depth_fx), _stream(rs.stream.color, rs.format.rgb8, 3, 60.0))
        self._profiles = [sensor.add_video_stream(stream) for sensor, stream in zip(self._sensors, streams, strict=True)]
        self._sensors[0].add_read_only_option(rs.option.depth_units, UNIT_M)
        self._queues, self._number = [rs.frame_queue(4) for _ in streams], 0
        for sensor, profile, queue in zip(self._sensors, self._profiles, self._queues, strict=True):
            sensor.open(profile)
            sensor.start(queue)

    def unit_m(self):
        return self._device.first_depth_sensor().get_depth_scale()

    def see(self, rgb, raw, time_ms):
        """(colour, depth) as librealsense hands them over."""
        self._number += 1
        for sensor, profile, pixels, size in zip(self._sensors, self._profiles, (raw, rgb), (2, 3), strict=True):
            sensor.on_video_frame(self._frame(profile, pixels, size, time_ms))
        depth, colour = (queue.wait_for_frame(5000) for queue in self._queues)
        return colour.as_video_frame(), depth.as_depth_frame()

    def _frame(self, profile, pixels, size, time_ms):
        frame = rs.software_video_frame()
        frame.pixels, frame.stride, frame.bpp = np.ascontiguousarray(pixels), W * size, size
        frame.timestamp, frame.domain, frame.frame_number = time_ms, rs.timestamp_domain.hardware_clock, self._number
        frame.profile = profile.as_video_stream_profile()
        frame.depth_units = UNIT_M
        return frame

    def close(self):
        for sensor in self._sensors:
            sensor.stop()
            sensor.close()


def _stream(kind, form, size, fx):
    lens = rs.intrinsics()
    lens.width, lens.height, lens.ppx, lens.ppy, lens.fx, lens.fy = W, H, 31.5, 23.5, fx, 61.0
    lens.model, lens.coeffs = rs.distortion.brown_conrady, [0.1, -0.02, 0.001, 0.002, 0.003]
    stream = rs.video_stream()
    stream.type, stream.index, stream.uid, stream.fmt, stream.bpp = kind, 0, size, form, size
    stream.width, stream.height, stream.fps, stream.intrinsics = W, H, 30, lens
    return stream


@pytest.fixture
def camera():
    made = SoftwareD405()
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
    camera = SoftwareD405(depth_fx=50.0)
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
