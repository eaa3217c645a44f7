"""A D405 of librealsense's software device: pixels that are handed in come out of the vendor's library as a camera's would.

Raises ImportError without pyrealsense2, which `pip install 'clamp-jax[hardware]'` brings.
"""

from typing import Any

import numpy as np
import pyrealsense2 as rs

from clamp_jax.deploy.calibration import CalibratedCamera
from clamp_jax.deploy.cameras import Frame
from clamp_jax.deploy.cameras.realsense import HALF_PIXEL, Reader

UNIT_M, WAIT_MS = 1e-4, 5000
# kind of the stream, format, bytes a pixel
DEPTH, COLOUR = (rs.stream.depth, rs.format.z16, 2), (rs.stream.color, rs.format.rgb8, 3)


class Device:
    """Two sensors, as a D405 has them; pixels are handed in and come out as the vendor's frames."""

    def __init__(self, colour: CalibratedCamera, depth: CalibratedCamera | None = None, fps: int = 30):
        """Size and optics of its images; those of depth are colour's but where they are given."""
        self._device, self._number = rs.software_device(), 0
        self._sensors = [self._device.add_sensor(each) for each in ("Stereo", "RGB")]
        streams = (_stream(DEPTH, depth or colour, fps), _stream(COLOUR, colour, fps))
        self._profiles = [sensor.add_video_stream(stream) for sensor, stream in zip(self._sensors, streams, strict=True)]
        self._sensors[0].add_read_only_option(rs.option.depth_units, UNIT_M)
        self._queues = [rs.frame_queue(2) for _ in streams]
        for sensor, profile, queue in zip(self._sensors, self._profiles, self._queues, strict=True):
            sensor.open(profile)
            sensor.start(queue)

    def unit_m(self) -> float:
        """Metres a step of depth, as the device says it."""
        return self._device.first_depth_sensor().get_depth_scale()

    def see(self, rgb: np.ndarray, raw: np.ndarray, time_ms: float) -> tuple[Any, Any]:
        """(colour, depth) as librealsense hands them over: pixels (h, w, 3) uint8 and (h, w) uint16 of a moment on the camera's clock."""
        self._number += 1
        for sensor, profile, pixels in zip(self._sensors, self._profiles, (raw, rgb), strict=True):
            sensor.on_video_frame(self._frame(profile, np.ascontiguousarray(pixels), time_ms))
        depth, colour = (queue.wait_for_frame(WAIT_MS) for queue in self._queues)
        return colour.as_video_frame(), depth.as_depth_frame()

    def _frame(self, profile: Any, pixels: np.ndarray, time_ms: float) -> Any:
        frame = rs.software_video_frame()
        frame.pixels, frame.stride, frame.bpp = pixels, pixels.strides[0], pixels.strides[1]
        frame.timestamp, frame.domain, frame.frame_number = time_ms, rs.timestamp_domain.hardware_clock, self._number
        frame.profile, frame.depth_units = profile.as_video_stream_profile(), UNIT_M
        return frame

    def close(self) -> None:
        """Stop both sensors."""
        for sensor in self._sensors:
            sensor.stop()
            sensor.close()


class SoftwareD405(Device):
    """A device behind our reader."""

    def __init__(self, name: str, camera: CalibratedCamera):
        super().__init__(camera)
        self._read = Reader(name, self.unit_m(), camera.serial)

    def __call__(self, rgb: np.ndarray, depth_m: np.ndarray, taken_s: float) -> Frame:
        """A frame of colour (h, w, 3) uint8 and depth (h, w) m that was taken at that moment of this computer's monotonic clock."""
        raw = np.clip(np.rint(depth_m / UNIT_M), 0, 2**16 - 1).astype(np.uint16)
        return self._read(*self.see(rgb, raw, 1e3 * taken_s))


def _stream(kind: tuple[Any, Any, int], camera: CalibratedCamera, fps: int) -> Any:
    lens, stream = rs.intrinsics(), rs.video_stream()
    lens.height, lens.width = camera.image_size
    lens.fx, lens.fy = camera.intrinsics[:2]
    lens.ppx, lens.ppy = camera.intrinsics[2:] - HALF_PIXEL
    lens.model, lens.coeffs = rs.distortion.brown_conrady, list(camera.distortion)
    stream.type, stream.fmt, stream.bpp = kind
    stream.index, stream.uid, stream.fps, stream.intrinsics = 0, kind[2], fps, lens
    stream.width, stream.height = lens.width, lens.height
    return stream
