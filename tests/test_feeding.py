"""The benchmark of feeding: every form gives the same images back, figures are of what was asked for, bad input is said."""

import jax
import numpy as np
import pytest
import synthetic

from clamp_jax.data.folders import Reader, Writer
from clamp_jax.data.records import Frame, round_depth
from experiments.benchmark import __main__ as command
from experiments.benchmark import feeding, formats


def frame(seed: int) -> Frame:
    """Random images over the whole of what the types hold: no form gains by anything."""
    rng = np.random.default_rng(seed)
    depth_m = round_depth(rng.integers(0, 65536, (4, 6, 10)) / 1e4)
    return Frame(0, rng.integers(0, 256, (4, 6, 10, 3), np.uint8), depth_m, synthetic.calibration(6, 10))


def test_every_form_gives_the_same_images_back(tmp_path):
    frames = [frame(seed) for seed in range(5)]
    found = formats.measure(frames, tmp_path, 2, 2)
    assert len(found) >= 6
    for figures in found.values():
        assert figures["bytes_a_frame"] > 0
        for unit in ("cpu_ms", "frames_per_s"):
            assert 0 <= figures[f"min_{unit}"] <= figures[f"median_{unit}"] <= figures[f"max_{unit}"]
    for form in formats.forms().values():
        images = formats.images_of(frames[0])
        rgb, depth_m = form.decode(np.frombuffer(form.encode(images), np.uint8), (4, 6, 10))
        np.testing.assert_array_equal(rgb, frames[0].rgb)
        np.testing.assert_array_equal(depth_m, frames[0].depth_m)
    with pytest.raises(ValueError, match="no multiple of 0.1 mm"):
        formats.images_of(frames[0]._replace(depth_m=frames[0].depth_m + np.float32(3e-5)))


def test_a_form_that_gives_other_images_back_is_not_measured(tmp_path, monkeypatch):
    whole = formats.forms()
    name = next(iter(whole))
    wrong = whole[name]._replace(decode=lambda data, shape: (np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.float32)))
    monkeypatch.setattr(formats, "forms", lambda: {name: wrong})
    with pytest.raises(ValueError, match="gives other images back"):
        formats.measure([frame(0)], tmp_path, 1, 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("feeding")
    states = synthetic.write(folder / "states", 6)
    with Writer(folder / "images", task="seen", kind="image") as writer:
        for seed in range(6):
            episode = synthetic.image_episode(seed, task="seen")
            writer.add(episode._replace(depth_m=round_depth(episode.depth_m)))
    return states, folder / "images"


def test_figures_are_of_both_kinds_by_threads_beside_a_plain_reader(folders, tmp_path, capsys):
    arguments = ["input", "--states", str(folders[0]), "--images", str(folders[1]), "--batch", "3", "--batches", "8", "--threads", "1", "2"]
    out = tmp_path / "out.json"
    assert command.main([*arguments, "--repeats", "2", "--train-steps", "0", "--json", str(out)]) == 0
    found = command.json.loads(out.read_text())
    assert found["batch"] == 3 and found["cores"] >= 1 and "training" not in found
    assert "uint16 in byte planes, zstd (schema 2)" in found["formats"]
    for kind, batches in (("states", 8), ("images", 1)):
        part = found[kind]
        assert set(part["ways"]) == {"1 threads", "2 threads", "plain"} and part["batches"] == batches
        rates = {name: figures["median_samples_per_s"] for name, figures in part["ways"].items()}
        assert part["best_over_plain"] == pytest.approx(max(rates["1 threads"], rates["2 threads"]) / rates["plain"])
        assert part["bytes_a_record"] > 0
    assert "states: samples/s 1 threads" in capsys.readouterr().err


def test_the_plain_reader_makes_the_same_examples(folders):
    """Sentences apart, whose objects it names in an order of its own."""
    for folder in folders:
        batches = feeding.make_batches(folder, 3)
        for step, found in enumerate(feeding.plain(batches, 3)):
            expected = batches.batch_at(step)
            expected = expected.images if expected.states is None else expected.states
            for a, b in zip(jax.tree.leaves((found[0], found.target)), jax.tree.leaves((expected[0], expected.target)), strict=True):
                np.testing.assert_array_equal(a, b)


def test_nothing_is_kept_in_memory_while_it_is_measured(folders, monkeypatch):
    batches, read = feeding.make_batches(folders[0], 3), []
    monkeypatch.setattr(batches.datasets[0].episode, "_make", lambda index: read.append(index) or Reader(folders[0])[index])
    for _ in range(2):
        batches.batch_at(0)
    assert sorted(set(read)) == sorted(row.episode for row in batches.rows(0)) and read.count(read[0]) >= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "give 1 or more examples"),
        (["--threads", "0"], "give 1 or more examples"),
        (["--train-steps", "5"], "--train-steps is 5; the first 10 are not counted"),
        (["--states", "nowhere", "--images", "nowhere"], "nowhere holds no finished data set"),
    ],
)
def test_bad_input_is_said(arguments, message, capsys):
    assert command.main(["input", *arguments]) == 1
    assert message in capsys.readouterr().err
