"""Short forms of what the safety layer is put through, and that it would be seen if a limit were broken."""

import numpy as np
import pytest

from clamp_jax.deploy import safety
from experiments.torture import commands, demonstrations


def test_nothing_that_is_asked_for_gets_past_a_limit(monkeypatch):
    monkeypatch.setattr(commands, "ROWS", 100)
    monkeypatch.setattr(commands, "POOL", 200)
    found = commands.torture(100 * len(commands.WISHES), seed=1)
    assert found["good"], found["broken"]
    assert found["sequences"] == 900 and set(found["bands"]) == set(commands.WISHES)
    assert found["worst"]["velocity"] > 3.0 and found["worst"]["acceleration"] > 59  # or nothing was asked for
    assert sum(found["bands"]["each other"].values()) == 1000
    assert min(found["bands"][name]["reject"] for name in ("each other", "table")) > 100
    assert -0.01 < found["worst"]["nearer_than_margin_m"] <= 1e-6  # arms come up to the margin, not past it


def test_a_layer_that_lets_arms_creep_is_found_out(monkeypatch):
    """Every command is a little nearer than the last one, and none much."""
    monkeypatch.setattr(safety, "_NO_NEARER", 2e-3)
    monkeypatch.setattr(commands, "ROWS", 100)
    monkeypatch.setattr(commands, "POOL", 200)
    found = commands.torture(100 * len(commands.WISHES), seed=1)
    assert any("nearer_than_margin" in line for line in found["broken"])


@pytest.mark.parametrize(
    ("change", "word"),
    [({"velocity": 1.5}, "velocity"), ({"acceleration": 4.0}, "acceleration"), ({"high": 1.1}, "position")],
)
def test_a_layer_with_wider_limits_is_found_out(monkeypatch, change, word):
    limits = safety.aloha_limits()
    wide = limits._replace(**{name: getattr(limits, name) * factor for name, factor in change.items()})
    monkeypatch.setattr(commands, "_LIMITS", wide)
    monkeypatch.setattr(commands, "ROWS", 60)
    monkeypatch.setattr(commands, "POOL", 100)
    found = commands.torture(60 * len(commands.WISHES))
    assert not found["good"] and any(word in line for line in found["broken"])


def test_a_layer_that_does_not_look_at_the_arms_is_found_out(monkeypatch):
    monkeypatch.setattr(safety.Safety, "_too_near", lambda self, wanted, last, velocity: (np.zeros(len(wanted), int),) * 2)
    monkeypatch.setattr(commands, "ROWS", 100)
    monkeypatch.setattr(commands, "POOL", 200)
    found = commands.torture(100 * len(commands.WISHES))
    assert not found["good"] and any("nearer_than_margin" in line for line in found["broken"])


def test_demonstrations_are_left_alone():
    found = demonstrations.torture(1, names=("drawer_close", "hand_over_pen"))
    assert found["good"] and found["steps"] > 900 and found["passed"] >= 0.999, found


def test_a_demonstration_that_is_too_fast_is_counted_with_its_cause():
    path = np.tile(commands.HOME, (20, 1))
    path[10:, 0] += 0.2
    counts = demonstrations.interventions(path)
    assert counts == {"pass": 17, "clamp acceleration of left waist": 2}
