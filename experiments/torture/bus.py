"""Breaks servos, cables and power under a moving pair of arms on emulated buses, and looks whether they hold and what is said."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from clamp_jax.deploy.robots import arms, emulator
from clamp_jax.deploy.robots import registers as reg
from clamp_jax.deploy.robots.arm import Motion
from clamp_jax.deploy.robots.dynamixel import BusFault
from clamp_jax.deploy.robots.viperx import ViperX
from clamp_jax.geometry import aloha
from clamp_jax.structs import CONTROL_HZ

WATCHDOG_S, PATIENCE_S = 1.0, 1.0  # longer than a robot's: a machine that is short of processors is not what is tried here
TICKS = 60  # a fault that is not seen in so many is missed
AFTER_S = 1.3  # when the arms have to stand still: a watchdog's time and some
STILL_RAD = 0.005
NEAR_RAD = 0.3  # of where a joint was when the fault was seen


class Cell(NamedTuple):
    """Two buses by side and the driver between them."""

    buses: dict[str, emulator.Bus]
    robot: ViperX


class Fault(NamedTuple):
    """What is done to a bus or to one servo on it, and the words that have to come of it."""

    inject: Callable[[emulator.Bus, int], Any]  # (bus, id)
    cause: str
    anywhere: bool = False  # of the whole bus: any of its joints may be named
    both: bool = False  # of both buses


def _hardware(bits: int) -> Callable[[emulator.Bus, int], None]:
    return lambda bus, identity: bus.servos[identity].fail(bits)


def _narrow(bus: emulator.Bus, identity: int) -> None:
    """The servo refuses the goals from now on: nobody answers to a sync write, so the driver has to look."""
    at = bus.servos[identity].get(reg.GOAL_POSITION)
    bus.servos[identity].set(reg.MIN_POSITION, at)
    bus.servos[identity].set(reg.MAX_POSITION, at)


def _slip(bus: emulator.Bus, identity: int) -> None:
    bus.slip[identity] = 200.0


FAULTS = {
    "overload": Fault(_hardware(reg.OVERLOAD), "overload"),
    "overheating": Fault(_hardware(reg.OVERHEATING), "overheating"),
    "input voltage": Fault(_hardware(reg.INPUT_VOLTAGE), "input voltage"),
    "encoder": Fault(_hardware(reg.ENCODER), "encoder"),
    "shock": Fault(_hardware(reg.SHOCK), "electrical shock"),
    "silent": Fault(lambda bus, identity: bus.silent.add(identity), "does not answer"),
    "damaged": Fault(lambda bus, identity: bus.damaged.add(identity), "come damaged"),
    "started anew": Fault(lambda bus, identity: bus.servos[identity].reboot(), "lost its torque"),
    "refuses": Fault(_narrow, "was sent"),
    "slipped": Fault(_slip, "apart"),
    "no power": Fault(lambda bus, _: bus.silent.update(bus.servos), "no servo answers", anywhere=True),
    "unplugged": Fault(lambda bus, _: bus.unplug(), "port", anywhere=True),
    "stalled": Fault(lambda bus, _: time.sleep(1.3 * WATCHDOG_S), "watchdog has tripped", anywhere=True, both=True),
}
SHADOWS = tuple(servo.id for servo in arms.SERVOS if servo.follows)
LEADERS = tuple(servo.id for servo in arms.LEADERS)
JOINTS = {servo.id: servo.joint for servo in arms.SERVOS}


def torture(count: int, *, seed: int = 0, names: tuple[str, ...] = tuple(FAULTS)) -> dict[str, Any]:
    """`count` faults of the given kinds in turn, each at a random moment on a random servo of a random arm; plain values."""
    found: dict[str, Any] = {"faults": 0, "by_kind": {}, "wrong": [], "messages": {}}
    seen, moved = [], [0.0]
    for number in range(count):
        name, rng = names[number % len(names)], np.random.default_rng([seed, number])
        problems, ticks, drift, message = one(name, rng)
        found["faults"] += 1
        found["by_kind"][name] = found["by_kind"].get(name, 0) + (not problems)
        found["wrong"] += [f"{number} {name}: {problem}" for problem in problems]
        found["messages"].setdefault(name, message)
        seen.append(ticks)
        moved.append(drift)
    worst = {"ticks_to_see": max(seen, default=0), "moved_after_rad": max(moved)}
    return found | worst | {"good": not found["wrong"] and found["faults"] == count}


def one(name: str, rng: np.random.Generator) -> tuple[list[str], int, float, str]:
    """What was wrong with the outcome of one fault; control periods until it was seen; how far a joint went after; what was said."""
    fault, side = FAULTS[name], aloha.SIDES[rng.integers(2)]
    ids = SHADOWS if name == "slipped" else LEADERS if name == "refuses" else tuple(JOINTS)
    identity, before = int(rng.choice(ids)), int(rng.integers(3, 25))
    with cell() as (buses, robot):
        drive(robot, 0, before)
        with contextlib.nullcontext() if fault.anywhere else buses[side].lock:
            fault.inject(buses[side], identity)
        steps = iter(range(TICKS + 1))
        try:
            drive(robot, before, TICKS, steps)
        except BusFault as error:
            problems, drift = _judge(fault, side, identity, error, Cell(buses, robot))
            return problems, next(steps) - 1, drift, str(error)
        return [f"not seen at {side} {JOINTS[identity]} (id {identity})"], TICKS, 0.0, ""


@contextlib.contextmanager
def cell() -> Iterator[Cell]:
    """Two emulated arms at home and the driver connected to them."""
    start = [*aloha.HOME_COMMAND[:6].tolist(), arms.horn_from_gripper(0.5)]
    with contextlib.ExitStack() as stack:
        buses = {}
        for side in aloha.SIDES:
            buses[side] = stack.enter_context(emulator.Bus(emulator.servos_of_an_arm(), emulator.ToyPlant(start)))
        robot = ViperX({side: bus.path for side, bus in buses.items()}, motion=Motion(watchdog_s=WATCHDOG_S, patience_s=PATIENCE_S))
        yield Cell(buses, stack.enter_context(robot))


def goal(tick: int) -> np.ndarray:
    """All joints swing."""
    return np.tile([*aloha.HOME_COMMAND[:6], 0.5], 2) + 0.15 * np.sin(2 * np.pi * tick / CONTROL_HZ)


def drive(robot: ViperX, first: int, ticks: int, steps: Iterator[int] | None = None) -> None:
    """The control loop's traffic at 50 Hz; `steps` counts the periods that began."""
    start = time.monotonic()
    for step in itertools.islice(steps or itertools.count(), ticks):
        time.sleep(max(start + step / CONTROL_HZ - time.monotonic(), 0.0))
        robot.joints()
        robot.command(goal(first + step))


def _judge(fault: Fault, side: str, identity: int, error: BusFault, arms_: Cell) -> tuple[list[str], float]:
    at = _positions(arms_)
    problems = []
    if fault.cause not in str(error) or not any(each in error.joint for each in (aloha.SIDES if fault.both else (side,))):
        problems.append(f"expected {fault.cause!r} and {side!r} in {str(error)!r}")
    if not fault.anywhere and f"{side} {JOINTS[identity]}" not in error.joint:
        problems.append(f"expected {side} {JOINTS[identity]} (id {identity}) in {str(error)!r}")
    problems += [f"{call} went on after the fault" for call in ("joints", "command") if not _refused(arms_.robot, call, error)]
    time.sleep(AFTER_S)
    early = _positions(arms_)
    time.sleep(0.1)
    late = _positions(arms_)
    drift = float(np.abs(late - at).max())
    if np.abs(late - early).max() > STILL_RAD:
        problems.append(f"a joint still moves: {np.abs(late - early).max():.3f} rad in 0.1 s")
    if drift > NEAR_RAD:
        problems.append(f"a joint went on by {drift:.3f} rad")
    return problems, drift


def _refused(robot: ViperX, call: str, error: BusFault) -> bool:
    try:
        robot.joints() if call == "joints" else robot.command(goal(0))
    except BusFault as again:
        return again is error
    return False


def _positions(arms_: Cell) -> np.ndarray:
    return np.array([bus.joint_positions() for bus in arms_.buses.values()])
