"""The benchmarks of serving and of the control loop in their shortest form: what they count is what happened."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments.benchmark import realtime, serving

SIZE = 16


@pytest.fixture(scope="module")
def ours():
    with serving.stub("ours", SIZE, 5.0, 10.0) as url:
        yield url


def test_every_request_is_timed_and_the_policys_time_is_taken_off(ours):
    found = serving.load(ours, 3, 30)
    assert len(found.round_ms) == len(found.added_ms) == 30 and len(found.health_ms) >= 1
    assert np.all(found.round_ms - found.added_ms >= 5.0)  # at least one call of the stand-in
    assert np.all(found.added_ms > 0) and found.per_s == pytest.approx(30 / found.seconds)


def test_a_plain_loop_answers_the_same_and_says_how_long_it_inferred():
    with serving.stub("plain", SIZE, 5.0, 10.0) as url:
        found = serving.load(url, 2, 10)
    assert len(found.round_ms) == 10 and np.all(found.round_ms - found.added_ms >= 5.0)


def test_quantiles_are_of_all_turns_together():
    found = serving._quantiles([np.arange(101.0), np.arange(101.0) + 100])
    assert found["p50"] == pytest.approx(100, abs=0.5) and found["max"] == 200
    assert found["p95_turns"] == {"median": 145, "min": 95, "max": 195}


def test_the_loop_runs_beside_its_server_and_every_tick_is_accounted_for():
    args = SimpleNamespace(seconds=1.5, artifact=None, first_ms=5.0, size=SIZE, execution="realtime")
    found = realtime.measure(args)
    assert found["ticks"] >= 75 and found["chunks"] >= 1 and found["failures"] == {}
    assert 0 <= found["missed_deadlines"] < 75 and 0 <= found["jitter_ms"]["p50"] <= found["jitter_ms"]["max"]
