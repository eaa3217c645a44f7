"""A TCP proxy on loopback that drops, delays, corrupts and cuts what goes through it, as it is told from another thread."""

import asyncio
import threading
from typing import NamedTuple

import numpy as np

CHUNK = 65536


class Way(NamedTuple):
    """What happens to bytes on their way."""

    open: bool = True  # False: connections are refused, those that stand are cut
    lost: bool = False  # swallowed without a word
    delay_s: float = 0.0
    corrupt: float = 0.0  # share of the server's packets in which a bit is flipped


class Proxy:
    """Between a client and the server at `port` of this machine; use it as a context manager."""

    def __init__(self, port: int, seed: int = 0):
        self._target, self._rng = port, np.random.default_rng(seed)
        self._way = Way()
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._handle, "127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def set(self, way: Way) -> None:
        """From now on."""
        self._way = way
        if not way.open:
            self._call(self.cut())

    def _call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def cut(self) -> None:
        """End every connection."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _close(self) -> None:
        self._server.close()
        await self.cut()
        running = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.sleep(0)  # transports close their sockets in the loop's next turn

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = [writer]
        self._writers.add(writer)
        try:
            if self._way.open:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
                pair.append(far_writer)
                self._writers.add(far_writer)
                await asyncio.gather(self._pump(reader, far_writer, False), self._pump(far_reader, writer, True))
        except (OSError, asyncio.CancelledError):
            pass  # one side has gone, or the server is not there
        finally:
            for one in pair:
                self._writers.discard(one)
                one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, from_server: bool) -> None:
        while data := await reader.read(CHUNK):
            way = self._way
            if way.lost:
                continue
            if way.delay_s:
                await asyncio.sleep(way.delay_s)
            if from_server and self._rng.random() < way.corrupt:
                flipped = bytearray(data)
                flipped[self._rng.integers(len(data))] ^= 1 << int(self._rng.integers(8))
                data = bytes(flipped)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError("the other side has ended")
