"""Served policies: our own artifact moves as it does in memory, and strangers' servers of the wire are rolled out beside it."""

import datetime
import json
import socket
import threading

import deployed
import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from toy_servers import Scripted, raw

from clamp_jax import observe
from clamp_jax.deploy import artifact
from clamp_jax.deploy.request import action_limits
from clamp_jax.deploy.server import Settings, serving
from clamp_jax.sensors import SensorConfig
from clamp_jax.sim import rollout, tasks
from clamp_jax.structs import CAMERAS, HISTORY, Observation
from experiments import evaluate, served

TASK = "drawer_close"
INSTRUCTION = tasks.get(TASK).instructions[0]
FAULTS = {"depth_noise_m": 0.004, "dropout": 0.02}
SIZE = 12  # pixels; tests/test_evaluate.py has the same sensors and number of trials: they are compiled once
OPENPI = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
SHORT = served.How(image_size=(SIZE, SIZE), connections=2, timeout_s=20)


def policy(url, trials=2, **how):
    return served.ServedPolicy("toy", url, SHORT._replace(**how), (INSTRUCTION,) * trials)


def observation(trials=2):
    """A batch whose values name their trial: joints are a tenth of it."""
    number = np.arange(trials)
    rgb = np.broadcast_to(number[:, None, None, None, None], (trials, 4, 6, 8, 3)).astype(np.uint8)
    depth_m = np.broadcast_to(number[:, None, None, None], (trials, 4, 6, 8)).astype(np.float32)
    joints = np.broadcast_to(number[:, None] / 10, (trials, 14)).astype(np.float32)
    calibration = jax.tree.map(lambda leaf: np.stack([leaf] * trials), deployed.calibration())
    return Observation(rgb, depth_m, calibration, joints, np.ones((trials, HISTORY, 14), np.float32), np.ones((trials, HISTORY), bool))


def keys(trials=2):
    return jax.random.split(jax.random.key(3), trials)


def repeats(horizon):
    """Answers the joints of the request, `horizon` times."""
    return lambda request, _: [{"actions": np.tile(request["state"], (horizon, 1))}]


ABOUT = deployed.description(instruction=INSTRUCTION, height=SIZE, width=SIZE)


class Unexported:
    """What an artifact is, without the exporter's minute (tests/test_artifact.py holds that the two are equal)."""

    def __init__(self):
        weights = artifact.flatten(deployed.params())
        self.spec = artifact.make_spec(weights, ABOUT, today=datetime.date(2026, 1, 31))
        function = jax.jit(artifact.policy_function(deployed.act, deployed.params(), ABOUT.calibration))
        self._call = lambda inputs: jax.tree.map(np.asarray, function(weights, inputs))

    def __call__(self, inputs):
        return self._call(inputs)


def exported(folder):
    return artifact.load_artifact(artifact.write_artifact(folder / "policy", deployed.act, deployed.params(), ABOUT))


@pytest.fixture(scope="module", params=["unexported", pytest.param("exported", marks=pytest.mark.slow)])
def ours(request, tmp_path_factory):
    """The URL of a server of the stand-in policy."""
    loaded = Unexported() if request.param == "unexported" else exported(tmp_path_factory.mktemp("served"))
    with serving(loaded, artifact.example_inputs(loaded.spec), Settings(port=0, max_batch=2)) as url:
        yield url


def test_a_served_artifact_moves_as_the_policy_does_in_memory(ours):
    settings = evaluate.Settings(TASK, trials=2, backend="native", replan=20, limit_s=0.8)
    remote = served.ServedPolicy("ours", ours, SHORT, evaluate.instructions(settings))
    assert remote.sensor == observe.clean(SIZE) and remote.about["wire"] == "described"
    memory = evaluate.Candidate(evaluate.batched(deployed.act, deployed.params()), remote.sensor)
    found = evaluate.run_all({"memory": memory, "served": evaluate.Candidate(remote, remote.sensor)}, settings)
    remote.close()
    np.testing.assert_allclose(found["served"].actions, found["memory"].actions, atol=1e-4)
    np.testing.assert_allclose(found["served"].qpos, found["memory"].qpos, atol=1e-3)
    np.testing.assert_array_equal(found["served"].success, found["memory"].success)
    moved = found["served"].actions
    assert np.ptp(moved[:, 0, 0]) > 1e-3 and np.abs(moved[:, 20] - moved[:, 0]).min() > 1e-4, "trials and moments differ"


def test_an_artifact_for_another_instruction_is_refused(ours):
    with pytest.raises(served.ServedError, match=f"policy 'a' at {ours}: it is for '{INSTRUCTION}'.*open the drawer"):
        served.ServedPolicy("a", ours, SHORT, ("open the drawer",))


# A stranger's server: its own encoding, as openpi's clients and servers write it, and none of our names.


def dump(value):
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    raise TypeError(type(value))


def load(found):
    if b"__ndarray__" in found:
        return np.ndarray(buffer=found[b"data"], dtype=np.dtype(found[b"dtype"]), shape=found[b"shape"])
    return found


class Stranger:
    """Turns the waist by `turn` rad a request, counting its requests; chunks of `horizon` commands."""

    def __init__(self, horizon, turn=0.1):
        self.horizon, self.turn, self.requests, self.lock = horizon, turn, [], threading.Lock()

    def __call__(self, connection):
        connection.send(msgpack.packb({"name": "stranger"}))
        for frame in connection:
            request = msgpack.unpackb(frame, object_hook=load)
            with self.lock:
                self.requests.append(request)
            actions = np.tile(request["state"].astype(np.float64), (self.horizon, 1))
            actions[:, 0] += self.turn
            connection.send(msgpack.packb({"actions": actions, "policy_timing": {"infer_ms": 1.0}}, default=dump))


@pytest.mark.parametrize(("wire", "shape"), [("plain", (SIZE, SIZE, 3)), ("openpi", (3, SIZE, SIZE))])
def test_a_strangers_server_is_rolled_out_at_its_own_horizon(wire, shape):
    stranger = Stranger(horizon=7)
    settings = evaluate.Settings(TASK, trials=2, backend="native", limit_s=0.28)
    with raw(stranger) as (url, count):
        remote = served.ServedPolicy("toy", url, SHORT._replace(wire=wire), evaluate.instructions(settings))
        found = evaluate.run_all({"toy": evaluate.Candidate(remote, remote.sensor)}, settings)["toy"]
        remote.close()
    assert len(stranger.requests) == 2 * 2 and len(count) <= SHORT.connections
    for request in stranger.requests:
        assert request.keys() == {"state", "images", "prompt"} and request["prompt"] == INSTRUCTION
        assert set(request["images"]) == set(CAMERAS if wire == "plain" else OPENPI)
        assert all(image.shape == shape and image.dtype == np.uint8 for image in request["images"].values())
    states = [request["state"] for request in stranger.requests]
    assert found.actions.shape == (2, 14, 14)
    np.testing.assert_allclose(found.actions[:, 0], [states[0] + 0.1 * np.eye(14)[0]] * 2, atol=1e-5)
    assert (found.actions[:, 7, 0] > found.actions[:, 6, 0]).all(), "it was asked again after its 7 commands"
    np.testing.assert_array_equal(found.actions[:, 0], found.actions[:, 6])


def test_images_are_turned_and_each_trial_gets_its_own_reply():
    server = Scripted({}, repeats(2))
    with raw(server) as (url, _):
        remote = policy(url, 7, wire="openpi")
        given = observation(7)
        given = given._replace(rgb=np.random.default_rng(0).integers(0, 256, given.rgb.shape, np.uint8))
        chunks = remote(given, keys(7))
        remote.close()
    np.testing.assert_array_equal(chunks[:, :, 0], np.repeat(np.float32(np.arange(7) / 10)[:, None], 2, 1))
    for request in server.requests:
        rgb = given.rgb[round(10 * float(request["state"][0]))]
        for number, camera in enumerate(OPENPI):
            np.testing.assert_array_equal(request["images"][camera][2], rgb[number, :, :, 2])


def test_a_server_that_describes_itself_gets_everything_and_the_trials_seed():
    server = Scripted(
        {"protocol_version": 1, "image_size": [6, 8], "cameras": list(CAMERAS[::-1][:2]), "sensor": FAULTS, "policy_id": 7},
        lambda request, _: [{"actions": np.tile(request["state"], (5, 1)), "request_id": request["request_id"]}],
    )
    with raw(server) as (url, _):
        remote = policy(url, image_size=(60, 80))
        assert remote.sensor == SensorConfig(6, 8, **FAULTS)
        given = observation()
        assert remote(given, keys()).shape == (2, 5, 14)
        remote.close()
    seeds = {round(10 * float(request["state"][0])): request["seed"] for request in server.requests}
    assert seeds == {i: int(rollout.noise_seed(key)) for i, key in enumerate(keys())}
    request = server.requests[0]
    assert list(request["images"]) == list(request["depth_m"]) == list(CAMERAS[::-1][:2]) and request["prompt"] == INSTRUCTION
    assert request["past_actions"].shape == (HISTORY, 14) and request["past_mask"].all()
    np.testing.assert_array_equal(request["calibration"]["parent_from_camera"], given.calibration.parent_from_camera[0, [3, 2]])


def test_a_busy_server_is_asked_again():
    def answer(request, number):
        if number <= 2:
            return [f"0123abcd: busy: request {request['request_id']}: 16 requests are waiting"]
        return [{"actions": np.zeros((5, 14)), "request_id": request["request_id"]}]

    with raw(Scripted({"protocol_version": 1}, answer)) as (url, _):
        remote = policy(url, connections=1)
        assert remote(observation(), keys()).shape == (2, 5, 14)
        remote.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda *_: ["Traceback ...\nKeyError: 'depth'"], "trial 0: Traceback ...\nKeyError: 'depth'"),
        (lambda *_: [{"action": 1}], r"trial 0: the reply has \['action'\]; expected 'actions'"),
        (lambda *_: [{"actions": "none"}], "no array of numbers"),
        (lambda *_: [{"actions": [[1.0], [1.0, 2.0]]}], "no array of numbers"),
        (lambda *_: [{"actions": np.zeros((50, 7))}], r"shape \(50, 7\); expected \(t, 14\)"),
        (lambda *_: [{"actions": np.zeros((0, 14))}], r"shape \(0, 14\)"),
        (lambda *_: [{"actions": np.zeros((2, 5, 14))}], r"shape \(2, 5, 14\)"),
        (lambda *_: [{"actions": np.where(np.eye(14), np.nan, 0)}], "14 of 196 values of its actions are not finite"),
        (lambda *_: [{"actions": np.full((5, 14), 1e300)}], "not finite"),
        (lambda r, _: [{"actions": np.zeros((3 + round(10 * r["state"][0]), 14))}], "trial 1: it answered 4 commands, and 3 in trial 0"),
        (lambda *_: [], "trial 0: no reply from ws://.* within 0.3 s"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")  # what 1e300 is in float32
def test_wrong_replies_are_errors_that_name_the_trial(answer, words):
    with raw(Scripted({}, answer)) as (url, _):
        remote = policy(url, timeout_s=0.3 if "no reply" in words else 20)
        with pytest.raises(served.ServedError, match=words) as found:
            remote(observation(), keys())
        assert f"policy 'toy' at {url}, trial" in str(found.value)
        remote.close()


def test_a_server_that_came_back_with_another_policy_ends_the_evaluation():
    def one_reply(connection):
        connection.send(msgpack.packb({"protocol_version": 1, "policy_id": f"number {len(count)}"}))
        asked = msgpack.unpackb(connection.recv())
        connection.send(msgpack.packb({"actions": [[0.0] * 14] * 5, "request_id": asked["request_id"]}))

    with raw(one_reply) as (url, count):
        remote = policy(url, 1, connections=1)
        assert remote(observation(1), keys(1)).shape == (1, 5, 14)
        with pytest.raises(served.ServedError, match="trial 0: (.*lost|the server now has policy number 2, it began with number 1)"):
            remote(observation(1), keys(1))
        remote.close()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"image_size": [480]}, "image_size is .480.; expected height and width"),
        ({"image_size": [0, 640]}, "image_size"),
        ({"image_size": "big"}, "image_size is big"),
        ({"cameras": ["top"]}, "asks for the cameras .*top.*; the simulator has overhead"),
        ({"cameras": []}, "asks for the cameras"),
        ({"sensor": {"fog": 1}}, "`sensor` is .*fog.*; expected a map of near_m"),
        ({"sensor": 3}, "`sensor` is 3"),
        ({"instruction": "juggle"}, "it is for 'juggle'; the trials' instructions are"),
    ],
)
def test_metadata_that_the_simulator_cannot_serve(told, words):
    with raw(Scripted({"protocol_version": 1} | told, lambda *_: [])) as (url, _), pytest.raises(served.ServedError, match=words):
        policy(url)


def test_names_and_addresses():
    assert served.parse("ws://127.0.0.1:8000") == ("127.0.0.1:8000", "ws://127.0.0.1:8000")
    assert served.parse("mine=wss://a.b/c?d=e") == ("mine", "wss://a.b/c?d=e")
    for wrong in ("checkpoint", "http://a:1", "a=b", "ws://", "=ws://a:1", "holdstill"):
        with pytest.raises(ValueError, match=f"policy '{wrong}' is not known; expected hold_still"):
            served.parse(wrong)


def arguments(path, *policies, limit_s="0.2"):
    return ["--task", TASK, "--backend", "native", "--trials", "2", "--limit-s", limit_s, "--image-size", str(SIZE), str(SIZE)] + [
        *("--json", str(path), "--policy", *policies)
    ]


def test_the_report_names_the_server_and_compares_each_pair(tmp_path, capsys):
    with raw(Stranger(horizon=4)) as (url, _):
        assert evaluate.main(arguments(tmp_path / "out.json", f"one={url}", f"two={url}")) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert list(report["success"]) == ["one", "two"]
    assert report["served"]["two"] == {"url": url, "wire": "plain", "policy_id": None}
    counts = {"both": 0, "first_only": 0, "second_only": 0, "neither": 2, "p_value": 1.0}
    assert report["pairs"] == [{"first": "one", "second": "two"} | counts]
    assert "one and two: 0 by one alone, 0 by two alone, exact McNemar p = 1" in capsys.readouterr().out


def test_no_server_and_one_that_dies_midway_leave_nothing_behind(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(served, "CONNECT_S", 0.2)
    with socket.socket() as taken:  # bound but not listening: refuses at once
        taken.bind(("127.0.0.1", 0))
        address = f"ws://127.0.0.1:{taken.getsockname()[1]}"
        assert evaluate.main(arguments(tmp_path / "out.json", address)) == 1
    assert f"no connection to {address}" in capsys.readouterr().err

    class Dies(Stranger):
        def __call__(self, connection):
            connection.send(msgpack.packb({}))
            for number, _ in enumerate(connection):
                if number == 2:
                    return
                connection.send(msgpack.packb({"actions": [[0.0] * 14] * 5}))

    monkeypatch.setattr(served, "CONNECT_S", 30.0)
    with raw(Dies(horizon=5)) as (url, _):
        assert evaluate.main(arguments(tmp_path / "out.json", f"toy={url}", "--connections", "1", limit_s="1")) == 1
    assert f"policy 'toy' at {url}, trial 0: connection to {url} was lost" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_noise_seeds_are_those_that_memory_draws_by():
    found = jax.vmap(rollout.noise_seed)(keys(50))
    assert found.dtype == jnp.uint32 and len(set(np.asarray(found).tolist())) == 50
    echo = deployed.Act(lambda params, seen: seen.joints, lambda params, memory, noise, frozen=None: noise)
    actions = evaluate.batched(echo, {})(observation(), keys())
    drawn = [jax.random.normal(jax.random.key(int(seed)), (50, 14)) for seed in jax.vmap(rollout.noise_seed)(keys())]
    np.testing.assert_array_equal(actions, np.clip(np.stack(drawn), rollout.LOWEST, rollout.HIGHEST))


def test_commands_are_held_to_what_our_server_holds_them_to():
    np.testing.assert_array_equal(action_limits(deployed.specification()), (rollout.LOWEST, rollout.HIGHEST))
    with raw(Scripted({}, lambda *_: [{"actions": np.full((3, 14), 9.0)}])) as (url, _):
        remote = policy(url)
        np.testing.assert_array_equal(remote(observation(), keys())[1], np.tile(rollout.HIGHEST, (3, 1)))
        remote.close()
