"""The keys of a recording, of a terminal or of whatever presses them."""

import os
import select
import sys
import termios
import tty
from collections.abc import Callable
from typing import Any, Protocol

START, DROP, HELD, QUIT, STOP = "start or end", "drop", "held", "quit", "stop"
LETTERS = {"\n": START, "\r": START, "d": DROP, "h": HELD, "q": QUIT}
HELP = "Enter starts and ends an episode, d drops the last one (or the running one), q ends the session"


class Keys(Protocol):
    """What a person presses."""

    attended: bool  # False: nobody is there, episodes start by themselves

    def take(self) -> str:
        """What was pressed since the last call, "" for nothing; never waits."""

    def clear(self) -> None:
        """Forget what was pressed."""


class Nobody:
    """No keys: episodes start one after the other and end by their source or their time."""

    attended = False

    def take(self) -> str:
        return ""

    def clear(self) -> None:
        """There is nothing to forget."""


class Terminal:
    """Keys of the terminal at standard input, without Enter after each, while the context is open."""

    attended = True

    def __init__(self, descriptor: int | None = None):
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor

    def __enter__(self) -> "Terminal":
        self._before = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)
        return self

    def __exit__(self, *_: Any) -> None:
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def take(self) -> str:
        if not select.select([self._descriptor], [], [], 0)[0]:
            return ""
        letter = os.read(self._descriptor, 1)
        return LETTERS.get(letter.decode(errors="replace"), "") if letter else QUIT  # the terminal was closed

    def clear(self) -> None:
        termios.tcflush(self._descriptor, termios.TCIFLUSH)


class Stoppable:
    """Keys that say STOP as soon as `stop()` is true, before all others."""

    def __init__(self, keys: Keys, stop: Callable[[], bool]):
        self._keys, self._stop, self.attended = keys, stop, keys.attended

    def take(self) -> str:
        return STOP if self._stop() else self._keys.take()

    def clear(self) -> None:
        self._keys.clear()
