"""The client: reconnects, keeps its deadlines, never hands on a late reply. It stands alone."""

import ast
import socket
import threading
from pathlib import Path

import deployed
import numpy as np
import pytest
from websockets.sync.server import serve as serve_raw

from clamp_jax.deploy import client as client_module
from clamp_jax.deploy.client import Client, Refused, Unavailable, pack, unpack
from clamp_jax.deploy.server import Settings, serving

WAIT_S = 20


def served(policy=None, **settings):
    return serving(policy or deployed.StubPolicy(), deployed.warm(), Settings(**({"port": 0} | settings)))


def test_infer():
    with served() as url, Client(url) as client:
        assert client.connect()["instruction"] == deployed.INSTRUCTION
        reply = client.infer(deployed.message(), timeout_s=WAIT_S)
        np.testing.assert_array_equal(reply["actions"][7], deployed.HOME.astype(np.float32))


def test_refused_requests_say_why_and_the_next_one_works():
    with served() as url, Client(url) as client:
        for wrong, found in ((deployed.message(state=None), "lacks .'state'."), (deployed.message(prompt="x"), "trained for")):
            with pytest.raises(Refused, match=found):
                client.infer(wrong, timeout_s=WAIT_S)
        assert "actions" in client.infer(deployed.message(), timeout_s=WAIT_S)


def test_a_late_reply_is_thrown_away():
    started, go_on = threading.Event(), threading.Event()

    def before(inputs):
        if inputs["seed"][0] == 1:
            started.set()
            assert go_on.wait(WAIT_S)

    with served(deployed.StubPolicy(before)) as url, Client(url) as client:
        client.connect()
        with pytest.raises(Unavailable, match="no reply from .* within 0.2 s"):
            client.infer(deployed.message(seed=1), timeout_s=0.2)
        assert started.wait(WAIT_S)
        go_on.set()
        state = np.full(14, 0.5, np.float32)
        reply = client.infer(deployed.message(state=state), timeout_s=WAIT_S)
        assert reply["actions"][0, 0] == 0.5 and client.discarded == 1


def test_a_silent_server_is_given_up_after_three_time_outs():
    def silent(connection):
        connection.send(pack({}))
        for _ in connection:
            pass

    with raw(silent) as (url, count), Client(url) as client:
        client.connect(WAIT_S)
        for _ in range(client_module.PATIENCE):
            assert len(count) == 1
            with pytest.raises(Unavailable, match="no reply"):
                client.infer({"x": 1}, timeout_s=0.02)
        client.connect(WAIT_S)
        assert len(count) == 2


class raw:
    """A server of the wire that does what `handle` says; counts connections."""

    def __init__(self, handle):
        self.count = []

        def run(connection):
            self.count.append(1)
            handle(connection)

        self.server = serve_raw(run, "127.0.0.1", 0, compression=None)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return f"ws://127.0.0.1:{self.server.socket.getsockname()[1]}", self.count

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join(WAIT_S)


@pytest.mark.parametrize(
    "frame",
    [
        b"\xc1",
        b"",
        pack([1]),
        pack({"request_id": 1})[:-1],
        pack({b"__ndarray__": True}),
        pack({"a": {b"__ndarray__": True, b"dtype": "|O"}}),
    ],
    ids=range(6),
)
def test_a_damaged_reply_is_no_reply(frame):
    def damaged(connection):
        connection.send(pack({}))
        for _ in connection:
            connection.send(frame)

    with raw(damaged) as (url, count), Client(url) as client:
        for tries in (1, 2):
            with pytest.raises(Unavailable, match="is damaged"):
                client.infer({"x": 1}, timeout_s=WAIT_S)
            assert len(count) == tries  # a fresh connection each time


def test_it_waits_longer_after_each_failed_attempt():
    now, waits = [0.0], []

    def sleep(seconds):
        waits.append(seconds)
        now[0] += seconds

    with socket.socket() as taken:  # bound but not listening: refuses at once
        taken.bind(("127.0.0.1", 0))
        client = Client(f"ws://127.0.0.1:{taken.getsockname()[1]}", backoff_s=(0.1, 1.0), clock=lambda: now[0], sleep=sleep)
        with pytest.raises(Unavailable, match="no connection to ws://127"):
            client.connect(5.0)
    np.testing.assert_allclose(waits, [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0])


def test_it_comes_back_when_the_server_does():
    with served() as url:
        client = Client(url)
        assert "actions" in client.infer(deployed.message(), timeout_s=WAIT_S)
    with pytest.raises(Unavailable):
        client.infer(deployed.message(), timeout_s=0.2)
    with served(port=int(url.rsplit(":", 1)[1])):
        assert "actions" in client.infer(deployed.message(), timeout_s=WAIT_S)
        client.close()


def test_a_wrong_key_is_refused_at_once():
    with served(api_key="right") as url:
        with pytest.raises(Refused, match="API key"):
            Client(url, api_key="wrong").connect(WAIT_S)
        with Client(url, api_key="right") as client:
            assert client.connect(WAIT_S)["chunk"] == 50


def test_unsendable_values_are_refused_before_anything_is_sent():
    with served() as url, Client(url) as client:
        with pytest.raises(ValueError, match="dtype object cannot be sent"):
            client.infer({"x": np.array([None])}, timeout_s=WAIT_S)
        assert "actions" in client.infer(deployed.message(), timeout_s=WAIT_S)


def test_decoding_gives_back_what_was_encoded():
    message = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": np.float32(1.5), "c": [None, "x", {"d": True}]}
    back = unpack(pack(message))
    np.testing.assert_array_equal(back["a"], message["a"])
    assert back["b"] == 1.5 and back["b"].dtype == np.float32 and back["c"] == message["c"]


def test_the_file_stands_alone_and_is_python_3_8():
    source = Path(client_module.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    others = {"numpy", "msgpack", "websockets"}
    assert {n.split(".")[0] for n in names} - others <= {"__future__", "inspect", "socket", "threading", "time", "contextlib"}
