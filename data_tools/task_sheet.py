"""A sheet to print for a task of the real cell: the table to scale with the marks of every trial, the reset, and boxes to tick.

    python -m data_tools.task_sheet --task mug_on_plate --out runs/sheets      # mug_on_plate.pdf, two pages of A4
    python -m data_tools.task_sheet --task all --out runs/sheets

The marks of trial i follow from the seed and i alone: two labs with one sheet put their things in the same places.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from clamp_jax.geometry import aloha
from experiments.configs import real

A4 = (8.27, 11.69)  # inches
CLEAR_M = 0.03  # between two things of one trial: a finger's room
TRIES = 2000
_COLOURS = ("#1f5fa8", "#b3402a", "#3b7d3b", "#7a4aa0", "#8a6d1a")


class Mark(NamedTuple):
    """Where the middle of one thing is put in one trial."""

    name: str
    x_m: float
    y_m: float
    yaw_deg: float


def marks(task: ConfigDict, trial: int, seed: int = 0) -> list[Mark]:
    """The places of a trial's objects, clear of one another by CLEAR_M; ValueError when TRIES draws find none."""
    rng = np.random.default_rng([seed, trial])
    for _ in range(TRIES):
        found = [_draw(rng, thing) for thing in task.objects]
        if _apart(found, task.objects):
            return found
    raise ValueError(f"no places for the objects of {task.task!r} that are {CLEAR_M} m apart in {TRIES} draws; widen their ranges")


def _draw(rng: np.random.Generator, thing: ConfigDict) -> Mark:
    x, y, yaw = rng.uniform(*thing.x_m), rng.uniform(*thing.y_m), rng.uniform(-thing.yaw_deg, thing.yaw_deg)
    return Mark(thing.name, round(float(x), 3), round(float(y), 3), float(round(yaw)))


def _apart(found: Sequence[Mark], things: Sequence[ConfigDict]) -> bool:
    boxes = [corners(mark, thing.size_m) for mark, thing in zip(found, things, strict=True)]
    return all(gap(one, other) >= CLEAR_M for i, one in enumerate(boxes) for other in boxes[:i])


def corners(mark: Mark, size_m: Sequence[float]) -> np.ndarray:
    """(4, 2) m: the outline of a thing on the table, counter-clockwise."""
    half = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * np.array(size_m[:2]) / 2
    c, s = np.cos(np.deg2rad(mark.yaw_deg)), np.sin(np.deg2rad(mark.yaw_deg))
    return half @ np.array([[c, s], [-s, c]]) + (mark.x_m, mark.y_m)


def gap(one: np.ndarray, other: np.ndarray) -> float:
    """Separation (m) of two convex outlines along the best of their edges' normals; negative where they overlap.

    A lower bound of their distance, exact when an edge faces the other outline.
    """
    best = -np.inf
    for outline in (one, other):
        edges = np.roll(outline, -1, axis=0) - outline
        normals = np.stack([edges[:, 1], -edges[:, 0]], axis=1) / np.linalg.norm(edges, axis=1, keepdims=True)
        for normal in normals:
            a, b = one @ normal, other @ normal
            best = max(best, b.min() - a.max(), a.min() - b.max())
    return float(best)


def draw_sheet(task: ConfigDict, seed: int = 0) -> list[Any]:
    """The pages as matplotlib figures: the table and the words, then the list of marks with boxes to tick."""
    return [_front(task, seed), _back(task, seed)]


def _front(task: ConfigDict, seed: int) -> Any:
    from matplotlib.figure import Figure

    page = Figure(A4)
    page.text(0.08, 0.95, task.task.replace("_", " ").title(), size=22, weight="bold")
    page.text(0.08, 0.925, f"instruction: “{task.instruction}”   ·   {task.horizon_s:g} s a trial   ·   not yet run on hardware", size=10)
    _table(page.add_axes((0.08, 0.53, 0.84, 0.37)), task, marks(task, 0, seed))
    _words(page, task)
    return page


def _table(axes: Any, task: ConfigDict, shown: Sequence[Mark]) -> None:
    from matplotlib.patches import Circle, Polygon, Rectangle

    half = np.array(aloha.TABLE_HALF_SIZE)
    axes.add_patch(Rectangle(-half, *(2 * half), fill=False, lw=2))
    for side, (pos, _) in aloha.BASES.items():
        axes.add_patch(Circle(pos[:2], 0.06, color="0.75"))
        axes.annotate(f"{side} arm", pos[:2], ha="center", va="center", size=9)
    for thing, mark, colour in zip(task.objects, shown, _COLOURS, strict=False):
        low, high = zip(thing.x_m, thing.y_m, strict=True)
        axes.add_patch(Rectangle(low, high[0] - low[0], high[1] - low[1], color=colour, alpha=0.12, lw=0))
        axes.add_patch(Polygon(corners(mark, thing.size_m), fill=False, color=colour, lw=1.5))
        axes.annotate(thing.name, (mark.x_m, mark.y_m), ha="center", va="center", size=8, color=colour)
    axes.set(xlim=(-half[0] - 0.03, half[0] + 0.03), ylim=(-half[1] - 0.03, half[1] + 0.03), aspect="equal")
    axes.set_xlabel("x (m), to the right arm; a person stands below. Shaded: where a thing's middle may be; outlines: trial 1", size=9)
    axes.set_ylabel("y (m)", size=9)
    axes.grid(alpha=0.3)


def _words(page: Any, task: ConfigDict) -> None:
    lines = ["Objects (length x width x height, cm)"]
    lines += [f"  {t.name}: {' x '.join(f'{100 * size:.1f}' for size in t.size_m)}{'; ' + t.note if t.note else ''}" for t in task.objects]
    lines += ["", "Before each trial", "  1. arms at home, grippers closed, table empty but for these things"]
    lines += [f"  {number}. {step}" for number, step in enumerate(task.reset, 2)]
    lines += ["", "Won, when the arms are at rest, if", *(f"  - {rule}" for rule in task.success)]
    lines += ["", f"{task.demonstrations} demonstrations to record, {task.trials} trials to evaluate. A trial that was begun counts."]
    page.text(0.08, 0.47, "\n".join(lines), size=10.5, va="top", linespacing=1.5)


def _back(task: ConfigDict, seed: int) -> Any:
    from matplotlib.figure import Figure

    page = Figure(A4)
    page.text(0.06, 0.96, f"{task.task}: marks of each trial, seed {seed} (x, y in cm; turn in degrees, counter-clockwise)", size=11)
    count = max(task.demonstrations, task.trials)
    size = 8 if len(task.objects) <= 2 else 5.6
    for trial in range(count):
        places = "   ".join(f"{m.name} ({100 * m.x_m:+.1f}, {100 * m.y_m:+.1f}; {m.yaw_deg:+.0f}°)" for m in marks(task, trial, seed))
        page.text(0.06, 0.935 - trial * 0.9 / count, f"{trial + 1:3d}  □ done  □ won   {places}", size=size, family="DejaVu Sans")
    return page


def write_sheet(task: ConfigDict, folder: Path, seed: int = 0) -> Path:
    """Write `<task>.pdf` into the folder, whole or not at all; ImportError names the extra when matplotlib is missing."""
    try:
        from matplotlib.backends.backend_pdf import PdfPages
    except ImportError as error:
        raise ImportError("sheets are drawn by matplotlib: pip install 'clamp-jax[viz]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    path, temporary = folder / f"{task.task}.pdf", folder / f".{task.task}.pdf.tmp"
    try:
        with PdfPages(temporary) as pdf:
            for page in draw_sheet(task, seed):
                pdf.savefig(page)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Sheets to print for the tasks of the real cell.")
    parser.add_argument("--task", default="all", help=f"all, or one of {', '.join(real.TASKS)}")
    parser.add_argument("--seed", type=int, default=0, help="of the marks")
    parser.add_argument("--out", type=Path, required=True, help="folder for the PDF files")
    args = parser.parse_args(argv)
    try:
        for name in real.TASKS if args.task == "all" else (args.task,):
            print(f"wrote {write_sheet(real.get_config(name), args.out, args.seed)}")
    except (ValueError, OSError, ImportError) as error:
        print(f"task_sheet: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
