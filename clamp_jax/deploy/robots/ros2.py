"""Messages over ROS 2: a node of our own context, and a thread that waits for what comes."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

NODE = "clamp_jax"


class Transport:
    """Publishers and subscriptions of one node; `imported(name)` brings a module of ROS."""

    def __init__(self, imported: Callable[[str], Any]):
        self._ros = imported("rclpy")
        self._context = self._ros.context.Context()
        self._ros.init(context=self._context)
        self._node = self._ros.create_node(NODE, context=self._context)
        self._executor = self._ros.executors.SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="ros", daemon=True)

    def publisher(self, kind: type, topic: str) -> Callable[[Any], None]:
        """A function that sends a message of this kind."""
        return self._node.create_publisher(kind, topic, 1).publish

    def subscribe(self, kind: type, topic: str, hear: Callable[[Any], None]) -> None:
        """Have `hear` called with each message."""
        self._node.create_subscription(kind, topic, hear, 1)

    def start(self) -> None:
        """From now on messages come in."""
        self._thread.start()

    def close(self) -> None:
        """Leave ROS."""
        with contextlib.suppress(Exception):  # a context that is gone already
            self._ros.shutdown(context=self._context)
        self._thread.join(5)
        self._node.destroy_node()

    def _spin(self) -> None:
        while self._ros.ok(context=self._context):
            self._executor.spin_once(timeout_sec=0.1)
