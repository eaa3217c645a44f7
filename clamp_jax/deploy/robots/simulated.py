"""A simulated robot that runs in real time in a process of its own; what it is made of is handed in.

The process has three threads: physics at 50 Hz with absolute deadlines, commands (answered at once), cameras (answered when
rendered). Messages are msgpack over pipes. It ends when its pipes do, so it never outlives the program that started it.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol, runtime_checkable

import numpy as np

from clamp_jax.deploy import protocol
from clamp_jax.deploy.robots import SLEEP, RobotLost, path_to
from clamp_jax.deploy.safety import Limits, aloha_limits
from clamp_jax.structs import CONTROL_HZ

PERIOD_S = 1 / CONTROL_HZ
_START_S, _ANSWER_S, _IMAGES_S = 300.0, 2.0, 30.0  # how long the parent waits before it calls the robot lost


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

    def __init__(self, make_plant: Callable[..., Plant], arguments: dict, *, limits: Limits | None = None):
        """Waits until the plant is ready. RobotLost when it cannot be made, with its own words."""
        context = multiprocessing.get_context("spawn")  # jax does not survive a fork
        self.limits = limits or aloha_limits()
        self._commands, commands = context.Pipe()
        self._cameras, cameras = context.Pipe()
        self._lock = threading.Lock()
        self._process = context.Process(target=_main, args=(make_plant, arguments, commands, cameras), name="robot", daemon=True)
        self._process.start()
        commands.close()
        cameras.close()
        try:
            self._receive(self._commands, _START_S)
        except RobotLost:
            self.close()
            raise

    def __enter__(self) -> "SimulatedRobot":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def joints(self) -> np.ndarray:
        """Measured joints (14,)."""
        return self._ask({"joints": True})["joints"]

    def command(self, action: np.ndarray) -> None:
        """Set the goal (14,)."""
        self._ask({"command": np.asarray(action, np.float64)})

    def status(self) -> dict:
        """The plant's status, the number of its steps and of those that came late."""
        return self._ask({"status": True})

    def observe(self) -> dict:
        """Images, depth and joint state of the moment of the call."""
        try:
            self._cameras.send_bytes(b"")
        except OSError as error:
            raise RobotLost(f"the robot's process has ended: {error}") from error
        return self._receive(self._cameras, _IMAGES_S)

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

    def _ask(self, message: dict) -> dict:
        with self._lock:
            try:
                self._commands.send_bytes(protocol.pack(message))
            except OSError as error:
                raise RobotLost(f"the robot's process has ended: {error}") from error
            return self._receive(self._commands, _ANSWER_S)

    def _receive(self, pipe: Connection, timeout_s: float) -> dict:
        try:
            if not pipe.poll(timeout_s):
                raise RobotLost(f"the robot did not answer within {timeout_s:g} s")
            answer = protocol.unpack(pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise RobotLost(f"the robot's process has ended: {error or type(error).__name__}") from error
        if "error" in answer:
            raise RobotLost(f"the robot's process says: {answer['error']}")
        return answer


def _main(make_plant: Callable[..., Plant], arguments: dict, commands: Connection, cameras: Connection) -> None:
    """In the robot's process."""
    try:
        body = _Body(make_plant(**arguments))
    except Exception as error:  # the parent tells the user
        commands.send_bytes(protocol.pack({"error": f"{type(error).__name__}: {error}"[:2000]}))
        return
    for serve, pipe in ((body.serve_commands, commands), (body.serve_cameras, cameras)):
        threading.Thread(target=_until_closed, args=(serve, pipe, body.ended), daemon=True).start()
    commands.send_bytes(protocol.pack({"ready": True}))
    body.live()


def _until_closed(serve: Callable[[Connection], None], pipe: Connection, ended: threading.Event) -> None:
    try:
        while True:
            serve(pipe)
    except (EOFError, OSError):
        ended.set()


class _Body:
    """The plant and what its threads share."""

    def __init__(self, plant: Plant):
        self._plant, self._lock = plant, threading.Lock()
        self._goal: np.ndarray | None = None
        self._steps = self._late = 0
        self._joints = np.asarray(plant.joints(), np.float64)
        self.ended = threading.Event()

    def live(self) -> None:
        """Physics in real time until a pipe closes; a late step is counted and caught up with."""
        start = time.monotonic()
        while not self.ended.wait(max(start + self._steps * PERIOD_S - time.monotonic(), 0.0)):
            self._late += time.monotonic() > start + (self._steps + 1) * PERIOD_S
            with self._lock:
                self._plant.step(self._goal)
                self._joints = np.asarray(self._plant.joints(), np.float64)
            self._steps += 1

    def serve_commands(self, pipe: Connection) -> None:
        """Answer one message; never waits for the physics."""
        message = protocol.unpack(pipe.recv_bytes())
        if "command" in message:
            self._goal = message["command"]
        pipe.send_bytes(protocol.pack(self._status() if "status" in message else {"joints": self._joints}))

    def _status(self) -> dict:
        with self._lock:
            return self._plant.status() | {"steps": self._steps, "late_steps": self._late}

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
