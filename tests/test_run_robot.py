"""A robot in its own process, driven through server and client; the export of a run; the commands."""

import datetime
import json
import multiprocessing
import signal
import threading
from types import SimpleNamespace

import deployed
import jax.numpy as jnp
import numpy as np
import pytest
from toy_plant import ToyPlant

from clamp_jax.deploy import artifact, control, protocol, request
from clamp_jax.deploy.client import Client, Refused
from clamp_jax.deploy.robots import SLEEP, Robot, RobotLost, path_to
from clamp_jax.deploy.robots.simulated import Faults, SimulatedRobot, _Body
from clamp_jax.deploy.safety import Safety, aloha_limits
from clamp_jax.deploy.server import Settings, serving
from clamp_jax.geometry import kinematics
from experiments import driving, export, serve, simulated_cell

WAIT_S = 60


@pytest.fixture(scope="module")
def robot():
    with SimulatedRobot(ToyPlant, {"extra": {"calibration_id": request.calibration_id(deployed.specification())}}) as robot:
        yield robot


def test_robot_in_its_own_process(robot):
    assert isinstance(robot, Robot)
    np.testing.assert_array_equal(robot.joints(), deployed.HOME)
    goal = deployed.HOME + 0.01
    robot.command(goal)
    while not robot.status()["success"]:  # physics takes it over at its next step
        pass
    np.testing.assert_array_equal(robot.joints(), goal)
    seen = robot.observe()
    assert seen["seed"] >= 1 and seen["images"]["wrist_left"].max() == 2
    np.testing.assert_array_equal(seen["state"], goal.astype(np.float32))
    robot.command(deployed.HOME)


def test_another_thread_can_observe_while_commands_are_answered(robot):
    seen = []
    eyes = threading.Thread(target=lambda: seen.extend(robot.observe()["seed"] for _ in range(5)))
    eyes.start()
    for _ in range(20):
        robot.command(deployed.HOME)
    eyes.join(WAIT_S)
    assert len(seen) == 5 and seen == sorted(seen)


def test_a_robot_that_cannot_start_says_why_and_its_process_ends():
    with pytest.raises(RobotLost, match="ValueError: no such task"):
        SimulatedRobot(ToyPlant, {"fails": "no such task"})
    robot = SimulatedRobot(ToyPlant, {})
    robot.close()
    assert robot._process.exitcode == 0
    for use in (robot.joints, robot.observe):
        with pytest.raises(RobotLost):
            use()


def test_cameras_that_fail_are_told_and_the_robot_goes_on():
    plant, (ours, theirs) = ToyPlant(), multiprocessing.Pipe()
    body, plant.extra = _Body(plant), None
    with ours, theirs:
        ours.send_bytes(b"")
        body.serve_cameras(theirs)
        assert protocol.unpack(ours.recv_bytes()) == {"error": "cameras: RuntimeError: lens cap"}
        ours.send_bytes(protocol.pack({"joints": True}))
        body.serve_commands(theirs)
        np.testing.assert_array_equal(protocol.unpack(ours.recv_bytes())["joints"], deployed.HOME)


def test_late_steps_are_caught_up_with(monkeypatch):
    """Real time, with a clock of the test's own: a stall of five periods costs no step."""
    times = iter([0.0, 0.0, 0.0, 0.0, 0.11, 0.11, 0.11, 0.11, 0.11, 0.11, 0.11, 0.11, 0.11, 0.11, 0.12, 0.12])
    body, waits = _Body(ToyPlant()), []

    class Ended:
        def wait(self, seconds):
            waits.append(seconds)
            return len(waits) > 7

    body.ended = Ended()
    monkeypatch.setattr("clamp_jax.deploy.robots.simulated.time.monotonic", lambda: next(times, 0.12))
    body.live()
    assert body._steps == 7 and body._late >= 3
    np.testing.assert_allclose(waits[:2], [0.0, 0.02])
    assert 0.0 in waits[2:5]


def test_driven_through_server_and_client(robot):
    """The whole chain, ended by what has happened and not by the clock: three chunks, commands that the policy asked for."""
    policy = deployed.StubPolicy()
    with serving(policy, deployed.warm(), Settings(port=0)) as url, Client(url) as client:
        client.connect(WAIT_S)
        times = []
        planner = control.ThreadPlanner(driving.planner(robot, client, times))
        controller = control.Controller(robot, planner, Safety(robot.limits), control.Settings(stale_s=60.0, lead=49))
        report = controller.run(float(WAIT_S), stop=lambda: controller.report().chunks >= 3)
        planner.close()
        assert report.chunks == 3 and len(times) >= 3
        np.testing.assert_allclose(robot.joints(), deployed.HOME, atol=1e-6)
    assert policy.seen[4]["past_mask"].sum() == 0 < policy.seen[6]["past_mask"].sum()
    assert policy.seen[6]["seed"] == 2
    found = driving.summary(report, {"success": True}, times)
    assert found["robot_episode"]["chunks"] == 3 and found["robot_episode"]["success"]
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]
    json.dumps(found)


def test_a_lost_robot_ends_the_episode_and_says_so():
    class Lost:
        limits = aloha_limits()

        def joints(self):
            raise RobotLost("cable")

        def observe(self):
            raise RobotLost("cable")

        def command(self, action):
            raise RobotLost("cable")

        def rest(self):
            pass

    report = driving.drive(Lost(), lambda question: None, driving.Episode("drawer_close"))
    assert not report.completed and report.ticks == 0


def test_rest_is_slow_smooth_and_ends_in_the_sleep_pose():
    path = path_to(SLEEP, deployed.HOME)
    np.testing.assert_array_equal(path[-1], SLEEP)
    speed = np.abs(np.diff(np.vstack([deployed.HOME, path]), axis=0)) * 50
    assert speed.max() <= 0.8 + 1e-9 and speed[[0, -1]].max() < 0.05
    np.testing.assert_array_equal(path_to(SLEEP, SLEEP), SLEEP[None])


def test_the_simulated_cell_is_the_simulators_scene():
    late = {"image_delay_s": 0.3, "joint_delay_s": 0.1, "colour_jitter": 0.3}  # looks are as they are, whatever training draws
    cell = simulated_cell.SimulatedCell("drawer_close", "close the bottom drawer of the jewelry box", 12, 16, seed=1, sensor=late)
    np.testing.assert_allclose(cell.joints(), kinematics.joints_from_qpos(jnp.asarray(cell.snapshot()[0][-1])), atol=1e-5)
    goal, measured = cell.joints(), []
    goal[0] += 0.2
    for _ in range(50):
        cell.step(goal)
        measured.append(cell.joints())
    assert abs(cell.joints()[0] - goal[0]) < 0.05 and abs(cell.status()["time_s"] - 1.0) < 1e-6
    assert not cell.status()["success"]
    seen = cell.sense(cell.snapshot())
    assert seen["images"]["overhead"].shape == (12, 16, 3) and (seen["depth_m"]["overhead"] > 0.3).mean() > 0.3
    assert {"images", "depth_m", "state", "calibration"} == seen.keys()
    np.testing.assert_allclose(seen["state"], measured[-6], atol=1e-5)
    states, step = cell.snapshot()
    assert (len(states), step) == (51, 50)
    stood = cell.sense((np.repeat(states[-16:-15], 51, axis=0), step))  # as if the robot had stopped where the images show it
    for name, image in seen["images"].items():
        np.testing.assert_array_equal(image, stood["images"][name])
    with pytest.raises(ValueError, match="task 'drawer_close' has"):
        simulated_cell.SimulatedCell("drawer_close", "open the fridge", 12, 16, seed=1)


def test_a_server_tells_with_which_sensors_its_policy_was_trained():
    about = deployed.description(training={"step": 3, "sensor": {"image_delay_s": 0.3}})
    spec = artifact.make_spec({}, about, today=datetime.date(2026, 1, 31))
    assert protocol.unpack(protocol.pack(request.metadata(spec)))["sensor"] == {"image_delay_s": 0.3}
    assert request.metadata(deployed.specification())["sensor"] == {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return artifact.write_artifact(tmp_path_factory.mktemp("artifacts") / "policy", deployed.act, deployed.params(), deployed.description())


def test_serve_in_its_own_process_and_sigterm(folder):
    with serve.server_process(folder, ready_s=WAIT_S) as url:
        with Client(url) as client:
            inputs = artifact.example_inputs(client.connect(WAIT_S), seed=3)
            reply = client.infer(deployed.message(seed=3, state=inputs["joints"][0]), timeout_s=WAIT_S)
            assert np.isfinite(reply["actions"]).all()


def test_commands_refuse_with_one_line(folder, tmp_path, capsys):
    assert serve.main(["--artifact", str(tmp_path / "no")]) == 1
    assert serve.main(["--artifact", str(folder), "--host", "0.0.0.0"]) == 1
    assert serve.main(["--artifact", str(folder), "--instruction", "fly"]) == 1
    assert export.main(["--verify", str(tmp_path / "no")]) == 1
    assert export.main(["--checkpoint", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 5 and not (tmp_path / "out").exists()
    expected = ("manifest.json is missing", "API key", "'fly'", "manifest.json is missing", "no checkpoint")
    for line, found in zip(errors, expected, strict=True):
        assert found in line
    assert export.main(["--verify", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out)["difference"] <= 1e-6


def test_commands_are_late_lost_and_readings_noisy_as_asked_and_the_same_each_time(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("clamp_jax.deploy.robots.simulated.time.monotonic", lambda: clock[0])
    bodies = [_Body(ToyPlant(), Faults(latency_s=0.05, noise_rad=0.01, loss=0.25, seed=3)) for _ in range(2)]
    readings, lost = [], 0
    for number in range(400):
        clock[0] = 0.02 * number
        goal = np.full(14, number / 1e4)
        for body in bodies:
            body._send(goal)
            arrived = body._arrived(clock[0])
        assert arrived is None or arrived[0] * 1e4 <= number - 2.5  # 50 ms are two and a half periods
        pair = [body._reading() for body in bodies]
        np.testing.assert_array_equal(*pair)
        readings.append(pair[0])
    lost = sum(np.array_equal(a, b) for a, b in zip(readings, readings[1:], strict=False))
    assert 60 < lost < 140 and bodies[0]._lost > 150
    assert np.std(np.array(readings) - deployed.HOME) == pytest.approx(0.01, rel=0.1)


def test_faults_that_are_none_are_refused():
    for faults in (Faults(latency_s=-1), Faults(loss=1.0), Faults(noise_rad=float("nan"))):
        with pytest.raises(ValueError, match="expected a latency"):
            SimulatedRobot(ToyPlant, {}, faults=faults)


def test_another_policy_is_not_obeyed_and_real_time_needs_frozen_actions():
    told = {"policy_id": "a", "instruction": "close"}
    driving.check_same(told, dict(told))
    with pytest.raises(Refused, match="now serves b for 'open', at the start it was a for 'close'"):
        driving.check_same(told, {"policy_id": "b", "instruction": "open"})
    driving.check_execution({"inputs": {}}, "chunk")
    driving.check_execution({"inputs": {"frozen_actions": {}}}, "realtime")
    with pytest.raises(ValueError, match="export it anew"):
        driving.check_execution({"inputs": {}}, "realtime")


def test_the_first_signal_asks_and_the_second_is_as_ever():
    before = signal.getsignal(signal.SIGTERM)
    with driving.Stop() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before


class Elsewhere:
    """A client whose server is another one for some connections: what it says is known only when it connects."""

    def __init__(self, ids):
        self._ids, self._open, self.metadata = list(ids), False, {"policy_id": "ours"}

    def connect(self, timeout_s):
        if not self._open:
            self._open, self.metadata = True, {"policy_id": self._ids.pop(0)}
        return self.metadata

    def infer(self, observation, *, timeout_s):
        return {"actions": np.zeros((50, 14))}

    def close(self):
        self._open = False


def test_a_server_that_comes_back_with_its_policy_is_obeyed_again():
    client = Elsewhere(["another", "another", "ours"])
    robot = SimpleNamespace(observe=dict)
    plan = driving.planner(robot, client, [])
    question = control.Question(np.zeros((50, 14)), np.zeros(50, bool), 0)
    for _ in range(2):
        with pytest.raises(Refused, match="now serves another"):
            plan(question)
    assert plan(question).shape == (50, 14)
