"""The emulated servos refuse what real ones refuse, asked by the vendor's SDK; sources in servo.py."""

import time

import dynamixel_sdk
import pytest

from clamp_jax.deploy.robots import emulator, packets
from clamp_jax.deploy.robots import registers as reg
from clamp_jax.deploy.robots.profile import Profile
from clamp_jax.deploy.robots.servo import Servo

SDK = dynamixel_sdk.PacketHandler(2.0)


@pytest.fixture
def wire():
    """(bus, port) of an arm."""
    with emulator.Bus(emulator.servos_of_an_arm(), baud=None) as bus:
        port = dynamixel_sdk.PortHandler(bus.path)
        assert port.openPort()
        yield bus, port
        port.closePort()


def answered(request):
    """What comes back to a request, asked again when the machine was too slow for the SDK's 34 ms."""
    for _ in range(20):
        answer = request()
        if answer[-2] == dynamixel_sdk.COMM_SUCCESS:
            return answer
        time.sleep(0.02)
    raise AssertionError(f"no answer: {SDK.getTxRxResult(answer[-2])}")


def write(port, identity, register, value):
    """The error that a write is answered with."""
    data = list(value.to_bytes(register.size, "little"))
    return answered(lambda: SDK.writeTxRx(port, identity, *register, data))[-1]


def read(port, identity, register):
    data, _, _ = answered(lambda: SDK.readTxRx(port, identity, *register))
    return int.from_bytes(bytes(data), "little")


def test_everyone_answers_a_ping_and_nobody_else(wire):
    bus, port = wire
    for identity in bus.servos:
        assert answered(lambda identity=identity: SDK.ping(port, identity))[0] == 1120
    assert SDK.ping(port, 77)[1] == dynamixel_sdk.COMM_RX_TIMEOUT


def test_a_goal_outside_the_limits_is_refused_and_the_old_one_stays(wire):
    bus, port = wire
    assert write(port, 2, reg.GOAL_POSITION, 2048) == packets.OK
    assert write(port, 2, reg.GOAL_POSITION, 2868) == packets.DATA_LIMIT
    assert write(port, 2, reg.GOAL_POSITION, 840) == packets.DATA_LIMIT
    assert read(port, 2, reg.GOAL_POSITION) == 2048


def test_the_eeprom_is_shut_while_the_torque_is_on(wire):
    _, port = wire
    assert write(port, 1, reg.MIN_POSITION, 10) == packets.OK
    assert write(port, 1, reg.TORQUE, 1) == packets.OK
    assert write(port, 1, reg.MIN_POSITION, 20) == packets.ACCESS
    assert read(port, 1, reg.MIN_POSITION) == 10


def test_wrong_writes_have_the_protocols_errors(wire):
    _, port = wire
    assert answered(lambda: SDK.writeTxRx(port, 1, 116, 2, [0, 8]))[-1] == packets.DATA_LENGTH
    assert write(port, 1, reg.PRESENT_POSITION, 5) == packets.ACCESS
    assert write(port, 1, reg.TORQUE, 2) == packets.DATA_RANGE
    assert answered(lambda: SDK.readTxRx(port, 1, 140, 20))[-1] == packets.ACCESS


def test_the_watchdog_counts_trips_and_shuts_the_goals_until_it_is_cleared(wire):
    bus, port = wire
    write(port, 1, reg.TORQUE, 1)
    assert write(port, 1, reg.WATCHDOG, 20) == packets.OK  # 0.4 s
    assert write(port, 1, reg.GOAL_POSITION, 2100) == packets.OK
    time.sleep(0.6)
    assert read(port, 1, reg.WATCHDOG) == reg.TRIPPED
    assert write(port, 1, reg.GOAL_POSITION, 2048) == packets.DATA_RANGE
    assert write(port, 1, reg.WATCHDOG, 0) == packets.OK
    assert write(port, 1, reg.GOAL_POSITION, 2048) == packets.OK


def test_an_overload_takes_the_torque_until_a_reboot_and_is_told_with_each_answer(wire):
    bus, port = wire
    write(port, 4, reg.TORQUE, 1)
    with bus.lock:
        bus.servos[4].fail(reg.OVERLOAD)
    error = answered(lambda: SDK.readTxRx(port, 4, *reg.TORQUE))
    assert error[0] == [0] and error[2] == packets.ALERT
    assert read(port, 4, reg.HARDWARE_ERROR) == reg.OVERLOAD
    assert write(port, 4, reg.TORQUE, 1) == packets.ALERT | packets.ACCESS
    answered(lambda: (SDK.reboot(port, 4)))
    assert write(port, 4, reg.TORQUE, 1) == packets.OK


def test_a_registered_write_waits_for_the_action(wire):
    bus, port = wire
    answered(lambda: SDK.regWriteTxRx(port, 6, 116, 4, list((1500).to_bytes(4, "little"))))
    assert read(port, 6, reg.GOAL_POSITION) != 1500
    SDK.action(port, packets.BROADCAST)
    assert read(port, 6, reg.GOAL_POSITION) == 1500


def test_a_damaged_instruction_is_answered_with_a_checksum_error(wire):
    bus, _ = wire
    whole = bytearray(packets.encode(1, packets.PING))
    whole[-1] ^= 1
    with bus.lock:
        answers = [answer for packet in packets.Parser().feed(bytes(whole)) for answer in bus._answers(packet)]
    assert [packet.error for packet in packets.Parser().feed(answers[0])] == [packets.CRC]


def test_a_watchdog_needs_silence_and_torque():
    servo = Servo(1, {})
    servo.set(reg.WATCHDOG, 5)
    servo.hear(0.0)
    servo.watch(10.0)
    assert servo.get(reg.WATCHDOG) == 5  # no torque
    servo.hear(10.0)
    servo.set(reg.TORQUE, 1)
    for moment in range(100):
        servo.hear(10 + 0.09 * moment)
    assert servo.get(reg.WATCHDOG) == 5
    servo.heard_at = 10.0
    servo.watch(10.099)
    assert servo.get(reg.WATCHDOG) == 5
    servo.watch(10.101)
    assert servo.get(reg.WATCHDOG) == reg.TRIPPED


@pytest.mark.parametrize("acceleration", [0.0, 20.0])
def test_a_profile_keeps_its_limits_and_arrives(acceleration):
    path, before, speed = Profile(0.0), 0.0, 0.0
    for _ in range(1000):
        at = path.towards(1.0, 0.002, speed=2.0, acceleration=acceleration)
        now = (at - before) / 0.002
        assert abs(now) <= 2.0 + 1e-9 and at <= 1.0 + 1e-6
        assert not acceleration or abs(now - speed) <= 20.0 * 0.002 * 1.001
        before, speed = at, now
    assert before == pytest.approx(1.0, abs=1e-4)
