"""What the two drawer experts share: the box's frame, the arm, how the tool stands before the bottom drawer."""

import itertools
from collections.abc import Callable

import numpy as np

from clamp_jax.geometry.aloha import GRIPPER_SITE
from clamp_jax.sim.experts import ik
from clamp_jax.sim.experts.motion import PlanError, Script
from clamp_jax.sim.objects.jewelry_box import DRAWER_HEIGHTS, KNOB_Y
from clamp_jax.sim.robot import FINGER_SPAN
from clamp_jax.sim.tasks.drawer_open import BOTTOM, BOX_QPOS

_TIP_BEHIND_SITE = GRIPPER_SITE[0] - FINGER_SPAN[1]  # m, middle of the fingertips' round ends

_CLOSE_IN = {"above": 0.05, "before": 0.025}  # m, an approach for the edge of an arm's reach


class Front:
    """The bottom drawer's knob and a tool that stands before it."""

    def __init__(self, qpos0: np.ndarray, tilt_rad: float):
        """tilt_rad: how far the tool leans back from the vertical, so that its tip alone comes near the box."""
        w, _, _, z = qpos0[BOX_QPOS + 3 : BOX_QPOS + 7]
        self.origin, self.opening = np.array(qpos0[BOX_QPOS : BOX_QPOS + 3]), float(qpos0[BOTTOM])
        self.rotation = ik.rotation_about((0, 0, 2 * np.arctan2(z, w)))
        self.direction = self.rotation @ (0, np.sin(tilt_rad), -np.cos(tilt_rad))

    def knob(self, across: float, ahead: float, height: float, opening: float) -> np.ndarray:
        """World point (3,) m at an offset from the knob's middle: along the front, towards the room, up."""
        return self.origin + self.rotation @ (across, KNOB_Y - opening - ahead, DRAWER_HEIGHTS["bottom"] + height)

    def tool(self, ahead: float, height: float, *, opening: float, across: float = 0.0, turned: bool = False) -> np.ndarray:
        """Pose (4, 4) of the gripper site with the fingertips' middle at that offset, the fingers closing along the front.

        turned: by half a turn, the other way to close along it.
        """
        closing = self.rotation[:, 0] * (-1 if turned else 1)
        return ik.tool_pose(self.knob(across, ahead, height, opening) + _TIP_BEHIND_SITE * self.direction, self.direction, closing)

    @property
    def near_side(self) -> str:
        """The arm on the knob's side of the table."""
        return "left" if self.knob(0.0, 0.0, 0.0, self.opening)[0] < 0 else "right"


Build = Callable[[Front, str, bool, dict[str, float]], Script]  # where, which arm, gripper turned, style -> script


def first_reachable(qpos0: np.ndarray, tilts: tuple[float, ...], style: dict[str, float], script: Build) -> Script:
    """The first script that an arm reaches all of: near arm before far, as styled before close in, tilt by tilt (rad).

    The gripper stands as it is or half a turn round. Raises PlanError with the first reason.
    """
    near = Front(qpos0, 0.0).near_side
    sides = (near, "right" if near == "left" else "left")
    reason = None
    for side, manner, tilt, turned in itertools.product(sides, (style, style | _CLOSE_IN), tilts, (False, True)):
        try:
            return script(Front(qpos0, tilt), side, turned, manner)
        except ik.IKError as error:
            reason = reason or error
    raise PlanError(f"no arm reaches the bottom drawer: {reason}")
