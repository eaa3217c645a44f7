"""Calibrate the cameras and arms of a cell by two ChArUco boards, and write calibration.json and a picture a camera.

    python -m data_tools.calibrate --print runs/boards                       # sheets to print
    python -m data_tools.calibrate --cell cell.toml --out runs/calibration
    python -m data_tools.calibrate --station mylab.cell:station --out runs/calibration
    python -m data_tools.calibrate --simulate 0 --out runs/calibration       # a cell without hardware
    python -m data_tools.calibrate --self-test 50 --json runs/calibration.json

--cell names a cell.toml (clamp_jax/deploy/cell.py); the calibration in it is not looked at. --station names a Python function that
returns a Station (data_tools/calibrate/station.py): RobotStation(robot, cameras) is one of any robot of clamp_jax/deploy/robots and
anything whose frames() gives images by camera. docs/cell.md has the procedure.
"""

import argparse
import contextlib
import datetime
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from clamp_jax.deploy import calibration as files
from clamp_jax.deploy.cameras import CameraLost
from clamp_jax.deploy.cell import HELP, CellError, Connected, connect, open_cell, read
from clamp_jax.deploy.projection import angle_deg, invert
from clamp_jax.deploy.robots import RobotLost
from clamp_jax.deploy.robots.kept import Kept
from clamp_jax.geometry import aloha
from clamp_jax.structs import CAMERAS
from data_tools.calibrate import pictures, trials
from data_tools.calibrate.boards import BOARDS, write_sheet
from data_tools.calibrate.poses import plan
from data_tools.calibrate.solver import Solution, solve
from data_tools.calibrate.station import RobotStation, Station, Taken, take, take_by_hand

HELD = "held"
LEAST_POSES = 10  # of the arms; five for each wrist camera
MOUNTS = {name: next(word for word, number in files.MOUNTS.items() if number == aloha.CAMERA_MOUNTS[name].mount) for name in CAMERAS}


def calibrate(station: Station, count: int, *, by_hand: bool = False, seed: int = 0) -> tuple[files.CellCalibration, Solution, Taken]:
    """Take `count` poses, solve, and say what was found. Raises CalibrationError in words for what stands against it."""
    return settle(gather(station, count, by_hand=by_hand, seed=seed))


def gather(station: Station, count: int, *, by_hand: bool = False, seed: int = 0) -> Taken:
    """Take `count` poses. Raises CalibrationError in words for what stands against it, or when too few could be taken."""
    if count < LEAST_POSES:
        raise files.CalibrationError(
            f"{count} poses asked for, {LEAST_POSES} are needed: half with the plate in either gripper; 15 are good"
        )
    taken = take_by_hand(station, count, MOUNTS) if by_hand else take(station, plan(count, seed), MOUNTS)
    if len(taken.joints) < LEAST_POSES:
        raise files.CalibrationError(f"{len(taken.joints)} of {count} poses could be taken, {LEAST_POSES} are needed; clear the arms' way")
    return taken


def settle(taken: Taken) -> tuple[files.CellCalibration, Solution, Taken]:
    """The calibration that was seen. Raises CalibrationError in words for what stands against it."""
    solution = solve(taken.sightings, taken.optics, taken.joints)
    return _calibration(solution, taken), solution, taken


def _calibration(solution: Solution, taken: Taken) -> files.CellCalibration:
    cameras = {
        name: files.CalibratedCamera(
            optics.intrinsics, optics.distortion, taken.sizes[name], optics.mount, solution.unknowns.cameras[name], taken.serials[name]
        )
        for name, optics in taken.optics.items()
    }
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return files.CellCalibration(cameras, solution.unknowns.bases, date, statistics(solution, len(taken.joints)))


def statistics(solution: Solution, poses: int) -> dict[str, Any]:
    """What the file says about how well it was found."""
    drawn = files.nominal(*trials.SIZE)
    pairs = {name: (pose, drawn.cameras[name].parent_from_camera) for name, pose in solution.unknowns.cameras.items()}
    pairs |= {f"{side} base": (solution.unknowns.bases[i], drawn.world_from_base[i]) for i, side in enumerate(aloha.SIDES)}
    away = {name: [float(np.linalg.norm(a[:3, 3] - b[:3, 3])), float(angle_deg(invert(a) @ b))] for name, (a, b) in pairs.items()}
    return {
        "poses": poses,
        "poses_used_by_camera": solution.used,
        "reprojection_rms_px": solution.rms_px,
        "standard_deviation_m_deg": {name: list(pair) for name, pair in solution.sigma.items()},
        "away_from_the_drawing_m_deg": away,
        "joint_slack_rms_deg": solution.slack_deg,
        "not_used": [f"{row.name}: {row.why}" for row in solution.dropped],
    }


def tell(calibration: files.CellCalibration) -> None:
    """Print what people want to see at once."""
    words = calibration.statistics
    print(f"{'':22s}{'rms px':>8s}{'poses':>7s}{'sure to':>20s}{'away from the drawing':>26s}")
    for name, (metres, degrees) in words["standard_deviation_m_deg"].items():
        rms, used = words["reprojection_rms_px"].get(name), words["poses_used_by_camera"].get(name)
        left = (
            f"{name:22s}{'' if rms is None else f'{rms:.2f}':>8s}{'' if used is None else used:>7}{metres * 1000:10.1f} mm {degrees:5.2f} °"
        )
        away = words["away_from_the_drawing_m_deg"].get(name)
        print(left + (f"{away[0] * 1000:14.1f} mm {away[1]:5.2f} °" if away else ""))
    for line in words["not_used"]:
        print(f"not used: {line}")


def write_pictures(out: Path, calibration: files.CellCalibration, solution: Solution, taken: Taken) -> list[Path]:
    """One PNG a camera, of the image in which it saw most corners."""
    paths = []
    for name, (pose, rgb) in taken.images.items():
        seen = [s for s in taken.sightings if s.camera == name and s.pose == pose and (not s.holder or s.holder in solution.unknowns.held)]
        drawn = pictures.draw(rgb, calibration, name, taken.joints[pose], seen, solution.unknowns.held)
        paths.append(pictures.write(out / f"{name}.png", drawn))
    return paths


def _see(arguments: argparse.Namespace) -> Taken:
    """All that is seen at the station of the command line; the arms of a cell are brought to rest after it."""
    how = {"by_hand": arguments.by_hand, "seed": arguments.seed}
    if arguments.cell is None:
        return gather(_station(arguments), arguments.poses, **how)
    with _open(arguments.cell) as cell, Kept(cell.robot) as robot:
        station = RobotStation(robot, cell.cameras)
        if arguments.by_hand:
            with _let_go(cell.robot):
                return gather(station, arguments.poses, **how)
        taken = gather(station, arguments.poses, **how)
        station.leave()
        return taken


@contextlib.contextmanager
def _let_go(robot: Any, ask: Callable[[str], str] = input) -> Iterator[None]:
    """Arms without torque, in hands that said so; they hold again where they are in the end."""
    if not hasattr(robot, "let_go"):
        raise files.CalibrationError(f"--by-hand: {type(robot).__name__} cannot take the torque of its arms away; leave --by-hand out")
    if ask(f"The arms fall without torque. Hold both, then type {HELD} and Enter: ").strip() != HELD:
        raise files.CalibrationError("nobody holds the arms: they keep their torque, and nothing was done")
    robot.let_go(held=True)
    try:
        yield
    finally:
        robot.take_hold()


def _open(text: str) -> AbstractContextManager[Connected]:
    """A cell without its calibration, which may be one that is to be replaced because it is refused."""
    return connect(read(Path(text))._replace(calibration=None)) if Path(text).exists() else open_cell(text)


def _station(arguments: argparse.Namespace) -> Station:
    if arguments.simulate is not None:
        from data_tools.calibrate.simulated import SimulatedStation

        return SimulatedStation(trials.hide(np.random.default_rng(arguments.simulate)), arguments.simulate)
    module, _, name = arguments.station.partition(":")
    try:
        return getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError) as error:
        raise files.CalibrationError(f"--station {arguments.station}: {error}; expected module:function, which returns a Station") from None


def _self_test(arguments: argparse.Namespace) -> None:
    found = trials.self_test(arguments.self_test, arguments.poses)
    for name, row in found["errors"].items():
        print(
            f"{name:12s} median {row['median_mm']:.2f} mm {row['median_deg']:.3f} deg  95 % {row['p95_mm']:.2f} mm {row['p95_deg']:.3f} deg"
        )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found, indent=1))


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--cell", help=HELP)
    what.add_argument("--station", help="module:function that returns the cell")
    what.add_argument("--simulate", type=int, metavar="SEED", help="a simulated cell that is not as drawn")
    what.add_argument("--print", type=Path, metavar="FOLDER", help="write both boards as SVG to print at 100 %%")
    what.add_argument("--self-test", type=int, metavar="CELLS", help="calibrate so many simulated cells, and say how far off it is")
    parser.add_argument("--by-hand", action="store_true", help="a person moves the arms; Enter for each pose")
    parser.add_argument("--poses", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0, help="of the planned poses")
    parser.add_argument("--out", type=Path, default=Path("runs/calibration"), help="folder for calibration.json and the pictures")
    parser.add_argument("--json", type=Path, help="of --self-test")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    arguments = parse(words)
    if arguments.self_test is not None:
        return _self_test(arguments)
    if arguments.print is not None:
        arguments.print.mkdir(parents=True, exist_ok=True)
        return print(*(write_sheet(board, arguments.print / f"{name}.svg") for name, board in BOARDS.items()), sep="\n")
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        calibration, solution, taken = settle(_see(arguments))
        files.write(calibration, arguments.out / "calibration.json")
    except (files.CalibrationError, CellError, RobotLost, CameraLost, ImportError) as error:
        sys.exit(str(error))
    tell(calibration)
    print(arguments.out / "calibration.json", *write_pictures(arguments.out, calibration, solution, taken), sep="\n")


if __name__ == "__main__":
    main()
