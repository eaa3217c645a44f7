"""Safety: no command leaves the limits, valid motion is left alone."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clamp_jax.deploy import capsules, safety
from clamp_jax.deploy.robots import SLEEP, path_to
from clamp_jax.deploy.safety import ARM, CLAMP, PASS, REJECT, Safety
from clamp_jax.geometry import aloha

LIMITS = safety.aloha_limits()
HOME = np.tile(aloha.HOME_COMMAND, 2)
DT = 1 / 50
STEP = 60 * DT  # rad/s that a joint may gain in a period
REACH = STEP * DT  # rad, of the first period from rest


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
    ("command", "band", "cause", "detail"),
    [
        (moved(3, 0.3), CLAMP, "acceleration", "left forearm_roll"),
        (moved(3, np.nan), REJECT, "not finite", "left forearm_roll"),
        (moved(13, -np.inf), REJECT, "not finite", "right gripper"),
        (moved(5, 0.81), REJECT, "jump", "left wrist_rotate"),
        (moved(0, 20.0), REJECT, "outside", "left waist"),
        (moved(0, 1.7e308), REJECT, "outside", "left waist"),  # and no warning of an overflow
        (HOME[:13], REJECT, "shape", "float64 (13,)"),
        (HOME.astype(object), REJECT, "shape", "object (14,)"),
        (moved(6, 1.0), PASS, "", ""),  # a gripper may jump
        (moved(6, 1.2), CLAMP, "position", "left gripper"),
    ],
)
def test_bands(guard, command, band, cause, detail):
    verdict = guard.check(command, HOME)
    assert (verdict.band, verdict.cause, verdict.detail) == (band, cause, detail)
    assert (verdict.command is None) == (band == REJECT)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_from_an_unknown_place_or_at_an_unknown_speed_nothing_is_sent(guard, wrong):
    verdict = guard.check(HOME, moved(8, wrong))
    assert (verdict.band, verdict.cause, verdict.detail) == (REJECT, "not finite", "right shoulder")
    assert guard.check(HOME, HOME, velocity(2, wrong)).cause == "not finite"


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("velocity", np.full(14, np.nan), "'velocity'"),
        ("acceleration", np.zeros(14), "over 0"),
        ("high", np.ones(13), "14 finite"),
        ("low", LIMITS.high, "left waist"),
    ],
)
def test_limits_that_limit_nothing_are_refused(name, value, word):
    with pytest.raises(ValueError, match=word):
        Safety(LIMITS._replace(**{name: value}))


def velocity(joint, value):
    found = np.zeros(14)
    found[joint] = value
    return found


def test_clamping_goes_towards_the_command_as_fast_as_the_limits_let_it(guard):
    verdict = guard.check(moved(3, 0.3), HOME)
    np.testing.assert_allclose(verdict.command, moved(3, REACH), atol=1e-12)
    verdict = guard.check(moved(3, 0.3), HOME, velocity(3, 3.1))
    np.testing.assert_allclose(verdict.command, moved(3, 3.14 * DT), atol=1e-12)
    assert verdict.cause == "velocity"
    verdict = guard.check(moved(3, -0.3), HOME, velocity(3, 3.1))  # it has to slow down first
    np.testing.assert_allclose(verdict.command, moved(3, (3.1 - STEP) * DT), atol=1e-12)


def test_position_limit(guard):
    last = HOME.copy()
    last[0] = 1.56
    verdict = guard.check(moved(0, 0.03, last), last)
    assert (verdict.band, verdict.cause) == (CLAMP, "position")
    np.testing.assert_allclose(verdict.command[0], 1.5708, atol=1e-9)


def test_a_joint_at_full_speed_stops_at_its_limit_and_no_sooner_than_it_must(guard):
    """Driven against the waist's limit at 3.14 rad/s: never past it, never braked harder than the limit, there in the end."""
    last, speed, path = HOME.copy(), np.zeros(14), []
    for _ in range(60):
        command = last.copy()
        command[0] = min(last[0] + 0.5, 1.66)
        verdict = guard.check(command, last, speed)
        speed, last = (verdict.command - last) / DT, verdict.command
        path.append(last[0])
    speeds = np.diff([0, *path]) / DT
    assert max(path) <= 1.5708 + 1e-9 and path[-1] == pytest.approx(1.5708, abs=1e-6)
    assert np.abs(np.diff([0, *speeds])).max() <= STEP + 1e-6 and speeds.max() == pytest.approx(3.14)
    assert len([x for x in path if x < 1.57]) <= 28  # 25 periods at full speed, and those of speeding up and braking


def test_the_fastest_that_still_stops_is_the_inverse_of_the_way_to_rest(guard):
    rng = np.random.default_rng(0)
    room = rng.uniform(0, 0.2, (200, 14))
    fastest = guard._stoppable(room)
    end = guard.rest_after(fastest * DT, fastest)
    np.testing.assert_allclose(end[:, ARM], room[:, ARM], atol=1e-12)
    last, speed = np.zeros(14), np.where(np.isin(np.arange(14), ARM), 2.9, 0)  # slow reference: brake until it stands
    expected = guard.rest_after(last, speed)
    while np.any(speed):
        after = guard.brake(last, speed)
        speed, last = np.round((after - last) / DT, 9), after
    np.testing.assert_allclose(last, expected, atol=1e-9)
    np.testing.assert_array_equal(guard.brake(HOME, np.zeros(14)), HOME)


def test_an_arm_outside_its_limits_is_led_back_slowly(guard):
    last = HOME.copy()
    last[0] = 1.66  # measured, not commanded
    verdict = guard.check(last, last)
    np.testing.assert_allclose(verdict.command[0], 1.66 - REACH)


NUMBERS = st.one_of(st.floats(allow_nan=True, allow_infinity=True, width=32), st.floats(-2, 2, width=32), st.floats(-0.1, 0.1))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 13), NUMBERS), min_size=1, max_size=12))
def test_whatever_is_asked_for_no_command_breaks_a_limit(steps):
    guard, last, speed = Safety(LIMITS), HOME, np.zeros(14)
    for joint, value in steps:
        verdict = guard.check(np.asarray(moved(joint, value, last), np.float32), last, speed)
        sent = guard.brake(last, speed) if verdict.command is None else np.asarray(verdict.command, np.float64)
        assert np.isfinite(sent).all()
        assert (sent >= LIMITS.low - 2e-5).all() and (sent <= LIMITS.high + 2e-5).all()
        now = (sent - last) / DT
        assert (np.abs(now)[ARM] <= 3.14 + 2e-3).all()
        assert (np.abs(now - speed)[ARM] <= STEP + 4e-3).all()
        speed, last = now, sent
    assert sum(guard.counts.values()) == len(steps)


def test_a_smooth_motion_passes_unchanged(guard):
    last, speed = HOME, np.zeros(14)
    for command in path_to(SLEEP, HOME).astype(np.float32):
        verdict = guard.check(command, last, speed)
        assert verdict.band == PASS and verdict.command is command
        speed, last = (command - last) / DT, command


def test_several_at_once_are_judged_as_each_for_itself(guard):
    rng = np.random.default_rng(2)
    last = HOME + rng.uniform(-0.4, 0.4, (300, 14))
    speed = rng.uniform(-1, 1, (300, 14)) * (np.arange(14) % 7 < 6)
    commands = (last + rng.normal(0, 0.05, (300, 14)) + 0.9 * (rng.random((300, 14)) < 0.003)).astype(np.float32)
    commands[::50, 3] = np.nan
    found = guard.judge(commands, last, speed)
    assert 10 < found.rejected.sum() < 280
    for i in range(len(commands)):
        one = guard.check(commands[i], last[i], speed[i])
        assert (one.band == REJECT) == found.rejected[i] and one.cause == safety.CAUSES[found.cause[i]]
        if one.band != REJECT:
            np.testing.assert_array_equal(one.command, found.command[i] if one.cause else commands[i])


def drive(guard, target, last, ticks=400):
    """Every command asked for goes straight to the target; what is rejected brakes. The path, and what was said."""
    speed, path, causes = np.zeros(14), [last], []
    for _ in range(ticks):
        verdict = guard.check(last + np.clip(target - last, -0.06, 0.06), last, speed)
        sent = guard.brake(last, speed) if verdict.command is None else verdict.command
        causes.append((verdict.cause, verdict.detail))
        speed, last = (sent - last) / DT, sent
        path.append(last)
    return np.array(path), causes


def test_arms_that_are_driven_into_each_other_stop_before_they_touch(guard):
    reach = HOME.copy()
    reach[1], reach[2], reach[8], reach[9] = 0.7, -0.4, 0.7, -0.4  # both stretched towards the middle
    path, causes = drive(guard, reach, HOME)
    clearance = capsules.arm_clearance(capsules.axes_world(capsules.link_poses(path)))
    least = safety._pair_margins(safety.Margins())
    assert (clearance - least).min() > -1e-3 and (clearance - least).min() < 0.05
    assert any(cause == "arms" and "left" in detail and "right" in detail for cause, detail in causes)
    unguarded = capsules.arm_clearance(capsules.axes_world(capsules.link_poses(reach)))
    assert (unguarded - least).min() < -0.02  # or the test says nothing
    back, _ = drive(guard, HOME, path[-1])
    np.testing.assert_allclose(back[-1], HOME, atol=1e-3)  # the way out is open


def straight_down(height):
    """Left arm with its gripper pointing down, its site `height` m over the table top (found by bisection of the shoulder)."""
    low, high = -1.8, 1.2
    for _ in range(60):
        shoulder = (low + high) / 2
        joints = HOME.copy()
        joints[1:5] = shoulder, 0.6, 0.0, np.pi / 2 - 0.6 - shoulder
        site = capsules.link_poses(joints)[0, 6] @ [0.15, 0, 0, 1]
        low, high = (shoulder, high) if site[2] > 0.03 + height else (low, shoulder)
    return joints


def test_the_way_into_the_table_is_closed_and_the_way_out_open(guard):
    path, causes = drive(guard, straight_down(-0.10), straight_down(0.15))
    heights = capsules.table_clearance(capsules.axes_world(capsules.link_poses(path))) + np.where(capsules.HANDS, 0.02, -0.02)
    assert -1e-3 < heights.min() < 0.02 and any(cause == "table" for cause, _ in causes)
    back, causes = drive(guard, straight_down(0.15), path[-1])
    np.testing.assert_allclose(back[-1], straight_down(0.15), atol=1e-3)


def test_nobody_creeps_through_the_margin(guard):
    """A thousandth of a millimetre a period is 18 cm in an hour."""
    last, step = straight_down(0.05), 1e-2
    for _ in range(60):  # to the margin, from rest each time
        verdict = guard.check(moved(1, step, last), last)
        last, step = (last, step / 4) if verdict.command is None else (verdict.command, step)
    start = last
    for _ in range(300):
        verdict = guard.check(moved(1, 4e-7, last), last)
        last = last if verdict.command is None else verdict.command
    height = capsules.table_clearance(capsules.axes_world(capsules.link_poses(np.stack([start, last])))).min((1, 2))
    assert height[1] >= height[0] - 1e-6


def test_hands_may_come_nearer_than_arms():
    least = safety._pair_margins(safety.Margins(arms=3.0, hand_arm=2.0, hands=1.0))
    names = [capsule.link for capsule in capsules.CAPSULES]
    finger, wrist = names.index("left_finger_link"), names.index("wrist_link")
    assert (least[finger, finger], least[finger, wrist], least[wrist, finger], least[wrist, wrist]) == (1.0, 2.0, 2.0, 3.0)


def test_interventions_are_counted_each_and_logged_now_and_then_with_cause_and_joint(guard, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(120):
            guard.check(moved(3, np.nan), HOME)
        guard.check(moved(9, 0.3), HOME)
    assert guard.counts[REJECT, "not finite"] == 120 and guard.counts[CLAMP, "acceleration"] == 1
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "reject: not finite of left forearm_roll (1 so far)" and len(lines) == 4
    assert lines[-1] == "clamp: acceleration of right elbow (1 so far)"
