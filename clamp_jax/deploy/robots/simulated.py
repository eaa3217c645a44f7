"""A simulated robot that runs in real time in a process of its own; what it is made of is handed in.

The process has three threads: physics at 50 Hz with absolute deadlines, commands (answered at once), cameras (answered when
rendered). Messages are msgpack over pipes. It ends when its pipes do, so it never outlives the program that started it.
"""

import collections
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from clamp_jax.deploy import memory, protocol
from clamp_jax.deploy.robots import SLEEP, RobotLost, path_to
from clamp_jax.deploy.robots.asking import Asked
from clamp_jax.deploy.safety import Limits, aloha_limits
from clamp_jax.structs import ACTION_DIM, CONTROL_HZ

PERIOD_S = 1 / CONTROL_HZ
PROCESS = "the robot's process"
_START_S, _ANSWER_S, _IMAGES_S = 300.0, 2.0, 30.0  # how long the parent waits before it calls the robot lost


class Faults(NamedTuple):
    """What is wrong with the way between the control loop and the servos."""

    latency_s: float = 0.0  # from a command to the servos that follow it
    noise_rad: float = 0.0  # standard deviation of a joint's reading; an encoder's tick is 0.0015
    loss: float = 0.0  # share of commands, and of readings, that do not arrive; the last ones stand
    seed: int = 0


@runtime_checkable
class Plant(Protocol):
    """The body of a simulated robot."""

    def step(self, action: np.ndarray | None) -> None:
        """Advance 0.02 s with the goal (14,); None: no command has come yet."""

    def joints(self) -> np.ndarray:
        """Measured joints (14,)."""

    def snapshot(self) -> Any:
        """A copy of the state that the cameras are to see."""

    def sense(self, snapshot: Any) -> dict:
        """Images and joint state of a snapshot, as a request has them; called from another thread than the rest."""

    def status(self) -> dict:
        """What a judge of the episode wants to know."""


class SimulatedRobot:
    """Starts the process; `make_plant(**arguments)` is called in it, so it must be importable by name (no lambda)."""

    def __init__(
        self,
        make_plant: Callable[..., Plant],
        arguments: dict,
        *,
        limits: Limits | None = None,
        faults: Faults = Faults(),  # noqa: B008 - an immutable tuple
    ):
        """Waits until the plant is ready. ValueError for faults that are none, RobotLost when it cannot be made, with its own words."""
        if not (faults.latency_s >= 0 and faults.noise_rad >= 0 and 0 <= faults.loss < 1):
            raise ValueError(f"faults are {faults}; expected a latency and noise of at least 0, and a loss from 0 to below 1")
        context = multiprocessing.get_context("spawn")  # jax does not survive a fork
        self.limits = limits or aloha_limits()
        ours, commands = context.Pipe()
        seen, cameras = context.Pipe()
        self._commands, self._cameras = Asked(ours, PROCESS, answer_s=_ANSWER_S), Asked(seen, PROCESS, answer_s=_IMAGES_S)
        self._process = context.Process(target=_main, args=(make_plant, arguments, faults, commands, cameras), name="robot", daemon=True)
        self._process.start()
        commands.close()
        cameras.close()
        try:
            self._commands.receive(_START_S)
        except RobotLost:
            self.close()
            raise

    def __enter__(self) -> "SimulatedRobot":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def joints(self) -> np.ndarray:
        """Measured joints (14,)."""
        return self._commands.ask({"joints": True})["joints"]

    def command(self, action: np.ndarray) -> None:
        """Set the goal (14,)."""
        self._commands.ask({"command": np.asarray(action, np.float64)})

    def status(self) -> dict:
        """The plant's status, the number of its steps and of those that came late."""
        return self._commands.ask({"status": True})

    def observe(self) -> dict:
        """Images, depth and joint state of the moment of the call."""
        return self._cameras.send(b"")

    def rest(self) -> None:
        """Go slowly to the sleep pose, in real time."""
        start = time.monotonic()
        for step, command in enumerate(path_to(SLEEP, self.joints())):
            time.sleep(max(start + step * PERIOD_S - time.monotonic(), 0.0))
            self.command(command)

    def close(self) -> None:
        """End the process."""
        self._commands.close()
        self._cameras.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _main(make_plant: Callable[..., Plant], arguments: dict, faults: Faults, commands: Connection, cameras: Connection) -> None:
    """In the robot's process."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal sends them to all: the control loop brings the arms to rest first
        signal.signal(number, signal.SIG_IGN)
    try:
        body = _Body(make_plant(**arguments), faults)
    except Exception as error:  # the parent tells the user
        commands.send_bytes(protocol.pack({"error": f"{type(error).__name__}: {error}"[:2000]}))
        return
    for serve, pipe in ((body.serve_commands, commands), (body.serve_cameras, cameras)):
        threading.Thread(target=_until_closed, args=(serve, pipe, body.ended), daemon=True).start()
    commands.send_bytes(protocol.pack({"ready": True}))
    with memory.steady():
        body.live()


def _until_closed(serve: Callable[[Connection], None], pipe: Connection, ended: threading.Event) -> None:
    try:
        while True:
            serve(pipe)
    except (EOFError, OSError):
        ended.set()


class _Body:
    """The plant and what its threads share."""

    def __init__(self, plant: Plant, faults: Faults = Faults()):  # noqa: B008 - an immutable tuple
        self._plant, self._lock, self._faults = plant, threading.Lock(), faults
        self._rng = np.random.default_rng(faults.seed)  # of the commands' thread alone
        self._goals: collections.deque = collections.deque()  # (moment from which on it counts, goal), commands on their way
        self._goal: np.ndarray | None = None
        self._steps = self._late = self._lost = 0
        self._joints = self._read = np.asarray(plant.joints(), np.float64)
        self.ended = threading.Event()

    def live(self) -> None:
        """Physics in real time until a pipe closes; a late step is counted and caught up with."""
        start = time.monotonic()
        while not self.ended.wait(max(start + self._steps * PERIOD_S - time.monotonic(), 0.0)):
            now = time.monotonic()
            self._late += now > start + (self._steps + 1) * PERIOD_S
            with self._lock:
                self._plant.step(self._arrived(now))
                self._joints = np.asarray(self._plant.joints(), np.float64)
            self._steps += 1

    def serve_commands(self, pipe: Connection) -> None:
        """Answer one message; never waits for the physics."""
        message = protocol.unpack(pipe.recv_bytes())
        if "command" in message:
            self._send(message["command"])
        pipe.send_bytes(protocol.pack(self._status() if "status" in message else {"joints": self._reading()}))

    def _send(self, goal: np.ndarray) -> None:
        """On its way to the servos, unless it is lost."""
        if self._rng.random() < self._faults.loss:
            self._lost += 1
        else:
            self._goals.append((time.monotonic() + self._faults.latency_s, goal))

    def _arrived(self, now: float) -> np.ndarray | None:
        """The newest goal that has come to the servos."""
        while self._goals and self._goals[0][0] <= now:
            self._goal = self._goals.popleft()[1]
        return self._goal

    def _reading(self) -> np.ndarray:
        """The joints as the encoders tell them, or what they told before when the packet is lost."""
        if self._rng.random() < self._faults.loss:
            self._lost += 1
        else:
            noise = self._rng.normal(0, self._faults.noise_rad, ACTION_DIM) if self._faults.noise_rad else 0.0
            self._read = self._joints + noise
        return self._read

    def _status(self) -> dict:
        with self._lock:
            return self._plant.status() | {"steps": self._steps, "late_steps": self._late, "lost_packets": self._lost}

    def serve_cameras(self, pipe: Connection) -> None:
        """Answer one request for images; physics goes on while they are rendered."""
        pipe.recv_bytes()
        with self._lock:
            snapshot = self._plant.snapshot()
        try:
            answer = self._plant.sense(snapshot)
        except Exception as error:
            answer = {"error": f"cameras: {type(error).__name__}: {error}"[:2000]}
        pipe.send_bytes(protocol.pack(answer))
