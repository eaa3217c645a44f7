"""An artifact on a computer with nothing but what its reader needs: a real environment, made by pip."""

import importlib.metadata
import json
import os
import subprocess
import sys
import venv

import deployed
import pytest

from clamp_jax.deploy import artifact, loader

NEEDS = ("jax", "jaxlib", "numpy", "flatbuffers", "safetensors")
RUN = """
import importlib.metadata, json, sys
import numpy as np
import loader
folder = sys.argv[1]
policy = loader.load_artifact(folder, instruction=sys.argv[2])
stored, _ = loader.read_safetensors(folder + "/" + loader.EXAMPLE)
expected = stored.pop("actions")
found = {"difference": float(np.abs(policy(stored)["actions"] - expected).max())}
weights = bytearray(open(folder + "/" + loader.WEIGHTS, "rb").read())
weights[-1] ^= 1
open(folder + "/" + loader.WEIGHTS, "wb").write(weights)
try:
    loader.load_artifact(folder)
except ValueError as error:
    found["refused"] = str(error)
found["ours"] = sorted(name for name in sys.modules if name.split(".")[0] in ("clamp_jax", "flax", "experiments"))
found["installed"] = sorted(d.metadata["Name"].lower() for d in importlib.metadata.distributions())
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_artifact_runs_in_an_environment_of_four_packages(tmp_path):
    """jax, numpy, flatbuffers and safetensors, and what jax itself brings; the reader is the copy that lies in the artifact."""
    folder = artifact.write_artifact(tmp_path / "policy", deployed.act, deployed.params(), deployed.description())
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pinned = [f"{name}=={importlib.metadata.version(name)}" for name in NEEDS]
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pinned]
    installed = subprocess.run(pip, capture_output=True, text=True, timeout=600)
    if installed.returncode:
        pytest.skip(f"pip cannot install {', '.join(pinned)} here: {installed.stderr.strip().splitlines()[-1]}")
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XLA", "JAX"))}
    command = [python, "-c", RUN, str(folder), deployed.INSTRUCTION]
    done = subprocess.run(command, cwd=folder, env=bare | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(f"difference {found['difference']:.1e} rad; installed: {', '.join(found['installed'])}")
    assert found["difference"] < 1e-5 and found["ours"] == []
    assert set(found["installed"]) <= {*NEEDS, "ml_dtypes", "ml-dtypes", "opt_einsum", "opt-einsum", "scipy", "pip", "setuptools"}
    assert f"{loader.WEIGHTS} has SHA-256" in found["refused"]
