"""Breaks what a running robot depends on, a hundred times, and looks at every command that it was sent meanwhile.

A simulated robot in its own process, the real control loop, client and server, a proxy between them. The policy's actions say which
question they answer, so that a judge knows how old every action is that reaches the robot: each command is the next action of a
reply that was not too old, or a hold. After each fault the robot has to be moving again by itself.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clamp_jax.deploy import control
from clamp_jax.deploy.client import Client
from clamp_jax.deploy.robots.simulated import SimulatedRobot
from clamp_jax.deploy.safety import Safety
from clamp_jax.structs import CHUNK, CONTROL_HZ
from experiments import driving, serve
from experiments.benchmark import realtime, stub_server
from experiments.torture.chaos_server import MARKS, OTHER, told
from experiments.torture.proxy import Proxy, Way

SIZE = 8
RECOVERS_S = 40.0  # after a fault ends; most of it is a server that starts
ROOT = Path(__file__).parents[2]
PERIOD_S = 1 / CONTROL_HZ
SLACK_S = 0.05  # ours: of a machine that is shared; what the loop missed itself stands in missed_deadlines
AGE_S = control.Settings().stale_s + CHUNK * PERIOD_S + 0.1  # of an action's observation: a reply's age and a whole chunk


class Sent(NamedTuple):
    """A command that reached the robot."""

    time: float
    command: np.ndarray


class Judge:
    """A robot that writes down what it is told, and when each question was asked."""

    def __init__(self, robot: SimulatedRobot):
        self._robot, self.limits = robot, robot.limits
        self.sent: list[Sent] = []
        self.asked: dict[int, float] = {}  # question modulo MARKS -> when

    def joints(self) -> np.ndarray:
        """Of the robot, without what the grippers say."""
        return self._robot.joints()

    def observe(self) -> dict:
        """Of the robot."""
        return self._robot.observe()

    def command(self, action: np.ndarray) -> None:
        """Written down and passed on."""
        self.sent.append(Sent(time.monotonic(), action))
        self._robot.command(action)

    def rest(self) -> None:
        """Of the robot."""
        self._robot.rest()

    def watched(self, plan: Callable) -> Callable:
        """The planner's work, with the moment of each question."""

        def ask(question: control.Question) -> np.ndarray:
            self.asked[question.seed % MARKS] = time.monotonic()
            return plan(question)

        return ask

    def newest(self) -> int | None:
        """The question whose answer was executed last."""
        for sent in reversed(self.sent[-CHUNK:]):
            if (mark := told(sent.command)) is not None:
                return mark[0]
        return None


class Server:
    """The policy's process on a port of its own."""

    def __init__(self, spec: Path, port: int):
        self._spec, self.port, self._process = spec, port, None

    def start(self, *, other: bool = False) -> None:
        """Start it and wait until it is ready."""
        command = [sys.executable, "-m", "experiments.torture.chaos_server", "--spec", str(self._spec), "--port", str(self.port)]
        self._process = subprocess.Popen(command + ["--other"] * other, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        serve._ready_url(self._process)

    def kill(self) -> None:
        """At once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    def freeze(self, seconds: float) -> None:
        """Stop it, and let it go on."""
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(self._process.pid, signal.SIGCONT)


def kill(server: Server, proxy: Proxy, rng: np.random.Generator) -> None:
    """The server dies and is started again."""
    server.kill()
    time.sleep(rng.uniform(0, 1))
    server.start()


def freeze(server: Server, proxy: Proxy, rng: np.random.Generator) -> None:
    """The server stands still for a while."""
    server.freeze(rng.uniform(0.3, 3))


def other_policy(server: Server, proxy: Proxy, rng: np.random.Generator) -> None:
    """The server comes back with another policy, and later with the right one."""
    server.kill()
    server.start(other=True)
    time.sleep(rng.uniform(0.5, 2))
    server.kill()
    server.start()


def _through(way: Callable[[np.random.Generator], Way]) -> Callable:
    def fault(server: Server, proxy: Proxy, rng: np.random.Generator) -> None:
        proxy.set(way(rng))
        try:
            time.sleep(rng.uniform(0.3, 3))
        finally:
            proxy.set(Way(open=False))  # what was lost leaves half messages: both sides have to begin anew
            proxy.set(Way())

    return fault


FAULTS: dict[str, Callable[[Server, Proxy, np.random.Generator], None]] = {
    "killed": kill,
    "frozen": freeze,
    "another policy": other_policy,
    "cut off": _through(lambda rng: Way(open=False)),
    "lost": _through(lambda rng: Way(lost=True)),
    "delayed": _through(lambda rng: Way(delay_s=rng.uniform(0.05, 1.5))),
    "corrupted": _through(lambda rng: Way(corrupt=0.7)),
}


def torture(count: int, *, seed: int = 0, names: tuple[str, ...] = tuple(FAULTS)) -> dict[str, Any]:
    """Do `count` faults to a running robot; plain values."""
    began = time.monotonic()
    with _running(seed) as (server, proxy, judge, controller):
        done = threading.Event()
        found: list[dict] = []
        mischief = threading.Thread(target=_mischief, args=(count, seed, names, (server, proxy, judge), found, done), daemon=True)
        mischief.start()
        report = controller.run(1e9, stop=done.is_set)
        mischief.join()
    commands = judge_commands(judge.sent, judge.asked)
    failed = [one for one in found if not one["recovered"]]
    return {
        "faults": len(found),
        "by_kind": {name: sum(one["fault"] == name for one in found) for name in names},
        "recovered": len(found) - len(failed),
        "recovery_s_max": max((one["recovery_s"] for one in found), default=0.0),
        "failed": failed,
        "ticks": report.ticks,
        "missed_deadlines": report.missed_deadlines,
        "held": report.held,
        "discarded": report.discarded,
        "commands": commands,
        "seconds": round(time.monotonic() - began, 1),
        "good": len(found) == count and not failed and not commands["wrong"] and commands["late_holds"] == 0,
    }


@contextlib.contextmanager
def _running(seed: int) -> Iterator[tuple[Server, Proxy, Judge, control.Controller]]:
    """Everything started, nothing of it left."""
    policy = stub_server.Stub(SIZE, 0.0, 0.0)
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        spec = Path(folder) / "spec.json"
        spec.write_text(json.dumps(policy.spec))
        free.bind(("127.0.0.1", 0))
        server = Server(spec, free.getsockname()[1])
        free.close()
        try:
            server.start()
            with Proxy(server.port, seed) as proxy, Client(proxy.url) as client:
                told_by = client.connect(60.0)
                body = {"height": SIZE, "width": SIZE, "cameras": list(told_by["cameras"]), "calibration_id": told_by["calibration_id"]}
                with SimulatedRobot(realtime.StillPlant, body) as robot:
                    judge = Judge(robot)
                    thread = control.ThreadPlanner(judge.watched(driving.planner(judge, client, [])))
                    yield server, proxy, judge, control.Controller(judge, thread, Safety(robot.limits))
                    thread.close()
        finally:
            server.kill()


def _mischief(count: int, seed: int, names: tuple[str, ...], parts: tuple, found: list[dict], done: threading.Event) -> None:
    """One fault after the other, each when the robot moves."""
    server, proxy, judge = parts
    rng = np.random.default_rng(seed)
    try:
        _moves(judge, time.monotonic())
        for number in range(count):
            time.sleep(rng.uniform(0, 1.0))
            name = names[number % len(names)]
            FAULTS[name](server, proxy, rng)
            ended = time.monotonic()
            recovered = _moves(judge, ended)
            found.append({"fault": name, "recovered": recovered, "recovery_s": round(time.monotonic() - ended, 2)})
    finally:
        done.set()


def _moves(judge: Judge, since: float) -> bool:
    """Wait until an answer to a question that was asked after a moment is executed; False when it takes too long."""
    while time.monotonic() < since + RECOVERS_S:
        newest = judge.newest()
        if newest is not None and judge.asked.get(newest, 0.0) > since:
            return True
        time.sleep(0.02)
    return False


def judge_commands(sent: list[Sent], asked: dict[int, float]) -> dict[str, Any]:
    """What is wrong with commands: each is the next action of a reply that is not too old, or a hold; none comes late."""
    wrong, late, oldest, longest, holds, before = [], 0, 0.0, 0.0, 0, None
    for one in sent:
        mark = told(one.command)
        if before is not None:
            gap = one.time - before.time
            longest = max(longest, gap)
            late += gap > 2 * PERIOD_S + SLACK_S
        if before is not None and np.array_equal(one.command, before.command):
            holds += 1
        elif mark is None or one.command[13] >= OTHER - 1e-3:
            wrong.append(f"at {one.time:.2f} s neither an action nor a hold: grippers {one.command[[6, 13]]}")
        else:
            age = one.time - asked[mark[0]] if mark[0] in asked else np.inf
            oldest = max(oldest, age if age < 1e3 else 0.0)
            if age > AGE_S:
                wrong.append(f"at {one.time:.2f} s action {mark[1]} of question {mark[0]}, {age:.2f} s old")
        before = one
    return {"sent": len(sent), "holds": holds, "oldest_s": oldest, "longest_gap_s": longest, "late_holds": late, "wrong": wrong[:20]}
