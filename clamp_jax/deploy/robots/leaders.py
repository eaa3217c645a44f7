"""Two leader arms that a person moves and a recorder reads: WidowX 250 with ALOHA's trigger grippers. They are never commanded.

Ids and turning directions of the joints are a follower's (the vendor's motor configuration of the wx250s); the trigger's range is that
of the public ALOHA 2 stack (Interbotix/aloha, LEADER_GRIPPER_JOINT_OPEN and _CLOSE). Not yet run on hardware.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from clamp_jax.deploy.robots import arms
from clamp_jax.deploy.robots import registers as reg
from clamp_jax.deploy.robots.dynamixel import BusFault, Line
from clamp_jax.geometry import aloha

TRIGGER_CLOSED_RAD, TRIGGER_OPEN_RAD = -0.0552, 0.8298
SHUT, OPEN = 0.0, 1.0  # a follower's gripper
_IDS = [servo.id for servo in arms.LEADERS]


class LeaderArms:
    """Both leader arms; their torque is off, so that a hand moves them."""

    def __init__(self, ports: Mapping[str, str]):
        """Connect and take the torque off. `ports` by side; ValueError for other sides, BusFault."""
        if set(ports) != set(aloha.SIDES):
            raise ValueError(f"leaders are for {sorted(ports)}; expected one each for {' and '.join(aloha.SIDES)}")
        names = {servo.id: servo.joint + (" shadow" if servo.follows else "") for servo in arms.SERVOS}
        self._lines: list[Line] = []
        try:
            for side in aloha.SIDES:
                self._lines.append(Line(ports[side], f"leader {side}", names))
            for line in self._lines:
                self._free(line)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "LeaderArms":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def joints(self) -> np.ndarray:
        """(14,) as a follower has them: rad, gripper 0 closed, 1 open; BusFault."""
        return np.concatenate([self._joints(line) for line in self._lines])

    def close(self) -> None:
        """Give the ports back."""
        for line in self._lines:
            line.close()

    def _free(self, line: Line) -> None:
        for servo in arms.LEADERS:
            line.write(servo.id, reg.TORQUE, 0)
            reversed_ = line.read(servo.id, reg.DRIVE_MODE) & 1
            if reversed_ != servo.reversed:
                cause = f"its drive mode is {reversed_}, expected {int(servo.reversed)}"
                raise BusFault(line.name(servo.id), cause, "set the servo up as docs/cell.md says")

    def _joints(self, line: Line) -> list[float]:
        found = line.sync_read(*reg.PRESENT_POSITION, _IDS)
        angles = [reg.to_rad(reg.signed(int.from_bytes(found[identity], "little"), 4)) for identity in _IDS]
        return [*angles[:-1], trigger(angles[-1])]


def trigger(rad: float) -> float:
    """A follower's gripper 0..1 for a trigger's angle: linear between its ends, and no farther."""
    share = (rad - TRIGGER_CLOSED_RAD) / (TRIGGER_OPEN_RAD - TRIGGER_CLOSED_RAD)
    return min(max(share, SHUT), OPEN)
