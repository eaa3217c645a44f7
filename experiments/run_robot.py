"""Drive a robot with a policy that is served somewhere: a simulated one, or a real cell; and check a cell before anything moves.

    python -m experiments.run_robot --server ws://127.0.0.1:8000 --task drawer_close --seconds 8 --seed 1 --json out.json
    python -m experiments.run_robot --check --cell cell.toml                        # nothing moves
    python -m experiments.run_robot --server ws://127.0.0.1:8000 --cell cell.toml --seconds 60

This process knows the policy through the websocket alone: it holds the control loop (50 Hz), the safety layer and the client.
A simulated robot's process has the physics (native MuJoCo) and makes camera images when the control loop asks for them. A real
cell (docs/cell.md) is checked first, and its arms go to rest at the end.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clamp_jax.deploy.calibration import difference
from clamp_jax.deploy.cameras import CameraLost
from clamp_jax.deploy.cell import HELP, open_cell
from clamp_jax.deploy.client import Client, Refused, Unavailable
from clamp_jax.deploy.execution import EXECUTIONS
from clamp_jax.deploy.robots import Robot, RobotLost
from clamp_jax.deploy.robots.simulated import Faults, SimulatedRobot
from experiments import cell_check
from experiments.driving import Episode, Stop, check_execution, drive, planner, summary
from experiments.simulated_cell import SimulatedCell

logger = logging.getLogger(__name__)
NO_FAULTS = Faults()
CONNECT_S = 30.0  # how long to wait for a server that is starting
FAILURES = (ValueError, ImportError, Refused, Unavailable, RobotLost, CameraLost)  # what is said in one line


def run_episode(url: str, episode: Episode, *, api_key: str | None = None, faults: Faults = NO_FAULTS) -> dict:
    """Connect, start the simulated robot, control it and report {"robot_episode", "latency_ms", ...}.

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


def run_cell(url: str, text: str, episode: Episode, *, api_key: str | None = None) -> dict:
    """Connect, check the real cell that `text` names, control it, bring its arms to rest and report as `run_episode`.

    Signals do what they do there. A policy whose data had another calibration is a warning, in the log and in the report.
    CheckFailed when the cell is not as it was calibrated; CellError, CalibrationError, CameraLost, RobotLost, Refused, Unavailable
    or ValueError when it cannot start. Nothing has moved then.
    """
    with Client(url, api_key=api_key) as client, Stop() as stop:
        spec = client.connect(CONNECT_S)
        check_execution(spec, episode.execution)
        with open_cell(text, tuple(spec["image_size"])) as cell:
            findings = cell_check.look(cell)
            cell_check.require_good(findings)
            warning = difference(spec.get("calibrations", ()), cell.calibration)
            if warning:
                logger.warning("%s", warning)
            times: list[float] = []
            try:
                report = drive(cell.robot, planner(cell.robot, client, times), episode, stop=stop)
            finally:
                rested = _rest(cell.robot)
            about = {"cell": text, "check": cell_check.report(cell, findings), "calibration_warning": warning, "rested": rested}
    return summary(report, {}, times) | about | {"episode": episode._asdict(), "instruction": spec["instruction"]}


def _rest(robot: Robot) -> bool:
    """Whether the arms came to rest; one that is lost is told, and what was measured is not lost with it."""
    try:
        robot.rest()
    except RobotLost as error:
        print(f"run_robot: the arms did not come to rest: {error}", file=sys.stderr)
        return False
    return True


def run_check(text: str) -> dict:
    """Check a cell without moving it, print each finding, and give {"good", "calibration", "findings"}.

    CellError, CalibrationError, CameraLost or RobotLost where it cannot be looked at.
    """
    with open_cell(text) as cell:
        findings = cell_check.look(cell)
        print(*findings, sep="\n")
        return {"cell": text} | cell_check.report(cell, findings)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Drive a simulated robot or a real cell with a served policy.")
    parser.add_argument("--server", default="ws://127.0.0.1:8000")
    robot = parser.add_mutually_exclusive_group(required=True)
    robot.add_argument("--task", help="of the simulator: drive a simulated robot")
    robot.add_argument("--cell", help=f"drive {HELP}")
    parser.add_argument("--check", action="store_true", help="say whether the cell is as it was calibrated; nothing moves, no server")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rest", action="store_true", help="go to the sleep pose at the end; a real cell always does")
    parser.add_argument("--execution", choices=tuple(EXECUTIONS), default="chunk", help="how chunks are executed (docs/deploy.md)")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="of the simulated servos, from a command on")
    parser.add_argument("--noise-rad", type=float, default=0.0, help="standard deviation of the simulated encoders")
    parser.add_argument("--loss", type=float, default=0.0, help="share of the simulated bus's packets that do not arrive")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    args = parser.parse_args(argv)
    if args.cell and (args.latency_ms or args.noise_rad or args.loss):
        parser.error("--latency-ms, --noise-rad and --loss are faults of the simulated robot; leave them out with --cell")
    if args.check and not args.cell:
        parser.error("--check is of a real cell; name it by --cell")
    return args


def run(args: argparse.Namespace) -> dict:
    """What the command line asks for; raises FAILURES."""
    api_key = os.environ.get("CLAMP_API_KEY")
    if args.check:
        return run_check(args.cell)
    episode = Episode(args.task or "", args.seconds, args.seed, args.rest or bool(args.cell), args.execution)
    if args.cell:
        return run_cell(args.server, args.cell, episode, api_key=api_key)
    return run_episode(args.server, episode, api_key=api_key, faults=Faults(args.latency_ms / 1e3, args.noise_rad, args.loss, args.seed))


def write(path: Path, result: dict[str, Any]) -> None:
    """Write JSON, all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(result, indent=1))
    temporary.rename(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one episode or check a cell, print what came of it, write JSON; 1 when it cannot start, or comes to no good end."""
    args = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        result = run(args)
        if args.json:
            write(args.json, result)
    except (*FAILURES, OSError) as error:
        print(f"run_robot: {error}", file=sys.stderr)
        return 1
    if args.check:
        return int(not result["good"])
    print(json.dumps(result, indent=1))
    return int(not result.get("rested", True))


if __name__ == "__main__":
    raise SystemExit(main())
