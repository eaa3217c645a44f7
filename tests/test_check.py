"""The check of a cell: the simulator's sensors with the calibration as it is and moved."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clamp_jax import sensors
from clamp_jax.deploy import calibration as files
from clamp_jax.deploy import check as checks
from clamp_jax.deploy.projection import directions, pixel_centres, rigid
from clamp_jax.deploy.safety import aloha_limits
from data_tools.calibrate.simulated import Arms

SIZE = (180, 320)
JOINTS = np.tile([0.0, -0.80, 1.05, 0.0, 0.15, 0.0, 0.6], 2)
CELL = files.nominal(*SIZE)


@pytest.fixture(scope="module")
def frames():
    drawn = Arms(CELL, SIZE)(JOINTS)
    config = sensors.preset("d405")
    exact = np.stack([drawn[name][1] for name in CELL.cameras]).astype(np.float32)
    fx = np.float32([CELL.cameras[name].intrinsics[0] for name in CELL.cameras])
    noisy = np.asarray(sensors.measure(jnp.asarray(exact), jnp.asarray(fx), config, sensors.draw_keys(jax.random.key(0))))
    return {name: SimpleNamespace(depth_m=noisy[i], time_s=9.97) for i, name in enumerate(CELL.cameras)}


def with_box(frames, low, high):
    """The frames with a box on the table, from corner to corner in the world: where a ray enters it, by slabs."""
    found = {}
    for name, frame in frames.items():
        camera, pose = CELL.cameras[name], files.world_from_camera(CELL, name, JOINTS)
        ways = directions(pixel_centres(*SIZE), camera.intrinsics, np.zeros(5)) @ pose[:3, :3].T
        with np.errstate(divide="ignore"):
            sides = (np.stack([low, high])[:, None] - pose[:3, 3]) / ways
        enter, leave = sides.min(0).max(-1), sides.max(0).min(-1)
        hit = ((enter < leave) & (enter > 0)).reshape(SIZE) & ((frame.depth_m == 0) | (enter.reshape(SIZE) < frame.depth_m))
        found[name] = SimpleNamespace(depth_m=np.where(hit, enter.reshape(SIZE), frame.depth_m), time_s=frame.time_s)
        assert hit.mean() > 0.01 or name.startswith("wrist"), f"{name} does not see the box"
    return found


def moved(name: str, *increment: float) -> files.CellCalibration:
    camera = CELL.cameras[name]
    world = rigid(np.array(increment)) @ camera.parent_from_camera
    return CELL._replace(cameras={**CELL.cameras, name: camera._replace(parent_from_camera=world)})


def run(cell, frames, joints=JOINTS, now_s=10.0, **more):
    return checks.check(cell, frames, joints, now_s=now_s, limits=aloha_limits(), **more)


def bad(findings) -> list[str]:
    return [finding.what for finding in findings if not finding.good]


def test_a_cell_as_calibrated_passes_with_a_d405s_noise(frames):
    found = run(CELL, frames, rates_hz=dict.fromkeys(CELL.cameras, 30.0))
    assert bad(found) == [], "\n".join(map(str, found))
    looked = " ".join(finding.what for finding in found)
    assert "table height by camera overhead" in looked and "arms seen by camera overhead" in looked


def test_a_thing_on_the_table_is_no_fault_and_hides_none(frames):
    seen = with_box(frames, (-0.2, -0.15, 0.03), (0.2, 0.05, 0.12))
    assert bad(run(CELL, seen)) == []
    before_arms = with_box(frames, (-0.15, -0.25, 0.03), (0.15, -0.05, 0.14))
    assert bad(run(CELL, before_arms)) == []
    assert "table height by camera worms_eye" in " ".join(finding.what for finding in run(CELL, seen))
    for name in ("overhead", "worms_eye"):
        assert f"table tilt by camera {name}" in bad(run(moved(name, np.radians(2.0), 0, 0, 0, 0, 0), seen))
        assert f"table height by camera {name}" in bad(run(moved(name, 0, 0, 0, 0, 0, 0.02), seen))


@pytest.mark.parametrize(
    "increment, words",
    [
        ((0, 0, 0, 0, 0, 0.03), "table height by camera overhead"),
        ((np.radians(2.0), 0, 0, 0, 0, 0), "table tilt by camera overhead"),
        ((0, 0, 0, 0.03, 0, 0), "arms seen by camera overhead"),
        ((0, 0, 0, 0, 0.03, 0), "arms seen by camera overhead"),
    ],
)
def test_a_camera_that_was_moved_is_named(frames, increment, words):
    found = run(moved("overhead", *increment), frames)
    assert any(words in what for what in bad(found)), "\n".join(map(str, found))
    assert all("overhead" in what for what in bad(found))
    assert all("calibrate again" in str(finding) for finding in found if not finding.good)


def test_old_missing_and_slow_images_and_joints_are_named(frames):
    assert bad(run(CELL, frames, now_s=11.0)) == [f"age of camera {name}" for name in CELL.cameras]
    assert bad(run(CELL, {k: v for k, v in frames.items() if k != "worms_eye"})) == ["images of camera worms_eye"]
    slow = run(CELL, frames, rates_hz={"overhead": 6.0})
    assert bad(slow) == ["rate of camera overhead"] and any("table height" in finding.what for finding in slow)
    assert bad(run(CELL, frames, joints=np.where(np.arange(14) == 8, 1.6, JOINTS))) == [
        "joint read-back, right shoulder outside its limits"
    ]
    assert bad(run(CELL, frames, joints=np.full(14, np.nan))) == ["joint read-back"]


def test_the_shift_of_a_mask_is_found():
    image = np.zeros((40, 60), bool)
    image[10:20, 15:30] = True
    assert checks._shift(np.roll(image, (3, -5), (0, 1)), image).tolist() == [3, -5]
