"""Contact sheet and film of an episode: cells of one size with their names, a caption, and the curves of the actions."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clamp_jax.data.stats import JOINTS
from clamp_jax.render.views import CROP_HIGH, CROP_LOW
from clamp_jax.structs import ACTION_DIM, CAMERAS, CONTROL_HZ, VIEWS
from data_tools.view_episode import Picture, Sight
from experiments import pictures

CELL = 192  # pixels of a cell's side, at least
GAP = 4
STRIP = 17  # pixels of the line in which a name stands
RATE = 25  # frames of the film a second, of real time
SHEET_CURVES, FILM_CURVES = 320, 240  # height of the curves in pixels
_DPI = 100
_CAMERAS, _VIEWS = ([name.replace("_", " ") for name in names] for names in (CAMERAS, VIEWS))
_LINE = np.array([200, 0, 0], np.uint8)  # colour of the present tick


def cell_size(size: int) -> int:
    """Side of a cell: the least multiple of the views' size that is CELL pixels or more."""
    return size * -(-CELL // size)


def fit(image: np.ndarray, cell: int) -> np.ndarray:
    """A picture (h, w, 3) uint8 in the middle of a square cell whose side its longer one fills: pixels repeated, or averaged."""
    from PIL import Image

    longest = max(image.shape[:2])
    height, width = (max(1, round(side * cell / longest)) for side in image.shape[:2])
    how = Image.Resampling.NEAREST if longest <= cell else Image.Resampling.BOX
    out = np.broadcast_to(pictures.EMPTY, (cell, cell, 3)).copy()
    top, left = (cell - height) // 2, (cell - width) // 2
    out[top : top + height, left : left + width] = Image.fromarray(np.ascontiguousarray(image)).resize((width, height), how)
    return out


def text_box(text: str, height: int, width: int, size: int = 12) -> np.ndarray:
    """Lines of text on white, broken to the width; what does not fit is cut off at the bottom. (height, width, 3) uint8."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    lines = [part for line in text.split("\n") for part in _broken(line, width - 6, font.getlength)]
    picture = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(picture).multiline_text((3, 1), "\n".join(lines), fill="black", font=font, spacing=3)
    return np.asarray(picture)


def _broken(line: str, width: int, measure: Callable[[str], float]) -> list[str]:
    """A line broken between words, so that its parts are no wider than `width` pixels unless a single word is."""
    parts = [""]
    for word in line.split():
        longer = f"{parts[-1]} {word}".lstrip()
        if not parts[-1] or measure(longer) <= width:
            parts[-1] = longer
        else:
            parts.append(word)
    return parts


@functools.lru_cache(maxsize=64)
def _name(text: str, width: int) -> np.ndarray:
    return text_box(text, STRIP, width)


def named_row(images: Sequence[np.ndarray], names: Sequence[str], cell: int) -> np.ndarray:
    """Pictures in cells side by side, each below its name."""
    return pictures.row([pictures.column([_name(n, cell), fit(i, cell)], gap=0) for i, n in zip(images, names, strict=True)], GAP)


def _depths(images: np.ndarray) -> list[np.ndarray]:
    return [pictures.depth_colours(image) for image in np.asarray(images)]


class Curves:
    """The actions (t, 14) over time as one picture, left arm and right arm; `at` marks ticks in it."""

    def __init__(self, actions: np.ndarray, height: int, width: int):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        # half a pixel more: a size that rounds down would be one pixel short
        figure = Figure(figsize=((width + 0.5) / _DPI, (height + 0.5) / _DPI), dpi=_DPI, layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for axis, side in zip(axes, ("left", "right"), strict=True):
            _plot(axis, actions, side)
        axes[0].set_ylabel("rad; gripper 0..1", fontsize=8)
        axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        self.image = np.asarray(canvas.buffer_rgba())[..., :3].copy()  # (height, width, 3)
        self._axes = axes

    def columns(self, tick: int) -> list[int]:
        """The pixel column of a tick in each arm's axes."""
        return [int(axis.transData.transform((tick / CONTROL_HZ, 0.0))[0]) for axis in self._axes]

    def at(self, ticks: Sequence[int]) -> np.ndarray:
        """The picture with a line at each of the ticks."""
        out = self.image.copy()
        for tick in ticks:
            for axis, column in zip(self._axes, self.columns(tick), strict=True):
                box = axis.get_window_extent()
                out[len(out) - int(box.y1) : len(out) - int(box.y0), column : column + 2] = _LINE
        return out


def _plot(axis: Any, actions: np.ndarray, side: str) -> None:
    time_s = np.arange(len(actions)) / CONTROL_HZ
    for joint in range(ACTION_DIM):
        arm, name = JOINTS[joint].split("/")
        if arm == side:
            axis.plot(time_s, actions[:, joint], "--" if name == "gripper" else "-", linewidth=1.2, label=name.replace("_", " "))
    axis.set_title(f"{side} arm", fontsize=9)
    axis.set_xlabel("s", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.set_xlim(0, max(time_s[-1], 1 / CONTROL_HZ))
    axis.grid(linewidth=0.3)


def draw_sheet(found: Sequence[Picture], sight: Sight, title: str, out: Path) -> None:
    """Write the contact sheet: for each picture colours over depths of the cameras and depths over positions of the views."""
    blocks = [_block(picture, cell_size(sight.size)) for picture in found]
    width = blocks[0].shape[1]
    curves = Curves(sight.numbers.actions, SHEET_CURVES, width).at([picture.tick for picture in found])
    pictures.write_png(out, pictures.column([text_box(title, 22, width, 15), *blocks, curves], 2 * GAP))


def _block(picture: Picture, cell: int) -> np.ndarray:
    positions = pictures.position_colours(picture.views, np.array(CROP_LOW), np.array(CROP_HIGH))
    top = named_row([*picture.rgb, *_depths(picture.views[..., 0])], [*_CAMERAS, *(f"view {name}" for name in _VIEWS)], cell)
    below = [*(f"{name} depth" for name in _CAMERAS), *(f"view {name} x, y, z" for name in _VIEWS)]
    bottom = named_row([*_depths(picture.observation.depth_m), *positions], below, cell)
    said = f"tick {picture.tick}, {picture.tick / CONTROL_HZ:.2f} s: {picture.prompt}"
    return pictures.column([text_box(said, 20, top.shape[1], 13), top, bottom], 2)


def film_frames(sight: Sight, title: str) -> Iterator[np.ndarray]:
    """The film's frames (h, w, 3) uint8, both even: cameras and caption, the views' depths, the curves with the present tick."""
    cell = cell_size(sight.size)
    width = len(VIEWS) * cell + (len(VIEWS) - 1) * GAP
    curves, shown, seen = Curves(sight.numbers.actions, FILM_CURVES, width), -1, []
    for tick in range(0, sight.ticks, CONTROL_HZ // RATE):
        if sight.frame_of(tick) != shown:
            shown, seen = sight.frame_of(tick), _seen(sight.at(tick), cell)
        said = f"{title}\ntick {tick} of {sight.ticks}, {tick / CONTROL_HZ:.2f} s\n\n{sight.prompt(tick)}"
        top = pictures.row([seen[0], text_box(said, cell + STRIP, cell)], GAP)
        yield _even(pictures.column([top, seen[1], curves.at([tick])], GAP))


def _seen(picture: Picture, cell: int) -> list[np.ndarray]:
    cameras = named_row(list(picture.rgb), _CAMERAS, cell)
    return [cameras, named_row(_depths(picture.views[..., 0]), [f"view {name}" for name in _VIEWS], cell)]


def _even(image: np.ndarray) -> np.ndarray:
    return np.pad(image, [(0, side % 2) for side in image.shape[:2]] + [(0, 0)], constant_values=255)


def write_film(sight: Sight, title: str, out: Path) -> None:
    """Write the film whole or not at all; ValueError where no encoder is installed."""
    reason = pictures.film(film_frames(sight, title), out, RATE)
    if reason is not None:
        raise ValueError(f"{reason}; --no-film draws the sheet alone")
