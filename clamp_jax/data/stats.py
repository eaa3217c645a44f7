"""Statistics of a data set's actions and joint states: streamed from its numbers, checked against the table of ranges.

They do not normalise anything (the robot's table does): they say whether that table fits, and travel with the weights.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float

from clamp_jax.data.folders import Reader
from clamp_jax.geometry.aloha import ARM_JOINTS, SIDES, WORKING_RANGE

JOINTS = tuple(f"{side}/{joint}" for side in SIDES for joint in (*ARM_JOINTS, "gripper"))
# How far beyond its range a value may lie: joint limits are soft in physics; a gripper's opening is not clipped and its
# fingers reach 0 and 0.041 m, which is -0.06 and 1.11.
TOLERANCE = np.array([0.15 if name.endswith("gripper") else 0.05 for name in JOINTS])
_BINS = 30_000  # over three working ranges, so that a quantile is right to 1e-4 of the range


class Columns(NamedTuple):
    """One number a joint (14), in rad and gripper 0..1, rounded to seven digits."""

    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    q01: tuple[float, ...]
    q99: tuple[float, ...]


class Statistics(NamedTuple):
    """Statistics over all ticks of one or several data sets."""

    datasets: tuple[str, ...]  # fingerprints
    episodes: int
    frames: int  # ticks at 50 Hz
    actions: Columns
    joints: Columns

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the JSON form: what weights and data are compared by."""
        return hashlib.sha256(to_json(self).encode()).hexdigest()


class _Stream:
    """Running minimum, maximum, moments and histogram of rows (t, a), in one pass and constant memory."""

    def __init__(self, ranges: np.ndarray):
        self.centre, self.width = ranges.mean(axis=1), ranges[:, 1] - ranges[:, 0]
        self.low = self.centre - 1.5 * self.width
        self.minimum, self.maximum = np.full(len(ranges), np.inf), np.full(len(ranges), -np.inf)
        self.total, self.square, self.count = np.zeros(len(ranges)), np.zeros(len(ranges)), 0
        self.histogram = np.zeros((len(ranges), _BINS), np.int64)

    def add(self, rows: np.ndarray) -> None:
        rows = rows.astype(np.float64)
        self.minimum, self.maximum = np.minimum(self.minimum, rows.min(axis=0)), np.maximum(self.maximum, rows.max(axis=0))
        # moments about the centre of the range: no cancellation in the variance
        self.total += (rows - self.centre).sum(axis=0)
        self.square += ((rows - self.centre) ** 2).sum(axis=0)
        self.count += len(rows)
        bins = np.clip((rows - self.low) / (3 * self.width) * _BINS, 0, _BINS - 1).astype(np.int64)
        for joint, column in enumerate(bins.T):
            np.add.at(self.histogram[joint], column, 1)

    def _quantile(self, fraction: float) -> np.ndarray:
        """Centre of the bin in which the fraction is reached, within the exact minimum and maximum."""
        reached = np.argmax(np.cumsum(self.histogram, axis=1) >= fraction * self.count, axis=1)
        return np.clip(self.low + (reached + 0.5) / _BINS * 3 * self.width, self.minimum, self.maximum)

    def columns(self) -> Columns:
        shift = self.total / self.count
        std = np.sqrt(np.maximum(self.square / self.count - shift**2, 0))
        found = (self.minimum, self.maximum, self.centre + shift, std, self._quantile(0.01), self._quantile(0.99))
        # seven digits: the order in which a processor adds may change the last ones, and the fingerprint with them
        return Columns(*(tuple(float(f"{x:.7g}") for x in column) for column in found))


def compute(readers: Sequence[Reader], ranges: Float[ArrayLike, "a 2"] = WORKING_RANGE) -> Statistics:
    """Statistics of data sets, streamed episode by episode without reading an image; quantiles to 1e-4 of a range (ours)."""
    if not readers:
        raise ValueError("statistics of no data set; name at least one")
    actions, joints = _Stream(np.asarray(ranges, np.float64)), _Stream(np.asarray(ranges, np.float64))
    for reader in readers:
        for index in range(len(reader)):
            episode = reader[index]
            actions.add(episode.actions)
            joints.add(episode.joints)
    fingerprints = tuple(reader.fingerprint for reader in readers)
    return Statistics(fingerprints, sum(map(len, readers)), actions.count, actions.columns(), joints.columns())


def _outside(columns: Columns, low: np.ndarray, high: np.ndarray) -> Iterable[tuple[int, float]]:
    for joint in range(len(low)):
        for value in (columns.minimum[joint], columns.maximum[joint]):
            if not low[joint] <= value <= high[joint]:
                yield joint, value


def check(statistics: Statistics, ranges: Float[ArrayLike, "14 2"] = WORKING_RANGE) -> None:
    """Raise ValueError that names every joint whose data leave its working range by more than TOLERANCE, and the value."""
    ranges = np.asarray(ranges)
    low, high = ranges[:, 0] - TOLERANCE, ranges[:, 1] + TOLERANCE
    found = [
        f"{field} of {JOINTS[joint]}: {value:.4g}, working range {ranges[joint, 0]:.4g} to {ranges[joint, 1]:.4g}"
        for field in ("actions", "joints")
        for joint, value in _outside(getattr(statistics, field), low, high)
    ]
    if found:
        cure = "check units (rad, gripper 0 closed to 1 open) and the order of joints, or drop those episodes"
        raise ValueError(f"data leave the robot's working range: {'; '.join(found)}. {cure}")


def to_json(statistics: Statistics) -> str:
    """Canonical JSON text: the same statistics give the same text."""
    columns = {name: getattr(statistics, name)._asdict() for name in ("actions", "joints")}
    return json.dumps(statistics._asdict() | columns, sort_keys=True)


def from_json(text: str) -> Statistics:
    """Inverse of `to_json`; raises ValueError for text that is no such statistics."""
    try:
        found = json.loads(text)
        columns = {name: Columns(**{k: tuple(map(float, v)) for k, v in found[name].items()}) for name in ("actions", "joints")}
        statistics = Statistics(**{**found, **columns, "datasets": tuple(found["datasets"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"text is no statistics of this project ({error!r}); write it with stats.to_json") from error
    lengths = {len(column) for name in ("actions", "joints") for column in getattr(statistics, name)}
    if lengths != {len(JOINTS)}:
        raise ValueError(f"statistics have columns of {sorted(lengths)} joints; expected {len(JOINTS)}")
    return statistics
