"""Drive a simulated robot, in real time in its own process, with a policy that is served somewhere.

    python -m experiments.run_robot --server ws://127.0.0.1:8000 --task drawer_close --seconds 8 --seed 1 --json out.json

This process knows the policy through the websocket alone: it holds the control loop (50 Hz), the safety layer and the client.
The robot's process has the physics (native MuJoCo) and makes camera images when the control loop asks for them.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from clamp_jax.deploy.client import Client, Refused, Unavailable
from clamp_jax.deploy.execution import EXECUTIONS
from clamp_jax.deploy.robots import RobotLost
from clamp_jax.deploy.robots.simulated import Faults, SimulatedRobot
from experiments.driving import Episode, Stop, check_execution, drive, planner, summary
from experiments.simulated_cell import SimulatedCell

NO_FAULTS = Faults()
CONNECT_S = 30.0  # how long to wait for a server that is starting


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
