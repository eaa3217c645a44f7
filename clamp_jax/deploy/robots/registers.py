"""The registers of a Dynamixel X servo that an arm needs, and what its error bits say. Standard library alone.

Source: the vendor's control table of the XM540-W270 (emanual.robotis.com/docs/en/dxl/x/xm540-w270); the XM430 has the same.
"""

import math
from typing import NamedTuple


class Register(NamedTuple):
    """Where a value stands, little endian."""

    address: int
    size: int  # bytes


MODEL = Register(0, 2)
FIRMWARE = Register(6, 1)
ID = Register(7, 1)
BAUD_RATE = Register(8, 1)
RETURN_DELAY = Register(9, 1)  # unit 2 us
DRIVE_MODE = Register(10, 1)  # bit 0: reversed
OPERATING_MODE = Register(11, 1)
SECONDARY_ID = Register(12, 1)  # 255: none
TEMPERATURE_LIMIT = Register(31, 1)
VELOCITY_LIMIT = Register(44, 4)
MAX_POSITION = Register(48, 4)
MIN_POSITION = Register(52, 4)
SHUTDOWN = Register(63, 1)  # which hardware errors take the torque away
TORQUE = Register(64, 1)
STATUS_RETURN = Register(68, 1)
HARDWARE_ERROR = Register(70, 1)
WATCHDOG = Register(98, 1)  # unit 20 ms; 255 (-1): tripped
GOAL_PWM = Register(100, 2)
GOAL_CURRENT = Register(102, 2)
GOAL_VELOCITY = Register(104, 4)
PROFILE_ACCELERATION = Register(108, 4)
PROFILE_VELOCITY = Register(112, 4)
GOAL_POSITION = Register(116, 4)
PRESENT_CURRENT = Register(126, 2)
PRESENT_VELOCITY = Register(128, 4)
PRESENT_POSITION = Register(132, 4)
PRESENT_VOLTAGE = Register(144, 2)  # unit 0.1 V
PRESENT_TEMPERATURE = Register(146, 1)  # degrees Celsius

EEPROM_END = 64  # registers below cannot be written while the torque is on
TABLE_END = 147
POSITION_MODE = 3  # within one turn, position limits hold
NO_SECONDARY = 255
TRIPPED = 255  # of WATCHDOG
WATCHDOG_UNIT_S = 0.02
TICKS, CENTRE = 4096, 2048
RAD_PER_TICK = 2 * math.pi / TICKS
VELOCITY_UNIT = 0.229 * 2 * math.pi / 60  # rad/s
ACCELERATION_UNIT = 214.577 * 2 * math.pi / 3600  # rad/s^2; the unit is rev/min^2
OVERLOAD, SHOCK, ENCODER, OVERHEATING, INPUT_VOLTAGE = 0x20, 0x10, 0x08, 0x04, 0x01
HARDWARE_ERRORS = {
    OVERLOAD: "overload",
    SHOCK: "electrical shock",
    ENCODER: "encoder",
    OVERHEATING: "overheating",
    INPUT_VOLTAGE: "input voltage",
}
DEFAULT_SHUTDOWN = OVERLOAD | SHOCK | OVERHEATING


def hardware_errors(bits: int) -> list[str]:
    """What is wrong, in words, by the bits of HARDWARE_ERROR."""
    return [name for bit, name in HARDWARE_ERRORS.items() if bits & bit] or ([f"unknown error {bits:#x}"] if bits else [])


def to_rad(ticks: int | float) -> float:
    """Angle of a position register's value; a reversed servo reverses it itself."""
    return (ticks - CENTRE) * RAD_PER_TICK


def to_ticks(rad: float) -> int:
    """The nearest position register's value."""
    return CENTRE + round(rad / RAD_PER_TICK)


def signed(value: int, size: int) -> int:
    """A register's value as two's complement."""
    return value - (1 << 8 * size) if value >= 1 << (8 * size - 1) else value
