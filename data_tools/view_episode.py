"""What a policy sees of an episode, tick by tick: cameras, the five views and the sentence, of records of either kind."""

import functools
from typing import NamedTuple

import jax
import numpy as np

from clamp_jax.data.pipeline import Dataset, ExampleMaker
from clamp_jax.geometry.kinematics import aloha_calibration
from clamp_jax.models.tokenizer import Tokenizer
from clamp_jax.observe import clean, render_views, sense
from clamp_jax.render.views import default_views
from clamp_jax.structs import CAMERAS, ImageExample, Observation, StateExample


class Picture(NamedTuple):
    """What is seen at one tick."""

    tick: int  # at which the images were taken
    prompt: str
    observation: Observation
    views: np.ndarray  # (v, h, w, 4)
    rgb: np.ndarray  # (k, h, w, 3) uint8, as a screen shows them


class Sight:
    """One episode as a policy sees it; images of a state are drawn exactly, `size` x `size` pixels, as are all views.

    Raises ValueError for an episode that is not there, and for recorded images of other cameras than the cell's four.
    """

    def __init__(self, dataset: Dataset, episode: int, size: int):
        reader = dataset.reader
        if not 0 <= episode < len(reader):
            raise ValueError(f"episode is {episode}; {reader.directory} has {len(reader)}, from 0 to {len(reader) - 1}")
        cameras = reader.meta["cameras"][0] if dataset.kind == "image" else len(CAMERAS)
        if cameras != len(CAMERAS):
            raise ValueError(f"{reader.directory} has images of {cameras} cameras; expected those of {', '.join(CAMERAS)}")
        self.dataset, self.episode, self.size = dataset, episode, size
        self.numbers = dataset.episode(episode)
        self._maker = ExampleMaker(Tokenizer().encode, calibration=aloha_calibration(size, size))

    @property
    def ticks(self) -> int:
        """Length of the episode."""
        return len(self.numbers.actions)

    def spread(self, count: int) -> list[Picture]:
        """`count` pictures spread evenly from the first to the last."""
        return [self._at(frame) for frame in np.linspace(0, self.dataset.frames(self.episode) - 1, count).astype(int).tolist()]

    def frame_of(self, tick: int) -> int:
        """The last frame that was taken by a tick; the first one before any was."""
        if self.dataset.kind == "state":
            return tick
        return max(0, int(np.searchsorted(self.numbers.ticks, tick, side="right")) - 1)

    def prompt(self, tick: int) -> str:
        """The sentence at a tick."""
        return self._maker.sentence(self.numbers, tick, self.numbers.object_positions[tick])[0]

    def at(self, tick: int) -> Picture:
        """The newest picture at a tick."""
        return self._at(self.frame_of(tick))

    def _at(self, frame: int) -> Picture:
        example = self._maker.example_at(self.dataset, self.episode, frame)
        observation, views = look(example, self.size)
        tick = frame if self.dataset.kind == "state" else int(self.numbers.ticks[frame])
        rgb = np.asarray(observation.rgb)
        return Picture(tick, self.prompt(tick), observation, views, for_screen(rgb) if self.dataset.kind == "state" else rgb)


def look(example: StateExample | ImageExample, size: int) -> tuple[Observation, np.ndarray]:
    """The observation of an example and its views (v, size, size, 4)."""
    if isinstance(example, StateExample):
        return _draw(example, size)
    return example.observation, np.asarray(_views(example.observation, size))


def _draw(example: StateExample, size: int) -> tuple[Observation, np.ndarray]:
    rest = (example.calibration, example.joints, example.past_actions, example.past_mask)
    observation = _sense(example.scene, *rest, config=clean(size), key=jax.random.key(0))
    return observation, np.asarray(_views(observation, size))


_sense = functools.partial(jax.jit, static_argnames="config")(sense)
_render = functools.partial(jax.jit, static_argnames="config")(render_views)


def _views(observation: Observation, size: int) -> jax.Array:
    return _render(observation, config=default_views(size), key=jax.random.key(0))


def for_screen(rgb: np.ndarray) -> np.ndarray:
    """Colours that the ray caster drew, uint8: its are linear, screens are not."""
    return (255 * (rgb / 255) ** (1 / 2.2)).astype(np.uint8)
