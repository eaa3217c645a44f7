"""A robot's body for tests; imports as little as possible, since a fresh process imports it."""

import numpy as np

CAMERAS = ("overhead", "worms_eye", "wrist_left", "wrist_right")
START = np.tile([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.0], 2)


class ToyPlant:
    """Joints that go to their goal at once; `seed` in its observations is the number of steps so far."""

    def __init__(self, fails="", extra=None):
        if fails:
            raise ValueError(fails)
        self.at, self.steps, self.commands, self.extra = START.copy(), 0, 0, extra or {}

    def step(self, action):
        self.steps += 1
        if action is not None:
            self.at, self.commands = np.array(action), self.commands + 1

    def joints(self):
        return self.at

    def snapshot(self):
        return self.steps, self.at.copy()

    def sense(self, snapshot):
        steps, joints = snapshot
        if self.extra is None:
            raise RuntimeError("lens cap")
        images = {name: np.full((6, 8, 3), i, np.uint8) for i, name in enumerate(CAMERAS)}
        depth_m = {name: np.ones((6, 8), np.float32) for name in CAMERAS}
        return {"images": images, "depth_m": depth_m, "state": joints.astype(np.float32), "seed": steps} | self.extra

    def status(self):
        return {"success": self.commands > 0}
