"""A line of Dynamixel X servos on a serial port, over the vendor's SDK: every failure names the joint and its cause.

Needs `pip install 'clamp-jax[hardware]'`; nothing else of the library does.
"""

import itertools
import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from clamp_jax.deploy.robots import RobotLost, packets
from clamp_jax.deploy.robots import registers as reg
from clamp_jax.deploy.robots.registers import Register

BAUD = 1_000_000
WAIT_S = 0.001
TAGS = 8  # lengths of a question; no register asked for is so near to the table's end
_ID, _LENGTH, _DATA = 4, 5, 9  # where they stand in a status packet
QUIET = 3  # looks at the port, 2 ms apart, that find nothing: no more answers are on their way
TRIES, PATIENCE_S = 3, 0.25  # at least so often and, ours, so long is asked again: a damaged or late packet is no fault yet
CURES = {
    "overload": "free the joint of its load, let it cool, then switch the arm's power off and on",
    "overheating": "let the motor cool, then switch the arm's power off and on",
    "electrical shock": "check the power supply and the cables, then switch the arm's power off and on",
    "encoder": "switch the arm's power off and on; when it comes back, the servo is broken",
    "input voltage": "check that the supply gives 12 V under load",
}


class BusFault(RobotLost):
    """Something on a bus is wrong; `joint` and `cause` say what, the message also what to do."""

    def __init__(self, joint: str, cause: str, cure: str):
        super().__init__(f"{joint}: {cause}; {cure}")
        self.joint, self.cause = joint, cause


def sdk() -> Any:
    """The vendor's SDK; ImportError that says how to get it."""
    try:
        import dynamixel_sdk
    except ImportError as error:
        raise ImportError(f"{error}; the servos' bus needs pip install 'clamp-jax[hardware]'") from error
    return dynamixel_sdk


def hardware_fault(joint: str, bits: int) -> BusFault:
    """What a servo's hardware error bits say."""
    causes = reg.hardware_errors(bits)
    return BusFault(joint, ", ".join(causes), CURES.get(causes[0], "switch the arm's power off and on"))


class Line:
    """The servos of one port; `names` are the joints of the ids. Not to be used by two threads at once."""

    def __init__(self, path: str, side: str, names: Mapping[int, str], *, baud: int = BAUD, patience_s: float = PATIENCE_S):
        """Open the port; BusFault when it is not there or taken."""
        self._sdk, self._side, self._names, self.path, self._patience_s = sdk(), side, dict(names), path, patience_s
        self._asked = 0
        self._port, self._packets = self._sdk.PortHandler(path), self._sdk.PacketHandler(2.0)
        self._port.baudrate = baud
        self._port.readPort = self._read_port
        if not self._guard(self._port.openPort):
            raise self._gone("cannot be set to its baud rate")

    def close(self) -> None:
        """Give the port back."""
        if self._port.is_open:
            self._guard(self._port.closePort)

    def name(self, identity: int) -> str:
        """A joint in words."""
        return f"{self._side} {self._names[identity]} (id {identity})"

    def ping(self, identity: int) -> bool:
        """Whether a servo answers."""
        return self._guard(lambda: self._packets.ping(self._port, identity))[1] == self._sdk.COMM_SUCCESS

    def read(self, identity: int, register: Register) -> int:
        """A register, unsigned; BusFault."""
        data = self.sync_read(*register, [identity])[identity]
        return int.from_bytes(data, "little")

    def write(self, identity: int, register: Register, value: int) -> None:
        """Set a register; BusFault when the servo refuses."""
        data = list(value.to_bytes(register.size, "little"))
        self._ask(identity, lambda: (None, *self._packets.writeTxRx(self._port, identity, *register, data)))

    def sync_write(self, register: Register, values: Mapping[int, int]) -> None:
        """Set one register of many servos in one packet; nobody answers."""
        group = self._sdk.GroupSyncWrite(self._port, self._packets, *register)
        for identity, value in values.items():
            group.addParam(identity, list(value.to_bytes(register.size, "little")))
        if self._guard(group.txPacket) != self._sdk.COMM_SUCCESS:
            raise self._gone("takes no packet")

    def sync_read(self, address: int, size: int, ids: Sequence[int]) -> dict[int, bytes]:
        """The same registers of many servos, each answering after the other; BusFault."""
        damaged: dict[int, int] = {}  # answers by id
        for _ in self._tries():
            found, missing, result = self._sync_read(address, size, ids)
            if missing is None:
                return found
            damaged[missing] = damaged.get(missing, 0) + (result == self._sdk.COMM_RX_CORRUPT)
            self._drain()
        raise self._no_answer(missing, damaged=damaged[missing] > 1)

    def _read_port(self, length: int) -> bytes:
        """As the SDK's own, but it waits for bytes instead of asking for them again and again: other threads have work to do."""
        if not self._port.ser.in_waiting:
            select.select([self._port.ser.fd], [], [], WAIT_S)
        return self._port.ser.read(length)

    def _tries(self) -> Iterator[int]:
        """Counts until both TRIES and the patience are spent; meanwhile the servos keep their last goals."""
        start = time.monotonic()
        for number in itertools.count():
            if number >= TRIES and time.monotonic() - start > self._patience_s:
                return
            yield number

    def _sync_read(self, address: int, size: int, ids: Sequence[int]) -> tuple[dict[int, bytes], int | None, int]:
        """What came, the first id whose answer did not, and how that went.

        Each question asks for a few bytes more than the one before it, so that a late answer is known by its length.
        """
        found: dict[int, bytes] = {}
        self._asked += 1
        more = size + self._asked % TAGS
        self._guard(lambda: self._packets.syncReadTx(self._port, address, more, list(ids), len(ids), False))
        for identity in ids:
            data, result, error = self._receive(identity, more)
            if result != self._sdk.COMM_SUCCESS:
                return found, identity, result
            self._judge(identity, error)
            found[identity] = data[:size]
        return found, None, self._sdk.COMM_SUCCESS

    def _receive(self, identity: int, size: int) -> tuple[bytes, int, int]:
        """(data, result, error) of the next answer of a servo that is so long.

        The SDK's own readRx looks at the id alone and cuts a longer answer to size: a late answer to another question would be
        taken for this one's, a firmware version for a position.
        """
        while True:
            packet, result = self._guard(lambda: self._packets.rxPacket(self._port, False))
            if result != self._sdk.COMM_SUCCESS:
                return b"", result, 0
            length = packet[_LENGTH] + 256 * packet[_LENGTH + 1]
            if packet[_ID] == identity and length == size + 4:  # instruction, error, checksum
                return bytes(packet[_DATA : _DATA + size]), result, packet[_DATA - 1]

    def _ask(self, identity: int, request: Callable[[], tuple]) -> Any:
        """What a servo answers, asked again when it does not."""
        for _ in self._tries():
            data, result, error = self._guard(request)
            if result == self._sdk.COMM_SUCCESS:
                self._judge(identity, error)
                return data
            self._drain()
        raise self._no_answer(identity, damaged=result == self._sdk.COMM_RX_CORRUPT)

    def _drain(self) -> None:
        """Let late answers come, lest they be taken for those to the next question."""
        quiet = 0
        for _ in range(10):
            quiet = 0 if self._guard(self._port.getBytesAvailable) else quiet + 1
            self._guard(self._port.clearPort)
            if quiet == QUIET:
                return
            time.sleep(0.002)

    def _judge(self, identity: int, error: int) -> None:
        if error & packets.ALERT:
            self._alarm(identity)
        if error & ~packets.ALERT:
            cause = packets.ERRORS.get(error & ~packets.ALERT, f"unknown error {error & ~packets.ALERT}")
            raise BusFault(self.name(identity), cause, "set the servo up as docs/cell.md says")

    def _alarm(self, identity: int) -> None:
        """Raise what the servo's hardware error register says."""
        for _ in self._tries():
            self._drain()  # of what the others have to say
            self._guard(lambda: self._packets.syncReadTx(self._port, *reg.HARDWARE_ERROR, [identity], 1, False))
            data, result, _ = self._receive(identity, 1)
            if result == self._sdk.COMM_SUCCESS:
                raise hardware_fault(self.name(identity), data[0])
        raise BusFault(self.name(identity), "reports a hardware error, and not which", "switch the arm's power off and on")

    def _no_answer(self, identity: int, *, damaged: bool) -> BusFault:
        if damaged:
            return BusFault(self.name(identity), "its answers come damaged", "check its cable and connectors")
        if not any(self.ping(other) for other in self._names):
            cure = "check the arm's power, the USB cable and the cable to the first servo"
            return BusFault(f"all {self._side} joints, {self.name(identity)} first", f"no servo answers on {self.path}", cure)
        return BusFault(self.name(identity), "does not answer", "check its cable and the one before it, and its power")

    def _gone(self, words: str) -> BusFault:
        joints = f"all {self._side} joints ({', '.join(dict.fromkeys(self._names.values()))})"
        return BusFault(joints, f"the port {self.path} {words}", "check the USB cable, the port's name and the group dialout")

    def _guard(self, call: Callable[[], Any]) -> Any:
        """Run something of the SDK; what the port raises becomes a fault."""
        try:
            return call()
        except (OSError, TypeError) as error:  # pyserial's exceptions are OSErrors; a port closed under it, a TypeError
            self._port.is_using = False
            raise self._gone(f"is gone: {error}") from error
        except Exception as error:
            if type(error).__module__ != "termios":  # termios.error is no OSError
                raise
            self._port.is_using = False
            raise self._gone(f"is gone: {error}") from error
