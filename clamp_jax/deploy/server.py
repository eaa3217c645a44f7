"""Serves a policy over a websocket: metadata on connect, then a request and a reply in one binary frame each.

The wire is openpi's (protocol.py). An error is a text frame "<id>: <what was found and expected>"; the server's log has the same id.
After a request that is wrong the connection is closed with code 1011; after "busy" and "late" it stays, since the next one may do.
Messages are decoded and checked in threads, the policy runs in another with what several clients have asked (batching.py): the event
loop only moves bytes, so that `/healthz`, `/readyz` and `/metrics` answer meanwhile. Nothing is kept of a robot between its requests.
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
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from websockets.asyncio.server import Request as HttpRequest
from websockets.asyncio.server import Response, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from clamp_jax.deploy import memory, protocol, request
from clamp_jax.deploy.batching import Answer, Batcher, Late
from clamp_jax.deploy.gauges import Gauges

logger = logging.getLogger(__name__)
INTERNAL_ERROR = 1011  # websocket close code that the wire uses after an error
CHECKERS = 2  # threads that decode and check; numpy lets go of the interpreter for most of it


class Settings(NamedTuple):
    """Where and how much a server serves."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free one
    api_key: str | None = None  # needed on any address that is not loopback
    connections: int = 32
    pending: int = 16  # requests waiting or running; one more is answered "busy"
    max_batch: int = 8  # requests in one call of the policy
    batch_wait_s: float = 0.0  # how long a request waits for others to come; 0: it goes with those that are there
    drain_s: float = 5.0  # how long running requests may take after SIGTERM
    limits: protocol.Limits = protocol.Limits()


class Busy(RuntimeError):
    """The bounded queue is full, or the server is about to stop."""


class Talk(NamedTuple):
    """What is kept of one connection."""

    name: str  # in the log
    timing: dict  # of the reply before, for the next one's server_timing


class PolicyServer:
    """`policy(inputs) -> {"actions"}` with `policy.spec` (deploy/loader.py), served until `stop()`."""

    def __init__(self, policy: Callable, settings: Settings = Settings()):  # noqa: B008 - an immutable tuple
        """ValueError when the address is not loopback and there is no API key, or the largest batch is not positive."""
        if settings.api_key is None and not is_loopback(settings.host):
            raise ValueError(f"host is {settings.host!r} and there is no API key; serve on 127.0.0.1 or pass an API key")
        self._spec, self._settings = policy.spec, settings
        self._calibration_id = request.calibration_id(policy.spec)
        self._metadata = protocol.pack(request.metadata(policy.spec))
        self._pending = self._connections = 0
        self._ready = False
        self.gauges = Gauges(request.build_info(policy.spec))
        self._low, self._high = request.action_limits(policy.spec)
        self._batcher = Batcher(policy, self._checked, most=settings.max_batch, wait_s=settings.batch_wait_s)
        self._checkers = ThreadPoolExecutor(CHECKERS, thread_name_prefix="check")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None  # no new requests
        self._over: asyncio.Event | None = None  # no waiting for running ones

    async def run(self, *, warm: dict, ready: Callable[[str], None] = lambda url: None, signals: bool = False) -> None:
        """Listen, call the policy with the inputs `warm` (batch 1) in every size of batch, then serve until `stop()`.

        `ready` is called with the URL when clients may come; before, `/healthz` answers and `/readyz` says 503.
        `signals`: SIGTERM and SIGINT stop it after the running requests (in the main thread only).
        """
        self._loop, self._stopped, self._over = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT) if signals else ():
            self._loop.add_signal_handler(number, self._stopped.set)
        s = self._settings
        options = {"max_size": s.limits.size, "max_queue": 2, "compression": None, "open_timeout": 5, "close_timeout": 2}
        options["origins"] = [None]  # a robot sends none; a web page that the user looks at does, and must not reach the loopback
        try:
            async with serve(self._handle, s.host, s.port, process_request=self._gate, **options) as server:
                await self._loop.run_in_executor(self._checkers, self._batcher.warm, warm)
                await self._reserve()
                self._open(server.sockets[0].getsockname()[1], ready)
                await self._stopped.wait()
                await self._end()
        finally:
            self._checkers.shutdown(wait=False, cancel_futures=True)
            self._batcher.close()

    def _open(self, port: int, ready: Callable[[str], None]) -> None:
        self._ready = True
        self.gauges.ready.set(1)
        url = f"ws://{f'[{self._settings.host}]' if ':' in self._settings.host else self._settings.host}:{port}"
        logger.info("ready", extra={"url": url, "instruction": self._spec["instruction"]})
        ready(url)

    async def _reserve(self) -> None:
        """Have the memory of busy moments now; of the heap of this thread and of those that decode."""
        together = threading.Barrier(CHECKERS)  # each thread takes one

        def take() -> None:
            with contextlib.suppress(threading.BrokenBarrierError):  # the server is stopped before it is ready
                together.wait(1.0)
            memory.reserve()

        memory.reserve()
        await asyncio.gather(*(self._loop.run_in_executor(self._checkers, take) for _ in range(CHECKERS)))

    async def _end(self) -> None:
        self._ready = False
        self.gauges.ready.set(0)
        logger.info("draining", extra={"pending": self._pending, "connections": self._connections})
        await self._drain(self._settings.drain_s)
        self._over.set()
        await self._drain(1.0)  # until those that still wait are told so

    async def _drain(self, most_s: float) -> None:
        """Wait for the requests that are pending, but no longer than this."""
        deadline = self._loop.time() + most_s
        while self._pending and self._loop.time() < deadline:
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        """Stop serving after the running requests; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._stopped.set)

    def _gate(self, connection: ServerConnection, http_request: HttpRequest) -> Response | None:
        """Answer health checks and refuse strangers before the upgrade to a websocket."""
        path = http_request.path.partition("?")[0]
        if path == "/healthz":  # the process lives: what a supervisor restarts it by
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if path == "/readyz":
            ready = http.HTTPStatus.OK if self._ready else http.HTTPStatus.SERVICE_UNAVAILABLE
            return connection.respond(ready, "OK\n" if self._ready else "not ready\n")
        if not self._authorised(http_request.headers.get_all("Authorization")):
            logger.warning("unauthorised", extra={"peer": str(connection.remote_address)})
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "send the header 'Authorization: Api-Key <key>'\n")
        if path == "/metrics":
            return self._exposition(connection)
        if not self._ready:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "not ready\n")
        if self._connections >= self._settings.connections:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n")
        return None

    def _exposition(self, connection: ServerConnection) -> Response:
        response = connection.respond(http.HTTPStatus.OK, self.gauges.text().decode())
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "text/plain; version=1.0.0; charset=utf-8"
        return response

    def _authorised(self, headers: list[str]) -> bool:
        if self._settings.api_key is None:
            return True
        expected = f"Api-Key {self._settings.api_key}".encode()
        return len(headers) == 1 and hmac.compare_digest(headers[0].encode("utf-8", "replace"), expected)

    async def _handle(self, connection: ServerConnection) -> None:
        self._count_connections(1)
        talk = Talk(secrets.token_hex(4), {})
        logger.info("connected", extra={"connection": talk.name, "peer": str(connection.remote_address)})
        try:
            await connection.send(self._metadata)
            async for message in connection:
                if not await self._serve(connection, talk, message):
                    break
        except ConnectionClosed:
            pass  # a client may leave at any time
        finally:
            self._count_connections(-1)
            logger.info("disconnected", extra={"connection": talk.name})

    def _count_connections(self, change: int) -> None:
        self._connections += change
        self.gauges.connections.set(self._connections)

    async def _serve(self, connection: ServerConnection, talk: Talk, message: bytes | str) -> bool:
        """Answer one message; False when the connection was closed after it."""
        try:
            await connection.send(await self._answer(message, talk))
            return True
        except Busy as error:
            return await self._tell(connection, talk, "busy", error)
        except Late as error:
            return await self._tell(connection, talk, "late", error)
        except ConnectionClosed:
            raise
        except ValueError as error:
            return await self._tell(connection, talk, "refused", error)
        except Exception as error:
            return await self._tell(connection, talk, "failed", error)

    async def _tell(self, connection: ServerConnection, talk: Talk, outcome: str, error: Exception) -> bool:
        """Send the text of an error, and close unless the next request may do; True when the connection stays."""
        identity, stays = secrets.token_hex(4), outcome in ("busy", "late")
        self.gauges.requests.labels(outcome).inc()
        text = "internal error, the server's log has it under this id" if outcome == "failed" else str(error)
        text = f"{outcome}: {text}" if stays else text
        level = logging.ERROR if outcome == "failed" else logging.WARNING
        about = {"id": identity, "connection": talk.name, "text": text[:500]}
        logger.log(level, outcome, extra=about, exc_info=error if outcome == "failed" else None)
        await connection.send(f"{identity}: {text[:500]}")
        if not stays:
            await connection.close(INTERNAL_ERROR, identity)
        return stays

    async def _answer(self, message: bytes | str, talk: Talk) -> bytes:
        started = time.monotonic()
        if isinstance(message, str):
            raise ValueError("request is a text frame; expected one binary frame of msgpack")
        self._count_pending(1)
        try:
            asked = await self._loop.run_in_executor(self._checkers, self._check, message)
            answer = await self._infer(asked, started)
        finally:
            self._count_pending(-1)
        total_s = time.monotonic() - started
        self.gauges.answered(answer, total_s)
        logger.debug("answered", extra={"connection": talk.name, "total_ms": round(1e3 * total_s, 2), "batch": answer.batch})
        timing = talk.timing | {"infer_ms": 1e3 * answer.infer_s, "queue_ms": 1e3 * answer.queue_s, "batch": answer.batch}
        talk.timing["prev_total_ms"] = 1e3 * total_s
        checksum = zlib.crc32(answer.actions.tobytes())  # a bit that flips on the way is another command, and as valid
        return protocol.pack({"actions": answer.actions, "checksum": checksum, "server_timing": timing} | asked.echo)

    def _count_pending(self, change: int) -> None:
        self._pending += change
        self.gauges.pending.set(self._pending)

    def _check(self, message: bytes) -> request.Request:
        """In a checker's thread: decode, and check every value."""
        return request.check_request(protocol.unpack(message, self._settings.limits), self._spec, known=self._calibration_id)

    async def _infer(self, asked: request.Request, started: float) -> Answer:
        """In the batch that comes next. Busy and Late name the request, since the connection stays and others may follow."""
        name = f"request {asked.echo.get('request_id', '-')}"
        if self._pending > self._settings.pending:  # this one is counted
            raise Busy(f"{name}: {self._pending - 1} requests are waiting; try again")
        if not self._ready:
            raise Busy(f"{name}: the server is about to stop")
        try:
            return await self._unless_over(asyncio.wrap_future(self._batcher.submit(asked.inputs, started + asked.budget_s)), name)
        except Late as error:
            raise Late(f"{name}: {error}") from None
        except ValueError as error:  # the policy's own: not the request's, which was checked
            raise RuntimeError(f"the policy failed: {error}") from error

    async def _unless_over(self, answer: asyncio.Future, name: str) -> Answer:
        """The answer, or Busy at the end of the drain: a policy that hangs must not keep the server from stopping."""
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait((answer, over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
        if not answer.done():
            answer.cancel()
            raise Busy(f"{name}: the server stops and did not come to it")
        return answer.result()

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        """Actions of one request as they are sent: finite, of the specified shape, held to the joints' limits."""
        expected = tuple(self._spec["outputs"]["actions"]["shape"][1:])
        if actions.shape != expected or not np.isfinite(actions).all():
            raise RuntimeError(f"policy gave actions of shape {actions.shape}, finite: {np.isfinite(actions).all()}; expected {expected}")
        held = np.clip(actions, self._low, self._high).astype(np.float32)
        if np.any(held != actions):
            self.gauges.clipped.inc()
        return held


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
