"""An arm's bus without an arm: servos behind a pseudo-terminal that the vendor's SDK takes for a serial port.

    with Bus(servos_of_an_arm()) as bus:
        robot = ViperX({"left": bus.path, ...})

It answers as servos do, in real time and at the wire's speed, and can be made to fail as they do: an overload, a servo that falls
silent, damaged answers, a cable that is pulled. Linux and macOS; nothing is needed beside Python.
"""

import contextlib
import os
import select
import threading
import time
import tty
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

from clamp_jax.deploy.robots import arms, packets, profile
from clamp_jax.deploy.robots import registers as reg
from clamp_jax.deploy.robots.packets import Packet
from clamp_jax.deploy.robots.servo import Servo

STEP_S = 0.005  # how often the body moves when nothing is said on the bus
BAUD = 1_000_000


@runtime_checkable
class BusPlant(Protocol):
    """The body on a bus: what moves when its servos are told to."""

    def positions(self) -> list[float]:
        """rad of the arm's joints (7,), the gripper's horn last."""

    def goals(self, goals: list[float | None], now: float) -> None:
        """Where the servos push them to, rad (7,), from the monotonic moment `now` on; None: no torque."""


class ToyPlant:
    """Joints that follow as a first-order lag; without torque they stay where they are."""

    def __init__(self, start: list[float], lag_s: float = 0.03):
        self._at, self._goals, self._lag_s, self._then = list(start), [None] * len(start), lag_s, None

    def positions(self) -> list[float]:
        """rad (7,)."""
        return list(self._at)

    def goals(self, goals: list[float | None], now: float) -> None:
        """Move by the time since the last call."""
        share = 1 - 2.718281828 ** (-(now - (self._then or now)) / self._lag_s)
        self._at = [at if goal is None else at + share * (goal - at) for at, goal in zip(self._at, goals, strict=True)]
        self._then = now


def servos_of_an_arm(**changed: dict) -> dict[int, Servo]:
    """A ViperX's servos as the lab has set them up; `id4={reg.MIN_POSITION: 0}` changes one."""
    servos = {}
    for setup in arms.SERVOS:
        settings = {
            reg.RETURN_DELAY: 0,
            reg.DRIVE_MODE: int(setup.reversed),
            reg.SECONDARY_ID: setup.follows or reg.NO_SECONDARY,
            reg.MIN_POSITION: setup.low,
            reg.MAX_POSITION: setup.high,
            reg.VELOCITY_LIMIT: arms.VELOCITY_LIMIT,
        }
        servos[setup.id] = Servo(setup.id, settings | changed.get(f"id{setup.id}", {}))
    return servos


class Bus:
    """Servos on a pseudo-terminal at `path`, alive in a thread of their own while the context is open."""

    def __init__(self, servos: dict[int, Servo], plant: BusPlant | None = None, *, baud: int | None = BAUD):
        """Whoever has no secondary id is a joint of the plant, in the order of the ids. `baud` None: answers take no time."""
        self.servos, self._baud = servos, baud
        self._joints = [servo for _, servo in sorted(servos.items()) if servo.get(reg.SECONDARY_ID) == reg.NO_SECONDARY]
        self.plant = plant or ToyPlant([0.0] * len(self._joints))
        self._paths = [profile.Profile(position) for position in self.plant.positions()]
        self.silent: set[int] = set()  # ids that do not answer, nor do what they are told
        self.damaged: set[int] = set()  # ids whose answers come with a flipped bit
        self.slip: dict[int, float] = {}  # ticks by id that a motor's encoder is off its joint, as by a loose horn
        self.drop = 0  # how many of the next answers get lost
        self.lock = threading.RLock()
        self._stop, self._parser, self._then = threading.Event(), packets.Parser(), time.monotonic()
        self._plugged = True
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)
        self._move(self._then)
        self._thread = threading.Thread(target=self._live, name="bus", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Bus":
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join(5)
        self.unplug()

    def unplug(self) -> None:
        """Pull the cable of the serial adapter: the port is gone, the servos live on and hear nothing."""
        with self.lock:
            for descriptor in (self._master, self._slave) if self._plugged else ():
                os.close(descriptor)
            self._plugged = False

    def joint_goals(self) -> list[int]:
        """Ticks that the joints' servos are told to go to."""
        with self.lock:
            return [servo.get(reg.GOAL_POSITION) for servo in self._joints]

    def joint_positions(self) -> list[float]:
        """rad of the joints' bodies."""
        with self.lock:
            return self.plant.positions()

    def _live(self) -> None:
        while not self._stop.is_set():
            data = self._hear()
            with self.lock:
                self._move(time.monotonic())
                answers = [answer for packet in self._parser.feed(data) for answer in self._answers(packet)]
            if answers:
                self._send(answers)

    def _hear(self) -> bytes:
        with self.lock:
            ready, _, _ = select.select([self._master] if self._plugged else [], [], [], 0)
            if ready:
                return os.read(self._master, 4096)
            waits = [self._master] if self._plugged else []
        with contextlib.suppress(OSError, ValueError):  # unplugged while it waits
            select.select(waits, [], [], STEP_S)
        return b""

    def _send(self, answers: list[bytes]) -> None:
        if self._baud:
            time.sleep(10 * sum(map(len, answers)) / self._baud)  # a byte is ten bits
        with self.lock:
            if self._plugged:
                os.write(self._master, b"".join(answers))

    def _move(self, now: float) -> None:
        """Bring watchdogs, motion profiles, body and encoders to `now`."""
        seconds, self._then = now - self._then, now
        for servo in self.servos.values():
            servo.watch(now)
        wanted = zip(self._joints, self._paths, self.plant.positions(), strict=True)
        self.plant.goals([self._push(servo, path, at, seconds) for servo, path, at in wanted], now)
        for servo, at in zip(self._joints, self.plant.positions(), strict=True):
            ticks = reg.CENTRE + at / reg.RAD_PER_TICK
            for each in (servo, *self._shadows(servo)):
                there = ticks + self.slip.get(each.get(reg.ID), 0.0)
                each.move(there, (there - each.position) / seconds if seconds > 0 else 0.0)

    def _push(self, servo: Servo, path: profile.Profile, at: float, seconds: float) -> float | None:
        if not servo.get(reg.TORQUE):
            path.start(at)
            return None
        speed, acceleration = servo.get(reg.PROFILE_VELOCITY), servo.get(reg.PROFILE_ACCELERATION)
        speed = min(speed or servo.get(reg.VELOCITY_LIMIT), servo.get(reg.VELOCITY_LIMIT)) * reg.VELOCITY_UNIT
        goal = reg.to_rad(servo.get(reg.GOAL_POSITION))
        return path.towards(goal, seconds, speed=speed, acceleration=acceleration * reg.ACCELERATION_UNIT)

    def _shadows(self, servo: Servo) -> Iterator[Servo]:
        identity = servo.get(reg.ID)
        return (each for each in self.servos.values() if each.get(reg.SECONDARY_ID) == identity)

    def _answers(self, packet: Packet) -> list[bytes]:
        """What is answered to an instruction packet, in order."""
        now = time.monotonic()
        heard = [servo for identity, servo in self.servos.items() if identity not in self.silent]
        if packet.instruction == packets.STATUS:
            return []
        if not packet.sound:
            return self._wire((servo, packets.CRC, b"") for servo in heard if servo.get(reg.ID) == packet.id)
        for servo in heard:
            servo.hear(now)
        group = _GROUPS.get(packet.instruction)
        if group is not None:
            return self._wire(group(self, packet.params)) if packet.id == packets.BROADCAST else []
        return self._wire(self._each(packet))

    def _wire(self, answers: Any) -> list[bytes]:
        """Status packets of (servo, error, data), with what goes wrong on their way."""
        sent = []
        for servo, error, data in answers:
            raw = bytearray(packets.encode_status(servo.get(reg.ID), error | servo.alert, data))
            if servo.get(reg.ID) in self.damaged:
                raw[-3] ^= 0x10
            if self.drop:
                self.drop -= 1
                continue
            sent.append(bytes(raw))
        return sent

    def _reach(self, identity: int) -> Iterator[tuple[Servo, bool]]:
        """The servos that an id means, and whether they answer: not to a broadcast, nor to their secondary id."""
        for own, servo in sorted(self.servos.items()):
            if own in self.silent:
                continue
            if identity == own:
                yield servo, True
            elif identity in (packets.BROADCAST, servo.get(reg.SECONDARY_ID)):
                yield servo, False

    def _each(self, packet: Packet) -> Iterator[tuple[Servo, int, bytes]]:
        does = _SINGLES.get(packet.instruction)
        for servo, answers in self._reach(packet.id):
            level = servo.get(reg.STATUS_RETURN)  # before a reboot or a write changes it
            error, data = does(servo, packet.params) if does else (packets.INSTRUCTION, b"")
            pings, reads = packet.instruction == packets.PING, packet.instruction == packets.READ
            if pings or (answers and (level == 2 or (reads and level == 1))):
                yield servo, error, data

    def _sync_read(self, params: bytes) -> Iterator[tuple[Servo, int, bytes]]:
        """Each answers after the one before it: behind one that is silent nobody does."""
        address, size = (int.from_bytes(params[at : at + 2], "little") for at in (0, 2))
        return self._in_turn((identity, address, size) for identity in params[4:])

    def _bulk_read(self, params: bytes) -> Iterator[tuple[Servo, int, bytes]]:
        asked = (params[at : at + 5] for at in range(0, len(params) - 4, 5))
        return self._in_turn((each[0], int.from_bytes(each[1:3], "little"), int.from_bytes(each[3:5], "little")) for each in asked)

    def _in_turn(self, asked: Any) -> Iterator[tuple[Servo, int, bytes]]:
        for identity, address, size in asked:
            if identity in self.silent or identity not in self.servos:
                return
            servo = self.servos[identity]
            yield servo, *servo.read(address, size)

    def _sync_write(self, params: bytes) -> list:
        """Nobody answers, so a refusal is not heard of."""
        address, size = (int.from_bytes(params[at : at + 2], "little") for at in (0, 2))
        for at in range(4, len(params), size + 1):
            row = params[at : at + size + 1]
            for servo, _ in self._reach(row[0]) if len(row) == size + 1 else ():
                servo.write(address, row[1:])
        return []

    def _bulk_write(self, params: bytes) -> list:
        while len(params) >= 5:
            size = int.from_bytes(params[3:5], "little")
            for servo, _ in self._reach(params[0]):
                servo.write(int.from_bytes(params[1:3], "little"), params[5 : 5 + size])
            params = params[5 + size :]
        return []


def _ping(servo: Servo, _: bytes) -> tuple[int, bytes]:
    return packets.OK, servo.get(reg.MODEL).to_bytes(2, "little") + bytes([servo.get(reg.FIRMWARE)])


def _read(servo: Servo, params: bytes) -> tuple[int, bytes]:
    if len(params) != 4:
        return packets.DATA_LENGTH, b""
    return servo.read(int.from_bytes(params[:2], "little"), int.from_bytes(params[2:], "little"))


def _write(servo: Servo, params: bytes) -> tuple[int, bytes]:
    return (servo.write(int.from_bytes(params[:2], "little"), params[2:]) if len(params) > 2 else packets.DATA_LENGTH), b""


def _reg_write(servo: Servo, params: bytes) -> tuple[int, bytes]:
    if len(params) < 3:
        return packets.DATA_LENGTH, b""
    servo.registered = int.from_bytes(params[:2], "little"), params[2:]
    return packets.OK, b""


def _action(servo: Servo, _: bytes) -> tuple[int, bytes]:
    registered, servo.registered = servo.registered, None
    return (servo.write(*registered) if registered else packets.RESULT_FAIL), b""


def _reboot(servo: Servo, _: bytes) -> tuple[int, bytes]:
    servo.reboot()
    return packets.OK, b""


_SINGLES: dict[int, Callable[[Servo, bytes], tuple[int, bytes]]] = {
    packets.PING: _ping,
    packets.READ: _read,
    packets.WRITE: _write,
    packets.REG_WRITE: _reg_write,
    packets.ACTION: _action,
    packets.REBOOT: _reboot,
}
_GROUPS: dict[int, Callable[[Bus, bytes], Any]] = {
    packets.SYNC_READ: Bus._sync_read,
    packets.SYNC_WRITE: Bus._sync_write,
    packets.BULK_READ: Bus._bulk_read,
    packets.BULK_WRITE: Bus._bulk_write,
}
