"""Look into data sets of either kind: a contact sheet and a film of an episode, or the episode in 3D in a browser.

python -m data_tools.view runs/data/drawer_open --episode 0,3      # drawer_open-0.png, drawer_open-0.mp4, ... in runs/view
python -m data_tools.view runs/data                                # of each data set in the folder
python -m data_tools.view runs/data/drawer_open --3d               # needs the extra viz3d
python -m data_tools.view runs/mug/episodes/000007.episode         # one recorded episode
"""

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from clamp_jax import runtime

if __name__ == "__main__":
    runtime.setup(mjx=False)

from clamp_jax.data.folders import META
from clamp_jax.data.pipeline import Dataset, open_dataset
from data_tools import view_3d, view_panels
from data_tools.record.files import DROPPED, EPISODE, EpisodeFile
from data_tools.view_episode import Sight

BEGUN = "generation.json"  # in the folder of a data set that data_tools.generate has not finished


def find(folder: Path) -> list[Path]:
    """The folder, if it is a data set, else the finished data sets right in it; those that are unfinished are named on stderr.

    Raises ValueError where there is none.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give a data set's, one that holds data sets, or a recorded {EPISODE} file")
    if (folder / META).exists():
        return [folder]
    if _is_begun(folder):
        raise ValueError(f"the data set in {folder} is not finished ({META} is missing); {_CURE}")
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    found, begun = [path for path in below if (path / META).exists()], [path.name for path in below if _is_begun(path)]
    if not found:
        unfinished = f"; not finished: {', '.join(begun)}, {_CURE}" if begun else ""
        raise ValueError(f"{folder} holds no finished data set, nor does a folder in it (a data set has a {META}){unfinished}")
    if begun:
        print(f"view: left out, not finished: {', '.join(begun)}; {_CURE}", file=sys.stderr)
    return found


_CURE = "the command that began it goes on with it"


def _is_begun(folder: Path) -> bool:
    return not (folder / META).exists() and ((folder / BEGUN).exists() or any(folder.glob("*.array_record*")))


def open_all(path: Path) -> list[Dataset]:
    """The data sets of a folder (see `find`), or the single recorded episode that a file holds; ValueError where there is none."""
    if path.is_file() and path.suffix in (EPISODE, DROPPED):
        return [Dataset(EpisodeFile(path), [0])]
    return [open_dataset(folder) for folder in find(path)]


def names_of(datasets: Sequence[Dataset]) -> list[str]:
    """What the pictures of each data set are called: its task, or its folder where two are of one task."""
    tasks = [dataset.reader.task for dataset in datasets]
    return tasks if len(set(tasks)) == len(tasks) else [dataset.reader.directory.resolve().name for dataset in datasets]


def require(module: str, what: str, extra: str) -> None:
    """Raise ValueError that says what to install unless a module can be imported."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{what} needs {module}; install it with: pip install 'clamp-jax[{extra}]'") from error


def _writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {folder} cannot be made ({error.strerror}); name another folder") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"--out {folder} cannot be written to; name another folder")


def draw(sights: Sequence[tuple[str, Sight]], out: Path, *, frames: int, film: bool) -> Iterator[Path]:
    """Write a sheet of so many frames and, if wanted, a film of each; yields every file when it is whole."""
    require("matplotlib", "a contact sheet", "viz")
    if film:
        require("av", "a film (--no-film draws the sheet alone)", "viz")
    _writable(out)
    for name, sight in sights:
        reader = sight.dataset.reader
        title, path = f"{reader.task}, episode {sight.episode} of {len(reader)}", out / f"{name}-{sight.episode}.png"
        view_panels.draw_sheet(sight.spread(frames), sight, f"{title}, {reader.kind} records", path)
        yield path
        if film:
            view_panels.write_film(sight, title.replace(", ", "\n"), path.with_suffix(".mp4"))
            yield path.with_suffix(".mp4")


def serve(sights: Sequence[tuple[str, Sight]], port: int) -> None:
    """Show one episode in the browser until Ctrl-C."""
    if len(sights) != 1:
        raise ValueError(f"--3d shows one episode of one data set, these are {len(sights)}; name one by its folder and --episode")
    require("viser", "--3d", "viz3d")
    with view_3d.open_player(sights[0][1], port) as player:
        print(f"http://{view_3d.HOST}:{player.port} shows {sights[0][0]}, episode {sights[0][1].episode}; Ctrl-C ends", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            player.run()


def _episodes(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of an episode, or several by commas") from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number from 1 up")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a port from 1 to 65535")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("data", type=Path, metavar="DIR", help="a data set, a folder of data sets, or a recorded episode's file")
    made.add_argument("--episode", type=_episodes, default=[0], metavar="N[,M..]", help="which episodes, from 0")
    made.add_argument("--out", type=Path, default=Path("runs/view"), help="folder for <task>-<episode>.png and .mp4 (default: runs/view)")
    made.add_argument("--frames", type=_positive, default=4, help="ticks that a sheet shows")
    made.add_argument("--size", type=_positive, default=96, help="pixels of the views and of images drawn of a state")
    made.add_argument("--no-film", action="store_true", help="draw the sheet alone")
    made.add_argument("--3d", action="store_true", dest="in_3d", help="show one episode in the browser; writes nothing")
    made.add_argument("--port", type=_port, default=8080, help="of --3d, on this machine alone; the next free one if it is taken")
    return made


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    args = parser().parse_args(arguments)
    try:
        datasets = open_all(args.data)
        pairs = zip(names_of(datasets), datasets, strict=True)
        sights = [(name, Sight(dataset, episode, args.size)) for name, dataset in pairs for episode in args.episode]
        if args.in_3d:
            serve(sights, args.port)
        else:
            for path in draw(sights, args.out, frames=args.frames, film=not args.no_film):
                print(path, flush=True)
    except KeyboardInterrupt:
        raise SystemExit("view: stopped") from None
    except (ValueError, OSError) as error:
        raise SystemExit(f"view: {error}") from error


if __name__ == "__main__":
    main()
