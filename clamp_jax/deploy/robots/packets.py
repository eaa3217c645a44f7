"""Dynamixel protocol 2.0 on the wire: packets, byte stuffing, CRC-16. Standard library alone.

Source: the vendor's description of protocol 2.0 (emanual.robotis.com/docs/en/dxl/protocol2/). The emulator speaks it; a robot's
driver leaves it to the vendor's SDK, so the two were not written from each other.
"""

from typing import NamedTuple

HEADER = b"\xff\xff\xfd\x00"
BROADCAST = 0xFE
PING, READ, WRITE, REG_WRITE, ACTION, FACTORY_RESET, REBOOT = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x08
STATUS, SYNC_READ, SYNC_WRITE, FAST_SYNC_READ, BULK_READ, BULK_WRITE = 0x55, 0x82, 0x83, 0x8A, 0x92, 0x93
OK, RESULT_FAIL, INSTRUCTION, CRC, DATA_RANGE, DATA_LENGTH, DATA_LIMIT, ACCESS = range(8)  # the error field's number
ERRORS = {
    RESULT_FAIL: "it could not do what it was told",
    INSTRUCTION: "it does not know the instruction",
    CRC: "the packet came with a wrong checksum",
    DATA_RANGE: "the value is out of the register's range, or its bus watchdog has tripped",
    DATA_LENGTH: "the data is shorter than the register",
    DATA_LIMIT: "the goal is outside its position limits",
    ACCESS: "the register is read-only, or its torque is on",
}
ALERT = 0x80  # beside the number: the hardware error register says more
MAX_LENGTH = 1024  # of the length field; what is longer is noise


class Packet(NamedTuple):
    """One packet as sent, stuffing removed; `error` is a status packet's."""

    id: int
    instruction: int
    params: bytes
    error: int = 0
    sound: bool = True  # the checksum is right


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ (0x8005 if crc & 0x8000 else 0)
        table.append(crc & 0xFFFF)
    return tuple(table)


_CRC = _table()


def crc16(data: bytes) -> int:
    """CRC-16 with the polynomial x^16 + x^15 + x^2 + 1, from 0, most significant bit first."""
    crc = 0
    for byte in data:
        crc = ((crc << 8) & 0xFFFF) ^ _CRC[(crc >> 8) ^ byte]
    return crc


def stuff(body: bytes) -> bytes:
    """A body in which FF FF FD does not occur without another FD behind it."""
    return body.replace(b"\xff\xff\xfd", b"\xff\xff\xfd\xfd")


def unstuff(body: bytes) -> bytes:
    """The inverse of `stuff`."""
    return body.replace(b"\xff\xff\xfd\xfd", b"\xff\xff\xfd")


def encode(identity: int, instruction: int, params: bytes = b"") -> bytes:
    """An instruction packet's bytes."""
    body = stuff(bytes([instruction]) + params)
    head = HEADER + bytes([identity]) + (len(body) + 2).to_bytes(2, "little")
    return head + body + crc16(head + body).to_bytes(2, "little")


def encode_status(identity: int, error: int = OK, params: bytes = b"") -> bytes:
    """A status packet's bytes."""
    return encode(identity, STATUS, bytes([error]) + params)


class Parser:
    """Finds packets in a stream of bytes; what is no packet is passed over."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that are complete with these bytes; those with a wrong checksum are not `sound`."""
        self._bytes += data
        found = []
        while (packet := self._next()) is not None:
            found.append(packet)
        return found

    def _next(self) -> Packet | None:
        while self._align():
            length = int.from_bytes(self._bytes[5:7], "little")
            if not 3 <= length <= MAX_LENGTH:
                del self._bytes[:1]  # a header in noise
                continue
            if len(self._bytes) < 7 + length:
                return None
            whole = bytes(self._bytes[: 7 + length])
            del self._bytes[: 7 + length]
            return _read(whole)
        return None

    def _align(self) -> bool:
        """Drop what stands before a header; whether a header, an id and a length are there."""
        at = self._bytes.find(HEADER)
        keep = min(len(self._bytes), len(HEADER) - 1)
        del self._bytes[: at if at >= 0 else len(self._bytes) - keep]
        return at >= 0 and len(self._bytes) >= 7


def _read(whole: bytes) -> Packet:
    sound = crc16(whole[:-2]) == int.from_bytes(whole[-2:], "little")
    body = unstuff(whole[7:-2])
    if body[0] == STATUS and len(body) > 1:
        return Packet(whole[4], STATUS, body[2:], body[1], sound)
    return Packet(whole[4], body[0], body[1:], 0, sound)
