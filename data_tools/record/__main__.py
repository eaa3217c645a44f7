"""Record episodes of a real cell into files, and make a data set of them.

    python -m data_tools.record --cell cell.toml --task mug_on_plate --out runs/mug --episodes 50 --pack
    python -m data_tools.record --cell cell.toml --task stack --instruction "stack the cups" --seconds 30 --out runs/cups --source guided
    python -m data_tools.record --out runs/mug --pack                    # the data set alone, runs/mug/data

Enter starts and ends an episode, d drops the last one (or the running one), q ends the session; a later one goes on. Each finished
episode is a file of DIR/episodes. Ctrl-C ends the session without the running episode. docs/cell.md has the rest.
Not yet run on hardware.
"""

import argparse
import contextlib
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from clamp_jax.deploy.cameras import CameraLost
from clamp_jax.deploy.cell import HELP as CELL_HELP
from clamp_jax.deploy.cell import CellError, Connected, open_cell
from clamp_jax.deploy.control import Clock
from clamp_jax.deploy.imaging import SizedCameras
from clamp_jax.deploy.robots import RobotLost
from data_tools.record.files import MEASURED, SENT
from data_tools.record.keys import Keys, Nobody, Stoppable, Terminal
from data_tools.record.loop import Settings
from data_tools.record.session import Begin, Session
from data_tools.record.sources import guided, led
from data_tools.record.store import Store, room
from data_tools.record.stream import RecordingStopped
from experiments.configs import real
from experiments.driving import Stop

SOURCES = {"leaders": SENT, "guided": MEASURED}  # where the actions of an episode come from


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; leaves with 2 for options that do not fit together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", help=CELL_HELP)
    parser.add_argument("--task", help=f"one of {', '.join(real.TASKS)}, or a name of your own with --instruction and --seconds")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets DIR/episodes and, with --pack, DIR/data")
    parser.add_argument("--source", choices=tuple(SOURCES), default="leaders", help="leader arms, or a person's hands on the arms")
    parser.add_argument("--instruction", help="the sentence; default: the task's")
    parser.add_argument("--seconds", type=_positive, help="the longest that an episode lasts; default: the task's horizon")
    parser.add_argument("--episodes", type=int, default=50, help="how many DIR is to have in the end")
    parser.add_argument("--size", type=int, default=224, help="height and width of the images in pixels")
    parser.add_argument("--images-hz", type=_positive, default=10.0, help="images of each camera a second, at most 30")
    parser.add_argument("--pack", action="store_true", help="write DIR/data at the end, or at once without --cell")
    parser.add_argument("--rest", action="store_true", help="at the end the arms go to the sleep pose")
    args = parser.parse_args(words)
    if (args.cell is None) != (args.task is None) or (args.cell is None and not args.pack):
        parser.error("give --cell and --task to record, or --pack alone to make the data set of what was recorded")
    if args.cell and args.task not in real.TASKS and not (args.instruction and args.seconds):
        parser.error(f"--task {args.task} is none of {', '.join(real.TASKS)}; give its --instruction and --seconds too")
    if args.episodes < 1 or not 16 <= args.size <= 1024 or args.images_hz > 30:
        parser.error("expected --episodes from 1 up, --size from 16 to 1024, --images-hz to 30")
    return args


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r}; expected a number over 0")


def settings_of(args: argparse.Namespace, cell: Connected) -> Settings:
    """What is recorded; CellError without a calibration."""
    if cell.calibration is None:
        raise CellError(f"--cell {args.cell} has no calibration, without which no image can be used: python -m data_tools.calibrate")
    task = real.get_config(args.task) if args.task in real.TASKS else None
    return Settings(
        task=args.task,
        instruction=args.instruction or task.instruction,
        calibration=cell.calibration,
        seconds=args.seconds or task.horizon_s,
        size=(args.size, args.size),
        images_hz=args.images_hz,
        actions=SOURCES[args.source],
    )


def begin_of(args: argparse.Namespace, cell: Connected, keys: Keys) -> Begin:
    """How an episode begins; CellError for a source that the cell does not have."""
    tell = functools.partial(print, flush=True)
    if args.source == "leaders":
        if cell.leaders is None:
            raise CellError(f"--cell {args.cell} has no leader arms; name their ports under [leaders], or move the arms: --source guided")
        return functools.partial(led, cell.robot, cell.leaders, keys, tell)
    if not hasattr(cell.robot, "let_go"):
        raise CellError(f"--source guided: {type(cell.robot).__name__} cannot take the torque of its arms away; use --source leaders")
    if not keys.attended:
        raise CellError("--source guided needs a person at a terminal: the arms fall without torque")
    return functools.partial(guided, cell.robot, keys, Clock(), tell)


def record(args: argparse.Namespace) -> None:
    """Connect, say what will be needed, and record until enough is there or somebody ends it."""
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(Store(args.out))
        for path in store.removed:
            print(f"record: removed {path}, which was not finished")
        cell = stack.enter_context(open_cell(args.cell, (args.size, args.size)))
        settings = settings_of(args, cell)
        store.check(settings)
        _check_room(args, settings, store)
        stop = stack.enter_context(Stop())
        keys = Stoppable(stack.enter_context(Terminal()) if sys.stdin.isatty() else Nobody(), stop)
        cameras = SizedCameras(cell.cameras, cell.calibration, settings.size)
        tell = functools.partial(print, flush=True)
        session = Session(cell.robot, cameras, begin_of(args, cell, keys), settings, keys=keys, store=store, tell=tell)
        try:
            session.run(args.episodes)
        finally:  # whatever ended it
            print(f"record: {len(store.finished())} finished episodes in {store.folder}", flush=True)
        if args.rest:
            cell.robot.rest()


def _check_room(args: argparse.Namespace, settings: Settings, store: Store) -> None:
    left = max(args.episodes - len(store.finished()), 0)
    needed = room(settings, left, store.folder, packed=args.pack)
    print(f"record: {needed.words(left)}{', with the data set' if args.pack else ''}", flush=True)
    if not needed.enough:
        raise ValueError(f"{args.out} has too little room: make some, or lower --episodes, --seconds, --size or --images-hz")


def main(words: Sequence[str] | None = None) -> int:
    """The command line: 0, or 1 with one line of why."""
    args = parse(words)
    try:
        if args.cell:
            record(args)
        if args.pack:
            from data_tools.record.packing import pack  # array-record is not needed to record

            print(f"record: {pack(args.out, functools.partial(print, flush=True))} is a data set of all finished episodes")
    except KeyboardInterrupt:
        print("record: stopped", file=sys.stderr)
        return 1
    except (ValueError, OSError, ImportError, RecordingStopped, RobotLost, CameraLost) as error:
        print(f"record: {in_words(error)}", file=sys.stderr)
        return 1
    return 0


def in_words(error: Exception) -> str:
    """An error without its number: of the operating system's, the words and the file."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error)


if __name__ == "__main__":
    raise SystemExit(main())
