"""calibration.json and the solver behind it: conventions against geometry/camera.py, refusals, hidden cells found again."""

import json

import numpy as np
import pytest

from clamp_jax.deploy import calibration as files
from clamp_jax.deploy import projection
from clamp_jax.geometry import camera as jax_camera
from clamp_jax.geometry import kinematics
from data_tools.calibrate import poses, trials
from data_tools.calibrate.boards import BOARDS, TABLE, WORLD_FROM_TABLE, detect, paint, write_sheet
from data_tools.calibrate.sightings import fault
from data_tools.calibrate.solver import solve

LENS = np.array([-0.05, 0.06, 5e-4, -3e-4, -0.02])


@pytest.fixture(scope="module")
def stops():
    return poses.plan(15)


def test_projection_is_that_of_the_library():
    rng = np.random.default_rng(0)
    cell, points = files.nominal(*trials.SIZE), rng.uniform(-0.2, 0.2, (50, 3))
    camera = cell.cameras["overhead"]
    expected, _ = jax_camera.project(jax_camera.pinhole(camera.intrinsics, camera.parent_from_camera, LENS), points)
    seen = projection.transform(projection.invert(camera.parent_from_camera), points)
    np.testing.assert_allclose(projection.project(seen, camera.intrinsics, LENS), expected, atol=1e-3)
    rays = projection.directions(np.asarray(expected, float), camera.intrinsics, LENS)
    np.testing.assert_allclose(rays, seen / seen[:, 2:], atol=1e-5)


def test_nominal_is_the_simulated_cell():
    expected, joints = kinematics.aloha_calibration(*trials.SIZE), np.linspace(-0.3, 0.6, 14)
    found = files.fields(files.nominal(*trials.SIZE), trials.SIZE)
    for name in expected._fields:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-5)
    cameras = kinematics.camera_poses(expected, np.float32(joints))
    for index, name in enumerate(files.CAMERAS):
        pose = files.world_from_camera(files.nominal(*trials.SIZE), name, joints)
        np.testing.assert_allclose(pose, cameras.world_from_camera[index], atol=1e-5)


def test_a_file_comes_back_and_a_changed_one_is_refused(tmp_path):
    path, cell = tmp_path / "calibration.json", files.nominal(480, 848)._replace(date="2026-01-02T03:04:05+00:00", statistics={"poses": 15})
    files.write(cell, path)
    found = files.read(path, files.CAMERAS)
    assert found.id == cell.id and found.statistics == {"poses": 15}
    np.testing.assert_array_equal(found.world_from_base, cell.world_from_base)
    assert [p.name for p in tmp_path.iterdir()] == ["calibration.json"]
    back = files.from_fields(files.fields(found, (480, 848)), (480, 848))
    np.testing.assert_allclose(back.cameras["wrist_left"].parent_from_camera, cell.cameras["wrist_left"].parent_from_camera, atol=1e-6)
    document = json.loads(path.read_text())
    document["cameras"]["overhead"]["intrinsics"][2] += 1
    path.write_text(json.dumps(document))
    with pytest.raises(files.CalibrationError, match="changed by hand"):
        files.read(path)


def spoil_version(document):
    document["version"] = 7


def spoil_units(document):
    for row in range(3):
        document["cameras"]["overhead"]["parent_from_camera"][row][3] *= 1000


def spoil_rotation(document):
    document["world_from_base"]["left"][0][0] = 1.1


def spoil_camera(document):
    del document["cameras"]["wrist_right"]


def spoil_convention(document):
    document["conventions"]["camera_axes"] = "OpenGL"


def spoil_field(document):
    del document["cameras"]["overhead"]["distortion"]


SPOILT = {
    "version 7, expected 1": spoil_version,
    "looks like millimetres": spoil_units,
    "world_from_base of the left arm .* not rigid": spoil_rotation,
    "no camera 'wrist_right'": spoil_camera,
    "another convention of camera_axes": spoil_convention,
    "not whole: KeyError 'distortion'": spoil_field,
}


@pytest.mark.parametrize("words", SPOILT)
def test_what_is_wrong_with_a_file_is_said(tmp_path, words):
    path, cell = tmp_path / "calibration.json", files.nominal(480, 848)
    files.write(cell, path)
    document = json.loads(path.read_text())
    SPOILT[words](document)
    document.pop("id")
    path.write_text(json.dumps({**document, "id": files._digest(document)}))
    with pytest.raises(files.CalibrationError, match=words):
        files.read(path, files.CAMERAS)


def test_intrinsics_scale_with_the_image():
    np.testing.assert_allclose(files.scaled(np.array([600.0, 610, 640, 360]), (720, 1280), (360, 320)), [150, 305, 160, 180])


@pytest.mark.parametrize("name", BOARDS)
def test_corners_are_found_where_the_library_projects_them(name):
    board, camera, rng = BOARDS[name], files.nominal(*trials.SIZE).cameras["overhead"], np.random.default_rng(1)
    distance = 0.9 if name == "table" else 0.4
    pose = projection.rigid(np.array([0.3, -0.2, 0.4, -board.size_m[0] / 2, -board.size_m[1] / 2, distance]))
    image = np.full(trials.SIZE, 120.0)
    paint(image, board, pose, (camera.intrinsics, LENS))
    ids, pixels = detect(np.clip(image + 4 * rng.normal(size=image.shape), 0, 255).astype(np.uint8), board)
    assert len(ids) > 0.85 * len(board.corners)
    error = pixels - projection.project(projection.transform(pose, board.corners), camera.intrinsics, LENS)[ids]
    assert np.abs(error.mean(0)).max() < 0.06  # a wrong pixel convention is 0.5
    assert error.std() < trials.CORNER_PX


def test_hidden_cells_are_found(stops):
    exact, hidden, _ = trials.trial(stops, 1, trials.Faults(0.0, 0.0, 0.0))
    assert max(max(pair) for pair in trials.errors(exact.unknowns, hidden.unknowns).values()) < 1e-4
    found, hidden, _ = trials.trial(stops, 2)
    off = np.array(list(trials.errors(found.unknowns, hidden.unknowns).values()))
    assert np.median(off[:, 0]) < 0.002 and np.median(off[:, 1]) < 0.2
    assert off[:, 0].max() < 0.004 and off[:, 1].max() < 0.5


def test_a_few_poses_and_a_moved_board_are_refused_with_the_number(stops):
    rng = np.random.default_rng(0)
    hidden, joints = trials.hide(rng), np.stack([stop.joints for stop in stops])
    seen = trials.see(hidden, stops, rng)
    few = [s for s in seen if s.pose < 4 or s.pose >= 12]
    with pytest.raises(files.CalibrationError, match="in 3 usable poses, 5 are needed"):
        solve(few, hidden.optics, joints)
    moved = [s._replace(pixels=s.pixels + 8.0) if s.camera == "overhead" and s.pose > 8 else s for s in seen]
    with pytest.raises(files.CalibrationError, match=r"moved while poses were taken: by 11.* first in pose 10; 6 of 15"):
        solve(moved, hidden.optics, joints)


@pytest.mark.slow  # it solves for each sighting that it leaves out
def test_a_board_that_slipped_once_is_left_out(stops):
    rng = np.random.default_rng(3)
    hidden, joints = trials.hide(rng), np.stack([stop.joints for stop in stops])
    seen = trials.see(hidden, stops, rng)
    pushed = [s._replace(pixels=s.pixels + 25.0) if s.camera == "worms_eye" and s.pose == 5 else s for s in seen]
    found = solve(pushed, hidden.optics, joints)
    assert any("pose 6, camera worms_eye" in row.name for row in found.dropped)
    assert max(metres for metres, _ in trials.errors(found.unknowns, hidden.unknowns).values()) < 0.005


def test_a_slanted_and_a_half_seen_board_are_not_used(stops):
    rng = np.random.default_rng(0)
    hidden = trials.hide(rng)
    good = next(s for s in trials.see(hidden, stops, rng) if s.camera == "overhead")
    optics = hidden.optics["overhead"]
    assert fault(good, optics) == ""
    assert "12 of 24 corners" in fault(good._replace(ids=good.ids[:12], pixels=good.pixels[:12]), optics)
    pose = projection.rigid(np.array([np.radians(70), 0.0, 0.0, -0.18, -0.05, 0.8]))
    slanted = projection.project(projection.transform(pose, TABLE.corners), optics.intrinsics, optics.distortion)
    assert "at a slant" in fault(good._replace(ids=np.arange(24), pixels=slanted), optics)


def test_planned_poses_are_clear_and_every_way_too(stops):
    here, holder = poses.HOME, ""
    for stop in stops:
        if stop.holder != holder:
            here, holder = poses.HOME, stop.holder
        assert poses.clear(stop.joints[None], stop.holder).all()
        assert poses.way(here, stop.joints, stop.holder) is not None
        here = stop.joints
    low = poses.HOME.copy()
    low[[1, 2]] = 0.9, 0.9
    assert not poses.clear(low[None], "").any()


def test_the_table_board_lies_on_the_table_with_its_print_up():
    middle = projection.transform(WORLD_FROM_TABLE, TABLE.outline.mean(0, keepdims=True))[0]
    np.testing.assert_allclose(middle, (0, 0, 0.0308), atol=1e-9)
    np.testing.assert_allclose(WORLD_FROM_TABLE[:3, 2], (0, 0, -1))


def test_a_sheet_is_as_large_as_it_says(tmp_path):
    text = write_sheet(TABLE, tmp_path / "table.svg").read_text()
    assert 'width="384mm"' in text and '<rect x="10" y="10" width="52" height="6.5"/>' in text
