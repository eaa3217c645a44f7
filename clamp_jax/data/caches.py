"""Decoded records that are kept in memory, up to a number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


class Cache:
    """Least recently used values of a function, up to a number of bytes; safe among threads."""

    def __init__(self, make: Callable[[Any], Any], limit: int):
        self._make, self._limit, self._bytes = make, limit, 0
        self._values: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, key: Any) -> Any:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][0]
        value = self._make(key)
        size = held_bytes(value)
        with self._lock:
            if key not in self._values:
                self._values[key], self._bytes = (value, size), self._bytes + size
            while self._bytes > self._limit:
                self._bytes -= self._values.popitem(last=False)[1][1]
        return value


def held_bytes(value: Any) -> int:
    """Bytes of memory that the arrays of a tree keep from being freed: all of a record's where they are views of it."""
    owners = {}
    for leaf in jax.tree.leaves(value):
        while isinstance(leaf, np.ndarray) and leaf.base is not None:
            leaf = leaf.base
        if not isinstance(leaf, str):
            owners[id(leaf)] = len(leaf) if isinstance(leaf, bytes) else np.asarray(leaf).nbytes
    return sum(owners.values())
