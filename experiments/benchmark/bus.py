"""Commands to both arms and readings from them over emulated buses at 50 Hz: the driver's and the wire's time, and missed periods.

Each bus lives in a process of its own and answers at the speed of a wire of 1 Mbaud; a USB adapter's latency is not in it.
"""

import argparse
import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from clamp_jax.deploy.robots import arms, emulator
from clamp_jax.deploy.robots.viperx import ViperX
from clamp_jax.geometry import aloha
from clamp_jax.structs import CONTROL_HZ

START = (*aloha.HOME_COMMAND[:6].tolist(), arms.horn_from_gripper(0.5))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line's part."""
    parser.add_argument("--seconds", type=float, default=60.0)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Periods that were missed, and ms of reading both arms, of commanding both, and of the two together."""
    before = os.getloadavg()
    with contextlib.ExitStack() as stack:
        ports = {side: stack.enter_context(bus_process()) for side in aloha.SIDES}
        robot = stack.enter_context(ViperX(ports))
        found = traffic(robot, round(args.seconds * CONTROL_HZ))
    return {"seconds": args.seconds} | found | {"load_before": before, "load_after": os.getloadavg(), "cores": os.cpu_count()}


def traffic(robot: ViperX, periods: int) -> dict[str, Any]:
    """A swinging command and a reading in each period, with absolute deadlines as the control loop has them."""
    reads, writes, lags, missed, start, tick = [], [], [], 0, time.monotonic(), 0
    goals = np.tile([*aloha.HOME_COMMAND[:6], 0.5], 2)
    while tick < periods:
        time.sleep(max(start + tick / CONTROL_HZ - time.monotonic(), 0.0))
        began = time.monotonic()
        behind = int((began - start) * CONTROL_HZ + 1e-6) - tick
        missed, tick = missed + max(behind, 0), tick + max(behind, 0)
        robot.command(goals + 0.1 * np.sin(2 * np.pi * tick / CONTROL_HZ))
        wrote = time.monotonic()
        measured = robot.joints()
        reads.append(time.monotonic() - wrote)
        writes.append(wrote - began)
        lags.append(float(np.abs(measured - goals).max()))
        tick += 1
    seconds = time.monotonic() - start
    both = np.add(reads, writes)
    times = {"command_ms": writes, "read_ms": reads, "command_and_read_ms": both}
    return {
        "rounds": len(reads),
        "rounds_per_s": len(reads) / seconds,
        "missed_periods": missed,
        "greatest_swing_rad": max(lags, default=0.0),
    } | {name: _percentiles_ms(values) for name, values in times.items()}


def _percentiles_ms(seconds: Any) -> dict[str, float]:
    points = {"p50": 50, "p99": 99, "p99.9": 99.9, "max": 100}
    return {name: float(1e3 * np.percentile(seconds, point)) for name, point in points.items()}


@contextlib.contextmanager
def bus_process() -> Iterator[str]:
    """The path of an arm's emulated bus that lives in a process of its own, which ends with this context or this program."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), name="bus", daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(120):
            raise OSError("the emulated bus did not start within 120 s")
        yield ours.recv_bytes().decode()
    finally:
        ours.close()
        process.join(10)


def _serve(pipe: Connection) -> None:
    with emulator.Bus(emulator.servos_of_an_arm(), emulator.ToyPlant(list(START))) as bus:
        pipe.send_bytes(bus.path.encode())
        with contextlib.suppress(EOFError, OSError):
            pipe.recv_bytes()
