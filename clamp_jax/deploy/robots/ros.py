"""Two arms behind the Interbotix stack's topics, for labs that keep that stack; ROS 1 or 2 is imported when this is used.

For each arm NAME (`follower_left` and `follower_right` in ALOHA 2; `puppet_left` and `puppet_right` in ALOHA, which is ROS 1): the
joints come on /NAME/joint_states (sensor_msgs/JointState, with the joints' names; the gripper's is the horn's angle), commands go out
on /NAME/commands/joint_group (interbotix_xs_msgs/JointGroupCommand: name, cmd float32[]) for the group `arm`, and on
/NAME/commands/joint_single (interbotix_xs_msgs/JointSingleCommand: name, cmd) for the gripper, in position mode. The driver node keeps
torque and limits; its errors are not told on these topics, so what is watched here is that the joint states keep coming. Topics and
messages are the same in ROS 1 and 2; ros1.py and ros2.py carry them.
"""

import importlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from clamp_jax.deploy.robots import SLEEP, RobotLost, arms, path_to
from clamp_jax.deploy.safety import Limits, aloha_limits
from clamp_jax.geometry import aloha
from clamp_jax.structs import CONTROL_HZ

ARMS = {
    1: {"left": "puppet_left", "right": "puppet_right"},
    2: {"left": "follower_left", "right": "follower_right"},
}
SILENCE_S = 0.2  # ours: ten control periods without a joint state are a fault
_FOLLOW_S = 0.02


class Ros:
    """Both arms; `observe` is handed in, since every lab's cameras have their own topics."""

    def __init__(
        self,
        names: Mapping[str, str] | None = None,
        observe: Callable[[np.ndarray], dict] | None = None,
        *,
        version: int | None = None,
        limits: Limits | None = None,
        timeout_s: float = 5.0,
    ):
        """Subscribe and wait for both arms' joint states; `observe(joints (14,))` gives a request's images.

        names by side, default ARMS; version 1 or 2 of ROS, default that which is sourced (ROS_VERSION). ImportError without it,
        RobotLost when an arm does not tell its joints.
        """
        version = _sourced() if version is None else version
        if version not in ARMS:
            raise ValueError(f"version of ROS is {version!r}; expected 1 or 2")
        names = ARMS[version] if names is None else names
        if set(names) != set(aloha.SIDES):
            raise ValueError(f"names are for {sorted(names)}; expected one each for {' and '.join(aloha.SIDES)}")
        self.limits, self._observe, self._names = limits or aloha_limits(), observe, dict(names)
        self._sensors, self._messages = (_imported(name, version) for name in ("sensor_msgs.msg", "interbotix_xs_msgs.msg"))
        self._lock, self._states = threading.Lock(), {}
        self._transport = _transport(version)
        self._out = {side: self._publishers(name) for side, name in self._names.items()}
        for side, name in self._names.items():
            self._transport.subscribe(self._sensors.JointState, f"/{name}/joint_states", self._hear(side))
        self._transport.start()
        try:
            self._wait(timeout_s)
        except RobotLost:
            self.close()
            raise

    def __enter__(self) -> "Ros":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def joints(self) -> np.ndarray:
        """Measured joints (14,); RobotLost when an arm has told nothing for SILENCE_S."""
        now = time.monotonic()
        with self._lock:
            states = [self._states.get(side) for side in aloha.SIDES]
        for side, state in zip(aloha.SIDES, states, strict=True):
            if state is None or now - state[1] > SILENCE_S:
                age = "ever" if state is None else f"for {now - state[1]:.2f} s"
                raise RobotLost(f"{side} arm: nothing on /{self._names[side]}/joint_states {age}; see whether its driver node runs")
            if isinstance(state[0], str):
                raise RobotLost(f"{side} arm: {state[0]}")
        return np.concatenate([state[0] for state in states])

    def command(self, action: np.ndarray) -> None:
        """Publish the goal (14,); ValueError when it is not finite."""
        action = np.asarray(action, np.float64)
        if action.shape != (14,) or not np.isfinite(action).all():
            raise ValueError(f"command is {action.tolist()}; expected 14 finite numbers")
        for side, goal in zip(aloha.SIDES, action.reshape(2, 7).tolist(), strict=True):
            group, single = self._messages.JointGroupCommand(), self._messages.JointSingleCommand()
            group.name, group.cmd = "arm", goal[:6]
            single.name, single.cmd = "gripper", arms.horn_from_gripper(goal[6])
            for publish, message in zip(self._out[side], (group, single), strict=True):
                publish(message)

    def observe(self) -> dict:
        """What the function that was handed in sees; RobotLost without one."""
        if self._observe is None:
            raise RobotLost("this robot was connected without cameras; pass `observe`")
        return self._observe(self.joints())

    def rest(self) -> None:
        """Go slowly to the sleep pose, in real time; the torque stays with the driver node."""
        start = time.monotonic()
        for step, goal in enumerate(path_to(SLEEP, self.joints())):
            time.sleep(max(start + step / CONTROL_HZ - time.monotonic(), 0.0))
            self.joints()
            self.command(goal)

    def close(self) -> None:
        """Leave ROS; the driver node goes on holding the arms."""
        self._transport.close()

    def _publishers(self, name: str) -> tuple[Callable, Callable]:
        topics = (self._messages.JointGroupCommand, "joint_group"), (self._messages.JointSingleCommand, "joint_single")
        return tuple(self._transport.publisher(kind, f"/{name}/commands/{topic}") for kind, topic in topics)

    def _hear(self, side: str) -> Callable[[Any], None]:
        def hear(message: Any) -> None:
            try:
                state = _joints(message)
            except ValueError as error:
                state = str(error)
            with self._lock:
                self._states[side] = state, time.monotonic()

        return hear

    def _wait(self, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while True:
            try:
                self.joints()
                return
            except RobotLost:
                if time.monotonic() > end:
                    raise
                time.sleep(_FOLLOW_S)


def _sourced() -> int:
    """The version of ROS that this environment is of: each sets this variable when it is sourced."""
    return 1 if os.environ.get("ROS_VERSION") == "1" else 2


def _transport(version: int) -> Any:
    """How messages go out and come in."""
    transport = importlib.import_module(f"clamp_jax.deploy.robots.ros{version}").Transport
    return transport(lambda name: _imported(name, version))


def _imported(name: str, version: int) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        stack = f"a sourced ROS {version} with the Interbotix X-series stack"
        raise ImportError(f"{error}; the ROS adapter needs {stack}, in a Python that both it and this run on") from error


def _joints(message: Any) -> np.ndarray:
    """(7,) of one arm's joint state, whatever order it has; ValueError for joints that lack."""
    at = dict(zip(message.name, message.position, strict=False))
    wanted = (*aloha.ARM_JOINTS, "gripper")
    if missing := [name for name in wanted if name not in at]:
        raise ValueError(f"its joint states lack {missing}; found {list(message.name)}")
    values = [float(at[name]) for name in wanted]
    if not np.isfinite(values).all():
        raise ValueError(f"its joint states are {values}; expected finite numbers")
    return np.array([*values[:6], arms.gripper_from_horn(values[6])])
