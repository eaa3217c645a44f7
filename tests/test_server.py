"""The policy server: openpi's wire, every request checked, and nothing brings it down."""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import urllib.error
import urllib.request

import deployed
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from clamp_jax.deploy import journal, protocol, request
from clamp_jax.deploy.batching import Batcher
from clamp_jax.deploy.server import PolicyServer, Settings, is_loopback, serving

WAIT_S = 20  # for anything that should come at once


def serve(policy=None, **settings):
    return serving(policy or deployed.StubPolicy(), deployed.warm(), Settings(port=0, **settings))


@pytest.fixture(scope="module")
def url():
    with serve() as url:
        yield url


class Wire:
    """A client that knows only the wire."""

    def __init__(self, url, **options):
        self.connecting = connect(url, proxy=None, compression=None, **options)

    def __enter__(self):
        self.socket = self.connecting.__enter__()
        self.metadata = protocol.unpack(self.socket.recv(WAIT_S))
        return self

    def __exit__(self, *_):
        self.connecting.__exit__(None, None, None)

    def send(self, message):
        self.socket.send(message if isinstance(message, bytes | str) else protocol.pack(message))

    def reply(self):
        frame = self.socket.recv(WAIT_S)
        return frame if isinstance(frame, str) else protocol.unpack(frame)

    def close_code(self):
        with pytest.raises(ConnectionClosed) as closed:
            self.socket.recv(WAIT_S)
        return closed.value.rcvd.code


def health(url, path="/healthz"):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url.replace("ws:", "http:") + path, timeout=WAIT_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_metadata_request_reply(url):
    with Wire(url) as wire:
        assert wire.metadata["instruction"] == deployed.INSTRUCTION and wire.metadata["control_hz"] == 50
        assert wire.metadata["calibration_id"] == request.calibration_id(deployed.specification())
        for number in range(3):
            wire.send(deployed.message(request_id=number, client_time=1.5))
            reply = wire.reply()
            np.testing.assert_array_equal(reply["actions"], np.tile(deployed.HOME.astype(np.float32), (50, 1)))
            assert (reply["request_id"], reply["client_time"]) == (number, 1.5)
            first = {"infer_ms", "queue_ms", "batch"}
            assert set(reply["server_timing"]) == (first | {"prev_total_ms"} if number else first)


def test_inputs_are_the_requests_in_the_artifacts_order():
    policy = deployed.StubPolicy()
    with serve(policy) as url, Wire(url) as wire:
        matrices = {name: np.eye(4) for name in reversed(policy.spec["cameras"])}
        matrices["wrist_left"] = np.diag([1.0, -1.0, -1.0, 1.0])
        calibration = {"intrinsics": np.ones((4, 4)), "parent_from_camera": matrices, "world_from_base": np.stack([np.eye(4)] * 2)}
        sent = deployed.message(calibration=calibration, calibration_id=None, seed=7)
        sent["images"] = dict(reversed(sent["images"].items()))
        wire.send(sent)
        assert isinstance(wire.reply(), dict)
    warm, seen = policy.seen[0], policy.seen[-1]
    assert {n: (a.shape, a.dtype) for n, a in seen.items()} == {n: (a.shape, a.dtype) for n, a in warm.items()}
    assert [int(image.max()) for image in seen["rgb"][0]] == [0, 1, 2, 3] and seen["seed"] == [7]
    np.testing.assert_array_equal(seen["parent_from_camera"][0, 2], matrices["wrist_left"])


def images(**changes):
    return {"images": {**deployed.message()["images"], **changes}}


def depth(**changes):
    return {"depth_m": {**deployed.message()["depth_m"], **changes}}


def without(name, camera):
    group = deployed.message()[name]
    return {name: {key: value for key, value in group.items() if key != camera}}


NAN = np.full((6, 8), np.nan, np.float32)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"state": None, "past_mask": None, "depth_m": None}, "lacks ['depth_m', 'state', 'past_mask'], has unknown nothing"),
        ({"calibration_id": None}, "lacks ['calibration or calibration_id']"),
        (without("images", "wrist_left"), "lacks ['images/wrist_left']"),
        ({"qpos": np.zeros(14)}, "has unknown ['qpos']"),
        (images(cam_high=np.zeros((6, 8, 3), np.uint8)), "has unknown ['images/cam_high']"),
        (images(overhead=np.zeros((3, 6, 8), np.uint8)), "(3, 6, 8), channels first; expected them last, (6, 8, 3)"),
        (images(overhead=np.zeros((5, 8, 3), np.uint8)), "'images/overhead' is uint8 (5, 8, 3); expected uint8 (6, 8, 3)"),
        (images(overhead=np.zeros((6, 8, 3), np.float32)), "'images/overhead' is float32"),
        (images(overhead="x"), "'images/overhead' is str"),
        ({"images": 3}, "'images' is int"),
        (depth(worms_eye=np.zeros((6, 8), np.uint16)), "'depth_m/worms_eye' is uint16; pass metres"),
        (depth(worms_eye=NAN), "'depth_m/worms_eye' has 48 values not finite"),
        (depth(overhead=np.full((6, 8), 900, np.float32)), "looks like millimetres"),
        ({"state": np.full(14, np.nan)}, "'joints' has 14 values"),
        ({"state": np.zeros(7)}, "'joints' has shape (1, 7)"),
        ({"state": [[1.0], 2.0]}, "ragged"),
        ({"state": "home"}, "'state' is str"),
        ({"past_actions": np.zeros((50, 14), np.int32)}, "'past_actions' has dtype int32"),
        ({"prompt": "open the drawer"}, "'open the drawer', this policy was trained for 'close the drawer'"),
        ({"protocol_version": 2}, "protocol_version is 2, this server speaks 1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": True}, "seed is True"),
        ({"request_id": [1]}, "request_id is list"),
        ({"calibration_id": "0"}, "calibration_id is '0', the artifact's is"),
        ({"calibration": {"intrinsics": 1}}, "'calibration' has ['intrinsics']"),
    ],
)
def test_wrong_requests_are_refused_and_named(changes, found):
    with pytest.raises(ValueError) as refused:
        request.check_request(deployed.message(**changes), deployed.specification())
    assert found in str(refused.value)


@pytest.mark.parametrize("value", [None, 3, "text", [], {}])
def test_a_request_that_is_no_map_or_empty(value):
    with pytest.raises(ValueError, match="request"):
        request.check_request(value, deployed.specification())


def test_errors_are_text_with_an_id_then_1011_and_the_server_goes_on(url):
    for message, found in (
        (deployed.message(state=None), "lacks ['state']"),
        ("hello", "text frame"),
        (b"\xc1", "0xc1"),
        (protocol.pack(deployed.message())[:-5], "cut short"),
    ):
        with Wire(url) as wire:
            wire.send(message)
            identity, _, text = wire.reply().partition(": ")
            assert len(identity) == 8 and found in text and len(text) <= 500
            assert wire.close_code() == 1011
    with Wire(url) as wire:
        wire.send(deployed.message())
        assert "actions" in wire.reply()


@pytest.mark.parametrize("failure", ["nan", "raise"])
def test_no_reply_that_is_not_finite_and_no_traceback(failure, caplog):
    def before(inputs):
        if inputs["seed"][0] == 9:
            if failure == "raise":
                raise KeyError("secret")
            inputs["joints"] = inputs["joints"] * np.nan

    with serve(deployed.StubPolicy(before)) as url, Wire(url) as wire:
        wire.send(deployed.message(seed=9))
        text = wire.reply()
        assert "internal error" in text and "secret" not in text and "Traceback" not in text
        assert wire.close_code() == 1011
        assert text.split(":")[0] in {getattr(record, "id", "") for record in caplog.records}  # the log has it under the same id


def test_health_answers_while_inference_runs_and_the_queue_is_bounded():
    started, go_on = threading.Event(), threading.Event()

    def before(inputs):
        if inputs["seed"][0] == 1:
            started.set()
            assert go_on.wait(WAIT_S)

    with serve(deployed.StubPolicy(before), pending=1) as url, Wire(url) as first, Wire(url) as second:
        first.send(deployed.message(seed=1))
        assert started.wait(WAIT_S)
        assert health(url) == (200, b"OK\n") and health(url, "/readyz")[0] == 200
        second.send(deployed.message())
        assert second.reply().partition(": ")[2] == "busy: request -: 1 requests are waiting; try again"
        second.send(deployed.message(request_id=8))
        assert "busy: request 8: 1 requests" in second.reply()  # the connection stays
        go_on.set()
        assert "actions" in first.reply()
        second.send(deployed.message(request_id=9))
        assert second.reply()["request_id"] == 9


class Gate:
    """Holds the policy at requests with seed 1 until it is opened."""

    def __init__(self):
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, inputs):
        if 1 in inputs["seed"]:
            self.entered.set()
            assert self.opened.wait(WAIT_S)


def queued(stack, url, messages):
    """A wire for each message, sent while the policy is held by another, when all of them wait."""
    wires = [stack.enter_context(Wire(url)) for _ in messages]
    for wire, message in zip(wires, messages, strict=True):
        wire.send(message)
    until = time.monotonic() + WAIT_S
    while f"clamp_pending_requests {len(messages) + 1:.1f}" not in health(url, "/metrics")[1].decode():
        assert time.monotonic() < until
    time.sleep(0.2)  # they are counted before they are decoded
    return wires


def test_requests_that_wait_together_are_answered_by_one_call_each_with_its_own_actions():
    gate = Gate()
    policy = deployed.StubPolicy(gate)
    states = [deployed.HOME.astype(np.float32) + 0.01 * n for n in range(5)]
    with serve(policy) as url, contextlib.ExitStack() as stack:
        first = stack.enter_context(Wire(url))
        first.send(deployed.message(seed=1))
        assert gate.entered.wait(WAIT_S)
        wires = queued(stack, url, [deployed.message(state=state) for state in states])
        gate.opened.set()
        replies = [wire.reply() for wire in wires]
        for state, reply in zip(states, replies, strict=True):
            np.testing.assert_array_equal(reply["actions"], np.tile(state, (50, 1)))
            assert reply["server_timing"]["batch"] == 5
        assert policy.seen[-1]["rgb"].shape[0] == 8  # five, filled up to a size that was compiled
        assert first.reply()["server_timing"]["batch"] == 1
        counted = health(url, "/metrics")[1].decode()
        assert 'clamp_requests_total{outcome="answered"} 6.0' in counted and "clamp_batch_size_count 6.0" in counted


def test_a_request_that_makes_the_policy_fail_does_not_fail_those_beside_it():
    gate = Gate()

    def before(inputs):
        gate(inputs)
        if 9 in inputs["seed"]:
            raise ValueError("nine")

    with serve(deployed.StubPolicy(before)) as url, contextlib.ExitStack() as stack:
        stack.enter_context(Wire(url)).send(deployed.message(seed=1))
        assert gate.entered.wait(WAIT_S)
        wires = queued(stack, url, [deployed.message(seed=n) for n in (2, 9, 3)])
        gate.opened.set()
        replies = [wire.reply() for wire in wires]
        assert "actions" in replies[0] and "actions" in replies[2]
        assert "internal error" in replies[1] and "nine" not in replies[1]


def test_a_policy_that_gives_too_few_chunks_is_an_error_and_nobody_waits_for_ever():
    batcher = Batcher(lambda inputs: {"actions": np.zeros((len(inputs["seed"]) - 1, 50, 14), np.float32)}, lambda row: row)
    with pytest.raises(RuntimeError, match="0 chunks for a batch of 1"):
        batcher.submit({"seed": np.zeros(1)}).result(WAIT_S)
    batcher.close()


def test_a_request_whose_deadline_passes_in_the_queue_is_not_run_and_the_connection_stays():
    gate = Gate()
    policy = deployed.StubPolicy(gate)
    with serve(policy) as url, contextlib.ExitStack() as stack:
        stack.enter_context(Wire(url)).send(deployed.message(seed=1))
        assert gate.entered.wait(WAIT_S)
        (wire,) = queued(stack, url, [deployed.message(request_id=5, deadline_ms=1, seed=77)])
        gate.opened.set()
        assert wire.reply().partition(": ")[2].startswith("late: request 5: its deadline passed after")
        wire.send(deployed.message(request_id=6, deadline_ms=1e6))
        assert wire.reply()["request_id"] == 6
    assert all(77 not in seen["seed"] for seen in policy.seen)


def test_it_lives_before_it_is_ready_and_no_client_gets_in():
    held = threading.Event()

    def before(inputs):
        assert held.wait(WAIT_S)

    found = {}

    def ready_only_when_warm():
        with serving(deployed.StubPolicy(before), deployed.warm(), Settings(port=port)) as url:
            found["ready"] = health(url, "/readyz")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    thread = threading.Thread(target=ready_only_when_warm)
    thread.start()
    url, until = f"ws://127.0.0.1:{port}", time.monotonic() + WAIT_S
    while True:
        try:
            assert health(url) == (200, b"OK\n")
            break
        except urllib.error.URLError:
            assert time.monotonic() < until
    assert health(url, "/readyz") == (503, b"not ready\n")
    with pytest.raises(InvalidStatus) as shut, Wire(url):
        pass
    assert shut.value.response.status_code == 503
    held.set()
    thread.join(WAIT_S)
    assert found["ready"] == (200, b"OK\n")


def test_actions_are_held_to_the_joints_limits_and_counted():
    policy = deployed.StubPolicy()
    far = np.full(14, 9.0, np.float32)
    with serve(policy) as url, Wire(url) as wire:
        wire.send(deployed.message(state=far))
        low, high = request.action_limits(policy.spec)
        np.testing.assert_array_equal(wire.reply()["actions"], np.tile(high, (50, 1)))
        assert "clamp_actions_clipped_total 1.0" in health(url, "/metrics")[1].decode()
    assert np.all(low < deployed.HOME) and np.all(deployed.HOME < high) and high[6] > 1 > 0 > low[6]


def test_what_is_served_is_told_and_metrics_need_the_key():
    with serve(api_key="right") as url:
        assert health(url, "/metrics")[0] == 401
    with serve() as url:
        text = health(url, "/metrics")[1].decode()
    assert f'policy="{request.policy_id(deployed.specification())}"' in text and "clamp_ready 1.0" in text


def test_frozen_actions_are_refused_where_the_artifact_has_none_or_they_are_none():
    spec = deployed.specification()
    rows = np.ones((3, 14), np.float32)
    older = spec | {"inputs": {name: entry for name, entry in spec["inputs"].items() if not name.startswith("frozen")}}
    with pytest.raises(ValueError, match="export it anew"):
        request.check_request(deployed.message(frozen_actions=rows), older)
    assert "frozen_steps" not in request.check_request(deployed.message(), older).inputs
    inputs = request.check_request(deployed.message(frozen_actions=rows), spec).inputs
    assert inputs["frozen_steps"] == [3] and inputs["frozen_actions"][0].sum() == 42
    assert request.check_request(deployed.message(), spec).inputs["frozen_steps"] == [0]
    for wrong in (np.ones((50, 14), np.float32), np.ones((2, 13), np.float32), rows * np.nan, rows.astype(np.int32), [[1.0]]):
        with pytest.raises(ValueError, match="frozen_actions"):
            request.check_request(deployed.message(frozen_actions=wrong), spec)


@pytest.mark.parametrize("value", [0, -1, True, "1", np.inf, np.nan, 1e12, None])
def test_deadlines_that_are_none(value):
    changed = deployed.message() | {"deadline_ms": value}
    with pytest.raises(ValueError, match="deadline_ms"):
        request.check_request(changed, deployed.specification())


def test_logs_are_one_object_a_line_with_what_the_event_is_about():
    record = logging.getLogger("x").makeRecord("x", logging.WARNING, "f", 1, "refused %d", (3,), None, extra={"id": "ab", "text": "a\nb"})
    line = journal.JsonFormatter().format(record)
    found = json.loads(line)
    assert "\n" not in line
    assert (found["event"], found["level"], found["id"], found["text"]) == ("refused 3", "WARNING", "ab", "a\nb")
    plain = journal.TextFormatter().format(record)
    assert "refused 3  id=ab" in plain and "\n" not in plain  # a stranger's text begins no line of its own


def test_too_large_messages_and_too_many_connections():
    with serve(limits=protocol.Limits(size=20_000), connections=1) as url:
        with Wire(url) as wire:
            with pytest.raises(InvalidStatus) as refused, Wire(url):
                pass
            assert refused.value.response.status_code == 503
            wire.send(b"\x00" * 30_000)
            assert wire.close_code() == 1009


def test_api_key():
    with serve(api_key="right") as url:
        for headers in (None, {"Authorization": "Api-Key wrong"}, {"Authorization": "right"}):
            with pytest.raises(InvalidStatus) as refused, Wire(url, additional_headers=headers):
                pass
            assert refused.value.response.status_code == 401
        with Wire(url, additional_headers={"Authorization": "Api-Key right"}) as wire:
            assert wire.metadata["chunk"] == 50
        assert health(url)[0] == 200


def test_other_addresses_need_a_key():
    for host in ("0.0.0.0", "192.168.1.5", "robot.local", "::"):
        assert not is_loopback(host)
        with pytest.raises(ValueError, match="pass an API key"):
            PolicyServer(deployed.StubPolicy(), Settings(host=host))
        PolicyServer(deployed.StubPolicy(), Settings(host=host, api_key="k"))
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1")))


def test_warm_before_ready_and_a_start_that_fails_is_told():
    policy = deployed.StubPolicy()
    with serve(policy) as url:
        assert [seen["rgb"].shape for seen in policy.seen] == [(size, 4, 6, 8, 3) for size in (1, 2, 4, 8)]
        port = int(url.rsplit(":", 1)[1])
        with pytest.raises(OSError), serving(deployed.StubPolicy(), deployed.warm(), Settings(port=port)):
            pass

    def fails(inputs):
        raise ValueError("no such device")

    with pytest.raises(ValueError, match="no such device"), serve(deployed.StubPolicy(fails)):
        pass


def test_a_running_request_is_answered_before_the_server_stops():
    started, go_on = threading.Event(), threading.Event()

    def before(inputs):
        if inputs["seed"][0] == 1:
            started.set()
            assert go_on.wait(WAIT_S)

    context = serve(deployed.StubPolicy(before))
    url = context.__enter__()
    with Wire(url) as wire:
        wire.send(deployed.message(seed=1))
        assert started.wait(WAIT_S)
        leaving = threading.Thread(target=context.__exit__, args=(None, None, None))
        leaving.start()
        go_on.set()
        assert "actions" in wire.reply()
        leaving.join(WAIT_S)
        assert not leaving.is_alive()
    with pytest.raises(urllib.error.URLError):
        health(url)


def test_a_policy_that_hangs_does_not_keep_the_server_from_stopping():
    started, go_on = threading.Event(), threading.Event()

    def before(inputs):
        if inputs["seed"][0] == 1:
            started.set()
            assert go_on.wait(WAIT_S)

    context = serve(deployed.StubPolicy(before), drain_s=0.1)
    with Wire(context.__enter__()) as wire:
        wire.send(deployed.message(seed=1, request_id="a"))
        assert started.wait(WAIT_S)
        leaving = threading.Thread(target=context.__exit__, args=(None, None, None))
        leaving.start()
        assert wire.reply().partition(": ")[2] == "busy: request a: the server stops and did not come to it"
        assert wire.close_code() == 1001
        go_on.set()
        leaving.join(WAIT_S)
        assert not leaving.is_alive()


def test_a_web_page_is_refused(url):
    with pytest.raises(InvalidStatus) as refused, Wire(url, origin="http://localhost:8000"):
        pass
    assert refused.value.response.status_code == 403


def test_a_request_that_nobody_waits_for_is_not_run_and_harms_no_other():
    gate, ran = threading.Event(), []

    def policy(inputs):
        ran.extend(inputs["x"].tolist())
        assert gate.wait(WAIT_S)
        return {"actions": inputs["x"]}

    batcher = Batcher(policy, lambda row: row, most=1)
    first, second, third = (batcher.submit({"x": np.array([i])}) for i in range(3))
    while not ran:
        time.sleep(0.001)
    assert second.cancel() and not first.cancel()
    gate.set()
    assert (first.result(WAIT_S).actions, third.result(WAIT_S).actions, ran) == (0, 2, [0, 2])
    batcher.close()


def test_garbage_does_not_bring_it_down(url):
    rng = np.random.default_rng(int(os.environ.get("CLAMP_FUZZ_SEED", "0")))
    whole = protocol.pack(deployed.message())
    for number in range(60):
        data = bytearray(whole)
        for _ in range(1 + number % 5):
            data[rng.integers(min(len(data), 400))] = rng.integers(256)
        with Wire(url) as wire:
            wire.send(bytes(data))
            reply = wire.reply()
            assert isinstance(reply, str) or np.isfinite(reply["actions"]).all()
    assert health(url)[0] == 200
