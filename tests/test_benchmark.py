"""Benchmarks: the figures of a repeat, a made-up batch that is one of training's, and peers that must show what we show."""

import jax
import numpy as np
import pytest

from clamp_jax import parallel
from clamp_jax.data.transforms import SIZES
from clamp_jax.structs import CHUNK, HISTORY
from experiments.benchmark import __main__ as command
from experiments.benchmark import pairs, render, scene, sim, simulating, splat_jax, splat_numpy, step, timing, work

WORLD = simulating.World("drawer_close", "primitive")


def test_the_first_call_is_told_apart(monkeypatch):
    times = iter([900.0, 3.0, 1.0, 8.0, 2.0, 5.0])
    monkeypatch.setattr(timing, "_timed", lambda work: next(times))
    assert timing.repeat(None, 5) == {"first_ms": 900.0, "min_ms": 1.0, "median_ms": 3.0, "max_ms": 8.0, "repeats": 5}
    with pytest.raises(ValueError, match="repeats is 0"):
        timing.repeat(None, 0)


def test_the_batch_is_of_different_scenes_of_one_task():
    batch = step.make_batch("drawer_close", 3, 12, (8, 8))
    states = batch.states
    assert states.scene.qpos.shape == (3, SIZES.qpos) and states.scene.geoms.size.shape == (3, SIZES.geoms.total, 3)
    assert states.past_actions.shape == (3, HISTORY, 14) and states.target.actions.shape == (3, CHUNK, 14)
    assert len(np.unique(states.scene.qpos, axis=0)) == 3
    np.testing.assert_array_equal(states.scene.qpos[0, :16], states.scene.qpos[1, :16])
    assert states.past_mask.all() and len({tuple(k) for k in np.asarray(jax.random.key_data(batch.keys))}) == 3


@pytest.fixture(scope="module")
def made() -> work.Work:
    return scene.make(3000, 2, 0)


@pytest.mark.parametrize("radius", [0, 1])
def test_numpy_and_every_form_show_the_same_points(made, radius, tmp_path):
    made = made._replace(radius_px=radius)
    assert made.points.shape == (2, 4 * 27**2, 3) and made.world_from_camera.shape == (5, 4, 4)
    expected = splat_numpy.make(made, "minimum.at")()
    assert (expected[..., 0] > 0).mean() > 0.01
    np.save(tmp_path / "numpy.npy", expected)
    for form in splat_jax.FORMS:
        image = splat_jax.image(splat_jax.make(made, form)())
        assert image.shape == expected.shape
        np.save(tmp_path / "ours.npy", image)
        assert render.compare(tmp_path / "ours.npy", tmp_path / "numpy.npy", made, form) <= 5
    np.save(tmp_path / "numpy.npy", np.roll(expected, 3, axis=2))
    with pytest.raises(render.BenchmarkError, match="packed shows other points than ours in .* pixels"):
        render.compare(tmp_path / "ours.npy", tmp_path / "numpy.npy", made, "packed")


def test_torch_shows_the_same_points(made, tmp_path):
    pytest.importorskip("torch", reason="needs the [bench] extra")
    from experiments.benchmark import splat_torch

    for radius in (0, 1):
        made = made._replace(radius_px=radius)
        np.save(tmp_path / "ours.npy", splat_jax.image(splat_jax.make(made, "packed")()))
        for form in splat_torch.FORMS:
            if not form.startswith("compile"):
                np.save(tmp_path / "torch.npy", splat_torch.image(splat_torch.make(made, form)()))
                assert render.compare(tmp_path / "ours.npy", tmp_path / "torch.npy", made, form) <= 5


def test_peers_take_turns_in_processes_of_their_own(tmp_path, capsys):
    arguments = ["render", "--points", "400", "--batch", "2", "--radius", "1", "--repeats", "2", "--peers", "numpy", "--skip-raycast"]
    assert command.main([*arguments, "--json", str(tmp_path / "out.json")]) == 0
    (cell,) = command.json.loads((tmp_path / "out.json").read_text())["splat"]
    assert cell["points"] == 400 and cell["batch"] == 2 and cell["radius_px"] == 1
    assert set(cell["forms"]) == {"jax packed", "jax two_pass", "numpy minimum.at"}
    for entry in cell["forms"].values():
        assert 0 < entry["min_ms"] <= entry["median_ms"] <= entry["max_ms"] and entry["different_pixels"] <= 25
    assert cell["forms"]["jax packed"]["first_ms"] > cell["forms"]["jax packed"]["median_ms"]
    ratio = cell["numpy_eager_over_ours"]
    assert ratio["form"] == "minimum.at" and 0 < ratio["min_ratio"] <= ratio["median_ratio"] <= ratio["max_ratio"]
    assert cell["floor_ms"] > 0


def test_what_is_missing_is_said(monkeypatch, capsys):
    monkeypatch.setattr(render.importlib.util, "find_spec", lambda name: None)
    assert command.main(["render", "--peers", "torch", "--skip-raycast"]) == 1
    assert "torch is not installed; pip install '.[bench]'" in capsys.readouterr().err
    assert command.main(["render", "--repeats", "0", "--skip-raycast"]) == 1
    assert command.main(["render", "--device", "gpu", "--points", "400"]) == 1
    assert "found no accelerator" in capsys.readouterr().err


def test_forms_of_the_loss_are_compared_and_then_measured(tmp_path, capsys):
    arguments = ["loss", "--batch", "64", "--embedding", "8", "--devices", "2", "--repeats", "1"]
    assert command.main([*arguments, "--json", str(tmp_path / "out.json")]) == 0
    found = command.json.loads((tmp_path / "out.json").read_text())["losses"]
    assert [(cell["devices"], cell["masked"]) for cell in found] == [(2, False), (2, True)]
    for cell in found:
        assert cell["gradients_differ_by"] <= 1e-6
        for form in pairs.FORMS:
            assert 0 < cell[form]["min_ms"] <= cell[form]["median_ms"] <= cell[form]["max_ms"] and cell[form]["temporary_mib"] > 0
        assert cell["ring_over_plain_memory"] == pytest.approx(cell["ring"]["temporary_mib"] / cell["plain"]["temporary_mib"])
    assert "2 devices, with a mask: plain" in capsys.readouterr().err


def test_forms_of_the_loss_that_differ_are_not_measured(monkeypatch):
    on, rows = parallel.mesh(jax.devices()[:2]), pairs.make_rows(8, 4)
    results = {"plain": ((1.0, 0.0), (np.ones(3),) * 4), "ring": ((1.0, 0.0), (np.full(3, 1.01),) * 4)}
    monkeypatch.setattr(pairs, "compile_form", lambda on, form, *_: pairs.Made(lambda: results[form], 1, 1.0))
    with pytest.raises(ValueError, match="gradients of the two forms differ by 1.0e-02 of their norm on 2 devices"):
        pairs.cell(on, rows, True, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "give 1 or more rows"),
        (["--batch", "10", "--devices", "2", "4"], "a batch of 10 does not divide by 4 devices"),
        (["--batch", "8", "--devices", "8"], "8 devices are asked for and 4 are there; give fewer"),
        (["--device", "gpu"], "--device gpu found no accelerator"),
    ],
)
def test_what_a_loss_cannot_be_measured_on_is_said(arguments, message, capsys):
    assert command.main(["loss", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_part_of_the_simulation_that_takes_too_long_is_said(capsys):
    arguments = ["sim", "--engines", "native", "--batch", "2", "--repeats", "2", "--episodes", "0", "--skip-cameras"]
    assert command.main([*arguments, "--limit-s", "0.01"]) == 0
    told = capsys.readouterr()
    assert "native x 2: not done after 0.01 s" in told.err and '"failed": "not done after 0.01 s"' in told.out
    assert "scene: {'task': 'can_opener_in_caddy'" in told.err.splitlines()[0]
    assert command.main(["sim", "--task", "drawer_opn"]) == 1
    assert "did you mean 'drawer_open'" in capsys.readouterr().err


def test_native_steps_are_counted_alone_and_with_cameras(monkeypatch):
    monkeypatch.setattr(simulating, "SIZE", 16)
    found = simulating.engine(WORLD, "native", 2, 2, True)
    for figure in ("steps_per_s", "cameras_ms", "with_cameras_per_s"):
        assert 0 < found[f"min_{figure}"] <= found[f"median_{figure}"] <= found[f"max_{figure}"]
    assert found["host_bytes"] > 1e7 and found["device_bytes"] is None and 1 <= found["ticks"] <= 25
    assert "median_cameras_ms" not in simulating.engine(WORLD, "native", 1, 1, False)
    assert simulating.swing(3, 5).shape == (3, 5, 14) and np.ptp(simulating.swing(3, 5), axis=1).max() > 0.1
    np.testing.assert_array_equal(simulating.swing(3, 25)[:, :5], simulating.swing(3, 5))
    made = simulating.episodes(WORLD, 2)
    assert made["kept"] == 2 and made["per_core_hour"] > 0


def test_rates_are_of_all_environments(monkeypatch):
    seconds = {"steps": iter((0.5, 0.25)), "cameras": iter((0.2, 0.4)), "both": iter((0.8, 1.6))}
    monkeypatch.setattr(simulating, "_seconds", lambda call: next(seconds[call]))
    found = simulating._rates({name: name for name in seconds}, 8, 5, 2)
    assert found["min_steps_per_s"] == 80 and found["max_steps_per_s"] == 160
    assert found["min_cameras_ms"] == pytest.approx(25) and found["max_cameras_ms"] == pytest.approx(50)
    assert found["min_with_cameras_per_s"] == 5 and found["max_with_cameras_per_s"] == 10


def test_a_larger_batch_has_each_state_several_times():
    (few, _), (many, variant) = simulating.first_states(WORLD, 3), simulating.first_states(WORLD, 20)
    np.testing.assert_array_equal(many[:3], few)
    np.testing.assert_array_equal(many[16:19], few)
    assert len(np.unique(many, axis=0)) == 16 and variant.shape == (20,)


def test_an_accelerator_gets_larger_batches_and_native_stays_on_the_processor(monkeypatch, capsys):
    asked = []

    def run(*part, limit_s, device="cpu"):
        asked.append((part, device))
        return {"platform": "gpu", "kind": "made up", "median_steps_per_s": 1.0}

    monkeypatch.setattr(sim, "run", run)
    monkeypatch.setattr(sim.importlib.util, "find_spec", lambda name: None)  # no Warp
    assert command.main(["sim", "--device", "gpu", "--episodes", "0", "--skip-cameras"]) == 0
    assert asked[0] == (("device",), "gpu")
    cells = [(part[3:5], part[6], device) for part, device in asked[1:]]
    batches = [1, 16, 64, 256, 1024, 4096]
    expected = [((name, b), int(b <= 256), place) for name, place in (("native", "cpu"), ("mjx", "gpu")) for b in batches]
    assert cells == expected
    found = command.json.loads(capsys.readouterr().out)
    assert found["accelerator"]["kind"] == "made up" and found["scene"]["shapes"] == 64


def test_without_an_accelerator_it_is_said(monkeypatch, capsys):
    for answer in ({"platform": "cpu", "kind": "cpu"}, {"failed": "no plugin"}):
        monkeypatch.setattr(sim, "run", lambda *part, answer=answer, **how: answer)
        assert command.main(["sim", "--device", "gpu"]) == 1
        assert "--device gpu found no accelerator" in capsys.readouterr().err
