"""A real cell's commands against a fake one: the check before anything moves, and the drive between check and rest."""

import json
from types import SimpleNamespace

import deployed
import fake_cell
import numpy as np
import pytest

from clamp_jax.deploy.robots import SLEEP
from clamp_jax.deploy.server import Settings, serving
from experiments import cell_check, run_robot


@pytest.fixture(autouse=True)
def shortly(monkeypatch):
    """Cameras are looked at for a third of the time."""
    monkeypatch.setattr(cell_check, "WATCH_S", 0.33)


def check(name, tmp_path):
    """Exit code of `--check` and its JSON, None without."""
    path = tmp_path / "check.json"
    code = run_robot.main(["--check", "--cell", f"fake_cell:{name}", "--json", str(path)])
    return code, json.loads(path.read_text()) if path.exists() else None


def test_a_cell_as_it_was_calibrated_is_good_through_its_lenses_and_nothing_moves(tmp_path, capsys):
    code, found = check("good", tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert code == 0 and found["good"] and found["calibration"] == fake_cell.calibration().id
    assert len(lines) == len(found["findings"]) and all(line.startswith("ok") for line in lines)
    looked = {row["what"]: row["value"] for row in found["findings"]}
    assert looked["table height by camera overhead"] < 1.0 and "arms seen by camera overhead, off by" in looked
    rates = [value for what, value in looked.items() if what.startswith("rate")]
    assert len(rates) == 4 and all(24 <= rate <= 31 for rate in rates)
    assert fake_cell.OPENED[-1].sent == [] and not fake_cell.OPENED[-1].rested


@pytest.mark.parametrize(
    "name, what, cure",
    [
        ("moved", ["arms seen by camera overhead, off by"], "calibrate again"),
        ("tilted", ["table tilt by camera overhead"], "calibrate again"),
        ("old", [f"age of camera {name}" for name in fake_cell.files.CAMERAS], "cable and port"),
        ("missing", ["images of camera worms_eye"], "serial number"),
    ],
)
def test_what_is_refused_is_named_with_its_cure(name, what, cure, tmp_path, capsys):
    code, found = check(name, tmp_path)
    refused = [row["what"] for row in found["findings"] if not row["good"]]
    assert code == 1 and not found["good"] and refused == what
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("REFUSED")]
    assert len(told) == len(refused) and all(cure in line for line in told)
    assert fake_cell.OPENED[-1].sent == []


def test_what_cannot_be_looked_at_is_one_line(tmp_path, capsys):
    said = {"uncalibrated": "no calibration to be checked", "lost": "'wrist_left' delivers no", "nobody": "module:function"}
    for name, words in said.items():
        assert check(name, tmp_path) == (1, None)
        line = capsys.readouterr().err.strip()
        assert line.startswith("run_robot: ") and words in line and "\n" not in line


@pytest.mark.parametrize("line", ["--task drawer_close --cell x:y", "--server ws://x", "--task a --check", "--cell x:y --loss 0.1"])
def test_one_robot_is_named_and_what_is_of_the_other_is_refused(line):
    with pytest.raises(SystemExit) as ended:
        run_robot.parse(line.split())
    assert ended.value.code == 2


def test_rates_count_new_images_and_a_camera_that_stands_still_has_none():
    clock = [0.0]

    def frames():
        clock[0] += 0.1
        return {"moves": SimpleNamespace(time_s=clock[0]), "stands": SimpleNamespace(time_s=3.0)}

    seen = cell_check.watch(SimpleNamespace(frames=frames), 2.0, clock=lambda: clock[0])
    assert seen.rates_hz["moves"] == pytest.approx(9.5, abs=0.6) and seen.rates_hz["stands"] == 0
    assert seen.frames["moves"].time_s == seen.now_s


@pytest.fixture(scope="module")
def server():
    with serving(deployed.StubPolicy(), deployed.warm(), Settings(port=0)) as url:
        yield url


def drive(server, name, tmp_path):
    path = tmp_path / "out.json"
    code = run_robot.main(["--server", server, "--cell", f"fake_cell:{name}", "--seconds", "0.8", "--json", str(path)])
    return code, json.loads(path.read_text()) if path.exists() else None, fake_cell.OPENED[-1]


def test_a_cell_is_checked_driven_with_images_of_the_policys_size_and_brought_to_rest(server, tmp_path):
    code, found, robot = drive(server, "good", tmp_path)
    assert code == 0 and found["check"]["good"] and found["rested"] and robot.rested
    assert found["robot_episode"]["chunks"] >= 1 and found["cell"] == "fake_cell:good" and found["instruction"] == deployed.INSTRUCTION
    assert "does not say with which calibration it was trained, this cell has" in found["calibration_warning"]
    assert robot.observe()["images"]["overhead"].shape == (deployed.HEIGHT, deployed.WIDTH, 3)
    np.testing.assert_allclose(robot.sent, np.tile(fake_cell.JOINTS, (len(robot.sent), 1)), atol=1e-6)  # what the policy asked for
    np.testing.assert_array_equal(robot.joints(), SLEEP)


def test_a_policy_of_another_calibration_is_a_warning_and_one_of_this_is_none(tmp_path, caplog):
    mine = fake_cell.calibration().id
    for trained, words in (
        (["0123456789abcdef", "nominal"], f"trained with calibrations 0123456789abcdef, nominal (the simulator's), this cell has {mine}"),
        (["0123456789abcdef", mine], ""),
    ):
        policy = deployed.StubPolicy()
        policy.spec["training"] = {"calibrations": trained}
        caplog.clear()
        with serving(policy, deployed.warm(), Settings(port=0)) as url:
            code, found, _ = drive(url, "good", tmp_path)
        assert code == 0 and found["calibration_warning"] == words and found["robot_episode"]["ticks"] > 0
        assert [record.message for record in caplog.records if "trained" in record.message] == [words] * bool(words)


def test_a_cell_that_fails_the_check_is_not_driven(server, tmp_path, capsys):
    code, found, robot = drive(server, "moved", tmp_path)
    assert (code, found, robot.sent, robot.rested) == (1, None, [], False)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "nothing was moved" in line and "arms seen by camera overhead" in line and "calibrate again" in line


def test_arms_that_do_not_come_to_rest_are_told_and_the_figures_kept(server, tmp_path, capsys):
    code, found, _ = drive(server, "stuck", tmp_path)
    assert code == 1 and not found["rested"] and found["robot_episode"]["chunks"] >= 1
    assert "the arms did not come to rest: left arm: its cable" in capsys.readouterr().err
