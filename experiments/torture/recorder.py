"""A recording under SIGKILL: finished episodes are whole and what was commanded, a half one is never read, the next recording goes on."""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import numpy as np

from clamp_jax.deploy import calibration
from clamp_jax.deploy.cameras import CameraLost, Frame
from clamp_jax.deploy.safety import aloha_limits
from clamp_jax.geometry import aloha
from clamp_jax.structs import ACTION_DIM, CAMERAS, CONTROL_HZ
from data_tools.record.files import EPISODE, PARTIAL, EpisodeFile, EpisodeWriter
from data_tools.record.keys import Nobody
from data_tools.record.loop import Settings
from data_tools.record.session import Session
from data_tools.record.store import Store, finished
from data_tools.record.stream import RecordingStopped
from experiments.torture.life import Life

HOME = np.tile([*aloha.HOME_COMMAND[:6], 0.5], 2)
SIZE, TICKS = (48, 64), 15  # of an episode
LONGEST_S = 60.0  # that a recording may take for an episode before it is said to hang
PAUSE_S = 0.02  # before and after the disk has all of an episode, where a kill aims at its end
INSIDE = "inside"  # a file that is there while an episode is being finished


class Arms:
    """Are at once where they are told to be, and keep a list of it that outlives them."""

    def __init__(self, folder: Path):
        self.limits, self._folder, self._at, self._list = aloha_limits(), folder, HOME, -1

    def begin(self, number: str) -> None:
        """A new list, for the episode of this number."""
        if self._list >= 0:
            os.close(self._list)
        self._list = os.open(self._folder / number, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def joints(self) -> np.ndarray:
        return self._at.copy()

    def command(self, action: np.ndarray) -> None:
        self._at = np.array(action)
        os.write(self._list, np.asarray(action, "<f4").tobytes())

    def observe(self) -> dict:
        return {}

    def rest(self) -> None:
        self._at = HOME


class Lenses:
    """Cameras of 30 frames a second."""

    def frames(self) -> dict[str, Frame]:
        number = int(time.monotonic() * 30)
        rgb, depth_m = np.full((*SIZE, 3), number % 256, np.uint8), np.full(SIZE, 0.5, np.float32)
        return {name: Frame(rgb, depth_m, number / 30, np.ones(4), np.zeros(5)) for name in CAMERAS}


class Swing:
    """All joints swing, in each episode otherwise; over after TICKS."""

    def __init__(self, number: int):
        self._number = number

    def command(self, joints: np.ndarray, tick: int) -> np.ndarray | None:
        phase = 2 * np.pi * tick / CONTROL_HZ + np.arange(ACTION_DIM)
        return None if tick >= TICKS else HOME + 0.05 * np.sin(phase + self._number) * min(tick / 10, 1)


def live(folder: Path, episodes: int, *, slow: bool) -> None:
    """Record until there are so many; slow: finishing an episode takes longer, and says that it is at it."""
    told = calibration.nominal(*SIZE)
    settings = Settings("swing", "swing", told, seconds=TICKS / CONTROL_HZ + 1, size=SIZE, images_hz=30.0)
    (folder / "commands").mkdir(exist_ok=True)
    arms = Arms(folder / "commands")
    with Store(folder) as store, _slowly(folder / INSIDE) if slow else contextlib.nullcontext():

        @contextlib.contextmanager
        def begin() -> Iterator[Swing]:
            arms.begin(store.next().stem)
            yield Swing(int(store.next().stem))

        session = Session(arms, Lenses(), begin, settings, keys=Nobody(), store=store)
        while len(store.finished()) < episodes:
            with contextlib.suppress(RecordingStopped, CameraLost):  # a machine that is short of processors is not what is tried here
                session.run(episodes)


@contextlib.contextmanager
def _slowly(marker: Path) -> Iterator[None]:
    finish, sync = EpisodeWriter.finish, os.fsync

    def slow_finish(writer: EpisodeWriter, tail: dict) -> Path:
        marker.touch()
        try:
            return finish(writer, tail)
        finally:
            marker.unlink()

    def slow_sync(descriptor: int) -> None:
        time.sleep(PAUSE_S)
        sync(descriptor)
        time.sleep(PAUSE_S)

    with mock.patch.object(EpisodeWriter, "finish", slow_finish), mock.patch.object(os, "fsync", slow_sync):
        yield


def torture(folder: Path, kills: int, *, seed: int = 0, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Kill recordings into one folder so many times, then let one go on undisturbed; what came of it as plain values."""
    began, random = time.monotonic(), Random(seed)
    found: dict[str, Any] = {"kills": 0, "inside_an_episode": 0, "inside_its_end": 0, "whole_but_unnamed": 0, "wrong": []}
    for number in range(kills):
        slow = number % 2 == 1
        life = Life(functools.partial(live, folder, 10**6, slow=slow), folder / "log")
        if _wait_for_a_moment(life, folder, random, slow):
            life.kill()
            raise RuntimeError(f"the recording ended by itself or hangs after {number} kills: {(folder / 'log').read_text()[-500:]}")
        life.kill()
        found["kills"] += 1
        _judge(folder, found)
        tell(f"kill {number + 1}: {len(finished(folder / 'episodes'))} finished episodes")
    there = len(finished(folder / "episodes"))
    last = Life(functools.partial(live, folder, there + 2, slow=False), folder / "log")
    went_on = last.wait(LONGEST_S) and last.code == 0
    last.kill()
    found["wrong"] += _wrong(folder)
    episodes = len(finished(folder / "episodes"))
    good = not found["wrong"] and went_on and episodes == there + 2 and not list((folder / "episodes").glob(f"*{PARTIAL}"))
    return found | {"episodes": episodes, "went_on": went_on, "seconds": round(time.monotonic() - began, 1), "good": good}


def _wait_for_a_moment(life: Life, folder: Path, random: Random, slow: bool) -> bool:
    """Wait until the moment of a kill: any at all, or one while an episode is being finished; True when the recording has ended."""
    marker = folder / INSIDE
    marker.unlink(missing_ok=True)  # of one that was killed there
    if not slow:
        return life.wait(random.uniform(0.0, 1.5))
    end = time.monotonic() + LONGEST_S
    while not marker.exists():
        if life.wait(0.001) or time.monotonic() > end:
            return True
    return life.wait(random.uniform(0.0, 5 * PAUSE_S))


def _judge(folder: Path, found: dict[str, Any]) -> None:
    """Look at all that a kill has left."""
    episodes = folder / "episodes"
    partial = sorted(episodes.glob(f"*{PARTIAL}")) if episodes.is_dir() else []
    found["inside_an_episode"] += bool(partial)
    found["inside_its_end"] += (folder / INSIDE).exists()
    found["wrong"] += _wrong(folder)
    for path in partial:
        probe = folder / f"probe{EPISODE}"
        probe.write_bytes(path.read_bytes())
        with contextlib.suppress(ValueError):  # it is not read under a finished one's name either, unless nothing is missing but that
            EpisodeFile(probe)
            found["whole_but_unnamed"] += 1
            found["wrong"] += _unlike(probe, folder / "commands" / path.stem)


def _wrong(folder: Path) -> list[str]:
    """What is wrong with the finished episodes."""
    return [line for path in finished(folder / "episodes") for line in _unlike(path, folder / "commands" / path.stem)]


def _unlike(path: Path, commands: Path) -> list[str]:
    """What is wrong with a file that is read as a finished episode."""
    try:
        whole = EpisodeFile(path)
        frames = [whole.frame(0, number) for number in range(whole.frames[0])]
    except ValueError as error:
        return [str(error)]
    sent = np.frombuffer(commands.read_bytes(), "<f4").reshape(-1, ACTION_DIM)
    same = np.array_equal(whole.rows["command"], sent) and whole.rows["tick"][-1] < TICKS
    return [] if same and frames else [f"{path} has {len(whole.rows)} commands, {len(sent)} were sent, or other ones"]
