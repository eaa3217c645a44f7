"""A robot, a served policy, and the control loop between them."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clamp_jax.deploy import control
from clamp_jax.deploy.client import Client, Refused
from clamp_jax.deploy.robots import Robot, RobotLost
from clamp_jax.deploy.safety import Safety


class Episode(NamedTuple):
    """One run of the robot."""

    task: str  # of the simulated robot; "" in a real cell
    seconds: float = 8.0
    seed: int = 1
    rest: bool = False  # go to the sleep pose at the end
    execution: str = "chunk"  # of clamp_jax/deploy/execution.py


class Stop:
    """True from the first SIGTERM or SIGINT on while the context is open; a second one ends the process as ever."""

    def __init__(self) -> None:
        self._asked, self._before = False, {}

    def __call__(self) -> bool:
        return self._asked

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: Any) -> None:
        self._asked = True
        signal.signal(number, signal.SIG_DFL)


def check_execution(spec: Mapping[str, Any], execution: str) -> None:
    """ValueError when a policy cannot be executed so."""
    if execution == "realtime" and "frozen_actions" not in spec["inputs"]:
        raise ValueError("real-time chunking needs a policy that takes frozen_actions; export it anew, or use --execution chunk")


def drive(robot: Robot, plan: Callable, episode: Episode, *, stop: Callable[[], bool] = lambda: False) -> control.Report:
    """The control loop around a robot; a robot that is lost ends it, not completed."""
    thread = control.ThreadPlanner(plan)
    settings = control.Settings(execution=episode.execution)
    controller = control.Controller(robot, thread, Safety(robot.limits), settings, seed=episode.seed)
    try:
        return controller.run(episode.seconds, stop=stop)
    except RobotLost as error:
        print(f"run_robot: {error}", file=sys.stderr)
        return controller.report(False)
    finally:
        thread.close()


def planner(robot: Robot, client: Client, times: list[float]) -> Callable:
    """question -> actions (50, 14) of the server; appends each reply's round trip in ms to `times`.

    A server that comes back with another policy than it had at the start is not obeyed: Refused, until it has that one again.
    """
    agreed = client.metadata

    def plan(question: control.Question) -> np.ndarray:
        observation = robot.observe()
        asked = {name: value for name, value in question._asdict().items() if name != "frozen_actions" or len(value)}
        started = time.monotonic()
        client.connect(control.Settings().stale_s)
        _require_same(agreed, client)
        reply = client.infer(observation | asked, timeout_s=control.Settings().stale_s)
        _require_same(agreed, client)  # it may have connected anew
        times.append(1e3 * (time.monotonic() - started))
        return reply["actions"]

    return plan


def _require_same(agreed: Mapping[str, Any], client: Client) -> None:
    """As `check_same`; another server is left, so that the next question looks anew who is there: nothing is sent that would tell."""
    try:
        check_same(agreed, client.metadata)
    except Refused:
        client.close()
        raise


def check_same(agreed: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refused when the server's policy is another one than at the start."""
    if agreed.get("policy_id") != now.get("policy_id"):
        names = f"{now.get('policy_id')} for {now.get('instruction')!r}, at the start it was {agreed.get('policy_id')}"
        raise Refused(f"the server now serves {names} for {agreed.get('instruction')!r}; the arms hold until that one is back")


def summary(report: control.Report, status: dict, times_ms: Sequence[float]) -> dict:
    """The JSON report: robot_episode, latency_ms (request to reply) and observation_to_reply_ms (with the images' making)."""
    counts = {name: value for name, value in report._asdict().items() if name not in ("latencies_ms", "late_ms")}
    return {
        "robot_episode": counts | status,
        "jitter_ms": control.percentiles_ms(report.late_ms),
        "latency_ms": control.percentiles_ms(tuple(times_ms)),
        "observation_to_reply_ms": control.percentiles_ms(report.latencies_ms),
    }
