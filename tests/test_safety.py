"""Safety: no command leaves the limits, valid motion is left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clamp_jax.deploy import safety
from clamp_jax.deploy.robots import SLEEP, path_to
from clamp_jax.deploy.safety import ARM, CLAMP, PASS, REJECT, Safety
from clamp_jax.geometry import aloha, kinematics

LIMITS = safety.aloha_limits()
HOME = np.tile(aloha.HOME_COMMAND, 2)
REACH = 3.14 / 50


@pytest.fixture
def guard():
    return Safety(LIMITS)


def moved(joint, by, start=HOME):
    command = start.copy()
    command[joint] += by
    return command


def test_a_reachable_command_passes_bit_for_bit(guard):
    command = moved(3, 0.9 * REACH).astype(np.float32)
    verdict = guard.check(command, HOME)
    assert verdict.band == PASS and verdict.command.tobytes() == command.tobytes()
    assert guard.counts == {(PASS, ""): 1}


@pytest.mark.parametrize(
    ("command", "band", "cause"),
    [
        (moved(3, 0.3), CLAMP, "velocity"),
        (moved(3, np.nan), REJECT, "not finite"),
        (moved(13, -np.inf), REJECT, "not finite"),
        (moved(5, 0.81), REJECT, "jump"),
        (moved(0, 20.0), REJECT, "outside"),
        (HOME[:13], REJECT, "shape"),
        (HOME.astype(object), REJECT, "shape"),
        (moved(6, 1.0), PASS, ""),  # a gripper may jump
        (moved(6, 1.2), CLAMP, "position"),
    ],
)
def test_bands(guard, command, band, cause):
    verdict = guard.check(command, HOME)
    assert (verdict.band, verdict.cause) == (band, cause)
    assert (verdict.command is None) == (band == REJECT)


def test_clamping_goes_towards_the_command_at_the_limit_speed(guard):
    verdict = guard.check(moved(3, 0.3), HOME)
    np.testing.assert_allclose(verdict.command, moved(3, REACH), atol=1e-12)


def test_position_limit(guard):
    last = HOME.copy()
    last[0] = 1.56
    verdict = guard.check(moved(0, 0.03, last), last)
    assert (verdict.band, verdict.cause) == (CLAMP, "position") and verdict.command[0] == 1.5708


def test_an_arm_outside_its_limits_is_led_back_slowly(guard):
    last = HOME.copy()
    last[0] = 1.66  # measured, not commanded
    verdict = guard.check(last, last)
    np.testing.assert_allclose(verdict.command[0], 1.66 - REACH)


NUMBERS = st.one_of(st.floats(allow_nan=True, allow_infinity=True, width=32), st.floats(-2, 2, width=32))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 13), NUMBERS), min_size=1, max_size=12))
def test_whatever_is_asked_for_no_command_breaks_a_limit(steps):
    guard, last = Safety(LIMITS), HOME
    for joint, value in steps:
        verdict = guard.check(np.asarray(moved(joint, value, last), np.float32), last)
        if verdict.command is None:
            continue
        assert np.isfinite(verdict.command).all()
        assert (verdict.command >= LIMITS.low - 1e-5).all() and (verdict.command <= LIMITS.high + 1e-5).all()
        assert (np.abs(verdict.command - last)[ARM] <= REACH + 1e-4).all()
        last = np.asarray(verdict.command, np.float64)
    assert sum(guard.counts.values()) == len(steps)


def test_a_smooth_motion_passes_unchanged(guard):
    last = HOME
    for command in path_to(SLEEP, HOME).astype(np.float32):
        verdict = guard.check(command, last)
        assert verdict.band == PASS and verdict.command is command
        last = command


def test_forward_kinematics_is_the_sensors_own():
    rng = np.random.default_rng(0)
    bases = jnp.asarray(np.asarray(kinematics.aloha_calibration(8, 8).world_from_base))
    joints = rng.uniform(LIMITS.low, LIMITS.high, (20, 14))
    expected = jax.jit(jax.vmap(kinematics.gripper_poses, (0, None)))(jnp.asarray(joints, jnp.float32), bases)
    np.testing.assert_allclose([safety.gripper_poses(j) for j in joints], expected, atol=2e-6)


def test_fingers_move_as_in_the_tree():
    """Slow reference: the kinematic tree of geometry, left arm, every body."""
    joints = np.array([0.3, -0.5, 0.8, 0.2, -0.4, 1.0, 0.7])
    finger = 0.002 + 0.7 * 0.035
    in_base = jax.jit(kinematics.body_poses)(kinematics.arm_tree(), jnp.asarray([*joints[:6], finger, finger], jnp.float32))
    world_from_base = safety.link_poses(joints, "left")[0]
    expected = world_from_base @ np.linalg.inv(np.asarray(in_base)[-10]) @ np.asarray(in_base)[-10:]
    np.testing.assert_allclose(safety.link_poses(joints, "left"), expected, atol=2e-6)


def straight_down(height):
    """Left arm with its gripper pointing down, its site `height` m over the table top (found by bisection of the shoulder)."""
    low, high = -1.8, 1.2
    for _ in range(60):
        shoulder = (low + high) / 2
        joints = HOME.copy()
        joints[1:5] = shoulder, 0.6, 0.0, np.pi / 2 - 0.6 - shoulder
        site = safety.link_poses(joints[:7], "left")[6] @ [0.15, 0, 0, 1]
        low, high = (shoulder, high) if site[2] > 0.03 + height else (low, shoulder)
    return joints


def test_table_clearance_of_a_gripper_that_points_down():
    clearance = safety.table_clearance(straight_down(0.05))
    site = clearance[0, -1] + safety.ARM_POINTS[-1].radius
    np.testing.assert_allclose(site, 0.05, atol=1e-6)
    wrist = clearance[0, 2] + safety.ARM_POINTS[2].radius
    np.testing.assert_allclose(wrist, 0.05 + 0.15 + 0.069744, atol=1e-6)


def test_the_way_into_the_table_is_closed_and_the_way_out_open(guard):
    above, under, deeper = straight_down(0.005), straight_down(-0.02), straight_down(-0.025)
    assert guard.check(under, above).cause == "table"
    assert guard.check(deeper, under).cause == "table"
    assert guard.check(under, deeper).band != REJECT
    assert guard.check(above, straight_down(0.01)).band == PASS


def test_beside_the_table_there_is_no_table():
    joints = HOME.copy()
    joints[:7] = np.pi, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0  # the left arm turned away from the cell
    assert np.isinf(safety.table_clearance(joints)[0, -1])
