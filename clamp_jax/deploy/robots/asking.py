"""Questions to a process at the other end of a pipe, one at a time, and its answers: msgpack, with an `error` where it has one."""

import threading
from multiprocessing.connection import Connection

from clamp_jax.deploy import protocol
from clamp_jax.deploy.robots import RobotLost


class Asked:
    """Our end of the pipe; `who` is the other one in words."""

    def __init__(self, pipe: Connection, who: str, *, answer_s: float):
        """answer_s: how long an answer may take."""
        self._pipe, self._who, self._answer_s, self._lock = pipe, who, answer_s, threading.Lock()

    def ask(self, message: dict) -> dict:
        """The answer to a message; RobotLost without one, or with the other one's own words."""
        return self.send(protocol.pack(message))

    def send(self, data: bytes) -> dict:
        """As `ask`, of bytes that the other one knows."""
        with self._lock:
            try:
                self._pipe.send_bytes(data)
            except OSError as error:
                raise RobotLost(f"{self._who} has ended: {error}") from error
            return self.receive(self._answer_s)

    def receive(self, timeout_s: float) -> dict:
        """What comes unasked, such as that it is ready; RobotLost as `ask`."""
        try:
            if not self._pipe.poll(timeout_s):
                raise RobotLost(f"{self._who} did not answer within {timeout_s:g} s")
            answer = protocol.unpack(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise RobotLost(f"{self._who} has ended: {error or type(error).__name__}") from error
        if "error" in answer:
            raise RobotLost(f"{self._who} says: {answer['error']}")
        return answer

    def close(self) -> None:
        """Close the pipe: the other one ends."""
        self._pipe.close()
