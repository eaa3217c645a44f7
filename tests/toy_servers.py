"""Servers of the wire in a few lines of plain websockets, which say what a test wants."""

import contextlib
import threading

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from clamp_jax.deploy.client import pack, unpack

WAIT_S = 20


class raw:
    """A server of the wire that does what `handle` says; counts connections."""

    def __init__(self, handle):
        self.count = []

        def run(connection):
            self.count.append(1)
            with contextlib.suppress(ConnectionClosed):
                handle(connection)

        self.server = serve(run, "127.0.0.1", 0, compression=None)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return f"ws://127.0.0.1:{self.server.socket.getsockname()[1]}", self.count

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join(WAIT_S)


class Scripted:
    """Answers each request by the frames that `answer(request, number)` gives, text or maps."""

    def __init__(self, told, answer):
        self.told, self.answer, self.requests = told, answer, []

    def __call__(self, connection):
        connection.send(pack(self.told))
        for frame in connection:
            self.requests.append(unpack(frame))
            for reply in self.answer(self.requests[-1], len(self.requests)):
                connection.send(reply if isinstance(reply, str) else pack(reply))
