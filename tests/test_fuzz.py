"""A short form of what a policy server is sent, and that the fuzzer would see a server that falls or answers wrongly."""

import numpy as np
import pytest

from clamp_jax.deploy import protocol
from experiments.torture import fuzz


def test_it_neither_falls_nor_hangs_and_answers_the_valid_ones_rightly():
    found = fuzz.torture(600)
    assert found["lives"] and not found["wrong"], found
    assert found["messages"] >= 600 and found["valid_answered"] >= 20
    kinds = {name.split(":")[0] for name in found["outcomes"]}
    assert kinds == {*fuzz.GRAMMAR, "flip", "cut", "noise", "text", "raw"}
    refused = sum(number for name, number in found["outcomes"].items() if "refused" in name)
    assert refused > 300


@pytest.mark.parametrize(
    ("frame", "word"),
    [
        ("ab: Traceback (most recent call last)", "Traceback"),
        ("ab: internal error", "internal error"),
        (protocol.pack({"actions": np.full((50, 14), np.nan, np.float32)}), "not finite"),
        (protocol.pack({"actions": np.full((50, 14), 9, np.float32)}), "limits"),
        (protocol.pack({"actions": np.zeros((1, 14), np.float32)}), "limits"),
    ],
)
def test_wrong_answers_are_seen(frame, word):
    fuzzer = fuzz.Fuzzer("ws://x:1", 0, 1, 0)
    fuzzer._judge("kind", frame, (np.full(14, -3.0), np.full(14, 3.0)))
    assert len(fuzzer.wrong) == 1 and word in fuzzer.wrong[0]
