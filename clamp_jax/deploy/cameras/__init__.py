"""Cameras behind one small protocol: what calibration, the recorder and a robot need of them."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np


class CameraLost(ConnectionError):
    """A camera does not deliver; the message names it."""


class Frame(NamedTuple):
    """What one camera saw at one moment; colour and depth are of the same pixels."""

    rgb: np.ndarray  # (h, w, 3) uint8, red first
    depth_m: np.ndarray  # (h, w) float32, 0: not measured
    time_s: float  # of the exposure, on this computer's monotonic clock
    intrinsics: np.ndarray  # (4,) fx, fy, cx, cy in pixels, pixel centres at +0.5
    distortion: np.ndarray  # (5,) k1, k2, p1, p2, k3 of Brown and Conrady, as OpenCV orders them
    serial: str = ""  # the camera's own number


@runtime_checkable
class Cameras(Protocol):
    """All cameras of a cell."""

    def frames(self) -> dict[str, Frame]:
        """The newest frame of each camera by its name; CameraLost when one does not deliver."""
