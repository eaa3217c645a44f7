"""Serves a policy over a websocket: metadata on connect, then a request and a reply in one binary frame each.

The wire is openpi's (protocol.py). An error is a text frame "<id>: <what was found and expected>", then close code 1011; the
server's log has the same id. Inference runs in one worker thread, so that `GET /healthz` answers while it does. The server
keeps no state of a robot: past actions come with each request.
"""

import asyncio
import contextlib
import hmac
import http
import ipaddress
import logging
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from websockets.asyncio.server import Request as HttpRequest
from websockets.asyncio.server import Response, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from clamp_jax.deploy import protocol, request

logger = logging.getLogger(__name__)
INTERNAL_ERROR = 1011  # websocket close code that the wire uses after an error


class Settings(NamedTuple):
    """Where and how much a server serves."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free one
    api_key: str | None = None  # needed on any address that is not loopback
    connections: int = 16
    pending: int = 8  # requests waiting or running; one more is answered "busy"
    drain_s: float = 5.0  # how long a running request may take after SIGTERM
    limits: protocol.Limits = protocol.Limits()


class Busy(RuntimeError):
    """The bounded queue is full."""


class PolicyServer:
    """`policy(inputs) -> {"actions"}` with `policy.spec` (deploy/loader.py), served until `stop()`."""

    def __init__(self, policy: Callable, settings: Settings = Settings()):  # noqa: B008 - an immutable tuple
        """ValueError when the address is not loopback and there is no API key."""
        if settings.api_key is None and not is_loopback(settings.host):
            raise ValueError(f"host is {settings.host!r} and there is no API key; serve on 127.0.0.1 or pass an API key")
        self._policy, self._settings = policy, settings
        self._metadata = protocol.pack(request.metadata(policy.spec))
        self._pending = self._connections = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None

    async def run(self, *, warm: dict, ready: Callable[[str], None] = lambda url: None, signals: bool = False) -> None:
        """Warm the policy with the inputs `warm`, then serve until `stop()`; `ready` is called with the URL when it listens.

        `signals`: SIGTERM and SIGINT stop it after the running request (in the main thread only).
        """
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT) if signals else ():
            self._loop.add_signal_handler(number, self._stopped.set)
        try:
            await self._loop.run_in_executor(self._worker, self._policy, warm)
            await self._serve(ready)
        finally:
            self._worker.shutdown(wait=False, cancel_futures=True)

    async def _serve(self, ready: Callable[[str], None]) -> None:
        s = self._settings
        options = {"max_size": s.limits.size, "max_queue": 2, "compression": None, "open_timeout": 5, "close_timeout": 2}
        async with serve(self._handle, s.host, s.port, process_request=self._gate, **options) as server:
            port = server.sockets[0].getsockname()[1]
            ready(f"ws://{f'[{s.host}]' if ':' in s.host else s.host}:{port}")
            await self._stopped.wait()
            await self._drain()

    async def _drain(self) -> None:
        deadline = self._loop.time() + self._settings.drain_s
        while self._pending and self._loop.time() < deadline:
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        """Stop serving after the running request; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._stopped.set)

    def _gate(self, connection: ServerConnection, http_request: HttpRequest) -> Response | None:
        """Answer health checks and refuse strangers before the upgrade to a websocket."""
        if http_request.path in ("/healthz", "/readyz"):
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if not self._authorised(http_request.headers.get_all("Authorization")):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "send the header 'Authorization: Api-Key <key>'\n")
        if self._connections >= self._settings.connections or self._stopped.is_set():
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n")
        return None

    def _authorised(self, headers: list[str]) -> bool:
        if self._settings.api_key is None:
            return True
        expected = f"Api-Key {self._settings.api_key}".encode()
        return len(headers) == 1 and hmac.compare_digest(headers[0].encode("utf-8", "replace"), expected)

    async def _handle(self, connection: ServerConnection) -> None:
        self._connections += 1
        try:
            await connection.send(self._metadata)
            await self._converse(connection)
        except ConnectionClosed:
            pass  # a client may leave at any time
        finally:
            self._connections -= 1

    async def _converse(self, connection: ServerConnection) -> None:
        timing: dict = {}
        async for message in connection:
            try:
                reply = await self._answer(message, timing)
            except (ValueError, Busy) as error:
                return await _refuse(connection, str(error))
            except Exception:
                return await _refuse(connection, "internal error, the server's log has it under this id", unexpected=True)
            await connection.send(reply)

    async def _answer(self, message: bytes | str, timing: dict) -> bytes:
        started = time.monotonic()
        if isinstance(message, str):
            raise ValueError("request is a text frame; expected one binary frame of msgpack")
        if self._pending >= self._settings.pending:
            raise Busy(f"busy: {self._pending} requests are waiting; try again")
        self._pending += 1
        try:
            reply = await self._loop.run_in_executor(self._worker, self._infer, message, dict(timing))
        finally:
            self._pending -= 1
        timing["prev_total_ms"] = 1e3 * (time.monotonic() - started)
        return reply

    def _infer(self, message: bytes, timing: dict) -> bytes:
        """In the worker thread: decode, check, infer, encode."""
        asked = request.check_request(protocol.unpack(message, self._settings.limits), self._policy.spec)
        started = time.monotonic()
        actions = np.asarray(self._policy(asked.inputs)["actions"][0], np.float32)
        timing["infer_ms"] = 1e3 * (time.monotonic() - started)
        expected = tuple(self._policy.spec["outputs"]["actions"]["shape"][1:])
        if actions.shape != expected or not np.isfinite(actions).all():
            raise RuntimeError(f"policy gave actions of shape {actions.shape}, finite: {np.isfinite(actions).all()}; expected {expected}")
        return protocol.pack({"actions": actions, "server_timing": timing} | asked.echo)


async def _refuse(connection: ServerConnection, text: str, *, unexpected: bool = False) -> None:
    identity = secrets.token_hex(4)
    logger.warning("request %s refused: %s", identity, text, exc_info=unexpected)
    await connection.send(f"{identity}: {text[:500]}")
    await connection.close(INTERNAL_ERROR, identity)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host` (a name or an address)."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def serving(policy: Callable, warm: dict, settings: Settings = Settings(port=0)) -> Iterator[str]:  # noqa: B008
    """Serve from a thread of this process while the context is open; gives the URL, raises what the start raised."""
    server, ready = PolicyServer(policy, settings), Future()

    def run() -> None:
        try:
            asyncio.run(server.run(warm=warm, ready=ready.set_result))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=run, name="policy-server", daemon=True)
    thread.start()
    try:
        yield ready.result()
    finally:
        server.stop()
        thread.join()
