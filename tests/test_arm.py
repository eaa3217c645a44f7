"""An arm's goals against its servos' limits, without a bus: a thread would draw random numbers under hypothesis' hands."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clamp_jax.deploy.robots import arms, emulator
from clamp_jax.deploy.robots import registers as reg
from clamp_jax.deploy.robots.arm import Arm
from clamp_jax.deploy.robots.dynamixel import BusFault

LEADERS = {servo.id: servo for servo in arms.LEADERS}


class DirectLine:
    """A line to emulated servos without a port or a thread; keeps what is written to all of them at once."""

    def __init__(self, path, side, names, patience_s=0.0):
        self.servos, self.sent, self._side = emulator.servos_of_an_arm(), [], side

    def name(self, identity):
        return f"{self._side} (id {identity})"

    def sync_write(self, register, values):
        self.sent.append((register, dict(values)))
        for identity, value in values.items():
            error = self.servos[identity].write(register.address, value.to_bytes(register.size, "little"))
            assert error == 0, f"id {identity} refuses {value} in register {register.address} with error {error}"

    def sync_read(self, address, size, ids):
        return {identity: self.servos[identity].read(address, size)[1] for identity in ids}

    def close(self):
        pass


@given(st.lists(st.floats(-1e300, 1e300) | st.floats(-4, 4), min_size=14, max_size=14))
@settings(max_examples=100, deadline=None)
def test_no_goal_outside_a_servos_limits_is_ever_sent(action):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clamp_jax.deploy.robots.arm.Line", DirectLine)
        arm = Arm("nowhere", "left")
    arm.command(action[:7])
    arm.hold(action[7:], 0.1)
    goals = [values for register, values in arm._line.sent if register == reg.GOAL_POSITION]
    assert len(goals) == 3  # where it was found, the command, the hold
    for values in goals:
        assert values.keys() == LEADERS.keys()
        assert all(LEADERS[each].low <= ticks <= LEADERS[each].high for each, ticks in values.items())


def test_a_joint_that_would_leap_gets_no_torque(monkeypatch):
    lines = []

    class Pushed(DirectLine):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.servos[2].move(700.0, 0.0)  # 141 ticks past its least
            lines.append(self)

    monkeypatch.setattr("clamp_jax.deploy.robots.arm.Line", Pushed)
    with pytest.raises(BusFault, match="left \\(id 2\\): stands 0.22 rad from where it would be held"):
        Arm("nowhere", "left")
    assert not any(servo.get(reg.TORQUE) for servo in lines[0].servos.values())


def test_the_torque_may_set_the_goal_anew(monkeypatch):
    class Sagging(DirectLine):
        def sync_write(self, register, values):
            if register == reg.TORQUE:
                for identity in (4, 5):
                    self.servos[identity].move(2060.0, 0.0)
            super().sync_write(register, values)

    monkeypatch.setattr("clamp_jax.deploy.robots.arm.Line", Sagging)
    arm = Arm("nowhere", "left")
    for _ in range(9):
        arm.joints()  # looks after each servo in turn
    assert arm._goals[4] == 2060
