"""The sentences of every task, made by the code that makes records and labels, and the pieces that CLIP cuts them into."""

import functools
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from clamp_jax.data.pipeline import ExampleMaker
from clamp_jax.data.prompts import prompt
from clamp_jax.data.records import Episode
from clamp_jax.models.clip import ClipTokenizer
from clamp_jax.sim import scene
from clamp_jax.sim.tasks import TASKS
from data_tools.generate import record

LENGTH = 77  # tokens of every published CLIP
FIXTURE = Path(__file__).parent / "fixtures" / "clip_words.json"
# arXiv 2602.00937's example, without the objects that it stands for by dots.
PUBLISHED = (
    "place the can opener in the left compartment of the caddy, can opener (83, 16, 27), screwdriver (83, 40, 27), task progress 65"
)


@functools.cache
def episodes() -> tuple[tuple[str, Episode], ...]:
    """(task, episode) for every instruction of every task: as simulated, but nothing moves."""
    found = []
    for name, task in TASKS.items():
        built = scene.build(name)
        qpos = np.tile(built.model.qpos0, (3, 1))  # three ticks: in the second, progress is half done
        for variant in range(len(task.instructions)):
            found.append((name, record(task, built, qpos, np.zeros((3, 14)), variant=variant, seed=0)))
    return tuple(found)


def middle(episode: Episode) -> np.ndarray:
    """Positions (o, 3) m whose integers have two digits each: no sentence is longer."""
    return np.tile(np.array([0.0, 0.0, 0.4]), (len(episode.object_names), 1))


def texts() -> Iterator[str]:
    """Every sentence whole, and all that can stand in one for a number."""
    yield PUBLISHED
    yield "(0, 1, 2), 3 (4, 5, 6), 7 (8, 9, 0), task progress 99"
    for _, episode in episodes():
        yield prompt(episode.instruction, episode.object_names, middle(episode), 0.5)


class Count(NamedTuple):
    """What a task's sentence takes."""

    task: str
    instruction: str
    least: int  # tokens of instruction and progress
    whole: int  # tokens with every object
    used: int  # tokens of what is left
    left_out: tuple[str, ...]


def count(name: str, episode: Episode, tokenizer: ClipTokenizer) -> tuple[Count, str, np.ndarray, list[str]]:
    """Counts of a task's longest sentence, what is left of it, its tokens, and the warnings that were given."""
    positions = middle(episode)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        text, tokens = ExampleMaker(tokenizer.encode, text_length=LENGTH).sentence(episode, 1, positions)
    left_out = tuple(thing for thing in episode.object_names if f", {thing} (" not in text)
    whole = prompt(episode.instruction, episode.object_names, positions, 0.5)
    least = prompt(episode.instruction, (), positions[:0], 0.5)
    counts = (tokenizer.count(least), tokenizer.count(whole), int(np.flatnonzero(tokens)[-1]) + 1)
    return Count(name, episode.instruction, *counts, left_out), text, tokens, [str(warning.message) for warning in caught]


def pieces(vocabulary: Tokenizer, text: str) -> list[str]:
    """The pieces of a text inside of which bytes are merged."""
    return [piece for piece, _ in vocabulary.pre_tokenizer.pre_tokenize_str(vocabulary.normalizer.normalize_str(text))]


def recorded_folder(folder: Path, wanted: tuple[str, ...]) -> Path:
    """The recorded part of CLIP's vocabulary as a tokenizer.json in a folder; AssertionError if a text has a piece it does not know."""
    fixture = json.loads(FIXTURE.read_text())
    document = json.dumps(fixture["tokenizer"])
    vocabulary = Tokenizer.from_str(document)
    unknown = sorted({piece for text in wanted for piece in pieces(vocabulary, text)} - set(fixture["pieces"]))
    assert not unknown, f"tests/fixtures/clip_words.json does not know {unknown}; record again: tests/fixtures/record_clip_words.py"
    (folder / "tokenizer.json").write_text(document)
    return folder
