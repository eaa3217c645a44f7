"""What serving costs: latency by the number of clients, what the server adds to the policy, and the ratio to a plain loop."""

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from websockets.asyncio.client import connect

from clamp_jax.deploy import memory, protocol
from clamp_jax.structs import ACTION_DIM, HISTORY
from experiments import serve

QUANTILES = {"p50": 50, "p95": 95, "p99": 99, "p99.9": 99.9}
HEALTH_S = 0.02  # between two health checks
ROOT = Path(__file__).parents[2]


class Load(NamedTuple):
    """What came of some clients that ask one after the other, each as soon as it has its reply."""

    round_ms: np.ndarray  # of every request, from send to reply
    added_ms: np.ndarray  # the same without the policy's own time
    health_ms: np.ndarray  # of health checks meanwhile
    seconds: float

    @property
    def per_s(self) -> float:
        return len(self.round_ms) / self.seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line's part."""
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--requests", type=int, default=400, help="of each turn, over all clients")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=224, help="pixels of a camera's side, of the stand-in")
    parser.add_argument("--artifact", action="append", default=[], metavar="NAME=DIR", help="also serve this one; repeatable")
    parser.add_argument("--artifact-clients", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--artifact-requests", type=int, default=100)
    parser.add_argument("--first-ms", type=float, default=20.0, help="of the slow stand-in, for the ratio to a plain loop")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All parts, in turns; ValueError for an artifact without a name."""
    named = [text.partition("=") for text in args.artifact]
    if any(not name or not folder for name, _, folder in named):
        raise ValueError(f"--artifact is {args.artifact}; expected NAME=DIR")
    with stub("ours", args.size) as url:
        found = {"stub": _by_clients(url, args.clients, args.requests, args.repeats)}
    found["stub"]["message_mb"] = args.size**2 * 4 * 7 / 1e6
    found["against_plain_loop"] = against_plain(args)
    for name, _, folder in named:
        with serve.server_process(Path(folder)) as url:
            found[name] = _by_clients(url, args.artifact_clients, args.artifact_requests, args.repeats)
    return found


@contextlib.contextmanager
def stub(kind: str, size: int, first_ms: float = 0.0, eight_ms: float = 0.0) -> Iterator[str]:
    """The URL of a stand-in's server in a process of its own."""
    with stub_process(kind, size, first_ms, eight_ms) as (url, _):
        yield url


@contextlib.contextmanager
def stub_process(kind: str, size: int, first_ms: float = 0.0, eight_ms: float = 0.0) -> Iterator[tuple[str, subprocess.Popen]]:
    """The same with its process."""
    options = {"--kind": kind, "--size": size, "--first-ms": first_ms, "--eight-ms": eight_ms}
    command = [sys.executable, "-m", "experiments.benchmark.stub_server", *(str(part) for pair in options.items() for part in pair)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield serve._ready_url(process), process
    finally:
        serve._end(process)


def against_plain(args: argparse.Namespace) -> dict[str, Any]:
    """Requests/s of eight clients with a policy whose batch of eight costs twice a batch of one: ours and the plain loop in turns."""
    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    options = (args.size, args.first_ms, 2 * args.first_ms)
    with stub("ours", *options) as ours, stub("plain", *options) as plain:
        for _ in range(args.repeats):
            for name, url in (("ours", ours), ("plain", plain)):
                rates[name].append(load(url, 8, args.requests).per_s)
    ratios = [one / other for one, other in zip(*rates.values(), strict=True)]
    return {name: _spread(values) for name, values in rates.items()} | {"ratio": _spread(ratios), "first_ms": args.first_ms}


def _by_clients(url: str, clients: Sequence[int], requests: int, repeats: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    load(url, 1, min(requests, 20))  # what is slow once
    turns = {count: [] for count in clients}
    for _ in range(repeats):
        for count in clients:
            turns[count].append(load(url, count, requests))
    for count, of in turns.items():
        parts = {"round_ms": [t.round_ms for t in of], "added_ms": [t.added_ms for t in of], "health_ms": [t.health_ms for t in of]}
        found[str(count)] = {name: _quantiles(values) for name, values in parts.items()} | {"per_s": _spread([t.per_s for t in of])}
    return {"clients": found}


def _quantiles(turns: Sequence[np.ndarray]) -> dict[str, Any]:
    """Of all turns together, and of each turn their spread."""
    whole = {name: float(np.percentile(np.concatenate(turns), q)) for name, q in QUANTILES.items()}
    spread = {f"{name}_turns": _spread([float(np.percentile(turn, q)) for turn in turns]) for name, q in QUANTILES.items() if q < 99.5}
    return whole | {"max": float(np.concatenate(turns).max())} | spread


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def load(url: str, clients: int, requests: int) -> Load:
    """Let clients ask for so many replies in all."""
    with memory.steady():  # a client's pause is not the server's
        return asyncio.run(_load(url, clients, requests))


async def _load(url: str, clients: int, requests: int) -> Load:
    done = asyncio.Event()
    health = asyncio.create_task(_health(url, done))
    began = time.monotonic()
    each = await asyncio.gather(*(_ask(url, requests // clients, number) for number in range(clients)))
    seconds = time.monotonic() - began
    done.set()
    rounds, added = (np.concatenate([found[i] for found in each]) for i in (0, 1))
    return Load(rounds, added, np.array(await health), seconds)


async def _ask(url: str, count: int, seed: int) -> tuple[list[float], list[float]]:
    rounds, added = [], []
    async with connect(url, max_size=None, compression=None, proxy=None) as socket:
        message = protocol.pack(observation(protocol.unpack(await socket.recv()), seed))
        for _ in range(count):
            began = time.monotonic()
            await socket.send(message)
            frame = await socket.recv()
            took = 1e3 * (time.monotonic() - began)
            if isinstance(frame, str):
                raise ValueError(f"the server refused the benchmark's request: {frame}")
            rounds.append(took)
            timing = protocol.unpack(frame)["server_timing"]
            added.append(took - timing["infer_ms"] - timing.get("queue_ms", 0.0))
    return rounds, added


def observation(metadata: dict, seed: int) -> dict:
    """A request that this server takes: noise in the pictures, arms at rest."""
    rng, (height, width) = np.random.default_rng(seed), metadata["image_size"]
    return {
        "images": {name: rng.integers(0, 256, (height, width, 3), np.uint8) for name in metadata["cameras"]},
        "depth_m": {name: rng.uniform(0.3, 1, (height, width)).astype(np.float32) for name in metadata["cameras"]},
        "state": np.zeros(ACTION_DIM, np.float32),
        "past_actions": np.zeros((HISTORY, ACTION_DIM), np.float32),
        "past_mask": np.zeros(HISTORY, bool),
        "calibration_id": metadata["calibration_id"],
    }


async def _health(url: str, done: asyncio.Event) -> list[float]:
    host, port = url.removeprefix("ws://").split(":")
    found = []
    while not done.is_set():
        began = time.monotonic()
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await reader.read(64)
        found.append(1e3 * (time.monotonic() - began))
        writer.close()
        if b"200" not in answer:
            raise ValueError(f"the health check was answered {answer[:40]!r}")
        await asyncio.sleep(HEALTH_S)
    return found
