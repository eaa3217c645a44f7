"""A websocket client of a few lines that can also break the protocol: the frames of RFC 6455 as bytes, over a plain socket."""

import socket
from collections.abc import Sequence
from typing import NamedTuple

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
_KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the RFC's own example: a server only hashes it


class Lost(ConnectionError):
    """The server closed the connection, with this code, or without one (0)."""

    def __init__(self, code: int):
        super().__init__(f"closed with {code}")
        self.code = code


class Frame(NamedTuple):
    """A whole message, or a frame that controls."""

    opcode: int
    payload: bytes


def frame(
    opcode: int, payload: bytes = b"", *, final: bool = True, reserved: int = 0, masked: bool = True, length: int | None = None
) -> bytes:
    """A client's frame. The mask is zero, which RFC 6455 allows a test to choose; `length`: claimed instead of the payload's."""
    size = len(payload) if length is None else length
    first, mask = bytes([final << 7 | reserved << 4 | opcode]), 0x80 if masked else 0
    short = bytes([mask | size]) if size < 126 else None
    header = short or (bytes([mask | 126]) + size.to_bytes(2, "big") if size < 2**16 else bytes([mask | 127]) + size.to_bytes(8, "big"))
    return first + header + (bytes(4) if masked else b"") + payload


def fragments(opcode: int, payload: bytes, cuts: Sequence[int]) -> list[bytes]:
    """One message in several frames, cut at these places in rising order."""
    edges = [0, *cuts, len(payload)]
    last = len(edges) - 2
    parts = [payload[start:end] for start, end in zip(edges, edges[1:], strict=False)]
    return [frame(opcode if i == 0 else 0, part, final=i == last) for i, part in enumerate(parts)]


class Wire:
    """A connection to a policy server: the metadata's bytes are in `greeting`."""

    def __init__(self, host: str, port: int, *, timeout_s: float = 10.0):
        """Connect and shake hands; Lost with the HTTP status when the server does not upgrade."""
        self._socket = socket.create_connection((host, port), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held = b""
        request = f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self.send(f"{request}Sec-WebSocket-Key: {_KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        while b"\r\n\r\n" not in self._held:
            self._read()
        head, _, self._held = self._held.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            self.close()
            raise Lost(int(head.split()[1]))
        self.greeting = self.receive().payload

    def send(self, data: bytes) -> None:
        """Raw bytes; Lost when the server has closed."""
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise
        except OSError:
            raise Lost(0) from None

    def receive(self) -> Frame:
        """The next message, pings answered; TimeoutError when none comes, Lost when the server closes."""
        while True:
            opcode, payload = self._frame()
            if opcode == CLOSE:
                raise Lost(int.from_bytes(payload[:2], "big"))
            if opcode in (TEXT, BINARY):
                return Frame(opcode, payload)
            if opcode == PING:
                self.send(frame(PONG, payload))

    def _frame(self) -> Frame:
        opcode, size = self._take(2)
        if size >= 126:
            size = int.from_bytes(self._take(2 if size == 126 else 8), "big")
        return Frame(opcode & 0x0F, self._take(size))

    def _take(self, count: int) -> bytes:
        while len(self._held) < count:
            self._read()
        taken, self._held = self._held[:count], self._held[count:]
        return taken

    def _read(self) -> None:
        try:
            data = self._socket.recv(2**16)
        except TimeoutError:
            raise
        except OSError:
            data = b""
        if not data:
            raise Lost(0)
        self._held += data

    def close(self) -> None:
        """Hang up without a word."""
        self._socket.close()


def exchange(host: str, port: int, data: bytes, *, timeout_s: float = 10.0) -> bytes:
    """Send raw bytes to a fresh connection, say that no more will come, and give what the server says until it hangs up."""
    with socket.create_connection((host, port), timeout_s) as connection:
        answer = b""
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(2**16):
                answer += part
        except TimeoutError:
            raise
        except OSError:
            pass  # reset: it had heard enough
        return answer
