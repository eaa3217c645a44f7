"""The next batch is put on the devices while the step with the one before runs."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Placed:
    """An iterator whose next value is taken and placed by a thread while the caller works with the one before: a double buffer.

    `place` puts a batch on devices. One value is ready or being made, no more, so that the devices hold two batches: the step's
    and the next. An error of `source` or `place` is raised where its value would have come. A thread of its own, because the
    copy to a device takes the caller's time too, and the caller has a step to dispatch.
    """

    def __init__(self, source: Iterator[Any], place: Callable[[Any], Any]):
        self._source, self._place = source, place
        self._pool = ThreadPoolExecutor(1, "place")
        self._next: Future | None = self._pool.submit(self._make)

    def _make(self) -> Any:
        return self._place(next(self._source))

    def __iter__(self) -> "Placed":
        return self

    def __next__(self) -> Any:
        if self._next is None:
            raise StopIteration
        try:
            value = self._next.result()
        except Exception:  # an interrupt does not wait for what is being made
            self.close()
            raise
        self._next = self._pool.submit(self._make)
        return value

    def close(self) -> None:
        """Make nothing more; what is being made is waited for and dropped."""
        self._next = None
        self._pool.shutdown(cancel_futures=True)
