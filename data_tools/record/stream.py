"""An episode on its way to the disk, in a thread of its own, so that the control loop never waits for it; images find their ticks here."""

import bisect
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clamp_jax.data.records import Frame, round_depth
from clamp_jax.structs import Calibration
from data_tools.record.files import EpisodeWriter

BACKLOG = 50  # sets of images that may wait for the disk; ours: 5 s of them


class RecordingStopped(RuntimeError):
    """An episode cannot be recorded any further; the message says why. What was finished before is kept."""


class TooShort(RecordingStopped):
    """An episode was over before anything was seen of it."""


class Images(NamedTuple):
    """What the k cameras saw at one moment."""

    times_s: np.ndarray  # (k,) of the exposures
    rgb: np.ndarray  # (k, h, w, 3) uint8
    depth_m: np.ndarray  # (k, h, w) float32
    calibration: Calibration

    @property
    def time_s(self) -> float:
        """The middle of the exposures: without a sync cable they are up to a frame apart."""
        return float(self.times_s.min() + self.times_s.max()) / 2


class Stream:
    """Takes ticks of one thread and images of another; times are on one clock, `start_s` is the episode's begin on it.

    Images belong to the tick whose measured joints are nearest in time; those that are farther from any than `period_s` (before
    the episode, or where deadlines were missed), or as near to the tick of the images before them, are left out.
    """

    def __init__(self, writer: EpisodeWriter, start_s: float, period_s: float):
        self._writer, self._start_s, self._period_s = writer, start_s, period_s
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._waiting: deque[Images] = deque()
        self._times: list[float] = []  # of the measured joints
        self._ticks: list[int] = []
        self.frames: list[int] = []  # ticks that have images
        self._error: Exception | None = None
        self._images_sent = self._images_taken = 0
        self._path: Path | None = None
        self._thread = threading.Thread(target=self._work, name="disk", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: Any) -> None:
        self._queue.put(None)
        self._thread.join()
        self._writer.abort()  # nothing where it was finished

    def tick(self, tick: int, times_s: tuple[float, float], joints: np.ndarray, command: np.ndarray, objects: np.ndarray) -> None:
        """A tick: times of the measured joints and of the command, joints (14,), command (14,), positions of objects (o, 3)."""
        times = tuple(time_s - self._start_s for time_s in times_s)
        self._queue.put((tick, *times, joints, command, objects))

    def images(self, seen: Images) -> None:
        """What was seen."""
        self._images_sent += 1
        self._queue.put(seen)

    def check(self) -> None:
        """Raise what went wrong with the disk: OSError in words; RecordingStopped when it does not keep up."""
        if self._error is not None:
            raise self._error
        behind = self._images_sent - self._images_taken
        if behind > BACKLOG:
            raise RecordingStopped(f"the disk does not keep up: {behind} sets of images wait for it; lower --size or --images-hz")

    def end(self, tail: dict[str, Any]) -> None:
        """Have what is left written, and the end; `finished` says when that is done."""
        self._queue.put(tail)

    def finished(self) -> Path | None:
        """The finished file, None while it is being written. Raises what `check` does, and TooShort without images."""
        self.check()
        return self._path

    def _work(self) -> None:
        with self._keeping_errors():
            while (item := self._queue.get()) is not None:
                if isinstance(item, dict):
                    self._path = self._finish(item)
                    return
                if isinstance(item, Images):
                    self._waiting.append(item)
                    self._images_taken += 1
                else:
                    self._writer.tick(*item)
                    self._ticks.append(item[0])
                    self._times.append(item[1])
                self._place_images()

    def _finish(self, tail: dict[str, Any]) -> Path:
        self._place_images(at_end=True)
        if not self.frames:
            raise TooShort("no image fell into the episode, it was too short; it is not kept")
        return self._writer.finish(tail | {"frames": self.frames})

    @contextlib.contextmanager
    def _keeping_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # raised again in the control loop, by `check`
            self._error = error

    def _place_images(self, at_end: bool = False) -> None:
        """Write the images whose nearest tick is known: one after them has come, or none will."""
        while self._waiting and self._times and (at_end or self._times[-1] >= self._waiting[0].time_s - self._start_s):
            seen = self._waiting.popleft()
            tick = self._nearest(seen.time_s - self._start_s)
            if tick is not None and (not self.frames or tick > self.frames[-1]):
                frame = Frame(tick, seen.rgb, round_depth(seen.depth_m), seen.calibration)
                self._writer.frame(seen.times_s - self._start_s, frame)
                self.frames.append(tick)

    def _nearest(self, time_s: float) -> int | None:
        after = bisect.bisect(self._times, time_s)
        near = [index for index in (after - 1, after) if 0 <= index < len(self._times)]
        index = min(near, key=lambda index: abs(self._times[index] - time_s))
        return self._ticks[index] if abs(self._times[index] - time_s) <= self._period_s else None
