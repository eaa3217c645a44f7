"""Build the wheel `clamp-client`: the client as one module, for a robot's computer that has neither jax nor this library.

    python -m experiments.client_wheel --out dist
    pip install dist/clamp_client-*.whl         # then: from clamp_client import Client
"""

import argparse
import configparser
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from clamp_jax.deploy import client

ROOT = Path(__file__).parents[1]
REQUIRES = ("msgpack>=1.0", "numpy>=1.17.3", "websockets>=11.0")  # no upper pins; tests/test_client_wheel.py runs the lowest and the newest
PYTHON = ">=3.8"
BUILD_SYSTEM = '[build-system]\nrequires = ["setuptools>=64"]\nbuild-backend = "setuptools.build_meta"\n'


def build(out: Path) -> Path:
    """Write the wheel into `out` and return its path; nothing is left elsewhere. RuntimeError with pip's words when it fails."""
    with tempfile.TemporaryDirectory(prefix="clamp-client-") as temporary:
        project, wheels = Path(temporary) / "project", Path(temporary) / "wheels"
        write_project(project)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--wheel-dir", str(wheels)]
        done = subprocess.run([*command, str(project)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"pip cannot build the wheel (exit code {done.returncode}):\n{done.stderr[-2000:]}")
        (made,) = wheels.glob("*.whl")
        out.mkdir(parents=True, exist_ok=True)
        partial = out / f".{made.name}.tmp"
        shutil.copyfile(made, partial)
        os.replace(partial, out / made.name)
        return out / made.name


def write_project(folder: Path) -> None:
    """A setuptools project of the client alone, with this library's version and licence."""
    own, made = configparser.ConfigParser(), configparser.ConfigParser()
    own.read(ROOT / "setup.cfg")
    made["metadata"] = {name: own["metadata"][name] for name in ("version", "license")} | {
        "name": "clamp-client",
        "description": "Asks a policy server of CLAMP in JAX, or any of openpi's wire, for actions",
        "license_files": "LICENSE",
    }
    made["options"] = {"py_modules": "clamp_client", "python_requires": PYTHON, "install_requires": "\n".join(("", *REQUIRES))}
    folder.mkdir(parents=True)
    with open(folder / "setup.cfg", "w") as file:
        made.write(file)
    (folder / "pyproject.toml").write_text(BUILD_SYSTEM)
    shutil.copyfile(client.__file__, folder / "clamp_client.py")
    shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")


def main(argv: Sequence[str] | None = None) -> int:
    """Build it and print where it is."""
    parser = argparse.ArgumentParser(description="Build the wheel of the robot's client.")
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder of the wheel")
    try:
        print(f"wrote {build(parser.parse_args(argv).out)}")
    except (OSError, RuntimeError) as error:
        print(f"client_wheel: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
