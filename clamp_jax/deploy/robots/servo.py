"""One emulated Dynamixel X servo: its control table, and what it refuses. Standard library alone.

Written from the vendor's control table and protocol, not from the driver. Strict: what the real one refuses is refused with the
same error, so that a driver that works here has not been let off anything that is written there.
"""

from clamp_jax.deploy.robots import packets
from clamp_jax.deploy.robots import registers as reg
from clamp_jax.deploy.robots.registers import Register

XM540_W270 = 1120
# What can be written, with its least and largest value (two's complement where least is negative).
WRITABLE: dict[Register, tuple[int, int]] = {
    reg.ID: (0, 252),
    reg.BAUD_RATE: (0, 7),
    reg.RETURN_DELAY: (0, 254),
    reg.DRIVE_MODE: (0, 13),
    reg.OPERATING_MODE: (0, 16),
    reg.SECONDARY_ID: (0, 255),
    reg.TEMPERATURE_LIMIT: (0, 100),
    reg.VELOCITY_LIMIT: (0, 1023),
    reg.MAX_POSITION: (0, 4095),
    reg.MIN_POSITION: (0, 4095),
    reg.SHUTDOWN: (0, 255),
    reg.TORQUE: (0, 1),
    reg.STATUS_RETURN: (0, 2),
    reg.WATCHDOG: (0, 127),
    reg.GOAL_PWM: (-885, 885),
    reg.GOAL_CURRENT: (-2047, 2047),
    reg.GOAL_VELOCITY: (-1023, 1023),
    reg.PROFILE_ACCELERATION: (0, 32767),
    reg.PROFILE_VELOCITY: (0, 32767),
    reg.GOAL_POSITION: (0, 4095),
}
_AT = {register.address: register for register in WRITABLE}
_GOALS = (reg.GOAL_PWM, reg.GOAL_CURRENT, reg.GOAL_VELOCITY, reg.GOAL_POSITION)
_VOLATILE = {reg.STATUS_RETURN: 2, reg.PRESENT_VOLTAGE: 120, reg.PRESENT_TEMPERATURE: 35}  # after power on
_FACTORY = {
    reg.MODEL: XM540_W270,
    reg.FIRMWARE: 45,
    reg.BAUD_RATE: 3,
    reg.RETURN_DELAY: 250,
    reg.OPERATING_MODE: reg.POSITION_MODE,
    reg.SECONDARY_ID: reg.NO_SECONDARY,
    reg.TEMPERATURE_LIMIT: 80,
    reg.VELOCITY_LIMIT: 128,
    reg.MAX_POSITION: 4095,
    reg.SHUTDOWN: reg.DEFAULT_SHUTDOWN,
}


class Servo:
    """A control table with its rules; position (ticks, as the register has it) is moved from outside by `move`."""

    def __init__(self, identity: int, settings: dict[Register, int], position: int | float = reg.CENTRE):
        """`settings` differ from those of the factory."""
        self.table = bytearray(reg.TABLE_END)
        self.position, self.velocity = float(position), 0.0  # ticks, ticks/s
        for register, value in (_FACTORY | {reg.ID: identity} | settings).items():
            self.set(register, value)
        self.registered: tuple[int, bytes] | None = None
        self.heard_at = 0.0
        self.reboot()

    def get(self, register: Register) -> int:
        """A register's value, unsigned."""
        return int.from_bytes(self.table[register.address : sum(register)], "little")

    def set(self, register: Register, value: int) -> None:
        """Put a value there, whatever the rules are."""
        self.table[register.address : sum(register)] = (value % (1 << 8 * register.size)).to_bytes(register.size, "little")

    def reboot(self) -> None:
        """Power on: torque off, errors forgotten, what is not kept in EEPROM at its default."""
        self.table[reg.EEPROM_END :] = bytes(reg.TABLE_END - reg.EEPROM_END)
        for register, value in _VOLATILE.items():
            self.set(register, value)
        self.registered, self.velocity = None, 0.0
        self._tell()

    def fail(self, bits: int) -> None:
        """A hardware error; it takes the torque away when SHUTDOWN says so, until a reboot."""
        self.set(reg.HARDWARE_ERROR, self.get(reg.HARDWARE_ERROR) | bits)
        if bits & self.get(reg.SHUTDOWN):
            self.set(reg.TORQUE, 0)

    @property
    def alert(self) -> int:
        """The alert bit of a status packet's error field."""
        return packets.ALERT if self.get(reg.HARDWARE_ERROR) else 0

    def hear(self, now: float) -> None:
        """An instruction packet came past, to whomever: the watchdog looks back to it."""
        self.watch(now)
        self.heard_at = now

    def watch(self, now: float) -> None:
        """Trip the watchdog when nothing has come for too long with the torque on."""
        units = self.get(reg.WATCHDOG)
        armed = units not in (0, reg.TRIPPED) and self.get(reg.TORQUE)
        if armed and now - self.heard_at > units * reg.WATCHDOG_UNIT_S:
            self.set(reg.WATCHDOG, reg.TRIPPED)
            self.set(reg.GOAL_POSITION, round(self.position))  # it stops
            self.set(reg.PROFILE_VELOCITY, 0)
            self.set(reg.PROFILE_ACCELERATION, 0)
            self.velocity = 0.0

    def read(self, address: int, size: int) -> tuple[int, bytes]:
        """(error, data)."""
        if address + size > reg.TABLE_END or size == 0:
            return packets.ACCESS, b""
        return packets.OK, bytes(self.table[address : address + size])

    def write(self, address: int, data: bytes) -> int:
        """The error; nothing is written unless all of it can be."""
        values, error = self._parse(address, data)
        if error or (error := next(filter(None, (self._refusal(*each) for each in values)), packets.OK)):
            return error
        for register, value in values:
            self._put(register, value)
        return packets.OK

    def _parse(self, address: int, data: bytes) -> tuple[list[tuple[Register, int]], int]:
        values: list[tuple[Register, int]] = []
        while data:
            register = _AT.get(address)
            if register is None:
                return [], packets.ACCESS
            if len(data) < register.size:
                return [], packets.DATA_LENGTH
            values.append((register, int.from_bytes(data[: register.size], "little")))
            address, data = address + register.size, data[register.size :]
        return values, packets.OK if values else packets.DATA_LENGTH

    def _refusal(self, register: Register, value: int) -> int:
        if register.address < reg.EEPROM_END and self.get(reg.TORQUE):
            return packets.ACCESS
        if register in _GOALS and self.get(reg.WATCHDOG) == reg.TRIPPED:
            return packets.DATA_RANGE  # the manual's example: a goal written then is answered with a range error
        if register == reg.TORQUE and value and self.get(reg.HARDWARE_ERROR) & self.get(reg.SHUTDOWN):
            return packets.ACCESS  # until it is rebooted
        low, high = WRITABLE[register]
        if not low <= (reg.signed(value, register.size) if low < 0 else value) <= high:
            return packets.DATA_RANGE
        return self._goal_refusal(value) if register == reg.GOAL_POSITION else packets.OK

    def _goal_refusal(self, value: int) -> int:
        inside = self.get(reg.MIN_POSITION) <= value <= self.get(reg.MAX_POSITION)
        return packets.OK if inside or self.get(reg.OPERATING_MODE) != reg.POSITION_MODE else packets.DATA_LIMIT

    def _put(self, register: Register, value: int) -> None:
        if register == reg.TORQUE and value and not self.get(reg.TORQUE):
            self.set(reg.GOAL_POSITION, self._inside(round(self.position)))  # it holds where it is
        self.set(register, value)

    def _inside(self, ticks: int) -> int:
        return min(max(ticks, self.get(reg.MIN_POSITION)), self.get(reg.MAX_POSITION))

    def move(self, position: int | float, velocity: int | float) -> None:
        """Where the body has taken it, in ticks and ticks/s."""
        self.position, self.velocity = position, velocity
        self._tell()

    def _tell(self) -> None:
        self.set(reg.PRESENT_POSITION, round(self.position))
        self.set(reg.PRESENT_VELOCITY, round(self.velocity * reg.RAD_PER_TICK / reg.VELOCITY_UNIT))
