"""The 50 Hz loop between a robot and a policy server: absolute deadlines, inference in a second thread, hold when in doubt.

Each tick sends one command: what the chunks say for now (execution.py) after safety, or a hold. A chunk's first action belongs to
the moment of its observation. A hold brakes within the limits of acceleration; then it is the last command while the arm tracks
it, else the measured joints latched once (commanding the measured joints at every tick lets an arm sink). Nothing needs a human
to go on: the next good reply ends a hold.
"""

import collections
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from clamp_jax.deploy import memory
from clamp_jax.deploy.execution import EXECUTIONS, NONE
from clamp_jax.deploy.robots import Robot
from clamp_jax.deploy.safety import ARM, REJECT, Safety
from clamp_jax.structs import ACTION_DIM, CHUNK, CONTROL_HZ, HISTORY

logger = logging.getLogger(__name__)
LOG_MISSED = 50  # missed deadlines between two lines of the log
RECENT = 10  # replies whose latency the next one's is expected of


class Settings(NamedTuple):
    """How a chunk is executed and when the loop holds."""

    hz: int = CONTROL_HZ
    execution: str = "chunk"  # of execution.EXECUTIONS
    lead: int | None = None  # ask for the next chunk when so few actions are left; None: the execution's own
    stale_s: float = 0.9  # a reply to an older observation is thrown away
    retry: int = 5  # ticks before the next request after a failed one
    tracking_rad: float = 0.25  # an arm farther from the held command than this does not track it: latch where it is


class Question(NamedTuple):
    """What the inference thread needs beside the robot's own observation."""

    past_actions: np.ndarray  # (50, 14) float32 as executed, oldest first
    past_mask: np.ndarray  # (50,) bool
    seed: int
    frozen_actions: np.ndarray = NONE  # (n, 14) float32: what the chunk has to begin with


class Outcome(NamedTuple):
    """What came of one question."""

    actions: np.ndarray | None  # (50, 14), None when it failed
    error: str
    seconds: float  # from the question to the outcome


@runtime_checkable
class Planner(Protocol):
    """Answers one question at a time, elsewhere."""

    def ask(self, question: Question) -> None: ...

    def take(self) -> Outcome | None: ...


class ThreadPlanner:
    """Runs `plan(question) -> (50, 14)` in its own thread; whatever it raises becomes an outcome."""

    def __init__(self, plan: Callable[[Question], np.ndarray]):
        self._plan = plan
        self._questions: queue.SimpleQueue = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="planner", daemon=True)
        self._thread.start()

    def ask(self, question: Question) -> None:
        """Queue a question."""
        self._questions.put(question)

    def take(self) -> Outcome | None:
        """The outcome, or None while there is none; never waits."""
        try:
            return self._outcomes.get_nowait()
        except queue.Empty:
            return None

    def close(self, timeout_s: float = 5.0) -> None:
        """End the thread after the running question."""
        self._questions.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (question := self._questions.get()) is not None:
            started = time.monotonic()
            try:
                actions, error = self._plan(question), ""
            except Exception as failure:  # a loop that moves a robot outlives every failure of its planner
                actions, error = None, f"{type(failure).__name__}: {failure}"
            self._outcomes.put(Outcome(actions, error, time.monotonic() - started))


class Clock:
    """Monotonic time; a test passes its own."""

    def now(self) -> float:
        """s, from any origin."""
        return time.monotonic()

    def wait_until(self, moment: float) -> None:
        """Return at `moment`, or at once when it has passed."""
        time.sleep(max(moment - self.now(), 0.0))


class Report(NamedTuple):
    """What happened in a run."""

    completed: bool  # every tick up to the end came, and the policy moved the robot
    ticks: int
    missed_deadlines: int  # ticks that our own side began more than a period late; their commands were not sent
    held: dict[str, int]  # cause -> ticks
    chunks: int  # replies that were executed
    discarded: int  # replies too old or malformed
    failures: dict[str, int]  # errors of the planner -> times
    interventions: dict[str, int]  # "band cause" of safety -> commands
    latencies_ms: tuple[float, ...]  # observation to reply, of every reply
    late_ms: tuple[float, ...] = ()  # how long after its deadline each tick began, of those that were not missed


class Controller:
    """Executes chunks on a robot; `run` is the loop, `tick` one turn of it."""

    def __init__(self, robot: Robot, planner: Planner, safety: Safety, settings: Settings = Settings(), *, seed: int = 0):  # noqa: B008
        """ValueError for an execution that is none, and for a safety layer that counts in other periods than the loop."""
        if settings.execution not in EXECUTIONS:
            raise ValueError(f"execution is {settings.execution!r}; expected one of {', '.join(EXECUTIONS)}")
        if not np.isclose(safety.period_s * settings.hz, 1):
            rates = f"the loop runs at {settings.hz} Hz, safety's period is {safety.period_s} s"
            raise ValueError(f"{rates}; pass Safety(limits, period_s={1 / settings.hz})")
        self._robot, self._planner, self._safety, self._settings, self._seed = robot, planner, safety, settings, seed
        self._chunks = EXECUTIONS[settings.execution]()
        self._lead = self._chunks.lead if settings.lead is None else settings.lead
        self._asked: tuple[int, int] | None = None  # tick and number of executed actions when the running question was asked
        self._ask_again = 0  # tick
        self._tick = self._executed = self._taken = self._discarded = self._missed = self._questions = 0
        self._last: np.ndarray | None = None  # the last command sent
        self._velocity = np.zeros(ACTION_DIM)  # of the commands, rad/s
        self._latched = np.zeros(ACTION_DIM, bool)  # joints at which a hold has latched the measured value
        self._holding = ""
        self._history: collections.deque = collections.deque(maxlen=HISTORY)
        self._held, self._failures = collections.Counter(), collections.Counter()
        self._latencies_ms: list[float] = []
        self._late_ms: list[float] = []

    def run(self, seconds: float, *, clock: Clock | None = None, stop: Callable[[], bool] = lambda: False) -> Report:
        """Control the robot for `seconds`, or until `stop()` is true."""
        with memory.steady():
            return self._run(seconds, clock or Clock(), stop)

    def _run(self, seconds: float, clock: Clock, stop: Callable[[], bool]) -> Report:
        period = 1 / self._settings.hz
        start, total = clock.now(), round(seconds * self._settings.hz)
        while self._tick < total and not stop():
            clock.wait_until(start + self._tick * period)
            behind = int((clock.now() - start) / period + 1e-6) - self._tick
            if behind > 0:  # absolute deadlines: what was missed is skipped, not sent late in a burst
                self._skip(behind)
            self._late_ms.append(1e3 * (clock.now() - start - self._tick * period))
            self.tick()
        return self.report(self._tick >= total)

    def _skip(self, ticks: int) -> None:
        self._missed += ticks
        self._tick += ticks
        self._executed += ticks if self._chunks.left(self._executed) else 0
        self._velocity = np.zeros(ACTION_DIM)  # the robot has kept its goal meanwhile: it has to be brought up to speed anew
        if self._missed == ticks or self._missed // LOG_MISSED > (self._missed - ticks) // LOG_MISSED:  # logging takes time too
            logger.warning("missed deadlines: %d so far, at tick %d", self._missed, self._tick)

    def tick(self) -> None:
        """One control period: take a reply, ask for the next one in time, send one command."""
        joints = np.asarray(self._robot.joints(), np.float64)
        self._collect()
        self._ask()
        command = self._act(joints)
        if command is not None:
            self._robot.command(command)
            moved = np.zeros(ACTION_DIM) if self._last is None else (command - self._last) * self._settings.hz
            self._velocity = np.where(self._latched, 0.0, moved)  # what was latched has not moved: it is where it was found
            self._last = command
            self._history.append(command)
        self._tick += 1

    def report(self, finished: bool = True) -> Report:
        """The counts so far."""
        interventions = {f"{band} {cause}".strip(): n for (band, cause), n in self._safety.counts.items()}
        return Report(
            completed=finished and self._taken > 0,
            ticks=self._tick,
            missed_deadlines=self._missed,
            held=dict(self._held),
            chunks=self._taken,
            discarded=self._discarded,
            failures=dict(self._failures),
            interventions=interventions,
            latencies_ms=tuple(self._latencies_ms),
            late_ms=tuple(self._late_ms),
        )

    def _collect(self) -> None:
        outcome = self._planner.take() if self._asked is not None else None
        if outcome is None:
            return
        (asked_tick, executed), self._asked = self._asked, None
        age_s = (self._tick - asked_tick) / self._settings.hz
        if outcome.error:
            self._failures[outcome.error[:120]] += 1
            self._ask_again = self._tick + self._settings.retry
            return
        self._latencies_ms.append(1e3 * outcome.seconds)  # of replies: a time-out says nothing of how long they take
        if age_s > self._settings.stale_s or not _usable(outcome.actions):
            self._discarded += 1
            logger.warning("reply thrown away: %s", f"{age_s:.2f} s old" if _usable(outcome.actions) else "no finite (50, 14)")
        elif executed + CHUNK > self._executed:
            self._chunks.add(np.asarray(outcome.actions, np.float64), executed)
            self._taken += 1

    def _ask(self) -> None:
        if self._asked is not None or self._tick < self._ask_again or self._chunks.left(self._executed) > self._lead:
            return
        self._asked = (self._tick, self._executed)
        frozen = self._chunks.frozen(self._executed, self._latency_ticks())
        self._planner.ask(Question(*past(self._history), seed=(self._seed + self._questions) % 2**32, frozen_actions=frozen))
        self._questions += 1

    def _latency_ticks(self) -> int:
        """How many ticks a reply is expected to take: the longest of the last ones."""
        recent = self._latencies_ms[-RECENT:]
        return int(np.ceil(max(recent) / 1e3 * self._settings.hz)) if recent else self._settings.hz // 2

    def _act(self, joints: np.ndarray) -> np.ndarray | None:
        """The command of this tick, None while nothing has been commanded yet: a robot at rest keeps its own goal."""
        wanted = self._chunks.action(self._executed)
        if wanted is None:
            return self._hold(joints, "no chunk" if self._taken else "start")
        verdict = self._safety.check(wanted, joints if self._last is None else self._last, self._velocity)
        if verdict.band == REJECT:
            self._chunks.clear()  # the rest of it would start from where the arm did not go
            return self._hold(joints, f"rejected: {verdict.cause}")
        self._executed += 1
        self._latched[:] = False
        self._say("")
        return np.asarray(verdict.command, np.float64)

    def _hold(self, joints: np.ndarray, cause: str) -> np.ndarray | None:
        """Brake within the limits, then keep the last command, or where an arm is that has lost it."""
        self._held[cause] += 1
        self._say(cause)
        if self._last is None:
            return None
        slowed = self._safety.brake(self._last, self._velocity)
        lost = np.zeros(ACTION_DIM, bool)
        lost[ARM] = np.abs(joints - self._last)[ARM] > self._settings.tracking_rad  # a gripper that holds an object is never on its goal
        latch = lost & ~self._latched & np.isfinite(joints)
        self._latched |= latch
        return np.where(latch, joints, slowed)

    def _say(self, cause: str) -> None:
        """Log when a hold begins, changes its cause or ends."""
        if cause != self._holding:
            logger.info("hold ends" if not cause else "hold: %s", *([cause] if cause else []))
            self._holding = cause


def past(history: collections.deque) -> tuple[np.ndarray, np.ndarray]:
    """The last 50 commands (50, 14) float32, oldest first, and which of them there were (50,)."""
    actions, mask = np.zeros((HISTORY, ACTION_DIM), np.float32), np.zeros(HISTORY, bool)
    if history:
        actions[-len(history) :], mask[-len(history) :] = np.stack(history), True
    return actions, mask


def _usable(actions: Any) -> bool:
    return np.shape(actions) == (CHUNK, ACTION_DIM) and bool(np.isfinite(actions).all())


def percentiles_ms(latencies_ms: tuple[float, ...]) -> dict[str, float]:
    """{"p50", "p99", "max"} of latencies, empty when there are none."""
    return {f"p{q}" if q < 100 else "max": round(float(np.percentile(latencies_ms, q)), 2) for q in (50, 99, 100)} if latencies_ms else {}
