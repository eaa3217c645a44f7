"""The stand-in of a cell: what its cameras see against the sensors themselves, its arms against its buses, things put back."""

import jax
import mujoco
import numpy as np
import pytest

from clamp_jax.deploy import calibration as files
from clamp_jax.deploy.imaging import fit
from clamp_jax.deploy.projection import angle_deg, invert, project, transform, unproject
from clamp_jax.sim import scene, tasks
from clamp_jax.structs import CAMERAS
from experiments import rehearsal, standin

TASK, SIZE = "drawer_close", (96, 170)
LENS, NO_LENS = np.array([-0.3, 0.1, 0.0, 0.0, 0.0]), np.zeros(5)


def cell(lens=NO_LENS):
    drawn = files.nominal(*SIZE)
    return drawn._replace(cameras={name: camera._replace(distortion=lens, serial=name) for name, camera in drawn.cameras.items()})


class Still:
    """A body that does not move."""

    def __init__(self):
        self.qpos = np.asarray(tasks.get(TASK).reset(jax.random.key(0))[0])

    def state(self):
        return {"qpos": self.qpos, "success": False}


@pytest.fixture(scope="module")
def frames():
    return standin.D405s(Still(), TASK, cell(), preset="clean").frames()


@pytest.fixture(scope="module")
def world():
    return standin.World(TASK)


def test_a_frame_has_the_devices_optics_and_serial_and_was_taken_now(frames):
    assert set(frames) == set(CAMERAS)
    for name, frame in frames.items():
        camera = cell().cameras[name]
        np.testing.assert_allclose(frame.intrinsics, camera.intrinsics, atol=1e-4)
        assert frame.rgb.shape == (*SIZE, 3) and frame.serial == name and frame.rgb.std() > 5


def test_depth_of_the_table_lies_on_the_table(frames):
    """Points of the overhead camera around the table's middle that are not of the box: z = 0.030 m."""
    camera, frame = cell().cameras["overhead"], frames["overhead"]
    points = transform(camera.parent_from_camera, unproject(frame.depth_m, camera.intrinsics, np.zeros(5)))
    near = (np.abs(points[:, 0]) < 0.5) & (np.abs(points[:, 1]) < 0.3) & (frame.depth_m.reshape(-1) > 0)
    z = np.sort(points[near, 2])
    assert near.sum() > 300 and abs(np.median(z) - 0.030) < 0.004  # half a drawn pixel, 12 mm wide here, on a slanted look


def test_a_lens_shows_a_point_where_the_projection_through_it_does(frames):
    """The box's knob-like bright pixels move by what the lens says: compared by the whole image, remapped back."""
    bent = standin.D405s(Still(), TASK, cell(LENS), preset="clean").frames()["overhead"]
    camera = cell(LENS).cameras["overhead"]
    straight, depth_m = fit(bent, camera, SIZE)
    plain = frames["overhead"]
    inside = depth_m > 0
    same = np.abs(straight.astype(int) - plain.rgb.astype(int)).max(axis=-1) < 30
    moved = np.abs(bent.rgb.astype(int) - plain.rgb.astype(int)).max(axis=-1) < 30
    assert same[inside].mean() > 0.93 and moved[inside].mean() < same[inside].mean() - 0.03


def test_things_are_put_back_and_arms_stay(world):
    task = tasks.get(TASK)
    first, second = (np.asarray(task.reset(jax.random.key(seed))[0]) for seed in (0, 1))
    world.put(first, 0, arms=True)
    goal = world.joints() + np.tile([0.05, 0, 0, 0, 0, 0, 0], 2)
    for _ in range(25):
        world.step(goal)
    moved = world.joints()
    world.put(second, 0)
    np.testing.assert_allclose(world.joints(), moved)
    np.testing.assert_allclose(world.state()["qpos"][16:], second[16:])
    assert np.abs(moved - goal)[[0, 7]].max() < 0.005 and not world.state()["success"]


def test_a_task_that_is_done_is_told_until_things_are_put_back(world):
    model, task = scene.build(TASK).model, tasks.get(TASK)
    start = np.asarray(task.reset(jax.random.key(0))[0])
    done = start.copy()
    done[model.jnt_qposadr[(model.jnt_type == mujoco.mjtJoint.mjJNT_SLIDE) & (model.jnt_qposadr >= 16)]] = 0.0  # all drawers home
    world.put(start, 0, arms=True)
    world.step(None)
    assert not world.state()["success"]
    world.put(done, 0)
    world.step(None)
    assert world.state()["success"]
    world.put(start, 0)
    assert not world.state()["success"]


def test_hidden_cameras_are_near_the_drawing_and_not_on_it_and_bases_are_on_it():
    truth, drawn = rehearsal.hide(3), files.nominal(*standin.SIZE)
    np.testing.assert_array_equal(truth.cell.world_from_base, drawn.world_from_base)
    for name, camera in truth.cell.cameras.items():
        between = invert(drawn.cameras[name].parent_from_camera) @ camera.parent_from_camera
        assert 0 < np.linalg.norm(between[:3, 3]) <= 0.03 and 0 < angle_deg(between) <= 3 and camera.distortion.any()
    off = rehearsal.left_off(truth.cell, 3)
    for name, camera in off.cameras.items():
        between = invert(truth.cell.cameras[name].parent_from_camera) @ camera.parent_from_camera
        assert np.linalg.norm(between[:3, 3]) == pytest.approx(0.03) and angle_deg(between) == pytest.approx(0, abs=1e-6)
    assert off.id != truth.cell.id


def test_lenses_of_the_stand_in_agree_with_the_projection():
    camera = cell(LENS).cameras["overhead"]
    drawn = (SIZE[0] // standin.DRAWN, SIZE[1] // standin.DRAWN)
    index = standin._lens(camera, drawn)
    point = np.array([[0.1, -0.05, 1.0]])
    u, v = project(point, camera.intrinsics, LENS)[0]
    straight = project(point, camera.intrinsics, np.zeros(5))[0]
    row, column = divmod(int(index[int(v), int(u)]), drawn[1])
    assert np.abs(standin.DRAWN * np.array([column + 0.5, row + 0.5]) - straight).max() < standin.DRAWN
