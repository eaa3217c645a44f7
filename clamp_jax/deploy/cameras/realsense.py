"""RealSense cameras by serial number: aligned colour and depth in metres, calibrated by the device, on this computer's clock.

Needs `pip install 'clamp-jax[hardware]'`. Not yet run on a camera: tried on librealsense's software device alone.
"""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from clamp_jax.deploy.cameras import CameraLost, Frame

HALF_PIXEL = 0.5  # librealsense counts from the first pixel's centre, we from its corner
CURE = "check its cable (USB 3, no hub) and that no other program has it open"
DRIFT = 1e-4  # s in a second that two clocks may run apart
MASTER, SLAVE = 1, 2  # of the hardware sync


class Mode(NamedTuple):
    """What the cameras deliver; colour and depth at the same rate, else they are not in sync."""

    width: int = 848
    height: int = 480
    fps: int = 30
    warm_up: int = 30  # frames that exposure takes to settle
    timeout_s: float = 1.0


def sdk() -> Any:
    """The vendor's SDK; ImportError that says how to get it."""
    try:
        import pyrealsense2
    except ImportError as error:
        words = "cameras need pip install 'clamp-jax[hardware]', and libusb-1.0 of the system (Debian: libusb-1.0-0)"
        raise ImportError(f"{error}; {words}") from error
    return pyrealsense2


class RealSense:
    """Cameras by name."""

    def __init__(self, serials: Mapping[str, str], mode: Mode = Mode(), *, sync: bool = True):  # noqa: B008 - an immutable tuple
        """Open all of them; with `sync` the first gives the others their time over the sync cable. CameraLost."""
        self._rs, self._mode = sdk(), mode
        self._pipelines: dict[str, Any] = {}
        self._readers: dict[str, Reader] = {}
        _check_serials(self._rs, serials)
        try:
            for number, (name, serial) in enumerate(serials.items()):
                self._open(name, serial, (MASTER if number == 0 else SLAVE) if sync and len(serials) > 1 else 0)
            for _ in range(mode.warm_up):
                self.frames()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "RealSense":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def frames(self) -> dict[str, Frame]:
        """The next frame of each camera; CameraLost when one delivers none in time."""
        found = {}
        for name, pipeline in self._pipelines.items():
            try:
                frames = pipeline.wait_for_frames(int(1e3 * self._mode.timeout_s))
            except RuntimeError as error:
                raise CameraLost(f"camera {name!r} delivers no frames: {error}; {CURE}") from error
            found[name] = self._readers[name](frames.get_color_frame(), frames.get_depth_frame())
        return found

    def close(self) -> None:
        """Stop all of them."""
        for pipeline in self._pipelines.values():
            pipeline.stop()
        self._pipelines = {}

    def _open(self, name: str, serial: str, sync: int) -> None:
        rs, mode = self._rs, self._mode
        config, pipeline = rs.config(), rs.pipeline()
        config.enable_device(serial)
        config.enable_stream(rs.stream.depth, mode.width, mode.height, rs.format.z16, mode.fps)
        config.enable_stream(rs.stream.color, mode.width, mode.height, rs.format.rgb8, mode.fps)
        try:
            sensor = config.resolve(pipeline).get_device().first_depth_sensor()
            if sync and sensor.supports(rs.option.inter_cam_sync_mode):
                sensor.set_option(rs.option.inter_cam_sync_mode, sync)
            for each in config.resolve(pipeline).get_device().query_sensors():
                if each.supports(rs.option.global_time_enabled):  # it follows the clock on the wall, which jumps
                    each.set_option(rs.option.global_time_enabled, 0)
            profile = pipeline.start(config)
        except RuntimeError as error:
            raise CameraLost(f"camera {name!r} (serial {serial}) does not start: {error}; {CURE}") from error
        self._pipelines[name] = pipeline
        self._readers[name] = Reader(name, profile.get_device().first_depth_sensor().get_depth_scale(), serial)


class Reader:
    """Frames of librealsense as ours; knows how the camera's clock runs to this computer's."""

    def __init__(self, name: str, depth_unit_m: float, serial: str = ""):
        """ValueError for a unit that is none: a D405's is 0.0001."""
        if not 0 < depth_unit_m < 0.1:
            raise ValueError(f"depth unit of camera {name!r} is {depth_unit_m}; expected metres a step, a D405's is 0.0001")
        self._name, self._unit_m, self._serial = name, depth_unit_m, serial
        self._then = time.monotonic()
        self._offset_s = np.inf  # this clock minus the camera's, at the quickest delivery so far

    def __call__(self, colour: Any, depth: Any) -> Frame:
        """One frame; CameraLost when a half is missing, ValueError when the halves are not of the same pixels."""
        if not colour or not depth:
            raise CameraLost(f"camera {self._name!r} delivers no {'depth' if colour else 'colour'}; {CURE}")
        rgb, raw = np.asanyarray(colour.get_data()), np.asanyarray(depth.get_data())
        lens, depth_lens = (_intrinsics(each) for each in (colour, depth))
        if rgb.shape[:2] != raw.shape or not np.allclose(lens[0], depth_lens[0], atol=1.0):
            raise ValueError(
                f"camera {self._name!r}: colour {rgb.shape[:2]} with {lens[0]} and depth {raw.shape} with {depth_lens[0]} are not of "
                "the same pixels; a D405 aligns them when both streams have one size and rate"
            )
        return Frame(rgb.copy(), raw.astype(np.float32) * np.float32(self._unit_m), self._host_time(colour), *lens, self._serial)

    def _host_time(self, frame: Any) -> float:
        """The exposure on this computer's monotonic clock: what comes late was delivered late, not taken late."""
        taken_s, now = frame.get_timestamp() / 1e3, time.monotonic()
        self._offset_s = min(self._offset_s + DRIFT * (now - self._then), now - taken_s)
        self._then = now
        return taken_s + self._offset_s


def _intrinsics(frame: Any) -> tuple[np.ndarray, np.ndarray]:
    """fx, fy, cx, cy with pixel centres at +0.5, and the five coefficients; ValueError for a lens model that is another."""
    lens = frame.get_profile().as_video_stream_profile().get_intrinsics()
    coefficients = np.array(lens.coeffs, np.float64)
    model = str(lens.model).rsplit(".", 1)[-1]
    if model not in ("brown_conrady", "inverse_brown_conrady", "none") or (model == "inverse_brown_conrady" and coefficients.any()):
        raise ValueError(f"lens model is {model} with {coefficients}; expected Brown and Conrady's, or no distortion")
    return np.array([lens.fx, lens.fy, lens.ppx + HALF_PIXEL, lens.ppy + HALF_PIXEL]), coefficients


def _check_serials(rs: Any, serials: Mapping[str, str]) -> None:
    found = [device.get_info(rs.camera_info.serial_number) for device in rs.context().query_devices()]
    for name, serial in serials.items():
        if serial not in found:
            raise CameraLost(f"camera {name!r}: no device with serial {serial!r}, found {found or 'none'}; {CURE}")
