"""The client: reconnects, keeps its deadlines, never hands on a late reply. It stands alone."""

import ast
import socket
import threading
import zlib
from pathlib import Path

import deployed
import numpy as np
import pytest
from toy_servers import Scripted, raw

from clamp_jax.deploy import client as client_module
from clamp_jax.deploy.client import Busy, Client, Refused, Unavailable, pack, unpack
from clamp_jax.deploy.server import Settings, serving

WAIT_S = 20
OURS = pack({"protocol_version": 1})  # the least that a server's metadata says


def served(policy=None, **settings):
    return serving(policy or deployed.StubPolicy(), deployed.warm(), Settings(**({"port": 0} | settings)))


def test_infer():
    with served() as url, Client(url) as client:
        assert client.connect()["instruction"] == deployed.INSTRUCTION
        reply = client.infer(deployed.message(), timeout_s=WAIT_S)
        np.testing.assert_array_equal(reply["actions"][7], deployed.HOME.astype(np.float32))
        assert reply["checksum"] == zlib.crc32(reply["actions"].tobytes())


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
        connection.send(OURS)
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
@pytest.mark.parametrize("told", [{"protocol_version": 1}, {}], ids=["ours", "foreign"])
def test_a_damaged_reply_is_no_reply(frame, told):
    def damaged(connection):
        connection.send(pack(told))
        for _ in connection:
            connection.send(frame)

    with raw(damaged) as (url, count), Client(url) as client:
        for tries in (1, 2):
            with pytest.raises(Unavailable, match="is damaged"):
                client.infer({"x": 1}, timeout_s=WAIT_S)
            assert len(count) == tries  # a fresh connection each time


def test_a_bit_that_flips_in_the_actions_is_no_reply():
    actions = np.linspace(-1, 1, 700, dtype=np.float32).reshape(50, 14)

    def every_second(connection):
        connection.send(pack({"protocol_version": 1}))
        for number, message in enumerate(connection):
            told = {"actions": actions, "checksum": zlib.crc32(actions.tobytes()), "request_id": unpack(message)["request_id"]}
            data = bytearray(pack(told))
            data[data.index(actions.tobytes()) + 1001] ^= 4 * (number % 2)
            connection.send(bytes(data))

    with raw(every_second) as (url, count), Client(url) as client:
        for _ in range(2):
            np.testing.assert_array_equal(client.infer({})["actions"], actions)
            with pytest.raises(Unavailable, match="is damaged: its actions do not have its checksum"):
                client.infer({})
        assert len(count) == 2


BELIEVED = {"foreign": ({}, {"checksum": "a1"}), "older": ({"protocol_version": 1}, {"request_id": 1})}


@pytest.mark.parametrize(("told", "reply"), BELIEVED.values(), ids=BELIEVED)
def test_a_server_that_knows_no_such_checksum_is_believed(told, reply):
    def answers(connection):
        connection.send(pack(told))
        for _ in connection:
            connection.send(pack({"actions": np.ones((50, 14), np.float32)} | reply))

    with raw(answers) as (url, _), Client(url) as client:
        assert (client.infer({}, timeout_s=WAIT_S)["actions"] == 1).all()


@pytest.mark.parametrize("word", ["busy", "late"])
@pytest.mark.parametrize("name", ["its own", "-"])
def test_busy_and_late_leave_the_connection_open(word, name):
    def answer(request, number):
        if number > 1:
            return [{"request_id": request["request_id"], "n": number}]
        return [f"0123abcd: {word}: request {request['request_id'] if name == 'its own' else name}: 16 are waiting"]

    with raw(Scripted({"protocol_version": 1}, answer)) as (url, count), Client(url) as client:
        with pytest.raises(Busy, match=f"{word}: request .*: 16 are waiting"):
            client.infer({"x": 1}, timeout_s=WAIT_S)
        assert client.infer({"x": 1}, timeout_s=WAIT_S)["n"] == 2
        assert len(count) == 1 and client.discarded == 0


def test_a_busy_that_belongs_to_an_earlier_request_is_thrown_away():
    def answer(request, number):
        late = [f"0123abcd: {word}: request {number - 1}: words" for word in ("busy", "late")]
        return [*late, {"request_id": number}] if number > 1 else []

    with raw(Scripted({"protocol_version": 1}, answer)) as (url, count), Client(url) as client:
        with pytest.raises(Unavailable, match="no reply"):
            client.infer({"x": 1}, timeout_s=0.1)
        assert client.infer({"x": 1}, timeout_s=WAIT_S) == {"request_id": 2}
        assert (client.discarded, len(count)) == (2, 1)


@pytest.mark.parametrize("text", ["busy", "0123abcd: busy", "xyz: busy: request 1: a", "0123abcd: rebusy: request 1: a", 3000 * "a"])
def test_any_other_text_is_a_refusal(text):
    with raw(Scripted({"protocol_version": 1}, lambda *_: [text])) as (url, count), Client(url) as client:
        for tries in (1, 2):
            with pytest.raises(Refused) as refused:
                client.infer({"x": 1}, timeout_s=WAIT_S)
            assert str(refused.value) == (text if len(text) < 1000 else "... " + text[-1000:]) and len(count) == tries


def test_a_full_server_is_busy():
    started, go_on = threading.Event(), threading.Event()

    def before(inputs):
        if inputs["seed"][0] == 1:
            started.set()
            assert go_on.wait(WAIT_S)

    with served(deployed.StubPolicy(before), pending=1) as url, Client(url) as first, Client(url) as second:
        answers = []
        thread = threading.Thread(target=lambda: answers.append(first.infer(deployed.message(seed=1), timeout_s=WAIT_S)))
        thread.start()
        assert started.wait(WAIT_S)
        with pytest.raises(Busy, match="requests are waiting"):
            second.infer(deployed.message(), timeout_s=WAIT_S)
        go_on.set()
        thread.join(WAIT_S)
        assert "actions" in answers[0] and "actions" in second.infer(deployed.message(), timeout_s=WAIT_S)


@pytest.mark.parametrize("optional", [None, ["seed"], ["deadline_ms"]])
def test_the_deadline_goes_with_the_request_where_the_server_knows_it(optional):
    server = Scripted({"protocol_version": 1, "optional": optional}, lambda request, _: [{"request_id": request["request_id"]}])
    with raw(server) as (url, _), Client(url) as client:
        client.infer({"x": 1}, timeout_s=WAIT_S)
        client.infer({"x": 1}, timeout_s=1e9)
    deadlines = [request.get("deadline_ms") for request in server.requests]
    if optional == ["deadline_ms"]:
        assert 0 < deadlines[0] <= 1e3 * WAIT_S and deadlines[1] == 1e8
    else:
        assert deadlines == [None, None]


def test_a_foreign_server_gets_the_observation_alone_and_answers_in_order():
    server = Scripted({}, lambda request, number: [{"actions": request["x"], "n": number}])
    with raw(server) as (url, count), Client(url) as client:
        for number in (1, 2, 3):
            reply = client.infer({"x": np.arange(number)}, timeout_s=WAIT_S)
            assert reply["n"] == number and len(reply["actions"]) == number
        assert len(count) == 1
    assert [list(request) for request in server.requests] == [["x"]] * 3


def test_a_foreign_servers_late_reply_is_never_taken_for_the_next_one():
    go_on = threading.Event()

    def answer(request, number):
        if number == 1:
            assert go_on.wait(WAIT_S)
        return [{"asked": request["x"]}]

    with raw(Scripted({}, answer)) as (url, count), Client(url) as client:
        with pytest.raises(Unavailable, match="no reply"):
            client.infer({"x": 1}, timeout_s=0.1)
        go_on.set()
        assert client.infer({"x": 2}, timeout_s=WAIT_S) == {"asked": 2} and len(count) == 2


def test_a_reply_that_is_too_large_is_no_reply(monkeypatch):
    monkeypatch.setattr(client_module, "MAX_MESSAGE", 10_000)
    with raw(Scripted({}, lambda *_: [{"x": b"0" * 20_000}])) as (url, _), Client(url) as client:
        with pytest.raises(Unavailable, match="lost"):
            client.infer({"x": 1}, timeout_s=WAIT_S)


@pytest.mark.parametrize("told", [[1], None, 3])
def test_metadata_that_is_no_map_is_no_server(told):
    with raw(Scripted(told, lambda *_: [])) as (url, _), pytest.raises(Unavailable, match="expected a map"):
        Client(url, backoff_s=(2 * WAIT_S, 2 * WAIT_S)).connect(WAIT_S)


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


def test_a_server_that_is_full_says_so_and_is_tried_until_the_time_is_over():
    with served(connections=1) as url, Client(url) as first:
        first.connect(WAIT_S)
        with pytest.raises(Unavailable, match="starting, or has too many clients .HTTP 503"):
            Client(url, backoff_s=(2 * WAIT_S, 2 * WAIT_S)).connect(WAIT_S)
        first.close()
        with Client(url) as second:
            assert second.connect(WAIT_S)["chunk"] == 50


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
    library = {"__future__", "inspect", "re", "socket", "threading", "time", "contextlib", "zlib"}
    assert {n.split(".")[0] for n in names} - others <= library
