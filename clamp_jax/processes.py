"""Several processes as one run: how jax learns of the others, and whether all of them were started alike.

Every process runs the same program on its own devices and reads its own rows; process 0 alone writes config and metrics.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # for its barrier: the public one is a collective itself
from jax.experimental import multihost_utils

_calls = itertools.count()
COUNT, INDEX = "CLAMP_PROCESSES", "CLAMP_PROCESS"  # environment variables that stand for the flags --processes and --process
FLAG_HELP = "off: one process; auto: those of a TPU pod, SLURM or Open MPI job; HOST:PORT of process 0, with --processes and --process"
COUNT_HELP = f"how many processes there are, for --distributed HOST:PORT; 0 for ${COUNT}"
INDEX_HELP = f"which of them this is, from 0 on, for --distributed HOST:PORT; -1 for ${INDEX}"


def start(flag: str, count: int = 0, index: int = -1, *, environ: Mapping[str, str] = os.environ, timeout_s: int = 300) -> None:
    """Join the other processes as the flag says, before the first array is made; all have to come within `timeout_s`.

    Raises ValueError for a flag that is none of FLAG_HELP's, when a part is missing, and when the others cannot be found.
    """
    about = read_flag(flag, count, index, environ)
    if about is None:
        return
    try:
        jax.distributed.initialize(**about, initialization_timeout=timeout_s)
    except ValueError as error:
        if flag != "auto":
            raise
        message = "no TPU pod, SLURM or Open MPI job was found in the environment; give --distributed HOST:PORT, or off for one process"
        raise ValueError(f"--distributed auto: {message} ({error})") from error
    except RuntimeError as error:  # jax was used before, or not all processes came
        raise ValueError(f"--distributed {flag} failed: {error}") from error


def read_flag(flag: str, count: int, index: int, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Arguments of jax.distributed.initialize; None for one process. Raises ValueError that says which part is missing or wrong."""
    if flag in ("off", "auto"):
        if count or index >= 0:
            raise ValueError(f"--processes and --process go with --distributed HOST:PORT, not with {flag!r}; leave them out")
        return None if flag == "off" else {}
    host, _, port = flag.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ValueError(f"--distributed is {flag!r}; expected off, auto, or HOST:PORT of process 0, e.g. 10.0.0.1:8476")
    count = count or _number(environ, COUNT, 0)
    index = index if index >= 0 else _number(environ, INDEX, -1)
    if count < 1:
        raise ValueError(f"--distributed {flag} needs the number of processes: --processes N, or ${COUNT}")
    if not 0 <= index < count:
        which = f"is {index}" if index >= 0 else "is missing"
        raise ValueError(f"the index of this process {which}; --distributed {flag} needs --process, or ${INDEX}, from 0 to {count - 1}")
    return {"coordinator_address": flag, "num_processes": count, "process_id": index}


def _number(environ: Mapping[str, str], name: str, missing: int) -> int:
    text = environ.get(name, "")
    if text and not text.isdigit():
        raise ValueError(f"${name} is {text!r}; expected a number from 0 on")
    return int(text) if text else missing


def rank() -> tuple[int, int]:
    """(index, count) of this process, as `Batches` takes it. Raises ValueError on a pod whose processes were not told of each other."""
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise ValueError(f"jax sees {jax.process_count()} processes that were not told of each other; add --distributed auto")
    return jax.process_index(), jax.process_count()


def first() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def meet(name: str, *, timeout_s: float = 1800) -> None:
    """Wait for all processes. Each name is for one use.

    Between CPUs the first collective of a group gives up when one process comes 30 s after another, and compilations do
    not end at the same time: meet before it.
    """
    if jax.process_count() > 1:
        distributed.global_state.client.wait_at_barrier(name, int(1e3 * timeout_s))


def check_alike(document: Any, what: str) -> None:
    """Raise ValueError, in every process, unless all of them hold the same JSON document."""
    if jax.process_count() == 1:
        return
    meet(f"alike_{next(_calls)}")
    text = json.dumps(document, sort_keys=True)
    own = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32)
    different = np.flatnonzero(np.any(multihost_utils.process_allgather(own) != own, axis=1))
    if len(different):
        raise ValueError(f"{what} of process {jax.process_index()} is not that of {different.tolist()}; start all with the same one")
