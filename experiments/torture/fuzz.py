"""Sends a policy server what nobody should: it neither falls nor hangs, and answers nothing that a robot must not do.

Two kinds of messages: of the grammar (a valid request in which something is wrong) and of bytes (noise, flipped bits, cut ends, text,
frames and connections that are none). Between them a valid request has to be answered rightly, on a connection that stays.
"""

import asyncio
import collections
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from clamp_jax.deploy import protocol, request
from experiments.benchmark import serving

SIZE = 8  # pixels of a camera's side
PATIENCE_S = 20.0  # no answer for so long is a hang
WORKERS, EVERY = 4, 25  # that send side by side; messages between two valid ones
GROWTH, WARM_UP = 0.01, 0.2  # of the server's memory, after this part of the messages
JUNK: tuple[Any, ...] = (None, True, -1, 2**63, -(2**63), 0.0, float("nan"), float("inf"), "", "x" * 300, b"\x00" * 9)
JUNK += ([], {}, [[[]]], {"a": {"b": {}}})
TYPES = ("|b1", "|u1", "<u2", "<i4", "<i8", "<f2", "<f4", "<f8", "|O", "<U4", ">f4", "f4", "", "<c8", "<M8[s]")
UPGRADE = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
BEGINNINGS = (b"", UPGRADE, UPGRADE + b"Sec-WebSocket-Version: 13\r\n\r\n", b"GET /metrics HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n")


def torture(count: int, *, seed: int = 0) -> dict[str, Any]:
    """Send `count` messages to a server with a stand-in policy; plain values."""
    began = time.monotonic()
    with serving.stub_process("ours", SIZE) as (url, process):
        fuzzer = Fuzzer(url, process.pid, count, seed)
        try:
            asyncio.run(fuzzer.run())
        except (OSError, TimeoutError, ConnectionClosed, InvalidHandshake) as error:
            fuzzer.wrong.append(f"the server is gone: {type(error).__name__}: {error}")
        lives = process.poll() is None
    memory = fuzzer.memory
    growth = memory[-1] / memory[0] - 1 if len(memory) > 1 else 0.0
    return {
        "messages": fuzzer.sent,
        "outcomes": dict(fuzzer.outcomes),
        "valid_answered": fuzzer.valid,
        "wrong": fuzzer.wrong[:20],
        "lives": lives,
        "memory_mb": [round(size / 1e6, 1) for size in (memory[0], memory[-1])] if memory else [],
        "growth": growth,
        "seconds": round(time.monotonic() - began, 1),
        "good": lives and not fuzzer.wrong and fuzzer.sent >= count and growth < GROWTH,
    }


class Fuzzer:
    """Sends messages and keeps what came of them."""

    def __init__(self, url: str, pid: int, count: int, seed: int):
        self._url, self._pid, self._count, self._seed = url, pid, count, seed
        self.sent = self.valid = 0
        self.outcomes: collections.Counter = collections.Counter()
        self.wrong: list[str] = []
        self.memory: list[int] = []  # bytes, after the warm-up

    async def run(self) -> None:
        """All workers, until the messages are sent."""
        async with connect(self._url, compression=None, max_size=None, proxy=None) as socket:
            metadata = protocol.unpack(await socket.recv())
        low, high = request.action_limits({"limits": metadata["limits"]})
        await asyncio.gather(*(self._work(number, metadata, (low, high)) for number in range(WORKERS)))
        self.memory.append(resident_bytes(self._pid))

    async def _work(self, worker: int, metadata: dict, limits: tuple) -> None:
        rng = np.random.default_rng([self._seed, worker])
        valid = serving.observation(metadata, worker)
        async with connect(self._url, compression=None, max_size=None, proxy=None) as steady:
            await steady.recv()
            while self.sent < self._count:
                self.sent += 1
                if self.sent % EVERY == 0:
                    await self._ask_rightly(steady, rng, valid)
                if not self.memory and self.sent >= WARM_UP * self._count:
                    self.memory.append(resident_bytes(self._pid))
                name, message = make(rng, valid)
                outcome = await self._send(name, message, rng, limits)
                self.outcomes[f"{name}: {outcome}"] += 1

    async def _ask_rightly(self, steady: ClientConnection, rng: np.random.Generator, valid: dict) -> None:
        """A valid request, whose answer is known: the stand-in gives back the joints."""
        joints, identity = rng.uniform(0, 0.3, 14).astype(np.float32), int(rng.integers(2**31))
        await steady.send(protocol.pack(valid | {"state": joints, "request_id": identity}))
        frame = await asyncio.wait_for(steady.recv(), PATIENCE_S)
        reply = protocol.unpack(frame) if isinstance(frame, bytes) else {"text": frame}
        if reply.get("request_id") != identity or not np.array_equal(reply["actions"], np.tile(joints, (50, 1))):
            self.wrong.append(f"a valid request was answered {str(reply)[:200]}")
        self.valid += 1

    async def _send(self, name: str, message: bytes | str | None, rng: np.random.Generator, limits: tuple) -> str:
        """What came of one message."""
        if message is None:
            return await self._send_raw(rng)
        async with connect(self._url, compression=None, max_size=None, proxy=None, close_timeout=1) as socket:
            await socket.recv()
            await socket.send(message)
            try:
                frame = await asyncio.wait_for(socket.recv(), PATIENCE_S)
            except ConnectionClosed as closed:
                return f"closed {closed.rcvd.code if closed.rcvd else 'without a word'}"
            except TimeoutError:
                self.wrong.append(f"{name}: no answer within {PATIENCE_S} s to {message[:80]!r}")
                return "hang"
        return self._judge(name, frame, limits)

    def _judge(self, name: str, frame: bytes | str, limits: tuple) -> str:
        if isinstance(frame, str):
            if len(frame) > 600 or "Traceback" in frame or 'File "' in frame or "internal error" in frame:
                self.wrong.append(f"{name}: {frame[:200]}")
            return "refused"
        actions = protocol.unpack(frame)["actions"]
        if actions.shape != (50, 14) or not np.isfinite(actions).all() or np.any(actions < limits[0]) or np.any(actions > limits[1]):
            self.wrong.append(f"{name}: answered with actions that are not finite or outside the limits")
        return "answered"

    async def _send_raw(self, rng: np.random.Generator) -> str:
        """A connection that is no websocket, or one whose frames are none."""
        host, port = self._url.removeprefix("ws://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(BEGINNINGS[rng.integers(len(BEGINNINGS))] + rng.bytes(int(rng.integers(0, 300))))
            await writer.drain()
            if rng.random() < 0.5:
                await asyncio.wait_for(reader.read(64), 0.05)
        except (OSError, TimeoutError):
            pass
        finally:
            writer.close()
        return "hung up"


def make(rng: np.random.Generator, valid: dict) -> tuple[str, bytes | str | None]:
    """(kind, message) of the next one; None for a connection that is no websocket."""
    kinds = (*GRAMMAR, "flip", "cut", "noise", "text", "raw")
    name = kinds[rng.integers(len(kinds))] if rng.random() > 0.02 else "raw"
    if name == "raw":
        return name, None if rng.random() < 0.2 else rng.bytes(3)
    if name == "text":
        return name, "".join(map(chr, rng.integers(32, 2000, int(rng.integers(0, 50)))))
    if name == "noise":
        return name, rng.bytes(int(rng.integers(0, 400)))
    if name in GRAMMAR:
        return name, msgpack.packb(GRAMMAR[name](rng, dict(valid)), default=protocol._encode, use_bin_type=True)
    data = bytearray(protocol.pack(valid))
    if name == "cut":
        return name, bytes(data[: rng.integers(len(data))])
    for _ in range(int(rng.integers(1, 6))):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return name, bytes(data)


def _key(rng: np.random.Generator, message: dict) -> str:
    return list(message)[rng.integers(len(message))]


def _lacks(rng: np.random.Generator, message: dict) -> dict:
    del message[_key(rng, message)]
    return message


def _has_more(rng: np.random.Generator, message: dict) -> dict:
    return message | {"".join(map(chr, rng.integers(97, 123, int(rng.integers(1, 9))))): JUNK[rng.integers(len(JUNK))]}


def _junk(rng: np.random.Generator, message: dict) -> dict:
    name = _key(rng, message)
    if isinstance(message[name], dict) and rng.random() < 0.7:
        return message | {name: message[name] | {_key(rng, message[name]): JUNK[rng.integers(len(JUNK))]}}
    return message | {name: JUNK[rng.integers(len(JUNK))]}


def _options(rng: np.random.Generator, message: dict) -> dict:
    names = ("prompt", "seed", "request_id", "client_time", "protocol_version", "deadline_ms", "frozen_actions", "calibration")
    values = (*JUNK, 1, 0, 2**32, 1e-300, np.float32(3), np.int64(7), "stand still")
    return message | {names[rng.integers(len(names))]: values[rng.integers(len(values))]}


def _array(rng: np.random.Generator, message: dict) -> dict:
    """An array of another shape or type, or with values that are none."""
    shape = tuple(rng.integers(0, 9, int(rng.integers(0, 5))))
    types = (np.float32, np.uint8, np.float64, np.int32, np.bool_, np.float16)
    values = rng.choice(np.array([0, 1, np.nan, np.inf, -np.inf, 1e38, -5]), shape)
    with np.errstate(invalid="ignore", over="ignore"):
        made = np.asarray(values).astype(types[rng.integers(len(types))])
    name = _key(rng, message)
    return message | {name: message[name] | {_key(rng, message[name]): made} if isinstance(message[name], dict) else made}


def _poison(rng: np.random.Generator, message: dict) -> dict:
    """The right shape and type with a few values that are none."""
    name = ("state", "past_actions")[rng.integers(2)]
    made = message[name].copy()
    made.flat[rng.integers(made.size)] = (np.nan, np.inf, -np.inf, 3e38, 1e5)[rng.integers(5)]
    return message | {name: made}


def _header(rng: np.random.Generator, message: dict) -> dict:
    """An array's map that says something else than its bytes."""
    shapes = ([14], [2**31, 2**31], [-14], [14.0], "14", [], [2**62, 4], [1] * 40, None)
    made = {b"__ndarray__": True, b"data": rng.bytes(56), b"dtype": TYPES[rng.integers(len(TYPES))]}
    made[b"shape"] = shapes[rng.integers(len(shapes))]
    if rng.random() < 0.3:
        del made[list(made)[rng.integers(4)]]
    return message | {"state": made}


def _nested(rng: np.random.Generator, message: dict) -> dict:
    made: Any = 0
    for _ in range(int(rng.integers(2, 60))):
        made = [made] if rng.random() < 0.5 else {"a": made}
    return message | {_key(rng, message): made}


def _many(rng: np.random.Generator, message: dict) -> dict:
    return message | {_key(rng, message): [np.float32(1)] * int(rng.integers(1, 6000))}


def _calibration(rng: np.random.Generator, message: dict) -> dict:
    eye = np.tile(np.eye(4, dtype=np.float32), (4, 1, 1)) + rng.normal(0, 10.0 ** rng.integers(-6, 3), (4, 4, 4)).astype(np.float32)
    made = {"intrinsics": rng.normal(5, 5, (4, 4)).astype(np.float32), "parent_from_camera": eye, "world_from_base": eye[:2]}
    return message | {"calibration": made}


def _swapped(rng: np.random.Generator, message: dict) -> Any:
    return [message, list(message.items()), {str(key): value for key, value in enumerate(message)}, [message]][rng.integers(4)]


GRAMMAR: dict[str, Callable[[np.random.Generator, dict], Any]] = {
    "lacks": _lacks,
    "has more": _has_more,
    "junk": _junk,
    "options": _options,
    "array": _array,
    "poison": _poison,
    "header": _header,
    "nested": _nested,
    "many": _many,
    "calibration": _calibration,
    "swapped": _swapped,
}


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
