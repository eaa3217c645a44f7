"""Laptop Close: closed fingers behind the lid lead it round its hinge and press it down."""

import itertools

import numpy as np

from clamp_jax.geometry.aloha import SIDES, TABLE_TOP_Z
from clamp_jax.sim.experts import carry, ik, motion
from clamp_jax.sim.objects.laptop import BASE_HEIGHT, HINGE_Y, LID_HALF, OPEN_RAD
from clamp_jax.sim.robot import FINGER_RADIUS
from clamp_jax.sim.scene import Scene
from clamp_jax.sim.tasks.laptop_close import LAPTOP_QPOS

_PRESS = -0.004  # m that the fingers aim into the lid


def plan(scene: Scene, qpos0: np.ndarray, variant: int, rng: np.random.Generator) -> np.ndarray:
    """Commands (t, 14) at 50 Hz; raises PlanError where no arm reaches."""
    del variant
    x, y, yaw = qpos0[LAPTOP_QPOS : LAPTOP_QPOS + 3]
    laptop = carry.upright((x, y, TABLE_TOP_Z), yaw)
    style = {"radius": rng.uniform(0.165, 0.18), "across": rng.uniform(-0.02, 0.02), "tempo": rng.uniform(0.9, 1.1)}
    reason = None
    for side in SIDES if x < 0 else SIDES[::-1]:
        outer = -1.0 if side == "left" else 1.0
        shifts = (0.0, 0.05, 0.09, -0.05)  # m, towards the arm, along the lid's edge
        tilts = np.radians((0.0, 20.0, 40.0, -20.0, 55.0))
        for shift, tilt, turned in itertools.product(shifts, tilts, (1.0, -1.0)):
            manner = style | {"across": style["across"] + outer * shift, "turned": turned}
            try:
                return motion.commands(scene.model, _close(qpos0, side, laptop, manner, tilt), qpos0)
            except ik.IKError as error:
                reason = reason or error
    raise motion.PlanError(f"no arm reaches round the lid: {reason}")


def _close(qpos0: np.ndarray, side: str, laptop: np.ndarray, style: dict[str, float], tilt: float) -> motion.Script:
    outward = np.array([1.0 if side == "left" else -1.0, 0.0, 0.0])
    direction = np.cos(tilt) * carry.DOWN + np.sin(tilt) * outward
    closing = style["turned"] * laptop[:3, 0]

    def tool(angle: float, off: float, radius: float = style["radius"]) -> np.ndarray:
        """Fingertips on the lid's outside at an angle from closed, `off` (m) from touching."""
        along, normal = np.array([0.0, -np.cos(angle), np.sin(angle)]), np.array([0.0, np.sin(angle), np.cos(angle)])
        hinge = np.array([style["across"], HINGE_Y, BASE_HEIGHT + LID_HALF])
        local = hinge + radius * along + (LID_HALF + FINGER_RADIUS + off) * normal
        point = laptop[:3, :3] @ local + laptop[:3, 3]
        return ik.tool_pose(point + carry.TIP_BEHIND_SITE * direction, direction, closing)

    script = motion.Script(side, qpos0, tempo=style["tempo"])
    script.reach(carry.raised(tool(-OPEN_RAD, 0.03), 0.10), 1.4, gripper=0.0)
    script.slide(tool(-OPEN_RAD, 0.03), 0.8)
    for angle in np.linspace(-OPEN_RAD, 0.0, 12):
        script.slide(tool(angle, _PRESS), 0.22)
    script.slide(tool(0.0, 2 * _PRESS), 0.3, hold_s=0.2)
    script.slide(tool(0.0, 0.06), 0.5)
    return script.home(1.0)
