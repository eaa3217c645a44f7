"""Child processes for torture: begun quickly, killed for good, and looked for afterwards.

The parent has imported everything and has started no thread and no device, so that a fork of it is a fresh run without the
seconds that importing takes.
"""

import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")


class Life:
    """One child that does `work` and leaves with 0, or with 1 and a traceback in `log`; it leads a session of its own."""

    def __init__(self, work: Callable[[], object], log: Path):
        if threading.active_count() > 1:
            raise RuntimeError(f"{threading.active_count()} threads run; a process can be forked before it starts any")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jax warns of every fork; no device has been started
            self.pid = os.fork()
        if self.pid == 0:
            _live(work, log)
        self.code: int | None = None

    def wait(self, seconds: float) -> bool:
        """True when the child has ended by itself within so many seconds; `code` is how."""
        end = time.monotonic() + seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= end:
                return False
            else:
                time.sleep(0.002)
        return True

    def kill(self) -> None:
        """SIGKILL, if it still lives."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def left(self) -> list[int]:
        """Processes of the child's session that are still there."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _session(pid) == self.pid]


def _live(work: Callable[[], object], log: Path) -> None:
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # nothing of the parent's stack may run in the child
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _session(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[3])


def shared_memory() -> set[str]:
    """Names of the shared-memory segments that are this user's."""
    found = set()
    for path in SHARED_MEMORY.iterdir() if SHARED_MEMORY.is_dir() else ():
        try:
            if path.stat().st_uid == os.getuid():
                found.add(path.name)
        except OSError:
            continue
    return found
