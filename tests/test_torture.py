"""The short form of `python -m experiments.torture`: its own process, since it forks."""

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import jax

from experiments.torture import damage, kills, memory


def test_five_kills(tmp_path):
    command = [sys.executable, "-m", "experiments.torture", "--kills", "5", "--steps", "12", "--save-every", "3"]
    environment = os.environ | {
        "XLA_FLAGS": "",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    }
    out = tmp_path / "kills.json"
    done = subprocess.run(
        [*command, "--variant", "policy_pretrained", "--json", str(out)], env=environment, capture_output=True, text=True, timeout=115
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())["kills"]
    assert found["good"] and found["kills"] == found["came_back"] == 5
    assert found["lost_steps_max"] < 2 * found["save_every"] + 1


def test_what_is_compared_can_differ():
    lines = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    assert kills._unlike(lines, lines) == []
    assert kills._unlike(lines, [lines[0], {"step": 2, "loss": 0.25000001}]) == [2]
    assert kills._unlike(lines, lines[:1]) == [2]


def test_every_damage_is_named(tmp_path):
    found = damage.torture(tmp_path, 200)
    assert found["good"], found["missed"]
    assert sum(found["named"].values()) == 200 and len(found["named"]) == 6


def test_a_damage_that_nobody_looks_for_is_missed(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert damage.damage(damage.Target(tmp_path, lambda folder: None), Random(0))[2] is None


def test_memory_that_is_touched_is_seen():
    before = memory.resident_bytes()
    block = bytearray(os.urandom(1 << 20) * 64)
    assert memory.resident_bytes() - before > 0.9 * len(block)
