"""How chunks of actions become one command a tick: open loop, temporal ensemble, or real-time chunking. Numpy only.

Time is counted in actions that were executed: a chunk that was asked for when `start` of them had been begins with action `start`,
so that of a chunk that arrives late as many are skipped as went by, and an arm that held meanwhile skips none.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from clamp_jax.structs import ACTION_DIM, CHUNK

NONE = np.zeros((0, ACTION_DIM), np.float32)
ENSEMBLE_M = 0.01  # weights exp(-m i), i = 0 the oldest chunk (ACT, arXiv 2304.13705)
LATENCY_MARGIN = 2  # ticks that more rows are frozen than the last replies took


class Execution(Protocol):
    """What the control loop asks of the chunks that it has got."""

    lead: int  # ask for the next chunk when so few actions are left

    def add(self, chunk: np.ndarray, start: int) -> None:
        """Take a chunk (50, 14) whose first action is number `start`."""

    def action(self, number: int) -> np.ndarray | None:
        """Action `number` (14,), None when no chunk reaches so far."""

    def left(self, number: int) -> int:
        """How many actions there are from `number` on."""

    def frozen(self, number: int, latency: int) -> np.ndarray:
        """Rows (n, 14) that a chunk which begins with action `number` has to begin with, n < 50."""

    def clear(self) -> None:
        """Forget everything: the arms did not go where the rest of it begins."""


class OpenLoop:
    """The newest chunk alone, from where it is now."""

    def __init__(self, lead: int = 25):
        """`lead`: ours, 0.5 s covers sensing and inference."""
        self.lead, self._chunk, self._start = lead, None, 0

    def add(self, chunk: np.ndarray, start: int) -> None:
        """It takes the place of the one before."""
        self._chunk, self._start = chunk, start

    def action(self, number: int) -> np.ndarray | None:
        """Of the newest chunk."""
        return self._chunk[number - self._start] if self.left(number) else None

    def left(self, number: int) -> int:
        """In the newest chunk."""
        return 0 if self._chunk is None else max(CHUNK - (number - self._start), 0)

    def frozen(self, number: int, latency: int) -> np.ndarray:
        """Nothing."""
        return NONE

    def clear(self) -> None:
        """Forget the chunk."""
        self._chunk = None


class RealTime(OpenLoop):
    """The newest chunk, which begins with what is executed while it is computed, so that it goes on where the one before was.

    arXiv 2506.07339; the server paints the rest in. Chunks are asked for one after the other.
    """

    def __init__(self, lead: int = 40):
        """`lead`: at least CHUNK - lead actions of each chunk are executed."""
        super().__init__(lead)

    def frozen(self, number: int, latency: int) -> np.ndarray:
        """What the newest chunk has for the next `latency` ticks and a few more."""
        if not self.left(number):
            return NONE
        first = number - self._start
        return np.asarray(self._chunk[first : first + min(latency + LATENCY_MARGIN, CHUNK - 1)], np.float32)


class Ensemble:
    """The weighted mean of what all chunks that reach so far want now; the oldest weighs most."""

    def __init__(self, lead: int = CHUNK, m: float = ENSEMBLE_M):
        """`lead`: CHUNK asks without a pause; `m`: how much less a newer chunk weighs."""
        self.lead, self._m, self._chunks = lead, m, []

    def add(self, chunk: np.ndarray, start: int) -> None:
        """Beside the others."""
        self._chunks.append((start, chunk))

    def action(self, number: int) -> np.ndarray | None:
        """exp(-m i) for the i-th oldest."""
        self._chunks = [(start, chunk) for start, chunk in self._chunks if number - start < CHUNK]
        if not self._chunks:
            return None
        weights = np.exp(-self._m * np.arange(len(self._chunks)))
        return np.average([chunk[number - start] for start, chunk in self._chunks], axis=0, weights=weights)

    def left(self, number: int) -> int:
        """In the newest chunk."""
        return max((CHUNK - (number - start) for start, _ in self._chunks), default=0)

    def frozen(self, number: int, latency: int) -> np.ndarray:
        """Nothing."""
        return NONE

    def clear(self) -> None:
        """Forget the chunks."""
        self._chunks = []


EXECUTIONS: dict[str, Callable[[], Execution]] = {"chunk": OpenLoop, "ensemble": Ensemble, "realtime": RealTime}
