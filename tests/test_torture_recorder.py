"""The short form of `python -m experiments.torture --recorder`: its own process, since it forks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from recorded import HOME, written

from experiments.torture import recorder


def test_three_kills(tmp_path):
    out = tmp_path / "recorder.json"
    command = [sys.executable, "-m", "experiments.torture", "--recorder", "3", "--json", str(out)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "XLA_FLAGS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())["recorder"]
    assert found["good"] and found["kills"] == 3 and found["inside_its_end"] >= 1 and found["episodes"] >= 2


def test_an_episode_that_is_not_what_was_sent_is_found_out(tmp_path):
    sent = np.tile(HOME, (10, 1)).astype("<f4")
    path, commands = written(tmp_path, sent), tmp_path / "commands"
    commands.write_bytes(sent.tobytes())
    assert recorder._unlike(path, commands) == []
    commands.write_bytes(sent[:9].tobytes())
    assert "10 commands, 9 were sent" in recorder._unlike(path, commands)[0]
    path.write_bytes(path.read_bytes()[:-100])
    assert "is damaged" in recorder._unlike(path, commands)[0]
