"""Stages of a long run: each is done once for its inputs, leaves a stamp, and is taken up again after a stop.

`<run>/stages/<name>.json` holds {inputs: hash, seconds, finished, result}; it is written when the stage is done, so a stage
without one is unfinished. A stage whose inputs, or those of a stage before it, have changed starts again from nothing.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Result = dict[str, Any]


class StageError(RuntimeError):
    """A stage failed; the message names it, the cause and its log file."""


class Stages:
    """Runs stages in one folder and remembers their results.

    tell: called with one line for the reader at the start and the end of each stage; total: how many stages there will be.
    """

    def __init__(self, run: Path, tell: Callable[[str], None] = print, *, total: int | None = None):
        self.run, self._tell, self._total = Path(run), tell, total
        self.results: dict[str, Result] = {}
        self._hashes: dict[str, str] = {}
        for folder in ("stages", "logs"):
            (self.run / folder).mkdir(parents=True, exist_ok=True)

    def do(
        self,
        name: str,
        work: Callable[[], Result],
        *,
        inputs: Mapping[str, Any],
        after: Sequence[str] = (),
        outputs: Sequence[str] = (),
        resumable: bool = False,
    ) -> Result:
        """Do a stage, or take its result from the stamp when nothing it depends on has changed.

        inputs: plain values that decide the result; after: names of the stages whose results it uses; outputs: paths in the
        run's folder that are removed before a fresh start. resumable: an unfinished try with the same inputs is continued.
        Raises StageError, naming the log file, when the work raises.
        """
        digest = self._digest(inputs, after)
        stamp = self._stamp(name)
        done = _read(stamp)
        if done.get("inputs") == digest and all((self.run / path).exists() for path in outputs):
            self._say(name, f"done before in {done['seconds']:.0f} s, nothing has changed")
        else:
            self._prepare(name, digest, outputs if not (resumable and self._began(name) == digest) else ())
            done = self._work(name, work, digest)
        self._hashes[name], self.results[name] = digest, done["result"]
        return done["result"]

    def _say(self, name: str, what: str) -> None:
        number = f"{len(self.results) + 1}/{self._total} " if self._total else ""
        self._tell(f"{number}{name}: {what}")

    def _digest(self, inputs: Mapping[str, Any], after: Sequence[str]) -> str:
        whole = {"inputs": inputs, "after": {name: self._hashes[name] for name in after}}
        return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()

    def _stamp(self, name: str) -> Path:
        return self.run / "stages" / f"{name}.json"

    def _began(self, name: str) -> str | None:
        return _read(self._stamp(name).with_suffix(".begun")).get("inputs")

    def _prepare(self, name: str, digest: str, stale: Sequence[str]) -> None:
        self._stamp(name).unlink(missing_ok=True)
        for path in stale:
            _remove(self.run / path)
        write_json(self._stamp(name).with_suffix(".begun"), {"inputs": digest})

    def _work(self, name: str, work: Callable[[], Result], digest: str) -> dict[str, Any]:
        self._say(name, "begins")
        log, begin = self.run / "logs" / f"{name}.log", time.monotonic()
        try:
            with errors_to(log):
                result = work()
        except Exception as error:
            with open(log, "a") as file:
                file.write(traceback.format_exc())
            first = str(error).strip().splitlines() or [""]
            raise StageError(
                f"stage {name} failed: {type(error).__name__}: {first[0]}\n"
                f"  log: {log}\n  the same command continues with this stage once the cause is mended"
            ) from error
        done = {"inputs": digest, "seconds": round(time.monotonic() - begin, 2), "finished": time.time(), "result": result}
        write_json(self._stamp(name), done)
        self._stamp(name).with_suffix(".begun").unlink(missing_ok=True)
        self._say(name, f"done in {done['seconds']:.0f} s")
        return done


@contextlib.contextmanager
def errors_to(log: Path) -> Iterator[None]:
    """Append all that this process and those it starts write to the standard error to a file, libraries in C included."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(log, "a") as file:
            os.dup2(file.fileno(), 2)
            yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def bars(console: Console | None = None) -> Progress:
    """Progress bars with elapsed and remaining time."""
    percent, note = TextColumn("{task.percentage:3.0f} %"), TextColumn("{task.fields[note]}")
    times = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(compact=True)
    return Progress(TextColumn("{task.description:>22}"), BarColumn(30), percent, *times, note, console=console)


@contextlib.contextmanager
def bar(name: str, console: Console | None = None) -> Iterator[Callable[..., None]]:
    """One bar while the context is open; gives update(done, total, note="")."""
    with bars(console) as shown:
        row = shown.add_task(name, total=None, note="")
        yield lambda done, total, note="": shown.update(row, completed=done, total=total, note=note)


def write_json(path: Path, content: Any) -> None:
    """Write JSON under a temporary name, then rename it; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2))
    os.replace(temporary, path)


def _read(path: Path) -> dict[str, Any]:
    """A stamp's content; empty when it is missing or cannot be read, which means: not done."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
