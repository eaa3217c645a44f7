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


class SoftwareD405:
    """Two sensors, as a D405 has them, behind our reader."""

    def __init__(self, name: str, camera: CalibratedCamera, fps: int = 30):
        """Size and optics of its images are the calibrated ones."""
        self._device, self._number = rs.software_device(), 0
        self._sensors = [self._device.add_sensor(each) for each in ("Stereo", "RGB")]
        kinds = ((rs.stream.depth, rs.format.z16, 2), (rs.stream.color, rs.format.rgb8, 3))
        self._profiles = [sensor.add_video_stream(_stream(kind, camera, fps)) for sensor, kind in zip(self._sensors, kinds, strict=True)]
        self._sensors[0].add_read_only_option(rs.option.depth_units, UNIT_M)
        self._queues = [rs.frame_queue(2) for _ in kinds]
        for sensor, profile, queue in zip(self._sensors, self._profiles, self._queues, strict=True):
            sensor.open(profile)
            sensor.start(queue)
        self._read = Reader(name, self._device.first_depth_sensor().get_depth_scale(), camera.serial)

    def __call__(self, rgb: np.ndarray, depth_m: np.ndarray, taken_s: float) -> Frame:
        """A frame of colour (h, w, 3) uint8 and depth (h, w) m that was taken at that moment of this computer's monotonic clock."""
        raw = np.clip(np.rint(depth_m / UNIT_M), 0, 2**16 - 1).astype(np.uint16)
        self._number += 1
        for sensor, profile, pixels, size in zip(self._sensors, self._profiles, (raw, rgb), (2, 3), strict=True):
            sensor.on_video_frame(self._frame(profile, pixels, size, 1e3 * taken_s))
        depth, colour = (queue.wait_for_frame(WAIT_MS) for queue in self._queues)
        return self._read(colour.as_video_frame(), depth.as_depth_frame())

    def _frame(self, profile: Any, pixels: np.ndarray, size: int, time_ms: float) -> Any:
        frame = rs.software_video_frame()
        frame.pixels, frame.stride, frame.bpp = np.ascontiguousarray(pixels), pixels.shape[1] * size, size
        frame.timestamp, frame.domain, frame.frame_number = time_ms, rs.timestamp_domain.hardware_clock, self._number
        frame.profile, frame.depth_units = profile.as_video_stream_profile(), UNIT_M
        return frame

    def close(self) -> None:
        """Stop both sensors."""
        for sensor in self._sensors:
            sensor.stop()
            sensor.close()


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
