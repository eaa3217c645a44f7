"""Cameras in a thread of their own: what they see, with their own times, and whether they still see."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from clamp_jax.deploy.calibration import CellCalibration, fields
from clamp_jax.deploy.cameras import CameraLost, Cameras, Frame
from clamp_jax.deploy.control import Clock
from clamp_jax.structs import Calibration
from data_tools.record.stream import Images, RecordingStopped

SILENT_S = 0.5  # without a new frame for so long a camera is lost
AHEAD_S = 0.005  # a frame cannot be of a later moment than this after now; ours: rounding of a camera's clock
AGAIN_S = 0.005  # until cameras that had no new frame are asked again
CURE = "check its cable (USB 3, no hub) and that no other program has it open"


class Watcher:
    """Hands sets of new frames to `images`, `hz` a second, until it is closed."""

    def __init__(self, cameras: Cameras, names: tuple[str, ...], calibration: CellCalibration, *, clock: Clock, hz: float):
        """`cameras` give frames without a lens, of one size, of the cameras `names`, which the calibration has."""
        self._cameras, self._names, self._calibration, self._clock, self._period_s = cameras, names, calibration, clock, 1 / hz
        self.images: Callable[[Images], None] = lambda seen: None
        self.seen: Images | None = None  # the first set
        self._began = clock.now()
        self._newest = dict.fromkeys(names, self._began)  # when the newest frame of each was taken
        self._error: Exception | None = None
        self._stop, self._looked = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="cameras", daemon=True)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join(2 * SILENT_S)  # a camera that is unplugged may keep it waiting

    def check(self) -> None:
        """CameraLost when a camera has no new frame for 0.5 s; RecordingStopped when its times cannot be."""
        if self._error is not None:
            raise self._error
        silent = [name for name, time_s in self._newest.items() if self._clock.now() - max(time_s, self._began) > SILENT_S]
        if silent:
            self._thread.join(2 * SILENT_S if len(silent) > 1 else 0)  # the driver may know which of them it waits for
            words = f"camera {', '.join(map(repr, silent))} has given no new frame for {SILENT_S} s; {CURE}"
            raise self._error or CameraLost(words)

    def _work(self) -> None:
        due = self._clock.now()
        try:
            while not self._stop.is_set():
                fresh = self._look()
                due = max(due + self._period_s, self._clock.now()) if fresh else self._clock.now() + AGAIN_S
                self._stop.wait(max(due - self._clock.now(), 0.0))
        except Exception as error:  # raised again in the control loop, by `check`
            self._error = error

    def _look(self) -> bool:
        """Whether all cameras had a new frame."""
        frames = self._cameras.frames()
        now, before = self._clock.now(), dict(self._newest) if self.seen is not None else {}
        if missing := [name for name in self._names if name not in frames]:
            raise CameraLost(f"camera {missing[0]!r} gives no image, only {', '.join(frames) or 'none does'}; {CURE}")
        for name in self._names:
            self._check_time(name, frames[name].time_s, now, before.get(name))
        if not all(frames[name].time_s > before.get(name, -np.inf) for name in self._names):
            return False
        found = self._set([frames[name] for name in self._names])
        self.seen = self.seen or found
        self.images(found)
        return True

    def _check_time(self, name: str, time_s: float, now: float, before: float | None) -> None:
        if not time_s <= now + AHEAD_S:  # NaN too
            raise RecordingStopped(f"camera {name!r} gave a frame of {time_s - now:.3f} s ahead of now; its clock jumped: connect it anew")
        if before is not None and time_s < before:
            back = f"{before - time_s:.3f} s before its last one"
            raise RecordingStopped(f"camera {name!r} gave a frame taken {back}; its clock ran backwards: connect it anew")
        self._newest[name] = time_s

    def _set(self, frames: list[Frame]) -> Images:
        rgb, depth_m = np.stack([frame.rgb for frame in frames]), np.stack([frame.depth_m for frame in frames])
        values = fields(self._calibration, rgb.shape[1:3], self._names)
        calibration = Calibration(values.intrinsics, values.parent_from_camera, values.mount, values.world_from_base)
        return Images(np.array([frame.time_s for frame in frames]), rgb, depth_m, calibration)
