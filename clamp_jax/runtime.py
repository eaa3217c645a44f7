"""What must be set before jax starts: XLA's flags, the platform and the persistent compilation cache. Imports no jax."""

import ctypes
import os
import re
import sys
from collections.abc import MutableMapping
from importlib import metadata
from pathlib import Path

# MJX hangs on CPU when XLA's concurrency-optimised scheduler interleaves its many small loops.
MJX_FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
# An unknown flag ends the process, so the flag is set only for the releases on which it was seen to be accepted.
FLAG_RELEASES = ((0, 10), (0, 12))  # first with it, first not tried
DEVICES = {"cpu": "cpu", "cuda": "cuda,cpu", "tpu": "tpu,cpu"}
MIN_COMPILE_S = 0.5  # compilations shorter than this are not worth a file
# How glibc's malloc is to keep memory: (environment variable, mallopt's number, value). Ours, measured in docs/scale.md.
MALLOC = (
    # Heaps that threads share: with its eight a core, what one thread has freed is no other's, and a run that saves grows for long.
    ("MALLOC_ARENA_MAX", -8, 2),
    # Arrays of a batch and of its records stay in the heap when they are freed: a fresh page costs more than decoding what fills it.
    ("MALLOC_MMAP_THRESHOLD_", -3, 32 << 20),
    ("MALLOC_TRIM_THRESHOLD_", -1, 128 << 20),
)

DEVICES_FLAG = "--xla_force_host_platform_device_count"


def setup(
    device: str | None = None, *, cpu_devices: int | None = None, mjx: bool = True, environ: MutableMapping[str, str] = os.environ
) -> Path:
    """Set XLA's flags, the platform and the compilation cache; call it before the first array is made.

    `device` is "cpu", "cuda", "tpu" or None (what JAX_PLATFORMS says, else jax's own choice). What the user has set in the
    environment is kept. `cpu_devices` splits a CPU into that many devices, so that a training step's loops over examples run
    side by side. `mjx`: False in a process that steps no MJX; without the flag that MJX needs, XLA runs independent work at
    once on a CPU, and rendering is up to 1.4 times as fast. A later call may add the flag, until the first array.

    Returns the directory of the cache. Raises ValueError for an unknown device.
    Ours: the cache makes a second run start in seconds, and CPU physics needs the flag.
    """
    if device is not None:
        if device not in DEVICES:
            raise ValueError(f"device is {device!r}; expected one of {sorted(DEVICES)}")
        environ["JAX_PLATFORMS"] = DEVICES[device]
    environ["XLA_FLAGS"] = xla_flags(environ.get("XLA_FLAGS", "")) if mjx else environ.get("XLA_FLAGS", "")
    if cpu_devices is not None and DEVICES_FLAG not in environ["XLA_FLAGS"]:
        environ["XLA_FLAGS"] = f"{environ['XLA_FLAGS']} {DEVICES_FLAG}={cpu_devices}".strip()
    cache = cache_directory(environ)
    environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(MIN_COMPILE_S))
    if environ is os.environ:
        set_malloc(environ)
    _tell_jax(environ)
    return Path(environ["JAX_COMPILATION_CACHE_DIR"])


def set_malloc(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Set MALLOC in this process, but what the environment says; False where there is no such malloc (macOS, musl)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(number, value) == 1 for name, number, value in MALLOC if name not in environ)


def xla_flags(flags: str, release: tuple[int, int] | None = None) -> str:
    """XLA_FLAGS with the flag that MJX needs on CPU, where the release of jaxlib knows it and the user has not set it."""
    release = release or _jaxlib_release()
    known = FLAG_RELEASES[0] <= release < FLAG_RELEASES[1]
    if not known or MJX_FLAG.split("=")[0] in flags:
        return flags
    return f"{flags} {MJX_FLAG}".strip()


def cache_directory(environ: MutableMapping[str, str] = os.environ) -> Path:
    """Where this project keeps what it can make again: $CLAMP_CACHE, else $XDG_CACHE_HOME/clamp_jax, else ~/.cache/clamp_jax."""
    if environ.get("CLAMP_CACHE"):
        root = Path(environ["CLAMP_CACHE"])
    elif environ.get("XDG_CACHE_HOME"):
        root = Path(environ["XDG_CACHE_HOME"]) / "clamp_jax"
    else:
        root = Path.home() / ".cache" / "clamp_jax"
    return root / "compiled"


def _jaxlib_release() -> tuple[int, int]:
    numbers = re.findall(r"\d+", metadata.version("jaxlib"))
    return int(numbers[0]), int(numbers[1])


def _tell_jax(environ: MutableMapping[str, str]) -> None:
    """jax reads the environment when it is imported; if that has happened already, set the same through its config."""
    jax = sys.modules.get("jax")
    if jax is None or environ is not os.environ:
        return
    jax.config.update("jax_compilation_cache_dir", environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float(environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]))
    if environ.get("JAX_PLATFORMS"):
        jax.config.update("jax_platforms", environ["JAX_PLATFORMS"])
