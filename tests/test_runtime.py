"""What is set before jax starts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clamp_jax import runtime


def test_the_cache_is_on_by_default_and_where_the_user_says():
    environ = {}
    assert runtime.setup(environ=environ) == Path.home() / ".cache/clamp_jax/compiled"
    assert environ["JAX_COMPILATION_CACHE_DIR"] == str(Path.home() / ".cache/clamp_jax/compiled")
    assert runtime.setup(environ={"XDG_CACHE_HOME": "/x"}) == Path("/x/clamp_jax/compiled")
    assert runtime.setup(environ={"XDG_CACHE_HOME": "/x", "CLAMP_CACHE": "/y"}) == Path("/y/compiled")
    assert runtime.setup(environ={"JAX_COMPILATION_CACHE_DIR": "/z"}) == Path("/z")


def test_a_device_chooses_the_platforms():
    environ = {"JAX_PLATFORMS": "tpu"}
    runtime.setup(environ=environ)
    assert environ["JAX_PLATFORMS"] == "tpu"
    runtime.setup("cuda", environ=environ)
    assert environ["JAX_PLATFORMS"] == "cuda,cpu"
    with pytest.raises(ValueError, match="device is 'gpu'; expected one of"):
        runtime.setup("gpu", environ={})


def test_a_cpu_is_split_unless_the_user_has_said_how():
    environ = {}
    runtime.setup(cpu_devices=3, environ=environ)
    assert environ["XLA_FLAGS"].split()[-1] == "--xla_force_host_platform_device_count=3"
    environ = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    runtime.setup(cpu_devices=3, environ=environ)
    assert "=3" not in environ["XLA_FLAGS"]


def test_a_process_without_mjx_is_spared_the_flag_until_one_wants_it():
    environ = {}
    runtime.setup(mjx=False, environ=environ)
    assert environ["XLA_FLAGS"] == ""
    runtime.setup(environ=environ)
    assert environ["XLA_FLAGS"] == runtime.xla_flags("")


def test_the_flag_is_added_once_and_only_to_releases_that_know_it():
    assert runtime.xla_flags("", (0, 10)) == runtime.MJX_FLAG
    assert runtime.xla_flags("--a=1", (0, 11)) == f"--a=1 {runtime.MJX_FLAG}"
    users = "--xla_cpu_enable_concurrency_optimized_scheduler=true"
    assert runtime.xla_flags(users, (0, 10)) == users
    assert runtime.xla_flags("", (0, 9)) == runtime.xla_flags("", (0, 12)) == ""


HEAPS_OF_THREADS = """
import ctypes, sys, threading
from clamp_jax import runtime

if sys.argv[1] == "ours":
    runtime.setup("cpu")
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
together = threading.Barrier(8)

def allocate():
    libc.malloc(2000)
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
libc.fopen.restype = ctypes.c_void_p
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, file)
libc.malloc(20 << 20)
libc.malloc_info(0, file)
libc.fclose(file)
"""


def test_threads_share_two_heaps_and_large_arrays_lie_in_them_unless_the_user_has_said_otherwise():
    if not runtime.set_malloc({}):
        pytest.skip("needs glibc's malloc")

    def heaps(way: str, **environment: str) -> tuple[int, bool]:
        """How many there are, and whether 20 MiB lie outside of them."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        command = [sys.executable, "-c", HEAPS_OF_THREADS, way]
        told = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True).stdout
        before, after = (int(count) for count in re.findall(r'type="mmap" count="(\d+)"', told))
        return told.count("<heap nr") // 2, after > before

    assert heaps("ours") == (2, False)
    assert heaps("ours", MALLOC_ARENA_MAX="3", MALLOC_MMAP_THRESHOLD_="1000000") == (3, True)
    number, outside = heaps("glibc's")
    assert number > 3 and outside
