"""The control loop in real time beside its server on one machine: deadlines that it missed, and how late its ticks began."""

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clamp_jax.deploy import control
from clamp_jax.deploy.client import Client
from clamp_jax.deploy.execution import EXECUTIONS
from clamp_jax.deploy.robots.simulated import SimulatedRobot
from clamp_jax.deploy.safety import Safety
from clamp_jax.geometry import aloha
from experiments import driving, serve
from experiments.benchmark import serving


class StillPlant:
    """A body without physics whose cameras show noise: what is timed is the loop, not a simulation."""

    def __init__(self, height: int, width: int, cameras: list[str], calibration_id: str):
        rng = np.random.default_rng(0)
        self._at = np.tile(aloha.HOME_COMMAND, 2)
        self._seen = {
            "images": {name: rng.integers(0, 256, (height, width, 3), np.uint8) for name in cameras},
            "depth_m": {name: rng.uniform(0.3, 1, (height, width)).astype(np.float32) for name in cameras},
            "calibration_id": calibration_id,
        }

    def step(self, action: np.ndarray | None) -> None:
        """At its goal at once."""
        self._at = self._at if action is None else np.array(action)

    def joints(self) -> np.ndarray:
        """(14,)."""
        return self._at

    def snapshot(self) -> np.ndarray:
        """The joints."""
        return self._at.copy()

    def sense(self, snapshot: np.ndarray) -> dict:
        """The same pictures, the joints of the snapshot."""
        return self._seen | {"state": snapshot.astype(np.float32)}

    def status(self) -> dict:
        """Nothing to judge."""
        return {}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line's part."""
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--artifact", type=Path, help="the policy; default: a stand-in that takes --first-ms")
    parser.add_argument("--first-ms", type=float, default=50.0, help="of the stand-in")
    parser.add_argument("--size", type=int, default=224, help="pixels of a camera's side, of the stand-in")
    parser.add_argument("--execution", choices=tuple(EXECUTIONS), default="chunk")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Missed deadlines, jitter (ms from a tick's deadline to its begin), latencies, and the machine's load before and after."""
    before = os.getloadavg()
    with _server(args) as url, Client(url) as client:
        spec = client.connect(60.0)
        height, width = spec["image_size"]
        body = {"height": height, "width": width, "cameras": list(spec["cameras"]), "calibration_id": spec["calibration_id"]}
        with SimulatedRobot(StillPlant, body) as robot:
            times: list[float] = []
            thread = control.ThreadPlanner(driving.planner(robot, client, times))
            controller = control.Controller(robot, thread, Safety(robot.limits), control.Settings(execution=args.execution))
            cpu, began = time.process_time(), time.monotonic()
            report = controller.run(args.seconds)
            share = (time.process_time() - cpu) / (time.monotonic() - began)
            thread.close()
            status = robot.status()
    late = np.array(report.late_ms)
    return {
        "seconds": args.seconds,
        "ticks": report.ticks,
        "missed_deadlines": report.missed_deadlines,
        "held": report.held,
        "chunks": report.chunks,
        "failures": report.failures,
        "jitter_ms": {name: float(np.percentile(late, q)) for name, q in (("p50", 50), ("p99", 99), ("p99.9", 99.9), ("max", 100))},
        "round_ms": control.percentiles_ms(tuple(times)),
        "robot_late_steps": status["late_steps"],
        "processor_share": share,
        "load_before": before,
        "load_after": os.getloadavg(),
        "cores": os.cpu_count(),
    }


@contextlib.contextmanager
def _server(args: argparse.Namespace) -> Iterator[str]:
    if args.artifact is not None:
        with serve.server_process(args.artifact) as url:
            yield url
    else:
        with serving.stub("ours", args.size, args.first_ms, 2 * args.first_ms) as url:
            yield url
