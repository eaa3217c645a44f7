"""Draw a contact sheet of a data set: cameras, the five views and the actions of one episode, as a PNG.

python -m data_tools.view --data runs/demo/data/drawer_open --out runs/sheet.png --episode 0 --frames 4
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from clamp_jax.data.pipeline import Dataset, ExampleMaker, open_dataset
from clamp_jax.data.stats import JOINTS
from clamp_jax.geometry.kinematics import aloha_calibration
from clamp_jax.models.tokenizer import Tokenizer
from clamp_jax.observe import clean, render_views, sense
from clamp_jax.render.views import default_views
from clamp_jax.structs import CAMERAS, VIEWS, Observation, StateExample


class Picture(NamedTuple):
    """What one column of the sheet shows."""

    tick: int
    prompt: str
    observation: Observation
    views: np.ndarray  # (v, h, w, 4)


def _observe(example: Any, size: int) -> Observation:
    if not isinstance(example, StateExample):
        return example.observation
    rest = (example.calibration, example.joints, example.past_actions, example.past_mask)
    return jax.jit(sense, static_argnames="config")(example.scene, *rest, config=clean(size), key=jax.random.key(0))


def pictures(dataset: Dataset, episode: int, count: int, size: int) -> list[Picture]:
    """`count` frames spread over an episode, as a policy sees them; images of a state are drawn exactly."""
    if not 0 <= episode < len(dataset.reader):
        raise ValueError(f"episode is {episode}; {dataset.reader.directory} has {len(dataset.reader)}")
    maker = ExampleMaker(Tokenizer().encode, calibration=aloha_calibration(size, size))
    numbers, found = dataset.episode(episode), []
    draw = jax.jit(render_views, static_argnames="config")
    for frame in np.linspace(0, dataset.frames(episode) - 1, count).astype(int).tolist():
        observation = _observe(maker.example_at(dataset, episode, frame), size)
        tick = frame if dataset.kind == "state" else int(numbers.ticks[frame])
        views = np.asarray(draw(observation, config=default_views(size), key=jax.random.key(0)))
        found.append(Picture(tick, maker.sentence(numbers, tick, numbers.object_positions[tick])[0], observation, views))
    return found


def _show(axis: Any, image: np.ndarray, title: str, **options: Any) -> None:
    axis.imshow(image, interpolation="nearest", **options)
    axis.set_title(title, fontsize=6)
    axis.set_axis_off()


def _column(axes: np.ndarray, picture: Picture) -> None:
    """RGB and depth of each camera, then depth of each view, downwards."""
    depth_m = np.asarray(picture.observation.depth_m)
    for i, name in enumerate(CAMERAS):
        _show(axes[2 * i], np.asarray(picture.observation.rgb)[i], f"{name}, tick {picture.tick}")
        _show(axes[2 * i + 1], np.where(depth_m[i] > 0, depth_m[i], np.nan), f"{name} depth", cmap="viridis")
    for axis, view, name in zip(axes[2 * len(CAMERAS) :], picture.views, VIEWS, strict=True):
        _show(axis, np.where(view[..., 0] > 0, view[..., 0], np.nan), f"view {name}", cmap="magma")


def _curves(axis: Any, actions: np.ndarray, ticks: list[int]) -> None:
    for joint, (name, column) in enumerate(zip(JOINTS, actions.T, strict=True)):
        axis.plot(np.arange(len(actions)) / 50, column, "-" if joint < 7 else "--", linewidth=0.8, label=name)
    for tick in ticks:
        axis.axvline(tick / 50, color="grey", linewidth=0.5)
    axis.set_xlabel("s")
    axis.set_ylabel("rad, gripper 0..1")
    axis.legend(fontsize=5, ncols=2, loc="center left", bbox_to_anchor=(1.0, 0.5))


def draw_sheet(found: list[Picture], actions: np.ndarray, title: str, out: Path) -> None:
    """Write the contact sheet; raises ValueError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("a contact sheet needs matplotlib; install it with: pip install 'clamp-jax[viz]'") from error
    rows = 2 * len(CAMERAS) + len(VIEWS)
    figure = Figure(figsize=(1.5 * len(found) + 2, 1.5 * rows + 3), layout="constrained")
    grid = figure.add_gridspec(rows + 2, len(found))
    for i, picture in enumerate(found):
        _column(np.array([figure.add_subplot(grid[row, i]) for row in range(rows)]), picture)
    _curves(figure.add_subplot(grid[rows:, :]), actions, [p.tick for p in found])
    figure.suptitle("\n".join([title, found[0].prompt]), fontsize=7, wrap=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f"{out.stem}.tmp.png")
    figure.savefig(temporary, dpi=110)
    temporary.rename(out)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of a data set of either kind")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--episode", type=int, default=0)
    parser.add_argument("--frames", type=int, default=4, help="columns of the sheet")
    parser.add_argument("--size", type=int, default=96, help="pixels of the drawn images and views")
    options = parser.parse_args(arguments)
    try:
        dataset = open_dataset(options.data)
        found = pictures(dataset, options.episode, options.frames, options.size)
        title = f"{dataset.reader.task}, episode {options.episode} of {len(dataset.reader)}, {dataset.kind} records"
        draw_sheet(found, dataset.episode(options.episode).actions, title, options.out)
    except ValueError as error:
        raise SystemExit(f"view: {error}") from error
    print(options.out)


if __name__ == "__main__":
    main()
