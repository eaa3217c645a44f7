"""How a servo's own motion profile takes it to a goal: limited in speed and acceleration."""

import math


class Profile:
    """One joint's way; position in rad, or whatever the limits are in."""

    def __init__(self, position: float):
        self.start(position)

    def start(self, position: float) -> None:
        """Be there, at rest."""
        self.position, self.velocity = position, 0.0

    def towards(self, goal: float, seconds: float, *, speed: float, acceleration: float) -> float:
        """The position `seconds` later on the way to a goal; acceleration 0 means without limit, as the register has it."""
        if seconds <= 0:
            return self.position
        distance = goal - self.position
        reach = min(speed, abs(distance) / seconds)
        if acceleration:  # no faster than it can stop before the goal, in steps of this length
            reach = min(reach, math.sqrt(2 * acceleration * abs(distance) + (acceleration * seconds / 2) ** 2) - acceleration * seconds / 2)
        wanted = math.copysign(reach, distance)
        change = wanted - self.velocity
        limit = acceleration * seconds if acceleration else math.inf
        self.velocity += min(max(change, -limit), limit)
        self.position += self.velocity * seconds
        return self.position
