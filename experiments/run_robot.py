"""Drive a simulated robot, in real time in its own process, with a policy that is served somewhere.

    python -m experiments.run_robot --server ws://127.0.0.1:8000 --task drawer_close --seconds 8 --seed 1 --json out.json

This process knows the policy through the websocket alone: it holds the control loop (50 Hz), the safety layer and the client.
The robot's process has the physics (native MuJoCo) and makes camera images when the control loop asks for them.
"""

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from clamp_jax.deploy import control
from clamp_jax.deploy.client import Client, Refused, Unavailable
from clamp_jax.deploy.execution import EXECUTIONS
from clamp_jax.deploy.robots import Robot, RobotLost
from clamp_jax.deploy.robots.simulated import Faults, SimulatedRobot
from clamp_jax.deploy.safety import Safety

EXACT: Mapping[str, Any] = MappingProxyType({})  # no field of the sensors differs from an exact camera's
NO_FAULTS = Faults()
CONNECT_S = 30.0  # how long to wait for a server that is starting


class Episode(NamedTuple):
    """One run of the robot."""

    task: str
    seconds: float = 8.0
    seed: int = 1
    rest: bool = False  # go to the sleep pose at the end
    execution: str = "chunk"  # of clamp_jax/deploy/execution.py


class SimulatedCell:
    """The plant of a simulated robot: native MuJoCo and the sensors of `observe`, images of (height, width) pixels.

    `sensor` are fields of SensorConfig: the faults of the cameras, and how late images and observed joints are.
    """

    def __init__(self, task: str, instruction: str, height: int, width: int, seed: int, sensor: Mapping[str, Any] = EXACT):
        """Start in a reset whose variant is the instruction's; ValueError when the task has no such instruction."""
        from clamp_jax import runtime

        runtime.setup("cpu", mjx=False)  # the robot's computer; the accelerator, if there is one, is the server's
        import jax
        import mujoco

        from clamp_jax.sim import robot, rollout, scene, tasks

        self._task, self._scene = tasks.get(task), scene.build(task)
        qpos, self._variant = start_state(self._task, instruction, seed)
        self._mujoco, self._control, self._substeps = mujoco, robot.control, self._scene.substeps
        self._data = mujoco.MjData(self._scene.model)
        self._data.qpos[:] = qpos
        mujoco.mj_forward(self._scene.model, self._data)
        self._home = rollout.HOME_ACTION
        self._success, self._succeeded_at = jax.jit(self._task.success), None
        self._states, self._steps = deque([self._qpos()], maxlen=rollout.STATES), 0
        self._sense, self._calibration = _sensors(self._scene, height, width, seed, sensor)
        self.sense(self.snapshot())  # compile before the clock starts
        self._judge()

    def step(self, action: np.ndarray | None) -> None:
        """Advance 0.02 s."""
        self._data.ctrl[:] = self._control(self._home if action is None else action)
        self._mujoco.mj_step(self._scene.model, self._data, nstep=self._substeps)
        self._steps += 1
        self._states.append(self._qpos())
        self._judge()

    def joints(self) -> np.ndarray:
        """Measured joints (14,), exact and of now: what the control loop reads off the servos, not what comes with the images."""
        from clamp_jax.geometry import aloha

        arms = self._data.qpos[:16].reshape(2, 8)[:, :7].copy()
        arms[:, 6] = (arms[:, 6] - aloha.GRIPPER_CLOSED_M) / (aloha.GRIPPER_OPEN_M - aloha.GRIPPER_CLOSED_M)
        return arms.reshape(14)

    def snapshot(self) -> tuple[np.ndarray, int]:
        """The last states (s, q), newest last, and the number of control steps so far."""
        return np.stack(self._states), self._steps

    def sense(self, snapshot: tuple[np.ndarray, int]) -> dict:
        """Images, depth and joints of a snapshot by camera name, and the cell's calibration."""
        from clamp_jax.structs import CAMERAS

        observation = self._sense(*snapshot)
        rgb, depth_m = np.asarray(observation.rgb), np.asarray(observation.depth_m)
        return {
            "images": dict(zip(CAMERAS, rgb, strict=True)),
            "depth_m": dict(zip(CAMERAS, depth_m, strict=True)),
            "state": np.asarray(observation.joints, np.float32),
            "calibration": self._calibration,
        }

    def status(self) -> dict:
        """Whether and when (s of simulated time) the task was first done."""
        return {"success": self._succeeded_at is not None, "succeeded_at_s": self._succeeded_at, "time_s": float(self._data.time)}

    def _qpos(self) -> np.ndarray:
        return self._data.qpos.astype(np.float32)

    def _judge(self) -> None:
        if self._succeeded_at is None and self._success(self._qpos(), self._data.qvel.astype(np.float32), self._variant):
            self._succeeded_at = float(self._data.time)


def start_state(task: Any, instruction: str, seed: int, draws: int = 64) -> tuple[np.ndarray, Any]:
    """(qpos (q,), variant) of the first reset of `seed` whose instruction is the given one; ValueError when there is none."""
    from clamp_jax.sim import rollout

    if instruction not in task.instructions:
        raise ValueError(f"the policy is for {instruction!r}; task {task.name!r} has {list(task.instructions)}")
    starts = rollout.initial_states(task, draws if len(task.instructions) > 1 else 1, seed)
    for qpos, variant in zip(starts.qpos, starts.variant, strict=True):
        if task.instructions[int(variant)] == instruction:
            return qpos, variant
    raise ValueError(f"none of {draws} resets of task {task.name!r} has the instruction {instruction!r}; try another seed")


def _sensors(built: Any, height: int, width: int, seed: int, sensor: Mapping[str, Any]) -> tuple[Callable, dict]:
    """(last states, control steps so far) -> Observation, compiled, and the nominal calibration as a request has it."""
    from clamp_jax.geometry import kinematics
    from clamp_jax.sensors import SensorConfig
    from clamp_jax.sim import rollout
    from experiments.evaluate import fixed_looks, padded_scene

    state, capacity = padded_scene(built)
    config = fixed_looks(SensorConfig(height, width, capacity, **sensor))
    calibration = kinematics.aloha_calibration(height, width)
    sense = rollout.make_sense(state, calibration, config)
    names = ("intrinsics", "parent_from_camera", "world_from_base")
    told = {name: np.asarray(getattr(calibration, name), np.float32) for name in names}
    return lambda states, step: _first(sense, states, step, seed), told


def _first(sense: Callable, states: np.ndarray, step: int, seed: int) -> Any:
    """The observation of the only trial there is, with the draws that a rollout's first trial has at that step."""
    import jax

    key = jax.random.fold_in(jax.random.key(seed), 0)
    keys = (jax.random.fold_in(key, number)[None] for number in (1 + step, 0))
    past, mask = np.zeros((1, 50, 14), np.float32), np.zeros((1, 50), bool)  # the control loop knows these, not the robot
    return jax.tree.map(lambda leaf: leaf[0], sense(states[None], past, mask, *keys))


def run_episode(url: str, episode: Episode, *, api_key: str | None = None, faults: Faults = NO_FAULTS) -> dict:
    """Connect, start the robot, control it and report {"robot_episode", "latency_ms", ...}.

    SIGTERM and SIGINT end it: the arms go to rest first; a second one ends the process at once. Refused, Unavailable (no server),
    RobotLost or ValueError (task, policy and execution do not fit) when it cannot start.
    """
    with Client(url, api_key=api_key) as client, Stop() as stop:
        spec = client.connect(CONNECT_S)
        check_execution(spec, episode.execution)
        height, width = spec["image_size"]
        cell = {"task": episode.task, "instruction": spec["instruction"], "height": height, "width": width, "seed": episode.seed}
        cell["sensor"] = spec.get("sensor", {})  # the cameras that the policy was trained with
        with SimulatedRobot(SimulatedCell, cell, faults=faults) as robot:
            times: list[float] = []
            report = drive(robot, planner(robot, client, times), episode, stop=stop)
            status = robot.status()
            if episode.rest or stop():
                robot.rest()
    return summary(report, status, times) | {"episode": episode._asdict(), "instruction": spec["instruction"]}


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
        check_same(agreed, client.metadata)
        reply = client.infer(observation | asked, timeout_s=control.Settings().stale_s)
        check_same(agreed, client.metadata)  # it may have connected anew
        times.append(1e3 * (time.monotonic() - started))
        return reply["actions"]

    return plan


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


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Drive a simulated robot with a served policy.")
    parser.add_argument("--server", default="ws://127.0.0.1:8000")
    parser.add_argument("--task", required=True)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rest", action="store_true", help="go to the sleep pose at the end")
    parser.add_argument("--execution", choices=tuple(EXECUTIONS), default="chunk", help="how chunks are executed (docs/deploy.md)")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="of the simulated servos, from a command on")
    parser.add_argument("--noise-rad", type=float, default=0.0, help="standard deviation of the simulated encoders")
    parser.add_argument("--loss", type=float, default=0.0, help="share of the simulated bus's packets that do not arrive")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one episode, print what came of it, write JSON."""
    args = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    episode = Episode(args.task, args.seconds, args.seed, args.rest, args.execution)
    faults = Faults(args.latency_ms / 1e3, args.noise_rad, args.loss, args.seed)
    try:
        result = run_episode(args.server, episode, api_key=os.environ.get("CLAMP_API_KEY"), faults=faults)
    except (ValueError, Refused, Unavailable, RobotLost) as error:
        print(f"run_robot: {error}", file=sys.stderr)
        return 1
    text = json.dumps(result, indent=1)
    print(text)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        temporary = args.json.with_name(f".{args.json.name}.tmp")
        temporary.write_text(text)
        temporary.rename(args.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
