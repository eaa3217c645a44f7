"""The sentence that the text encoder reads: instruction, objects with their positions, task progress.

Example of the paper: "place the can opener in the left compartment of the caddy, can opener (83, 16, 27),
screwdriver (83, 40, 27), ..., task progress 65".
"""

import warnings
from collections.abc import Callable, Sequence
from numbers import Real

import numpy as np
from jaxtyping import ArrayLike, Float, Int32

from clamp_jax.render.views import CROP_HIGH, CROP_LOW

# Bounds over which positions become integers: those of the cloud (ours; the paper normalises over bounds it does not give).
WORKSPACE_LOW, WORKSPACE_HIGH = CROP_LOW, CROP_HIGH
STEPS = 100  # integers 0..99 an axis, and of progress

Tokenize = Callable[[str, int], np.ndarray]


def quantise(
    positions_m: Float[ArrayLike, "o 3"], low: Sequence[Real] = WORKSPACE_LOW, high: Sequence[Real] = WORKSPACE_HIGH
) -> Int32[np.ndarray, "o 3"]:
    """World positions in metres as integers 0..99 over the box low..high; what lies outside is clipped to its side."""
    low_m, high_m = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if np.any(high_m <= low_m):
        raise ValueError(f"bounds of the prompt are low {low}, high {high}; expected low < high on every axis, in metres")
    if not np.all(np.isfinite(positions_m)):
        raise ValueError(f"positions of the prompt are {positions_m}; expected finite world positions in metres")
    scaled = (np.asarray(positions_m, np.float64) - low_m) / (high_m - low_m)
    return np.clip(np.floor(scaled * STEPS), 0, STEPS - 1).astype(np.int32)


def prompt(
    instruction: str,
    names: Sequence[str],
    positions_m: Float[ArrayLike, "o 3"],
    progress: Real,
    *,
    low: Sequence[Real] = WORKSPACE_LOW,
    high: Sequence[Real] = WORKSPACE_HIGH,
) -> str:
    """One sentence of an instruction, named world positions (m) and progress in [0, 1], all numbers as integers 0..99.

    Raises ValueError when names and positions differ in number or progress lies outside. Source: the example published in arXiv 2602.00937.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress is {progress}; expected a fraction from 0 to 1")
    if len(names) != len(positions_m):
        raise ValueError(f"prompt has {len(names)} names and {len(positions_m)} positions; expected one position a name")
    objects = [f"{name} ({x}, {y}, {z})" for name, (x, y, z) in zip(names, quantise(positions_m, low, high), strict=True)]
    # rounded first: a progress of 0.65 is a little less in float32
    percent = min(int(round(progress * STEPS, 4)), STEPS - 1)
    return ", ".join([instruction, *objects, f"task progress {percent}"])


def object_order(count: int, seed: int | Sequence[int] | None) -> np.ndarray:
    """Order in which objects are named: as recorded without a seed, else shuffled by it."""
    return np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)


def fitting_prompt(
    instruction: str,
    names: Sequence[str],
    positions_m: Float[ArrayLike, "o 3"],
    progress: Real,
    *,
    tokenize: Tokenize,
    length: int,
    low: Sequence[Real] = WORKSPACE_LOW,
    high: Sequence[Real] = WORKSPACE_HIGH,
) -> tuple[str, Int32[np.ndarray, " l"]]:
    """The prompt and its (length,) tokens; objects that do not fit are left out (`leaving_order`), the progress never.

    `tokenize(text, length)` gives (length,) int32, cut or padded with 0; the last token of a text is not 0. Warns when an
    object is left out; raises ValueError when not even instruction and progress fit. Ours: a plain cut at CLIP's 77 tokens
    loses the progress.
    """
    leaving = leaving_order(instruction, names)
    for count in range(len(names) + 1):
        kept = sorted(leaving[count:])
        text = prompt(instruction, [names[i] for i in kept], np.asarray(positions_m)[kept], progress, low=low, high=high)
        # room enough that no tokenizer cuts: none takes four tokens a byte
        tokens = np.asarray(tokenize(text, max(length, 4 * len(text.encode()) + 2)), np.int32)
        if not np.any(tokens[length:]):
            _warn_left_out(instruction, count, len(names), length)
            return text, tokens[:length]
    count = np.flatnonzero(tokens)[-1] + 1  # a piece may be 0 (CLIP's "!"), an end is not
    raise ValueError(f"'{text}' takes {count} tokens, the limit is {length}; shorten the instruction or raise the text length")


def leaving_order(instruction: str, names: Sequence[str]) -> list[int]:
    """Indices of objects in the order in which they are left out: from the end, those that the instruction names at last (ours)."""
    named = [name.lower() in instruction.lower() for name in names]
    return sorted(range(len(names)), key=lambda i: (named[i], -i))


def _warn_left_out(instruction: str, count: int, of: int, length: int) -> None:
    """Without their names, which change with the order: Python tells the same warning once."""
    if count:
        left = f"{count} of {of} objects left out"
        warnings.warn(f"prompt of '{instruction}': {left} to keep the progress within {length} tokens", stacklevel=3)
