"""A session: episode after episode, started, ended and dropped by keys, with the arms at rest in between."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from clamp_jax.deploy.cameras import Cameras
from clamp_jax.deploy.control import Clock
from clamp_jax.deploy.robots import Robot
from clamp_jax.structs import CONTROL_HZ
from data_tools.record.files import EPISODE
from data_tools.record.follow import UnsafeWay
from data_tools.record.keys import DROP, HELP, QUIT, START, STOP, Keys
from data_tools.record.loop import Result, Settings, Source, record_episode
from data_tools.record.store import Store
from data_tools.record.stream import TooShort

Begin = Callable[[], AbstractContextManager[Source | None]]  # brings the arms to the start; None: not now


class Session:
    """Records into a store until it has so many episodes, or somebody ends it."""

    def __init__(
        self,
        robot: Robot,
        cameras: Cameras,
        begin: Begin,
        settings: Settings,
        *,
        keys: Keys,
        store: Store,
        tell: Callable[[str], None] = print,
        clock: Clock | None = None,
    ):
        self._robot, self._cameras, self._begin, self._settings = robot, cameras, begin, settings
        self._keys, self._store, self._tell, self._clock = keys, store, tell, clock or Clock()

    def run(self, episodes: int) -> int:
        """How many finished episodes there are at the end. RobotLost, CameraLost, RecordingStopped, OSError as `record_episode`."""
        if self._keys.attended:
            self._tell(HELP)
        while (there := len(self._store.finished())) < episodes or self._keys.attended:
            pressed = self._idle(there, episodes)
            if pressed in (QUIT, STOP) or (there >= episodes and pressed == START):
                break
            if pressed == DROP:
                self._drop_last()
            elif pressed == START and self._one():
                break
        return len(self._store.finished())

    def _idle(self, there: int, episodes: int) -> str:
        """What is pressed next; the arms keep their goal, and their watchdogs hear of us."""
        if not self._keys.attended:
            return self._keys.take() or START
        more = "Enter starts the next" if there < episodes else "that is all: Enter or q ends, d drops the last"
        self._tell(f"{there} of {episodes} episodes; {more}")
        self._keys.clear()
        while not (pressed := self._keys.take()):
            self._robot.joints()
            self._clock.wait_until(self._clock.now() + 1 / CONTROL_HZ)
        return pressed

    def _one(self) -> bool:
        """Record one episode; True when the session is to end after it."""
        path = self._store.next()
        try:
            with self._begin() as source:
                if source is None:
                    return False
                self._keys.clear()
                self._tell(f"{path.name} runs: {self._settings.instruction}")
                result = record_episode(self._robot, self._cameras, source, self._settings, self._keys, path=path, clock=self._clock)
        except (UnsafeWay, TooShort) as error:
            if not self._keys.attended:
                raise
            self._tell(str(error))
            return False
        self._tell(words(path.stem, result))
        if result.ended == DROP:
            self._drop_last()
        return result.ended in (QUIT, STOP)

    def _drop_last(self) -> None:
        last = self._store.finished()[-1:]
        told = f"{self._store.drop(last[0]).name}: rename it to {EPISODE} to have it back" if last else "there is none to drop"
        self._tell(told)


def words(number: str, result: Result) -> str:
    """What came of an episode, in a line."""
    what = f"{number}: {result.ticks / CONTROL_HZ:.1f} s, {result.frames} images a camera" if result.path else f"{number}: not kept"
    missed = f", {result.missed} ticks missed" if result.missed else ""
    changed = "".join(f", {count} commands {cause}" for cause, count in sorted(result.interventions.items()))
    return f"{what}, ended by {result.ended}{missed}{changed}"
