"""The rehearsal of a real cell: its table, and (slow) all of its stages at the smallest size."""

import json

import pytest
from rich.console import Console

from experiments import cell_demo
from experiments.configs import cell


def drive(successes, refused):
    findings = [{"what": "table height by camera overhead", "good": not refused}, {"what": "age of camera overhead", "good": True}]
    counts = {"successes": successes, "trials": 24, "ticks": 9, "missed_deadlines": 1, "held": {}, "observation_to_reply_ms": {}}
    return counts | {"check": {"findings": findings}}


def test_the_table_says_what_was_counted_and_what_the_check_refuses():
    results = {"drive_found": drive(12, False), "drive_true": drive(13, False), "drive_off": drive(0, True), "calibrate": {}, "record": {}}
    found = cell_demo.report(results)
    assert found["driven"]["found"]["low"] == pytest.approx(0.314, abs=1e-3)
    assert found["driven"]["off"]["high"] == pytest.approx(0.138, abs=1e-3)
    lines = cell_demo.markdown(found).splitlines()
    assert lines[2] == "| as calibrated | 12 of 24 | 31% to 69% | nothing |"
    assert lines[4] == "| left 3 cm off | 0 of 24 | 0% to 14% | 1 findings |"


def test_an_unknown_size_is_named():
    with pytest.raises(ValueError, match="size is 'huge'; expected one of debug, small"):
        cell.get_config("huge")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_way_at_the_smallest_size(tmp_path):
    found = cell_demo.run(cell.get_config("debug"), tmp_path, Console(quiet=True))
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(found))
    assert max(row["mm"] for row in found["calibration"].values()) < 5
    assert found["recorded"]["episodes"] == 2 and set(found["driven"]) == set(cell_demo.KINDS)
    assert found["driven"]["off"]["check_refuses"] and not found["driven"]["true"]["check_refuses"]
