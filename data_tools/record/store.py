"""The folder of a recording: which episodes are finished, the next one's number, and whether there is room for the rest."""

import fcntl
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from clamp_jax.structs import CONTROL_HZ
from data_tools.record.files import DROPPED, EPISODE, PARTIAL, read_head, row_type, sync_folder
from data_tools.record.loop import Settings, head_of

FOLDER = "episodes"
_SAME = ("schema", "task", "cameras", "size", "actions", "object_names")  # what all episodes of a folder have in common
_GIB = 1 << 30
_OF_A_FRAME = 4096  # bytes of an image frame beside its pixels, at most
_SPARE = 64 << 20  # bytes that are left free


class Store:
    """DIR/episodes, of one recording at a time; a context manager that gives the folder free again."""

    def __init__(self, directory: Path):
        """Makes the folder; removes what a recording that was killed has left, named in `removed`. ValueError when it is in use."""
        self.folder = Path(directory) / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ValueError(f"{self.folder} is in use by another recording; end that one, or record into another folder") from None
        self.removed = sorted(self.folder.glob(f"*{PARTIAL}"))
        for path in self.removed:
            path.unlink()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: Any) -> None:
        self._lock.close()

    def finished(self) -> list[Path]:
        """Files of the finished episodes in the order of their numbers."""
        return finished(self.folder)

    def next(self) -> Path:
        """Where the next episode goes: a number after all that were used, those of dropped episodes too."""
        used = [int(path.stem) for path in self.folder.iterdir() if path.suffix in (EPISODE, DROPPED) and path.stem.isdecimal()]
        return self.folder / f"{max(used, default=-1) + 1:06d}{EPISODE}"

    def drop(self, path: Path) -> Path:
        """Take an episode out; it is kept under another name, so that its number stays used and a wrong key loses nothing."""
        dropped = path.with_suffix(DROPPED)
        path.rename(dropped)
        sync_folder(self.folder)
        return dropped

    def check(self, settings: Settings) -> None:
        """ValueError when the folder holds episodes of another kind than would be recorded."""
        for path in self.finished()[-1:]:
            found, wanted = read_head(path), head_of(settings, 0)
            for name in _SAME:
                if found.get(name) != wanted[name]:
                    told = f"{path} has {name} {found.get(name)!r}, {wanted[name]!r} would be recorded"
                    raise ValueError(f"{told}; one folder has one kind of episodes: give another --out")


def finished(folder: Path) -> list[Path]:
    """Files of the finished episodes of a folder in the order of their numbers."""
    return sorted(path for path in folder.glob(f"*{EPISODE}") if path.stem.isdecimal())


class Room(NamedTuple):
    """Disk space in bytes."""

    episode: int  # of one that lasts as long as it may
    rest: int  # of all that are still to be recorded
    free: int

    @property
    def enough(self) -> bool:
        return self.rest + _SPARE <= self.free

    def words(self, episodes: int) -> str:
        """What is said before a recording begins."""
        each, rest, free = (f"{size / _GIB:.2f} GiB" for size in self)
        return f"{episodes} episodes of at most {each}, {rest} in all; {free} are free"


def room(settings: Settings, episodes: int, folder: Path, *, packed: bool = False) -> Room:
    """What so many episodes need beside what is there; packed: a data set of all of them too, at its longest.

    An image has 5 bytes a pixel: three colours and depth in tenths of a millimetre (7 for a frame with depth over 6.5 m).
    """
    height, width = settings.size
    frame = 5 * len(settings.cameras) * height * width + _OF_A_FRAME
    tick = row_type(len(settings.object_names)).itemsize + 12
    episode = int(settings.seconds * settings.images_hz + 1) * frame + int(settings.seconds * CONTROL_HZ) * tick
    there = sum(path.stat().st_size for path in finished(folder)) if packed else 0
    return Room(episode, (1 + packed) * episodes * episode + there, shutil.disk_usage(folder).free)
