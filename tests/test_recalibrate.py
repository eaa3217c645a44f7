"""Recorded images with another calibration: the same episodes but for it, and what has none is refused."""

import numpy as np
import pytest
import synthetic

from clamp_jax.data.folders import Reader, Writer
from clamp_jax.deploy import calibration as files
from clamp_jax.structs import CAMERAS, Calibration
from data_tools.recalibrate import main, recalibrate


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A data set as a recorder makes it."""
    root = tmp_path_factory.mktemp("data")
    drawn = Reader(synthetic.write(root / "drawn", 2, kind="image", steps=60) or root / "drawn")
    with Writer(root / "recorded", task=drawn.task, kind="image", origin={"calibrations": ["before"], "hz": 50}) as writer:
        for index in range(len(drawn)):
            writer.add(drawn.read_images(index))
    return root / "recorded"


def moved(size):
    cell = files.nominal(2 * size[0], 2 * size[1])
    cameras = {name: camera._replace(parent_from_camera=camera.parent_from_camera.copy()) for name, camera in cell.cameras.items()}
    cameras["overhead"].parent_from_camera[:3, 3] += 0.03
    return cell._replace(cameras=cameras)


def test_only_the_calibration_changes(recorded, tmp_path):
    before = Reader(recorded)
    calibration = moved(before.read_images(0).rgb.shape[2:4])
    files.write(calibration, tmp_path / "calibration.json")
    words = ["--data", str(recorded), "--calibration", str(tmp_path / "calibration.json"), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    after = Reader(tmp_path / "out")
    assert len(after) == len(before) == 2 and after.meta["origin"] == {"calibrations": [calibration.id], "hz": 50}
    expected = files.fields(calibration, before.read_images(0).rgb.shape[2:4], CAMERAS)
    for index in range(2):
        old, new = before.read_images(index), after.read_images(index)
        for name in ("rgb", "depth_m", "joints", "actions", "ticks", "progress"):
            np.testing.assert_array_equal(getattr(new, name), getattr(old, name))
        for name in Calibration._fields:
            for row in np.asarray(getattr(new.calibration, name)):
                np.testing.assert_allclose(row, getattr(expected, name))


def test_what_was_not_recorded_is_refused(tmp_path, capsys):
    synthetic.write(tmp_path / "state", 1, kind="state", steps=60)
    with pytest.raises(ValueError, match="state holds no recorded images"):
        recalibrate(tmp_path / "state", files.nominal(8, 8), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    words = ["--data", str(tmp_path / "state"), "--calibration", str(tmp_path / "none.json"), "--out", str(tmp_path / "out")]
    assert main(words) == 1
    assert "recalibrate: cannot read" in capsys.readouterr().err
