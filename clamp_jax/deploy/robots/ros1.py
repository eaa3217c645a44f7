"""Messages over ROS 1: the process has one node for good, rospy has threads of its own, and there is a master that all ask."""

import os
from collections.abc import Callable
from typing import Any

from clamp_jax.deploy.robots import RobotLost

NODE = "clamp_jax"


class Transport:
    """Publishers and subscribers of the process's node; `imported(name)` brings a module of ROS."""

    def __init__(self, imported: Callable[[str], Any]):
        """RobotLost without a master: rospy would wait for one for ever."""
        self._ros, self._ends = imported("rospy"), []
        if not imported("rosgraph").is_master_online():
            where = os.environ.get("ROS_MASTER_URI", "not set")
            raise RobotLost(f"no ROS master answers (ROS_MASTER_URI is {where}); start the driver's launch file, or roscore")
        # signals are the program's own: it brings the arms to rest first; a second call with the same words is none
        self._ros.init_node(NODE, anonymous=True, disable_signals=True)

    def publisher(self, kind: type, topic: str) -> Callable[[Any], None]:
        """A function that sends a message of this kind, in a thread of rospy's: only the newest waits."""
        self._ends.append(self._ros.Publisher(topic, kind, queue_size=1, tcp_nodelay=True))
        return self._ends[-1].publish

    def subscribe(self, kind: type, topic: str, hear: Callable[[Any], None]) -> None:
        """Have `hear` called with each message, the newest where they come too fast."""
        self._ends.append(self._ros.Subscriber(topic, kind, hear, queue_size=1, tcp_nodelay=True))

    def start(self) -> None:
        """Messages come in from the subscription on."""

    def close(self) -> None:
        """Leave the topics; the node stays, for a process cannot have a second one."""
        for end in self._ends:
            end.unregister()
        self._ends = []
