"""What ends a run before its last step: a signal, and a loss that is not finite or leaps."""

import json
import math
import os
import signal
import statistics
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from clamp_jax.data import pipeline

STOPPED_FILE = "stopped.json"
EXIT_CODE = 75  # "a temporary failure, try again" of sysexits.h: the state is saved, and the same command goes on
SIGNALS = (signal.SIGTERM, signal.SIGINT)
WATCHED = ("loss", "gradient_norm")  # looked at in every step
FEWEST = 20  # losses that a median is taken of; with fewer nothing is called a leap
SHOWN = 16  # records in the message; the file has all of them


class TrainingError(RuntimeError):
    """Training cannot go on; the last checkpoint is kept."""


class Stopped(SystemExit):
    """A run that was asked to stop and has saved its state; leaves the process with EXIT_CODE."""

    def __init__(self, message: str):
        super().__init__(EXIT_CODE)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Signals:
    """While the context is open, SIGTERM or SIGINT asks the run to stop between two steps; a second one leaves at once.

    A thread of its own reads them: Python's handlers have to wait for a compilation to end. In another thread than the main one,
    where no handler can be set, nothing is changed. Of several processes all stop at the same step: jax's preemption service
    agrees on it, and SIGTERM is left to that.
    """

    def __init__(self):
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            self._before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
            self._thread = threading.Thread(target=self._listen, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._before:
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            os.close(self._write)
            self._thread.join()
            os.close(self._read)

    def _listen(self) -> None:
        while received := os.read(self._read, 1):
            if received[0] not in SIGNALS:
                continue
            if self._received is not None:
                os._exit(128 + received[0])
            self._received = received[0]

    def asked(self, step: int) -> str:
        """The name of the signal that asks to stop after this step, "" for none; every process has to ask at every step."""
        if jax.process_count() > 1:
            return "SIGTERM" if multihost_utils.reached_preemption_sync_point(step) else ""
        return "" if self._received is None else signal.Signals(self._received).name


class Watch:
    """Stops a run whose loss is not finite or leaps, and says which records were in the batch.

    A leap is a loss over `factor` times the median of the last `window` losses (0: never); ours. Each step's figures are looked at
    when the next one has been sent off, so that the device does not wait. `losses` are those of the run before it was taken up.
    """

    def __init__(self, workdir: Path, batches: pipeline.Batches, *, factor: float, window: int, losses: Iterable[float] = ()):
        self.path, self.batches, self.factor = workdir / STOPPED_FILE, batches, factor
        self.path.unlink(missing_ok=True)
        self._losses = deque(losses, maxlen=max(window, FEWEST))
        self._held: tuple[int, dict] | None = None

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Look at the step before, and keep this one's figures. Raises TrainingError."""
        self.settle()
        self._held = step, {name: metrics[name] for name in WATCHED if name in metrics}

    def settle(self) -> None:
        """Look at the step that is still held. Raises TrainingError."""
        if self._held is None:
            return
        (step, held), self._held = self._held, None
        figures = {name: float(value) for name, value in jax.device_get(held).items()}
        self.look(step, figures)
        self._losses.append(figures["loss"])

    def look(self, step: int, figures: Mapping[str, float]) -> None:
        """Raise TrainingError when a figure of a step is not finite, or its loss is a leap."""
        bad = [name for name, value in figures.items() if not math.isfinite(value)]
        if bad:
            self._stop(step, f"{', '.join(bad)} not finite", figures)
        if not self.factor or len(self._losses) < FEWEST:
            return
        middle = statistics.median(self._losses)
        if figures["loss"] > self.factor * middle:
            why = f"loss {figures['loss']:.4g} is over {self.factor:g} times {middle:.4g}, the median of the last {len(self._losses)}"
            self._stop(step, why, figures)

    def _stop(self, step: int, why: str, figures: Mapping[str, float]) -> None:
        """Write which records were in the batch and raise."""
        records = self._records(step)
        if jax.process_index() == 0:
            shown = {name: value if math.isfinite(value) else str(value) for name, value in figures.items()}
            self.path.write_text(json.dumps({"step": step, "why": why, "metrics": shown, "records": records}, indent=1))
        first = ", ".join(f"{row['data_set']} episode {row['episode']} frame {row['frame']}" for row in records[:SHOWN])
        more = f" and {len(records) - SHOWN} more" if len(records) > SHOWN else ""
        raise TrainingError(
            f"{why} at step {step}; its batch: {first}{more} ({self.path} has all of it). The last checkpoint is kept: look at these "
            "records, or lower the learning rate in another folder; train.spike_factor=0 calls no loss a leap"
        )

    def _records(self, step: int) -> list[dict[str, Any]]:
        """Slot, data set, episode and frame of the batch that made this step; the first step, 1, is made of batch 0."""
        rows = self.batches.rows(step - 1)
        names = [str(dataset.reader.directory) for dataset in self.batches.datasets]
        return [{"slot": row.slot, "data_set": names[row.dataset], "episode": row.episode, "frame": row.frame} for row in rows]
