"""The driver of real arms on emulated buses: the vendor's SDK speaks to servos that refuse what real ones refuse."""

import contextlib

import numpy as np
import pytest

from clamp_jax.deploy.cameras import Frame
from clamp_jax.deploy.robots import SLEEP, Robot, RobotLost, arms, emulator, packets
from clamp_jax.deploy.robots import registers as reg
from clamp_jax.deploy.robots.arm import Motion
from clamp_jax.deploy.robots.dynamixel import BusFault, Line
from clamp_jax.deploy.robots.viperx import ViperX
from clamp_jax.geometry import aloha
from experiments.cell_bus import SharedPlant
from experiments.torture import bus as torture

HOME = np.tile([*aloha.HOME_COMMAND[:6], 0.5], 2)
PATIENT = Motion(watchdog_s=2.0, patience_s=2.0)


@pytest.fixture(scope="module")
def cell():
    with torture.cell() as made:
        yield made


@contextlib.contextmanager
def one_bus_changed(**changed):
    """Paths of two buses of which the left one's servos are set up otherwise."""
    with contextlib.ExitStack() as stack:
        buses = [stack.enter_context(emulator.Bus(emulator.servos_of_an_arm(**each), baud=None)) for each in (changed, {})]
        yield dict(zip(aloha.SIDES, (bus.path for bus in buses), strict=True))


def test_it_is_a_robot_that_is_where_its_servos_are(cell):
    assert isinstance(cell.robot, Robot)
    at = np.array([bus.joint_positions() for bus in cell.buses.values()])
    joints = cell.robot.joints().reshape(2, 7)
    np.testing.assert_allclose(joints[:, :6], at[:, :6], atol=reg.RAD_PER_TICK)
    np.testing.assert_allclose([arms.horn_from_gripper(each) for each in joints[:, 6]], at[:, 6], atol=reg.RAD_PER_TICK)


def test_a_command_is_reached_and_shadows_are_told_too(cell):
    wanted = HOME + np.linspace(-0.05, 0.05, 14)
    for _ in range(25):
        torture.time.sleep(0.02)
        cell.robot.joints()
        cell.robot.command(wanted)
    np.testing.assert_allclose(cell.robot.joints(), wanted, atol=0.02)
    for bus in cell.buses.values():
        for servo in arms.SERVOS:
            assert bus.servos[servo.id].get(reg.TORQUE) == 1
            if servo.follows:
                assert bus.servos[servo.id].get(reg.GOAL_POSITION) == bus.servos[servo.follows].get(reg.GOAL_POSITION)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_before_anything_is_sent(cell, bad):
    before = [bus.joint_goals() for bus in cell.buses.values()]
    action = HOME.copy()
    action[13] = bad
    with pytest.raises(ValueError, match="expected 14 finite numbers"):
        cell.robot.command(action)
    assert before == [bus.joint_goals() for bus in cell.buses.values()]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"id2": {reg.MIN_POSITION: 700}}, "left shoulder \\(id 2\\): its least position is 700, wider than 841"),
        ({"id7": {reg.MAX_POSITION: 3000}}, "left wrist_angle \\(id 7\\): its greatest position is 3000, narrower than 3504"),
        ({"id4": {reg.DRIVE_MODE: 0}}, "left elbow \\(id 4\\): its drive mode is 0, expected 1"),
        ({"id5": {reg.SECONDARY_ID: 255}}, "left elbow shadow \\(id 5\\): its secondary id is 255, expected 4"),
        ({"id9": {reg.OPERATING_MODE: 16}}, "left gripper \\(id 9\\): its operating mode is 16, expected 3"),
        ({"id1": {reg.RETURN_DELAY: 250}}, "left waist \\(id 1\\): its return delay is 250, expected 0"),
    ],
)
def test_an_arm_that_is_set_up_otherwise_is_refused(changed, words):
    with one_bus_changed(**changed) as ports, pytest.raises(BusFault, match=words):
        ViperX(ports, motion=PATIENT)


def test_a_port_that_is_not_there_is_named():
    with pytest.raises(BusFault, match="all left joints .* /dev/no_such_port"):
        ViperX({"left": "/dev/no_such_port", "right": "/dev/no_other"})
    with pytest.raises(ValueError, match="one each for left and right"):
        ViperX({"left": "/dev/no_such_port"})


@pytest.mark.parametrize("name", ["overload", "silent", "damaged", "refuses", "slipped", "unplugged", "stalled"])
def test_a_fault_ends_in_a_hold_and_names_joint_and_cause(name):
    found = torture.torture(1, seed=3, names=(name,))
    assert found["good"], found["wrong"]


def test_a_driver_that_does_not_look_is_found_out(monkeypatch):
    monkeypatch.setattr("clamp_jax.deploy.robots.arm.Arm._look_after", lambda self, servo: None)
    monkeypatch.setattr(torture, "TICKS", 12)
    found = torture.torture(1, names=("refuses",))
    assert not found["good"] and "not seen" in found["wrong"][0]


def test_rest_ends_in_the_sleep_pose_and_only_there_the_torque_goes():
    with contextlib.ExitStack() as stack:
        start = [*(SLEEP[:6] + 0.05).tolist(), arms.horn_from_gripper(0.1)]
        buses = [stack.enter_context(emulator.Bus(emulator.servos_of_an_arm(), emulator.ToyPlant(start))) for _ in range(2)]
        ports = dict(zip(aloha.SIDES, (bus.path for bus in buses), strict=True))
        robot = ViperX(ports, motion=PATIENT)
        robot.command(np.tile([*(SLEEP[:6] + 0.2), 0.1], 2))
        for _ in range(15):
            torture.time.sleep(0.02)
            robot.joints()
        robot.close()
        assert all(servo.get(reg.TORQUE) for bus in buses for servo in bus.servos.values())
        with ViperX(ports, motion=PATIENT) as robot:
            robot.rest()
            np.testing.assert_allclose(robot.joints()[:6], SLEEP[:6], atol=0.02)
        assert not any(servo.get(reg.TORQUE) for bus in buses for servo in bus.servos.values())


def test_arms_are_let_go_after_a_confirmation_alone_and_take_hold_where_they_were_moved():
    with torture.cell() as (buses, robot):
        servos = [servo for bus in buses.values() for servo in bus.servos.values()]
        robot.command(robot.joints())
        with pytest.raises(ValueError, match="hold both, then pass held=True"):
            robot.let_go(held=False)
        assert all(servo.get(reg.TORQUE) for servo in servos)
        robot.let_go(held=True)
        assert not any(servo.get(reg.TORQUE) for servo in servos)
        with pytest.raises(ValueError, match="left arm has no torque"):
            robot.command(HOME)
        for bus in buses.values():
            with bus.lock:
                bus.plant._at[0] += 0.2  # a hand turns both waists
        for _ in range(12):  # looks after every servo: no goal is missed, no watchdog trips
            torture.time.sleep(0.02)
            moved = robot.joints()
        np.testing.assert_allclose(moved[[0, 7]], HOME[[0, 7]] + 0.2, atol=0.01)
        robot.take_hold()
        assert all(servo.get(reg.TORQUE) for servo in servos)
        robot.command(moved)
        np.testing.assert_allclose(robot.joints(), moved, atol=0.01)


def test_it_sees_with_the_cameras_that_it_is_given(cell):
    with pytest.raises(RobotLost, match="without cameras"):
        cell.robot.observe()
    frame = Frame(np.zeros((4, 6, 3), np.uint8), np.ones((4, 6), np.float32), 1.0, np.ones(4), np.zeros(5))

    class Lens:
        def frames(self):
            return {"overhead": frame}

    cell.robot._cameras, cell.robot._calibration = Lens(), {"intrinsics": {}}
    seen = cell.robot.observe()
    cell.robot._cameras = None
    assert seen["images"]["overhead"] is frame.rgb and seen["depth_m"]["overhead"] is frame.depth_m
    assert seen["state"].shape == (14,) and seen["calibration"] == {"intrinsics": {}}


def test_a_request_has_the_joints_of_the_moment_of_its_images(monkeypatch):
    frames = {}
    with torture.cell() as cell:
        monkeypatch.setattr(cell.robot, "_cameras", type("Cameras", (), {"frames": lambda self: frames})())
        monkeypatch.setattr(cell.robot, "_calibration", {})
        before = cell.robot.joints()
        taken_s = torture.time.monotonic()
        for step in range(1, 11):
            torture.time.sleep(0.02)
            cell.robot.command(before + 0.02 * step)
            after = cell.robot.joints()
        assert np.abs(after - before).max() > 0.03
        for moment, joints in ((taken_s, before), (torture.time.monotonic(), after)):
            frames["overhead"] = Frame(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.float32), moment, np.ones(4), np.zeros(5))
            np.testing.assert_allclose(cell.robot.observe()["state"], joints, atol=1e-6)


def test_the_gripper_is_linear_in_the_fingers_position():
    for rad in np.linspace(-0.62, 1.45, 30):
        assert arms.horn_from_gripper(arms.gripper_from_horn(rad)) == pytest.approx(rad, abs=1e-6)
    assert arms.slide_m(1.4910) == pytest.approx(0.0580, abs=2e-4)  # ALOHA's constants: open and closed, horn and slide
    assert arms.slide_m(-0.6213) == pytest.approx(0.01844, abs=2e-4)
    fingers = [arms.slide_m(arms.horn_from_gripper(value)) for value in (0.0, 0.5, 1.0)]
    assert fingers[1] - fingers[0] == pytest.approx(fingers[2] - fingers[1], abs=1e-9)
    assert fingers[2] - fingers[0] == pytest.approx(aloha.GRIPPER_OPEN_M - aloha.GRIPPER_CLOSED_M, abs=1e-9)


def test_both_buses_move_one_simulated_body():
    class Body:
        """Follows at once; one step is one control period."""

        def __init__(self):
            self.at, self.steps = HOME.copy(), 0

        def step(self, action):
            self.at, self.steps = np.array(action), self.steps + 1

        def joints(self):
            return self.at

        def snapshot(self):
            return None

        def sense(self, snapshot):
            return {}

        def status(self):
            return {}

    body = Body()
    shared = SharedPlant(body)
    with contextlib.ExitStack() as stack:
        buses = [stack.enter_context(emulator.Bus(emulator.servos_of_an_arm(), shared.side(number))) for number in range(2)]
        robot = stack.enter_context(ViperX(dict(zip(aloha.SIDES, (bus.path for bus in buses), strict=True)), motion=PATIENT))
        wanted = HOME + np.linspace(-0.05, 0.05, 14)
        for _ in range(30):
            torture.time.sleep(0.02)
            robot.joints()
            robot.command(wanted)
        np.testing.assert_allclose(body.at, wanted, atol=0.01)
        np.testing.assert_allclose(robot.joints(), body.at, atol=0.01)
    assert body.steps > 10


def test_a_late_answer_to_another_question_is_not_taken_for_this_ones():
    with emulator.Bus(emulator.servos_of_an_arm(), baud=None) as bus:
        line = Line(bus.path, "left", {1: "waist"}, patience_s=2.0)
        late = packets.encode_status(1, 0, bus.servos[1].read(0, 71)[1]) + packets.encode_status(1, 0, bytes(10))
        sent = line._packets.syncReadTx
        for _ in range(5):

            def send(*args, sent=sent):
                sent(*args)
                with bus.lock:
                    torture.emulator.os.write(bus._master, late)

            line._packets.syncReadTx = send
            found = line.sync_read(126, 10, [1])[1]
            assert int.from_bytes(found[6:], "little") == reg.CENTRE
        line.close()
