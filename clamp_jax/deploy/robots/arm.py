"""One ViperX on its port: set up as expected or refused, commanded within its servos' own limits, watched servo by servo."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from clamp_jax.deploy.robots import arms
from clamp_jax.deploy.robots import registers as reg
from clamp_jax.deploy.robots.arms import LEADERS, SERVOS, ServoSetup
from clamp_jax.deploy.robots.dynamixel import PATIENCE_S, BusFault, Line, hardware_fault

SET_UP = "set the servo up as docs/cell.md says, or name the right arm"
_BODY = reg.PRESENT_CURRENT.address, 10  # current, velocity and position in one piece
_HEALTH = reg.TORQUE.address, sum(reg.PRESENT_POSITION) - reg.TORQUE.address
_SET_UP_SIZE = sum(reg.HARDWARE_ERROR)  # the EEPROM and somewhat more
IDS = tuple(servo.id for servo in SERVOS)
LEAP_RAD = 0.1  # ours
SHADOW_RAD = 0.1  # ours: two motors of a joint that disagree by more work against each other


class Motion(NamedTuple):
    """How the servos move by themselves towards a goal."""

    speed: float = arms.VELOCITY_LIMIT * reg.VELOCITY_UNIT  # rad/s
    acceleration: float = 60.0  # rad/s^2, as the safety layer's
    watchdog_s: float = 0.5  # ours: 25 control periods without a packet
    patience_s: float = PATIENCE_S  # how long a servo that does not answer is asked again


class Arm:
    """One arm; every method but `close` may raise BusFault."""

    def __init__(self, path: str, side: str, motion: Motion = Motion()):  # noqa: B008 - an immutable tuple
        """Look for all servos, compare them with what is expected, hold the arm where it is with the torque on."""
        self.side, self._motion = side, motion
        names = {servo.id: servo.joint + (" shadow" if servo.follows else "") for servo in SERVOS}
        self._line = Line(path, side, names, patience_s=motion.patience_s)
        self._range: dict[int, tuple[int, int]] = {}
        self._goals: dict[int, int] = {}
        self._turn, self._limp = 0, False
        try:
            self._check_all()
            self.take_hold()
        except BaseException:
            self._line.close()
            raise

    def joints(self) -> list[float]:
        """Measured joints (7,): rad, gripper 0 closed, 1 open. Looks after one more servo each time."""
        ticks = self._ticks()
        self._look_after(SERVOS[self._turn % len(SERVOS)])
        self._turn += 1
        return _joints(ticks)

    def command(self, action: Sequence[float]) -> None:
        """Set the goal (7,); one packet. What lies outside the servos' limits stops at them; nothing is sent that is not finite.

        ValueError for an arm that was released.
        """
        if self._limp:
            raise ValueError(f"the {self.side} arm has no torque: it takes commands after take_hold() alone")
        self._send(self._to_goals(action))

    def hold(self, measured: Sequence[float], tracking_rad: float) -> None:
        """Keep the last goals that the arm tracks, latch the others where it was measured."""
        here = self._to_goals(measured)
        far = tracking_rad / reg.RAD_PER_TICK
        self._send({each: ticks if abs(ticks - self._goals[each]) > far else self._goals[each] for each, ticks in here.items()})

    def arm_watchdog(self) -> None:
        """From now on the servos stop by themselves when nothing comes for `watchdog_s`."""
        self._write_all(reg.WATCHDOG, max(1, round(self._motion.watchdog_s / reg.WATCHDOG_UNIT_S)))

    def take_hold(self) -> None:
        """Watchdogs off and forgotten, motion limits set, goals where the arm is, torque on."""
        acceleration = max(1, int(self._motion.acceleration / reg.ACCELERATION_UNIT))
        speed = min(arms.VELOCITY_LIMIT, max(1, int(self._motion.speed / reg.VELOCITY_UNIT)))
        wanted = {reg.WATCHDOG: 0, reg.PROFILE_ACCELERATION: acceleration, reg.PROFILE_VELOCITY: speed}
        for register, value in wanted.items():
            self._write_all(register, value)
        self._send(self._to_goals(_joints(self._ticks())))
        self._check_goals()
        self._write_all(reg.TORQUE, 1)
        found = self._line.sync_read(*_HEALTH, IDS)
        for identity, health in found.items():  # nobody answers to a sync write: look
            for register, value in (wanted | {reg.TORQUE: 1}).items():
                if _field(health, register) != value:
                    cause = f"register {register.address} is {_field(health, register)} after {value} was written"
                    raise BusFault(self._line.name(identity), cause, "switch the arm's power off and on")
        self._goals = {servo.id: _field(found[servo.id], reg.GOAL_POSITION) for servo in LEADERS}  # set anew with the torque
        self._limp = False

    def _check_goals(self) -> None:
        """BusFault when a joint would leap as its torque comes on: misread, or pushed far outside its limits by hand."""
        for identity, health in self._line.sync_read(*_HEALTH, list(self._goals)).items():
            leap = abs(_position(health) - _field(health, reg.GOAL_POSITION)) * reg.RAD_PER_TICK
            if leap > LEAP_RAD and not _field(health, reg.TORQUE):
                cause = f"stands {leap:.2f} rad from where it would be held"
                raise BusFault(self._line.name(identity), cause, "move it by hand inside its limits, then connect anew")

    def release(self) -> None:
        """Torque off: what is not at rest falls."""
        self._limp = True
        for servo in LEADERS:
            self._line.write(servo.id, reg.WATCHDOG, 0)
            self._line.write(servo.id, reg.TORQUE, 0)

    def close(self) -> None:
        """Give the port back; the servos keep their torque."""
        self._line.close()

    def _check_all(self) -> None:
        """BusFault for the first servo that is missing, in error or not set up as expected."""
        self._write_all(reg.STATUS_RETURN, 2)
        found = self._line.sync_read(0, _SET_UP_SIZE, IDS)
        for servo in SERVOS:
            self._check(servo, found[servo.id])

    def _check(self, servo: ServoSetup, data: bytes) -> None:
        name = self._line.name(servo.id)
        if bits := _field(data, reg.HARDWARE_ERROR, 0):
            raise hardware_fault(name, bits)
        low, high = (_field(data, register, 0) for register in (reg.MIN_POSITION, reg.MAX_POSITION))
        for word, found, expected in (("least", low, servo.low), ("greatest", high, servo.high)):
            if found != expected:
                wider = (found < expected) == (word == "least")
                raise BusFault(name, f"its {word} position is {found}, {'wider' if wider else 'narrower'} than {expected}", SET_UP)
        self._range[servo.id] = low, high
        for word, found, expected in (
            ("drive mode", _field(data, reg.DRIVE_MODE, 0) & 1, int(servo.reversed)),
            ("secondary id", _field(data, reg.SECONDARY_ID, 0), servo.follows or reg.NO_SECONDARY),
            ("operating mode", _field(data, reg.OPERATING_MODE, 0), reg.POSITION_MODE),
            ("velocity limit", _field(data, reg.VELOCITY_LIMIT, 0), arms.VELOCITY_LIMIT),
            ("return delay", _field(data, reg.RETURN_DELAY, 0), 0),
        ):
            if found != expected:
                raise BusFault(name, f"its {word} is {found}, expected {expected}", SET_UP)

    def _look_after(self, servo: ServoSetup) -> None:
        """Whether a servo still has its torque, its watchdog, the goal that it was sent, and stands with the other one of its joint."""
        name, leader = self._line.name(servo.id), servo.follows or servo.id
        found = self._line.sync_read(*_HEALTH, sorted({leader, servo.id}))  # both at once: this program may pause between two reads
        data = found[servo.id]
        if bits := _field(data, reg.HARDWARE_ERROR):
            raise hardware_fault(name, bits)
        if self._limp:  # without torque there is no goal to keep
            return
        if _field(data, reg.WATCHDOG) == reg.TRIPPED:
            cause = f"its watchdog has tripped: nothing came for {self._motion.watchdog_s:g} s"
            raise BusFault(name, cause, "see what kept the control loop from running, then connect anew")
        if not _field(data, reg.TORQUE):
            raise BusFault(name, "has lost its torque", "it has started anew: check the power supply and its cable")
        goal = _field(data, reg.GOAL_POSITION)
        if goal != self._goals[leader]:
            raise BusFault(name, f"its goal is {goal}, {self._goals[leader]} was sent", "see whether another program uses the bus")
        apart = abs(_position(data) - _position(found[leader])) * reg.RAD_PER_TICK
        if servo.follows and apart > SHADOW_RAD + _moved(data):
            raise BusFault(name, f"stands {apart:.2f} rad apart from id {leader} on the same joint", SET_UP)

    def _to_goals(self, action: Sequence[float]) -> dict[int, int]:
        """Ticks by id, inside the limits that the servos were found to have; ValueError when not finite."""
        if len(action) != len(LEADERS) or not all(map(math.isfinite, action)):
            raise ValueError(f"command of the {self.side} arm is {list(action)}; expected {len(LEADERS)} finite numbers")
        angles = [*action[:-1], arms.horn_from_gripper(action[-1])]
        ticks = {servo.id: reg.to_ticks(max(-10.0, min(10.0, rad))) for servo, rad in zip(LEADERS, angles, strict=True)}
        return {each: min(max(value, self._range[each][0]), self._range[each][1]) for each, value in ticks.items()}

    def _send(self, goals: dict[int, int]) -> None:
        self._line.sync_write(reg.GOAL_POSITION, goals)
        self._goals = goals

    def _ticks(self) -> list[int]:
        found = self._line.sync_read(*_BODY, [servo.id for servo in LEADERS])
        return [reg.signed(_field(found[servo.id], reg.PRESENT_POSITION, _BODY[0]), 4) for servo in LEADERS]

    def _write_all(self, register: reg.Register, value: int) -> None:
        self._line.sync_write(register, dict.fromkeys(IDS, value))


def _joints(ticks: Sequence[int]) -> list[float]:
    angles = [reg.to_rad(value) for value in ticks]
    return [*angles[:-1], arms.gripper_from_horn(angles[-1])]


def _field(data: bytes, register: reg.Register, first: int = reg.TORQUE.address) -> int:
    """A register's value in what was read from address `first` on."""
    start = register.address - first
    return int.from_bytes(data[start : start + register.size], "little")


def _position(health: bytes) -> int:
    """Ticks."""
    return reg.signed(_field(health, reg.PRESENT_POSITION), 4)


def _moved(health: bytes) -> float:
    """How far a joint may have gone between two servos' answers, rad: they come after one another."""
    velocity = reg.signed(_field(health, reg.PRESENT_VELOCITY), 4)
    return abs(velocity) * reg.VELOCITY_UNIT * 0.05
