"""The report of a run: the page stands alone, shows the numbers of report.json, and its charts are right."""

import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from experiments import charts, pictures, report, stages


def entry(successes, trials, low, high):
    return {"successes": successes, "trials": trials, "low": low, "high": high}


def fill(run):
    """A made-up run with every stage the report reads."""
    folder = run / "stages"
    folder.mkdir(parents=True)
    pair = {"top1": 0.31, "chance": 1 / 64, "top1_permuted": 0.05}
    evaluation = {"task": "drawer_close", "backend": "mjx", "limit_s": 8.0, "replan": 50}
    evaluation["success"] = {"clamp": entry(20, 32, 0.45, 0.77), "hold_still": entry(0, 32, 0, 0.11), "blind": entry(4, 32, 0.05, 0.28)}
    results = {
        "settings": {"size": "small", "finetune_task": "drawer_close"},
        "pretrain_clamp": {"metrics": "pretrain_clamp/metrics.jsonl"},
        "retrieval": {"pairs": {"image_text": pair, "text_action": pair, "image_action": pair}},
        "evaluate": evaluation,
        "robot": {"latency_ms": {"p50": 41.0, "p99": 60.5}, "robot_episode": {"completed": True, "missed_deadlines": 0}},
    }
    for i, (name, result) in enumerate(results.items()):
        stages.write_json(folder / f"{name}.json", {"inputs": "x", "seconds": 1.5 * i, "finished": i, "result": result})
    log = run / "pretrain_clamp" / "metrics.jsonl"
    log.parent.mkdir()
    lines = [{"step": i, "loss/image_text": 4 / (i + 1), "loss/diffusion": 1 / (i + 1)} for i in range(30)]
    log.write_text("\n".join(json.dumps(line) for line in lines) + '\n{"step": 30, "loss/im')
    pictures.write_png(run / "pictures" / "views.png", np.zeros((4, 6, 3), np.uint8))
    return run


def test_report_has_the_numbers_and_the_page_stands_alone(tmp_path):
    run = fill(tmp_path / "demo")
    found = report.build(run)
    assert found == json.loads((run / "report.json").read_text())
    assert found["success"]["clamp"] == entry(20, 32, 0.45, 0.77)
    assert found["retrieval"]["image_text"]["top1_permuted"] == 0.05
    assert found["latency_ms"] == {"p50": 41.0, "p99": 60.5}
    assert found["robot_episode"] == {"completed": True, "missed_deadlines": 0}
    assert found["stages"]["robot"] == 6.0 and found["versions"]["jax"]
    page = (run / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=['"](?!data:)""", page), "the page needs another file"
    for text in ("20/32", "1.6%", "31.0%", "5.0%", "p99 60.5 ms", "drawer_close"):
        assert text in page
    for svg in re.findall(r"<svg.*?</svg>", page):
        ElementTree.fromstring(svg)


def test_notes_say_what_came_out():
    base = {"retrieval": {}, "evaluation": {}}
    apart = report.notes(base | {"success": {"clamp": entry(30, 32, 0.8, 0.98), "scratch": entry(5, 32, 0.07, 0.3)}})
    assert "CLAMP beats, with intervals apart, from scratch." in apart
    worse = report.notes(base | {"success": {"clamp": entry(1, 32, 0.0, 0.16), "blind": entry(12, 32, 0.23, 0.55)}})
    assert any(note.startswith("CLAMP is beaten, with intervals apart, by blind") for note in worse)
    assert any("30 %" in note for note in worse)
    weak = report.notes({"success": {}, "evaluation": {}, "retrieval": {"image_text": {"top1": 0.06, "chance": 1 / 64}}})
    assert any("under four times chance" in note for note in weak)


def test_no_stage_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no finished stage"):
        report.build(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_bars_are_as_long_as_their_values():
    drawn = ElementTree.fromstring(charts.bars([charts.Bar("a", 0.25, 0.1, 0.5, ""), charts.Bar("b", 0.75, 0.7, 0.8, "")], title="t"))
    widths = [float(rect.get("width")) for rect in drawn.iter("rect")]
    assert widths[1] == pytest.approx(3 * widths[0], rel=1e-2)


def test_ticks_are_round_and_inside():
    assert charts.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert charts.ticks(0, 4000) == [0, 1000, 2000, 3000, 4000]
    rng = np.random.default_rng(0)
    for low, span in rng.uniform(-5, 5, (20, 2)):
        found = charts.ticks(low, low + abs(span) + 0.1)
        assert 2 <= len(found) <= 7 and low <= found[0] and found[-1] <= low + abs(span) + 0.1


def test_running_mean_keeps_a_constant_and_starts_at_the_first_value():
    assert charts.smooth([3.0] * 10, 5) == pytest.approx([3.0] * 10)
    assert charts.smooth([7.0, 1.0], 4)[0] == pytest.approx(7.0)


def test_lines_survive_what_is_not_finite():
    drawn = charts.line_chart({"a": ([0, 1, 2], [1.0, float("nan"), 2.0]), "b": ([0], [float("inf")])}, title="t", x_label="step")
    assert "nan" not in drawn and len(re.findall("<polyline", drawn)) == 2
    assert "nothing was recorded" in charts.line_chart({}, title="t", x_label="step")


def test_png_is_read_back_by_another_decoder():
    image_module = pytest.importorskip("PIL.Image", reason="reads the picture back")
    import io

    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(image_module.open(io.BytesIO(pictures.png(image)))), image)
    with pytest.raises(ValueError, match="float64"):
        pictures.png(np.zeros((2, 2, 3)))


def test_depth_colours_leave_unmeasured_pixels_dark():
    depth = np.array([[0.0, 0.5], [1.0, 0.7]])
    colours = pictures.depth_colours(depth)
    assert (colours[0, 0] == pictures.EMPTY).all()
    assert colours[0, 1, 0] > colours[1, 0, 2] and len({tuple(c) for c in colours.reshape(-1, 3)}) == 4
