"""A server of a stand-in policy in a process of its own: ours, or a plain loop of the same protocol.

    python -m experiments.benchmark.stub_server --kind ours --first-ms 20 --eight-ms 40 --size 224

The stand-in answers with the joints of the request after a sleep, as one that waits for an accelerator; a batch of eight takes as long
as it is told. The plain loop receives, infers on the event loop, and sends.
"""

import argparse
import asyncio
import datetime
import logging
import time
from typing import Any

from clamp_jax import runtime

if __name__ == "__main__":
    runtime.setup("cpu", mjx=False)

import jax
import numpy as np
from websockets.asyncio.server import Response, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from clamp_jax.deploy import artifact, memory, protocol, request
from clamp_jax.deploy.server import PolicyServer, Settings
from clamp_jax.geometry import aloha
from clamp_jax.geometry.kinematics import aloha_calibration
from clamp_jax.structs import CHUNK
from experiments.serve import READY, run_server


class Stub:
    """Sleeps for a batch of b: first + (b - 1) / 7 (eight - first), in seconds."""

    def __init__(self, size: int, first_s: float, eight_s: float):
        calibration = jax.tree.map(np.asarray, aloha_calibration(size, size))
        about = artifact.Description("stand still", size, size, calibration, {"working_range": aloha.WORKING_RANGE.tolist()}, {})
        self.spec = artifact.make_spec({}, about, today=datetime.date.today())
        self._first_s, self._eight_s = first_s, eight_s

    def __call__(self, inputs: dict) -> dict:
        """Actions (b, 50, 14): where the arms are."""
        batch = len(inputs["joints"])
        time.sleep(self._first_s + (batch - 1) / 7 * (self._eight_s - self._first_s))
        return {"actions": np.repeat(inputs["joints"][:, None], CHUNK, axis=1)}


async def plain(policy: Stub, port: int) -> None:
    """Receive, infer on the event loop, send; nothing is checked but what decoding needs."""

    async def handle(connection: ServerConnection) -> None:
        try:
            await connection.send(protocol.pack(request.metadata(policy.spec)))
            async for message in connection:
                found = protocol.unpack(message)
                began = time.monotonic()
                actions = policy({"joints": np.asarray(found["state"], np.float32)[None]})["actions"][0]
                timing = {"infer_ms": 1e3 * (time.monotonic() - began)}
                await connection.send(protocol.pack({"actions": actions, "server_timing": timing}))
        except ConnectionClosed:
            pass

    def gate(connection: ServerConnection, asked: Any) -> Response | None:
        return connection.respond(200, "OK\n") if asked.path == "/healthz" else None

    async with serve(handle, "127.0.0.1", port, process_request=gate, max_size=None, compression=None) as server:
        print(f"{READY}ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await asyncio.get_running_loop().create_future()


def main() -> None:
    """Serve until it is ended."""
    parser = argparse.ArgumentParser(description="A stand-in policy behind ours or a plain loop.")
    parser.add_argument("--kind", choices=("ours", "plain"), default="ours")
    parser.add_argument("--first-ms", type=float, default=0.0)
    parser.add_argument("--eight-ms", type=float, default=0.0)
    parser.add_argument("--size", type=int, default=224, help="pixels of a camera's side")
    args = parser.parse_args()
    logging.getLogger("websockets").setLevel(logging.ERROR)
    policy = Stub(args.size, args.first_ms / 1e3, args.eight_ms / 1e3)
    if args.kind == "plain":
        with memory.steady():
            asyncio.run(plain(policy, 0))
    run_server(PolicyServer(policy, Settings(port=0)), artifact.example_inputs(policy.spec))


if __name__ == "__main__":
    main()
