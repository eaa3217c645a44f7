"""The wheel clamp-client: what is in it, and a robot that has nothing else, with the oldest and the newest of what it claims."""

import configparser
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import deployed
import numpy as np
import pytest

from clamp_jax.deploy import client as client_module
from clamp_jax.deploy.server import Settings, serving
from experiments import client_wheel

ROOT = Path(__file__).parents[1]
ROBOT = Path(__file__).with_name("robot_alone.py")
GOAL = deployed.HOME.astype(np.float32)


def test_the_project_is_the_client_alone(tmp_path):
    client_wheel.write_project(tmp_path / "project")
    assert {path.name for path in (tmp_path / "project").iterdir()} == {"LICENSE", "clamp_client.py", "pyproject.toml", "setup.cfg"}
    assert (tmp_path / "project" / "clamp_client.py").read_bytes() == Path(client_module.__file__).read_bytes()
    made, own = configparser.ConfigParser(), configparser.ConfigParser()
    made.read(tmp_path / "project" / "setup.cfg")
    own.read(ROOT / "setup.cfg")
    assert made["metadata"]["version"] == own["metadata"]["version"] and made["options"]["python_requires"] == ">=3.8"
    needs = made["options"]["install_requires"].split()
    assert sorted(need.partition(">=")[0] for need in needs) == ["msgpack", "numpy", "websockets"]
    assert not any(mark in need for need in needs for mark in ("<", "==", "~", ",")), "no upper pins"


def test_a_build_that_fails_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(client_wheel, "BUILD_SYSTEM", '[build-system]\nrequires = []\nbuild-backend = "nothing"\n')
    assert client_wheel.main(["--out", str(tmp_path / "dist")]) == 1
    assert "pip cannot build the wheel" in capsys.readouterr().err and not (tmp_path / "dist").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    try:
        return client_wheel.build(tmp_path_factory.mktemp("dist"))
    except RuntimeError as error:
        pytest.skip(f"the wheel's build needs a package index: {str(error)[-300:]}")


def python(version):
    """This Python, or one of that version on the path or among pyenv's."""
    if version is None:
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [*sorted(pyenv.glob(f"{version}*/bin/python")), shutil.which(f"python{version}")]
    for candidate in filter(None, map(str, filter(None, found))):
        if subprocess.run([candidate, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
            return candidate
    pytest.skip(f"there is no Python {version} here, on the path or in {pyenv}")


class Reaching(deployed.StubPolicy):
    """Goes to GOAL by 0.05 an action; slow for seed 1."""

    def __init__(self):
        super().__init__(lambda inputs: time.sleep(0.5 if inputs["seed"][0] == 1 else 0))

    def __call__(self, inputs):
        joints = super().__call__(inputs)["actions"]
        reach = 0.05 * np.arange(1, 51, dtype=np.float32)[None, :, None]
        return {"actions": joints + np.clip(GOAL - joints, -reach, reach)}


@contextlib.contextmanager
def served(port=0):
    with serving(Reaching(), deployed.warm(), Settings(port=port, max_batch=1)) as url:
        yield url


def hear(process, word):
    """The robot's next line, which must be `word`."""
    line = process.stdout.readline().strip()
    assert line == word, f"robot said {line!r} where {word!r} was expected: {process.stderr.read() if not line else ''}"


def drive(command, **how):
    """Run the robot's program: serve it, stop the server when it moves, serve again when it has noticed; gives its report."""
    with contextlib.ExitStack() as first:
        url = first.enter_context(served())
        with subprocess.Popen([*command, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how) as robot:
            try:
                hear(robot, "moving")
                first.close()
                hear(robot, "lost")
                with served(int(url.rsplit(":", 1)[1])):
                    hear(robot, "back")
                    return json.loads(robot.stdout.readline())
            finally:
                robot.kill()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("version", "which"), [(None, "newest"), ("3.8", "newest"), ("3.8", "lowest")])
def test_a_robot_with_the_wheel_alone(version, which, wheel, tmp_path):
    subprocess.run([python(version), "-m", "venv", str(tmp_path / "venv")], check=True)
    alone = str(tmp_path / "venv" / "bin" / "python")
    pins = [need.replace(">=", "==") for need in client_wheel.REQUIRES] if which == "lowest" else []
    subprocess.run([alone, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel), *pins], check=True)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    report = drive([alone, "-W", "error", str(ROBOT)], cwd=tmp_path, env=clean)
    assert report["there"] == [] and "lacks ['state']" in report["refusal"] and report["late_thrown_away"]
    np.testing.assert_allclose(report["joints"], GOAL, atol=0.05)
    assert report["moved"] + report["held"] == report["ticks"] and report["moved"] > 25 and report["held"] > 0
    if which == "lowest":
        assert [f"{name}>={report['versions'][name]}" for name in ("numpy", "websockets")] == list(client_wheel.REQUIRES[1:])
