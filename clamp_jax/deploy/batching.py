"""Puts the requests of several clients into one call of a policy, in a thread of its own.

Nobody waits for company: a call takes what has come while the one before it ran, so that a client that is alone has the
latency of a batch of one. Batches are filled up to a few fixed sizes, which are compiled before the first request.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np

SIZES = (1, 2, 4, 8, 16, 32, 64)


class Late(RuntimeError):
    """The request's deadline passed before its turn came."""


class Answer(NamedTuple):
    """What came of one request."""

    actions: np.ndarray  # (50, 14) float32
    queue_s: float  # from its submission to the call
    infer_s: float  # of the call, whoever else was in it
    batch: int  # how many requests were in it


class Job(NamedTuple):
    """A request in the queue."""

    inputs: dict[str, np.ndarray]  # of the policy, batch 1
    deadline: float  # on the clock of time.monotonic, inf for none
    submitted: float
    future: Future  # of an Answer


def ladder(most: int) -> tuple[int, ...]:
    """The sizes of batches up to `most`, which is one of them; ValueError when it is not positive."""
    if most < 1:
        raise ValueError(f"the largest batch is {most}; expected at least 1")
    return (*(size for size in SIZES if size < most), most)


class Batcher:
    """Calls `policy(inputs) -> {"actions": (b, 50, 14)}` with what is queued; `submit` from any thread.

    `check(actions of one request) -> actions` may change or refuse a row (it raises): the other rows are answered all the same.
    """

    def __init__(self, policy: Callable, check: Callable[[np.ndarray], np.ndarray], *, most: int = 8, wait_s: float = 0.0):
        """`most`: requests in one call; `wait_s`: how long the first of a call waits for others (0: not at all)."""
        self._policy, self._check, self._sizes, self._wait_s = policy, check, ladder(most), wait_s
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    def warm(self, inputs: dict[str, np.ndarray]) -> None:
        """Call the policy once with every size of batch, made of one example's inputs; raises what it raises."""
        for size in self._sizes:
            self._policy({name: np.repeat(array, size, axis=0) for name, array in inputs.items()})

    def submit(self, inputs: dict[str, np.ndarray], deadline: float = np.inf) -> Future:
        """Queue a request; its future gets an Answer, Late, or what the policy or the check raised."""
        job = Job(inputs, deadline, time.monotonic(), Future())
        self._jobs.put(job)
        return job.future

    def close(self, timeout_s: float = 5.0) -> None:
        """End the thread after the running call; what is still queued is cancelled."""
        self._jobs.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (jobs := self._next()) is not None:
            live = [job for job in jobs if self._in_time(job)]
            if live:
                self._answer(live)
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not None:
                job.future.cancel()

    def _next(self) -> list[Job] | None:
        """The jobs of the next call, None at the end."""
        first = self._jobs.get()
        if first is None:
            return None
        jobs, until = [first], time.monotonic() + self._wait_s
        while len(jobs) < self._sizes[-1]:
            try:
                job = self._jobs.get(timeout=max(until - time.monotonic(), 0.0)) if self._wait_s else self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)  # the end comes after these
                break
            jobs.append(job)
        return jobs

    def _in_time(self, job: Job) -> bool:
        waited = time.monotonic() - job.submitted
        if not job.future.set_running_or_notify_cancel():  # nobody waits for it any more; from here on it cannot be cancelled
            return False
        if time.monotonic() <= job.deadline:
            return True
        job.future.set_exception(Late(f"its deadline passed after {1e3 * waited:.0f} ms in the queue"))
        return False

    def _answer(self, jobs: Sequence[Job]) -> None:
        started = time.monotonic()
        try:
            actions = self._call(jobs)
        except Exception as error:
            return self._one_by_one(jobs, error)
        infer_s = time.monotonic() - started
        for job, row in zip(jobs, actions, strict=False):
            self._settle(job, lambda row=row: self._check(row), started - job.submitted, infer_s, len(jobs))

    def _one_by_one(self, jobs: Sequence[Job], error: Exception) -> None:
        """After a call that failed: a request that makes the policy fail must not fail those that came with it."""
        if len(jobs) == 1:
            return jobs[0].future.set_exception(error)
        for job in jobs:
            self._answer([job])

    def _settle(self, job: Job, row: Callable[[], np.ndarray], queue_s: float, infer_s: float, batch: int) -> None:
        try:
            job.future.set_result(Answer(row(), queue_s, infer_s, batch))
        except Exception as error:
            job.future.set_exception(error)

    def _call(self, jobs: Sequence[Job]) -> np.ndarray:
        size = next(size for size in self._sizes if size >= len(jobs))
        rows = [job.inputs for job in jobs] + [jobs[-1].inputs] * (size - len(jobs))  # filled up with copies of the last
        inputs = rows[0] if size == 1 else {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        actions = np.asarray(self._policy(inputs)["actions"])
        if len(actions) != size:  # or somebody would wait for ever
            raise RuntimeError(f"policy gave {len(actions)} chunks for a batch of {size}")
        return actions

