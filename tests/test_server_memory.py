"""A server's memory: reserved before the first request, counted after it."""

import gc
import os
import subprocess
import sys
import weakref

import pytest

from clamp_jax.deploy import memory

if not memory.in_use():
    pytest.skip("needs glibc's mallinfo2", allow_module_level=True)

LATER = """
import threading
from clamp_jax import runtime
from clamp_jax.deploy import memory
from experiments.torture.memory import resident_bytes

runtime.setup("cpu", mjx=False)

def grown() -> int:
    before = resident_bytes()
    arrays = [b"\\1" * (2 << 20) for _ in range(8)]
    return resident_bytes() - before

def report() -> None:
    print(grown())
    memory.reserve()
    print(grown())

report()
thread = threading.Thread(target=report)
thread.start(), thread.join()
"""


def test_what_is_reserved_is_there_for_later_in_this_thread_and_in_others():
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    told = subprocess.run([sys.executable, "-c", LATER], env=inherited, capture_output=True, text=True, check=True).stdout
    main, main_later, thread, thread_later = map(int, told.split())
    assert min(main, thread) > 15 << 20 and max(main_later, thread_later) < 1 << 20


def test_what_is_in_use_is_counted_until_it_is_freed():
    before = memory.in_use()
    array = b"\1" * (40 << 20)  # a mapping of its own
    small = [bytes(3000) for _ in range(2000)]  # in a heap
    during = memory.in_use()
    assert during - before == pytest.approx(len(array) + 3000 * len(small), rel=0.02)
    del array, small
    assert memory.in_use() - before < 1 << 20


def test_what_there_was_is_not_searched_while_it_is_steady_and_is_again_after_it():
    class Node:
        pass

    def cycle() -> weakref.ref:
        node = Node()
        node.itself = node
        return weakref.ref(node)

    gc.collect()
    before = cycle()
    with memory.steady():
        during = cycle()
        gc.collect()
        assert before() is not None and during() is None
    gc.collect()
    assert before() is None
