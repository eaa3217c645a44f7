"""Replay a recorded episode on the arms, slowly, or say what would happen.

    python -m data_tools.replay --episode runs/mug/episodes/000007.episode --dry-run
    python -m data_tools.replay --cell cell.toml --episode runs/mug/episodes/000007.episode --speed 0.25

The arms go to the episode's first pose by a slow, straight way of the joints, then its actions are sent, stretched in time, each
through the safety layer; at the end it says how far each joint was from where it was when recorded. All of it is judged before
anything moves. Ctrl-C holds, then the arms go to the sleep pose. Not yet run on hardware.
"""

import argparse
import collections
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clamp_jax.data.records import Episode
from clamp_jax.deploy import memory
from clamp_jax.deploy.cameras import CameraLost
from clamp_jax.deploy.cell import HELP as CELL_HELP
from clamp_jax.deploy.cell import open_cell
from clamp_jax.deploy.control import Clock
from clamp_jax.deploy.robots import Robot, RobotLost
from clamp_jax.deploy.safety import JOINTS, PASS, REJECT, Safety, Verdict, aloha_limits
from clamp_jax.structs import ACTION_DIM, CONTROL_HZ
from data_tools.record.__main__ import in_words
from data_tools.record.files import EpisodeFile
from data_tools.record.follow import Follower, UnsafeWay, go, judged, way
from experiments.driving import Stop

BRAKE_TICKS = 25  # in which any motion has come to rest


class Motion(NamedTuple):
    """What is sent, and where the joints were when it was recorded."""

    actions: np.ndarray  # (t, 14)
    joints: np.ndarray  # (t, 14)


class Outcome(NamedTuple):
    """What came of a replay."""

    deviation: np.ndarray  # (14,) largest distance between recorded and measured: rad, gripper 0..1
    sent: int  # commands
    ended: str  # "" at the end of the episode, else why before it


def stretched(episode: Episode, speed: float) -> Motion:
    """The motion of an episode at `speed` (0 to 1) times its own, at the control rate; ValueError for any other speed."""
    if not 0 < speed <= 1:
        raise ValueError(f"speed is {speed}; expected over 0 and at most 1: nothing is replayed faster than it was recorded")
    last = len(episode.actions) - 1
    at = np.minimum(np.arange(int(np.ceil(last / speed - 1e-9)) + 1) * speed, last)
    ticks = np.arange(last + 1)
    found = (np.stack([np.interp(at, ticks, column) for column in rows.T], -1) for rows in (episode.actions, episode.joints))
    return Motion(*found)


def tell_judgement(verdicts: Sequence[Verdict], tell: Callable[[str], None]) -> bool:
    """Say what the safety layer makes of commands; whether it lets all of them through, as they are or clamped."""
    names = [f"{verdict.band} {verdict.cause}".strip() for verdict in verdicts]
    counts = collections.Counter(names)
    tell(f"{len(verdicts)} commands: " + ", ".join(f"{count} {name}" for name, count in counts.most_common()))
    for name in counts:
        first = names.index(name)
        if name != PASS:
            tell(f"{name}: first at {first / CONTROL_HZ:.2f} s, of {verdicts[first].detail}")
    return not any(verdict.band == REJECT for verdict in verdicts)


def replay(
    robot: Robot, motion: Motion, *, clock: Clock | None = None, stop: Callable[[], bool] = lambda: False, tell: Callable = print
) -> Outcome:
    """Go to the first pose and send the actions; a rejected one, or `stop()`, ends it in a hold.

    UnsafeWay, before anything moves, when the way to the first pose or one of the actions would be rejected; RobotLost.
    """
    clock, start = clock or Clock(), np.asarray(robot.joints(), np.float64)
    commands = way(Safety(robot.limits), motion.joints[0], start)
    if not tell_judgement(judged(Safety(robot.limits), motion.actions, motion.joints[0]), tell):
        raise UnsafeWay("the episode is not replayed: the safety layer would reject some of its actions, as said before")
    tell(f"to the first pose in {len(commands) / CONTROL_HZ:.1f} s, then {len(motion.actions) / CONTROL_HZ:.1f} s")
    if not go(robot, commands, clock=clock, stop=stop):
        return Outcome(np.zeros(ACTION_DIM), 0, "stopped on the way to the first pose")
    with memory.steady():
        return _send(robot, motion, clock, stop)


def _send(robot: Robot, motion: Motion, clock: Clock, stop: Callable[[], bool]) -> Outcome:
    follower, worst = Follower(Safety(robot.limits)), np.zeros(ACTION_DIM)
    start, sent, skipped, ended = clock.now(), 0, 0.0, ""
    for action, recorded in zip(*motion, strict=True):
        clock.wait_until(start + skipped + sent / CONTROL_HZ)
        late = clock.now() - start - skipped - sent / CONTROL_HZ
        if late > 1 / CONTROL_HZ:  # the rest comes later: what was not sent in time is not sent in a burst
            skipped += late
            follower.pause()
        if stop():
            ended = "stopped"
            break
        joints = np.asarray(robot.joints(), np.float64)
        worst = np.maximum(worst, np.abs(joints - recorded))
        verdict = follower.step(action, joints)
        robot.command(verdict.command)
        if verdict.band == REJECT:
            ended = f"{verdict.cause} of {verdict.detail} was rejected"
            break
        sent += 1
    if ended and sent:
        _brake(robot, follower, clock)
    return Outcome(worst, sent, ended)


def _brake(robot: Robot, follower: Follower, clock: Clock) -> None:
    """Come to rest as fast as the limits let the arms, and hold there."""
    start = clock.now()
    for number in range(BRAKE_TICKS):
        robot.joints()
        robot.command(follower.brake())
        clock.wait_until(start + (number + 1) / CONTROL_HZ)


def tell_outcome(outcome: Outcome, tell: Callable[[str], None]) -> None:
    """How far each joint was from where it was when recorded."""
    for name, value in zip(JOINTS, outcome.deviation, strict=True):
        tell(f"{name:19s} {value:.4f}{'' if name.endswith('gripper') else ' rad'}")
    tell(f"{outcome.sent} commands sent, {outcome.ended or 'to the end'}")


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", help=CELL_HELP)
    parser.add_argument("--episode", type=Path, required=True, metavar="FILE", help="of data_tools.record")
    parser.add_argument("--speed", type=float, default=0.25, help="of the recorded one, at most 1 (default: 0.25)")
    parser.add_argument("--dry-run", action="store_true", help="judge all actions and say what would happen; no robot")
    args = parser.parse_args(words)
    if not args.cell and not args.dry_run:
        parser.error("give --cell, or --dry-run to judge the episode without a robot")
    return args


def run(args: argparse.Namespace) -> int:
    """The exit code: 1 when an action was, or would be, rejected, or somebody stopped it."""
    motion = stretched(EpisodeFile(args.episode).numbers, args.speed)
    if args.dry_run:
        return 0 if tell_judgement(judged(Safety(aloha_limits()), motion.actions, motion.joints[0]), print) else 1
    with open_cell(args.cell) as cell, Stop() as stop:
        outcome = replay(cell.robot, motion, stop=stop)
        tell_outcome(outcome, print)
        if stop():
            cell.robot.rest()
    return 1 if outcome.ended else 0


def main(words: Sequence[str] | None = None) -> int:
    """The command line: 0, or 1 with one line of why."""
    try:
        return run(parse(words))
    except (ValueError, OSError, ImportError, RobotLost, CameraLost) as error:
        print(f"replay: {in_words(error)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
