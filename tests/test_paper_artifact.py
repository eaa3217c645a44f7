"""An artifact with the networks of the paper's size and random weights; needs some 12 GiB of memory and minutes of a few cores."""

import argparse
import json

import numpy as np
import pytest
import safetensors.numpy

from clamp_jax.deploy import artifact, loader
from experiments.benchmark import exporting


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_an_artifact_of_the_papers_size_is_written_loaded_and_verified(tmp_path):
    """B/16 encoders and a policy of four 480 x 640 cameras: the program is kilobytes, its weights are arguments."""
    folder = tmp_path / "artifact"
    found = exporting.measure(argparse.Namespace(preset="paper", batches=[1], repeats=2, out=folder))
    print(json.dumps(found, indent=1))
    wrote = found["write"]
    assert wrote["weights_million"] > 250 and 1e3 * wrote["program_kb"] < 0.01 * 1e6 * wrote["weights_mb"]
    allowed = max(1e-4, wrote["rounding"])  # random weights that predict noise are sensitive to every rounding
    assert found["load"]["difference"] <= allowed and artifact.verify_artifact(folder)["tolerance"] == allowed
    weights = safetensors.numpy.load_file(folder / loader.WEIGHTS)
    assert sum(array.nbytes for array in weights.values()) > 1e9 and all(np.isfinite(array).all() for array in weights.values())
