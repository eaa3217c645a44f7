"""The robot's side of the wire. This file stands alone: numpy, msgpack and websockets (11 or later), Python 3.8 or later.

    with Client("ws://127.0.0.1:8000") as client:
        reply = client.infer(observation, timeout_s=0.5)  # {"actions": (50, 14), "server_timing": {...}}

It connects when first used and again after every failure, waiting a little longer each time. A reply that comes after its
request timed out is recognised by its id and thrown away, never executed. Servers of the same wire that know no ids (openpi's:
their metadata has no protocol_version) get the observation as it is, and a time-out ends the connection: a late reply could not
be told from the next one.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import socket
import threading
import time
import zlib

import msgpack
import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect

PROTOCOL_VERSION = 1
DTYPES = frozenset(["|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8"])
MAX_MESSAGE = 8 * 2**20  # bytes of a frame that a server may send: a chunk of 50 commands is 3 kB, metadata is some 10 kB
MAX_DEADLINE_MS = 1e8
PATIENCE = 3  # time-outs in a row after which the connection is given up and opened anew
_DAMAGED = (ValueError, TypeError, KeyError, msgpack.UnpackException)  # what decoding a wrong message can raise
_NOT_NOW = re.compile(r"[0-9a-f]{8}: (?:busy|late): request (\S+): ")  # texts after which the connection stays
# websockets 15 and later send a robot's traffic through http_proxy if it is set, and give up a server whose first inference
# compiles for 40 s (keep-alive pings). The deadlines here do that work. Older ones have neither.
_OPTIONS = {name: None for name in ("proxy", "ping_interval") if name in inspect.signature(connect).parameters}


def _check_sum(reply):
    """ValueError when the actions are not those that the server sent; one that sends no checksum, as older ones, is believed."""
    if "checksum" in reply and zlib.crc32(np.ascontiguousarray(reply["actions"]).tobytes()) != reply["checksum"]:
        raise ValueError("its actions do not have its checksum")


class Refused(RuntimeError):
    """The server refused the request: its text names what was found and expected. Sending it again will not help."""


class Unavailable(ConnectionError):
    """No reply in time: no connection, a lost one, or a slow server. Hold and try again."""


class Busy(Unavailable):
    """The server said that it has too much to do, or that the request's turn came too late. The connection stays."""


def pack(message):
    """Encode a message: maps, lists, strings, numbers, None, numpy arrays and scalars."""
    return msgpack.packb(message, default=_encode, use_bin_type=True)


def unpack(data):
    """Decode a message of a server; ValueError when it is not of this protocol."""
    return msgpack.unpackb(data, object_hook=_decode, raw=False, strict_map_key=True)


def _encode(value):
    if isinstance(value, (np.ndarray, np.generic)):
        dtype = value.dtype.newbyteorder("<")
        if dtype.str not in DTYPES:
            raise ValueError(f"dtype {value.dtype} cannot be sent; allowed are {sorted(DTYPES)}")
        if isinstance(value, np.generic):
            return {b"__npgeneric__": True, b"data": value.item(), b"dtype": dtype.str}
        data = np.ascontiguousarray(value, dtype).tobytes()
        return {b"__ndarray__": True, b"data": data, b"dtype": dtype.str, b"shape": list(value.shape)}
    raise ValueError(f"a message cannot hold {type(value).__name__}; pass maps, lists, strings, numbers or numpy arrays")


def _decode(found):
    if b"__ndarray__" not in found and b"__npgeneric__" not in found:
        return found
    if found.get(b"dtype") not in DTYPES:
        raise ValueError(f"dtype {found.get(b'dtype')!r} is not allowed")
    dtype = np.dtype(found[b"dtype"])
    if b"__npgeneric__" in found:
        return dtype.type(found[b"data"])
    return np.frombuffer(found[b"data"], dtype).reshape(found[b"shape"])


class Client:
    """Asks a policy server for actions; not for use from several threads at once."""

    def __init__(self, url, *, api_key=None, backoff_s=(0.05, 2.0), clock=time.monotonic, sleep=time.sleep):
        """`url`: ws:// or wss://; `backoff_s`: first and longest wait between two attempts to connect."""
        self._url, self._backoff_s = url, backoff_s
        self._headers = {"Authorization": "Api-Key " + api_key} if api_key else None
        self._clock, self._sleep = clock, sleep
        self._connection = self._close_connection = None
        self._wait_s = backoff_s[0]
        self._timeouts = self._next_id = 0
        self.metadata = None  # the server's, of the last connection
        self.discarded = 0  # late replies thrown away, "busy" and "late" among them

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Close the connection; a later call opens a new one."""
        if self._connection is not None:
            self._close_connection()
            self._connection = None

    def connect(self, timeout_s=10.0):
        """Connect if need be and return the server's metadata; Unavailable after `timeout_s`, Refused at a wrong API key."""
        deadline = self._clock() + timeout_s
        while self._connection is None:
            try:
                self._open(max(deadline - self._clock(), 1e-3))
            except (OSError, InvalidHandshake, ConnectionClosed, *_DAMAGED) as error:
                self._back_off(deadline, error)
        return self.metadata

    def _open(self, timeout_s):
        options = dict(_OPTIONS, open_timeout=timeout_s, close_timeout=1, compression=None, max_size=MAX_MESSAGE)
        # As a context manager: newer releases of websockets connect only then, older ones allow it.
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(connect(self._url, additional_headers=self._headers, **options))
            self.metadata = _a_map(unpack(connection.recv(timeout_s)))
            self._close_connection = stack.pop_all().close
        self._connection, self._wait_s, self._timeouts = connection, self._backoff_s[0], 0

    def _back_off(self, deadline, error):
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401:
            raise Refused(f"{self._url} refused the API key (HTTP 401); pass the server's api_key") from error
        if deadline - self._clock() <= self._wait_s:
            why = "it is starting, or has too many clients (HTTP 503)" if status == 503 else error or type(error).__name__
            raise Unavailable(f"no connection to {self._url}: {why}") from error
        self._sleep(self._wait_s)
        self._wait_s = min(2 * self._wait_s, self._backoff_s[1])

    def infer(self, observation, *, timeout_s=1.0):
        """Send a request and return the reply to it.

        `observation`: a dict as the server's metadata describes (images, depth_m, state, past_actions, past_mask, ...).
        Unavailable when no reply to this very request came within `timeout_s` (Busy: the server said so); Refused when the server
        says that it is wrong.
        """
        deadline = self._clock() + timeout_s
        self.connect(timeout_s)
        self._next_id += 1
        data = pack(self._request(observation, deadline))
        try:
            self._send(data, deadline)
            return self._receive(deadline)
        except Busy:
            raise
        except TimeoutError as error:
            self._timeouts += 1
            if self._timeouts >= PATIENCE or not self._knows_ids():  # it may be frozen or cut off without a word
                self._drop()
            raise Unavailable(f"no reply from {self._url} within {timeout_s:.3g} s") from error
        except (ConnectionClosed, OSError) as error:
            self._drop()
            raise Unavailable(f"connection to {self._url} was lost: {error}") from error
        except _DAMAGED as error:
            self._drop()
            raise Unavailable(f"reply of {self._url} is damaged: {error}") from error

    def _knows_ids(self):
        return "protocol_version" in self.metadata

    def _request(self, observation, deadline):
        if not self._knows_ids():
            return observation
        now = self._clock()
        added = {"request_id": self._next_id, "client_time": now, "protocol_version": PROTOCOL_VERSION}
        if "deadline_ms" in (self.metadata.get("optional") or ()):  # a server that is older than this name refuses it
            added["deadline_ms"] = min(max(1e3 * (deadline - now), 1e-3), MAX_DEADLINE_MS)
        return dict(observation, **added)

    def _send(self, data, deadline):
        # A frozen server stops reading: sending then blocks for ever, unless the socket is shut under it.
        watchdog = threading.Timer(max(deadline - self._clock(), 0.0), _shut, [self._connection])
        watchdog.daemon = True
        watchdog.start()
        try:
            self._connection.send(data)
        finally:
            watchdog.cancel()

    def _receive(self, deadline):
        while True:
            frame = self._connection.recv(max(deadline - self._clock(), 0.0))
            reply = self._not_now(frame) if isinstance(frame, str) else _a_map(unpack(frame))
            if reply is not None and (not self._knows_ids() or reply.get("request_id") == self._next_id):
                self._timeouts = 0
                if self._knows_ids():  # what a foreign server calls a checksum is its own affair
                    _check_sum(reply)
                return reply
            self.discarded += 1

    def _not_now(self, text):
        """None for a "busy" or "late" that belongs to an earlier request; raises Busy for this one's, Refused for any other text."""
        found = _NOT_NOW.match(text)
        if found is None:
            self._drop()  # the server closes after an error
            raise Refused(text if len(text) <= 1000 else "... " + text[-1000:])  # a traceback says last what is wrong
        if found.group(1) not in (str(self._next_id), "-"):
            return None
        self._timeouts = 0
        raise Busy(f"{self._url}: {text[:1000]}")

    def _drop(self):
        if self._connection is not None:
            _shut(self._connection)
            self.close()


def _shut(connection):
    try:
        connection.socket.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it was closed already


def _a_map(message):
    if not isinstance(message, dict):
        raise ValueError(f"it is a {type(message).__name__}, expected a map")
    return message
