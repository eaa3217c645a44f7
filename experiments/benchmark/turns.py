"""A turn of a framework that is measured beside others. Imports nothing, so that no framework is brought into another's process."""

import time
from collections.abc import Callable
from typing import Any

PAUSE_S = 0.4  # OpenMP's threads spin on for 0.2 s after torch's turn
TURN_S = 0.2  # it takes some 0.03 s of calls until the system has spread threads over the cores


def turn(call: Callable[[], Any]) -> float:
    """Milliseconds of a call among others like it: a pause, calls for TURN_S, and the mean of those of another TURN_S."""
    time.sleep(PAUSE_S)
    mean_ms(call)
    return mean_ms(call)


def mean_ms(call: Callable[[], Any]) -> float:
    """Of as many calls as fit into TURN_S, of one at least."""
    begin, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - begin < TURN_S:
        call()
        calls += 1
    return 1e3 * (time.perf_counter() - begin) / calls
