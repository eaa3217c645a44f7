"""The control loop, in ticks instead of seconds: robot, planner and clock are toys."""

import threading

import numpy as np
import pytest

from clamp_jax.deploy import control, execution
from clamp_jax.deploy.control import Controller, Outcome, Question, Settings, ThreadPlanner
from clamp_jax.deploy.safety import Safety, aloha_limits
from clamp_jax.geometry import aloha

HOME = np.tile(aloha.HOME_COMMAND, 2)
STEP = 0.001  # rad a tick


class ToyRobot:
    """Is at once where it is told to be, moved by `sag`."""

    def __init__(self):
        self.limits, self.sent, self.sag, self.at = aloha_limits(), [], np.zeros(14), HOME.copy()

    def joints(self):
        return self.at + self.sag

    def command(self, action):
        self.at = np.array(action, np.float64)
        self.sent.append(self.at)

    def observe(self):
        return {}

    def rest(self):
        self.command(HOME)


class ToyPlanner:
    """Wants joint 0 at STEP * tick; answers `latency` ticks after the question."""

    def __init__(self, latency=3):
        self.latency, self.now, self.questions, self.due = latency, 0, [], None
        self.error, self.spoil = "", lambda actions: actions

    def ask(self, question):
        assert self.due is None
        self.questions.append((self.now, question))
        self.due = self.now + self.latency

    def take(self):
        if self.due is None or self.now < self.due:
            return None
        asked, self.due = self.questions[-1][0], None
        if self.error:
            return Outcome(None, self.error, 0.02 * self.latency)
        return Outcome(self.spoil(self.chunk(asked)), "", 0.02 * self.latency)

    def chunk(self, asked):
        actions = np.tile(HOME, (50, 1))
        actions[:, 0] = STEP * (asked + np.arange(50))
        return actions


class ToyClock(control.Clock):
    """Advances only by waiting; `stall` {tick: seconds} adds a delay once."""

    def __init__(self, planner, stall=()):
        self.time, self.planner, self.stall = 100.0, planner, dict(stall)

    def now(self):
        return self.time

    def wait_until(self, moment):
        self.time = max(self.time, moment)
        tick = round((self.time - 100.0) * 50)
        self.time += self.stall.pop(tick, 0.0)
        self.planner.now = int((self.time - 100.0) * 50 + 1e-6)


@pytest.fixture
def robot():
    return ToyRobot()


def run(robot, planner, ticks, *, stall=(), settings=Settings()):  # noqa: B008
    controller = Controller(robot, planner, Safety(robot.limits), settings)
    return controller.run(ticks / 50, clock=ToyClock(planner, stall))


@pytest.mark.parametrize("latency", [1, 3, 7, 20])
def test_the_motion_does_not_depend_on_the_latency(robot, latency):
    """After the first chunk every command is the one planned for the moment it is sent, less the wait at the start."""
    planner = ToyPlanner(latency)
    report = run(robot, planner, 150)
    sent = np.array(robot.sent)
    assert len(sent) == 150 - latency and report.held == {"start": latency}
    ahead = sent[:50, 0]  # the first chunk was planned for tick 0 and starts when it comes
    np.testing.assert_allclose(ahead[:20], STEP * np.arange(20), atol=1e-12)
    np.testing.assert_allclose(sent[60:, 0], STEP * (np.arange(60, 150 - latency) + latency), atol=1e-12)
    assert report.completed and report.missed_deadlines == 0 and report.chunks >= 3


def test_nothing_is_sent_before_the_first_reply(robot):
    planner = ToyPlanner()
    planner.error = "Unavailable: no server"
    report = run(robot, planner, 100)
    assert robot.sent == [] and not report.completed
    assert report.failures == {"Unavailable: no server": 13}  # every 8 ticks: 3 of latency, 5 of pause


def test_a_lost_server_means_hold_and_its_return_ends_it(robot):
    planner = ToyPlanner()
    controller = Controller(robot, planner, Safety(robot.limits))
    for planner.now in range(60):
        controller.tick()
    planner.error, last_reply = "Unavailable: lost", planner.now
    for planner.now in range(60, 160):
        controller.tick()
    held = np.array(robot.sent[-50:])
    assert (held == held[0]).all() and controller.report().held["no chunk"] >= 50
    assert held[0, 0] <= STEP * (last_reply + 50)  # nothing was made up beyond the last chunk
    planner.error = ""
    for planner.now in range(160, 200):
        controller.tick()
    np.testing.assert_allclose(robot.sent[-1][0] - robot.sent[-2][0], STEP, atol=1e-12)


def test_a_reply_after_a_hold_starts_at_its_first_action(robot):
    """What the arm did not do while it was holding is not skipped."""
    planner = ToyPlanner(latency=40)
    run(robot, planner, 120, settings=Settings(lead=25))
    values = np.round(np.array(robot.sent)[:, 0] / STEP).astype(int)
    assert (np.diff(values) <= 63).all()
    first, second = planner.questions[0][0], planner.questions[1][0]
    # 25 actions were executed while the second question was open; the way to where it goes on takes a tick of speeding up
    assert values[0] == first and second + 26 in values and np.diff(values).max() < 26


@pytest.mark.parametrize("sink", [0.3, -0.5])
def test_hold_latches_the_measured_joints_once(robot, sink):
    planner = ToyPlanner()
    controller = Controller(robot, planner, Safety(robot.limits))
    for planner.now in range(40):
        controller.tick()
    planner.error = "lost"
    robot.sag[[2, 6]] = sink  # an elbow that does not follow, and a gripper on an object
    for planner.now in range(40, 140):
        controller.tick()
    held = np.array(robot.sent[-40:])
    assert (held == held[0]).all()
    np.testing.assert_allclose(held[0, 2], HOME[2] + sink)
    assert held[0, 6] == HOME[6]


def test_a_tracking_arm_keeps_its_last_command(robot):
    planner = ToyPlanner()
    controller = Controller(robot, planner, Safety(robot.limits))
    robot.sag[:] = 0.05
    for planner.now in range(40):
        controller.tick()
    planner.error = "lost"
    for planner.now in range(40, 140):
        controller.tick()
    np.testing.assert_array_equal(robot.sent[-1], robot.sent[-60])


def test_stale_and_malformed_replies_are_thrown_away(robot):
    assert run(robot, ToyPlanner(latency=50), 120).chunks == 0  # 1 s is over the limit of 0.9 s
    for spoil in (lambda a: a * np.nan, lambda a: a[:10], lambda a: None):
        planner = ToyPlanner()
        planner.spoil = spoil
        report = run(robot, planner, 40)
        assert report.chunks == 0 and report.discarded > 3 and robot.sent == []


def test_a_jump_is_never_sent(robot):
    planner = ToyPlanner()
    planner.spoil = lambda actions: actions + np.eye(14)[3] * (np.arange(50)[:, None] >= 10)
    report = run(robot, planner, 60)
    assert np.abs(np.diff(np.array(robot.sent), axis=0)).max() < 0.07
    assert report.interventions["reject jump"] > 0 and report.held["rejected: jump"] > 0


def test_missed_deadlines_are_counted_and_skipped(robot):
    planner = ToyPlanner()
    report = run(robot, planner, 100, stall={15: 0.07})  # three and a half periods
    sent = np.array(robot.sent)[:, 0]
    assert report.missed_deadlines == 3 and report.ticks == 100
    assert np.isclose(np.diff(sent), 4 * STEP).any()  # the plan goes on where it is now due, not where it stopped
    assert report.completed


def test_past_actions_are_the_commands_as_executed(robot):
    planner = ToyPlanner()
    planner.spoil = lambda actions: actions + np.eye(14)[3] * 0.2 * (np.arange(50)[:, None] >= 5)  # faster than the limit: clamped
    run(robot, planner, 120)
    for asked, question in planner.questions:
        count = int(question.past_mask.sum())
        before = robot.sent[: max(asked - planner.latency, 0)]  # sent[i] went out at tick i + latency
        assert count == min(len(before), 50) and question.past_mask[50 - count :].all()
        np.testing.assert_array_equal(question.past_actions[50 - count :], np.float32(before[-50:]).reshape(-1, 14))
    assert [q.seed for _, q in planner.questions] == list(range(len(planner.questions)))


def test_thread_planner_answers_and_survives_errors():
    done = threading.Event()

    def plan(question):
        if question.seed == 1:
            raise ConnectionError("gone")
        return np.full((50, 14), question.seed)

    planner = ThreadPlanner(plan)
    assert planner.take() is None
    outcomes = []
    for seed in range(3):
        planner.ask(Question(np.zeros((50, 14), np.float32), np.zeros(50, bool), seed))
        while (outcome := planner.take()) is None:
            done.wait(0.001)
        outcomes.append(outcome)
    planner.close()
    assert outcomes[0].actions[0, 0] == 0 and outcomes[2].actions[0, 0] == 2
    assert outcomes[1].actions is None and outcomes[1].error == "ConnectionError: gone"


def test_percentiles_of_nothing():
    assert control.percentiles_ms(()) == {} and control.percentiles_ms((1.0, 3.0))["p50"] == 2.0


def chunk(*joint_0):
    """(50, 14) at home, joint 0 as given, its last value repeated."""
    actions = np.tile(HOME, (50, 1))
    actions[:, 0] = [*joint_0, *[joint_0[-1]] * (50 - len(joint_0))]
    return actions


def test_the_ensemble_is_the_weighted_mean_of_all_chunks_that_reach_so_far():
    ensemble = execution.Ensemble(m=0.5)
    assert ensemble.action(0) is None and ensemble.left(0) == 0
    for start, value in ((0, 1.0), (10, 2.0), (30, 4.0)):
        ensemble.add(chunk(value), start)
    weights = np.exp(-0.5 * np.arange(3))
    assert ensemble.action(40)[0] == pytest.approx(np.dot(weights, [1, 2, 4]) / weights.sum())
    assert ensemble.action(55)[0] == pytest.approx(np.dot(weights[:2], [2, 4]) / weights[:2].sum())  # the first has ended
    assert ensemble.left(55) == 25 and ensemble.action(80) is None
    ensemble.clear()
    assert ensemble.action(31) is None


def test_real_time_chunking_freezes_what_is_executed_meanwhile():
    realtime = execution.RealTime()
    assert len(realtime.frozen(0, 5)) == 0
    realtime.add(chunk(*np.arange(50) * STEP), 7)
    rows = realtime.frozen(17, 5)
    np.testing.assert_allclose(rows[:, 0], STEP * np.arange(10, 17), rtol=1e-6)  # the latency and two more
    assert len(realtime.frozen(55, 5)) == 2 and rows.dtype == np.float32
    assert len(realtime.frozen(8, 400)) == 49
    assert len(execution.OpenLoop().frozen(0, 5)) == 0


class Wandering(ToyPlanner):
    """Every chunk is off by another constant, but goes on from what is frozen: it comes back from there over ten actions."""

    def chunk(self, asked):
        actions = super().chunk(asked)
        offset = 0.02 * (-1) ** len(self.questions)
        frozen = self.questions[-1][1].frozen_actions
        actions[:, 0] += offset
        if len(frozen):
            actions[: len(frozen)] = frozen
            jump = frozen[-1, 0] - actions[len(frozen), 0]
            fade = np.maximum(1 - np.arange(1, 50 - len(frozen) + 1) / 10, 0)
            actions[len(frozen) :, 0] += jump * fade
        return actions


@pytest.mark.parametrize("latency", [3, 8])
def test_chunks_that_disagree_jump_open_loop_and_not_in_real_time(latency):
    jumps = {}
    for how in ("chunk", "realtime", "ensemble"):
        robot, planner = ToyRobot(), Wandering(latency)
        report = run(robot, planner, 250, settings=Settings(execution=how))
        assert report.completed and not report.held.get("no chunk")
        jumps[how] = np.abs(np.diff(np.array(robot.sent)[60:, 0], n=2)).max()
    assert jumps["realtime"] < 0.4 * jumps["chunk"]  # which safety holds to the acceleration
    assert jumps["ensemble"] < jumps["chunk"]
    rows = [len(question.frozen_actions) for _, question in planner.questions]
    assert set(rows) == {0}  # the ensemble freezes nothing


def test_the_frozen_rows_cover_the_latency_that_replies_have_had():
    robot, planner = ToyRobot(), Wandering(8)
    run(robot, planner, 250, settings=Settings(execution="realtime"))
    rows = [len(question.frozen_actions) for _, question in planner.questions]
    assert rows[0] == 0 and set(rows[2:]) == {10}


def test_a_hold_brakes_within_the_acceleration_and_ends_where_it_stands(robot):
    planner = ToyPlanner(1)
    fast = lambda asked: chunk(*np.arange(50) * 0.05)  # noqa: E731 - 2.5 rad/s
    planner.chunk = fast
    controller = Controller(robot, planner, Safety(robot.limits))
    for planner.now in range(12):
        controller.tick()
    controller._chunks.clear()
    planner.error = "lost"
    for planner.now in range(12, 30):
        controller.tick()
    speeds = np.diff(np.array(robot.sent)[:, 0]) * 50
    assert 2.4 < speeds.max() < 3.15 and speeds[-1] == 0
    assert np.abs(np.diff(speeds)).max() <= 60 / 50 + 1e-6


def test_executions_that_are_none_are_refused(robot):
    with pytest.raises(ValueError, match="'rtc'; expected one of chunk, ensemble, realtime"):
        Controller(robot, ToyPlanner(), Safety(robot.limits), Settings(execution="rtc"))


def test_holds_are_logged_with_their_cause_and_their_end(robot, caplog):
    planner = ToyPlanner()
    controller = Controller(robot, planner, Safety(robot.limits))
    with caplog.at_level("INFO", logger="clamp_jax.deploy.control"):
        for planner.now in range(60):
            controller.tick()
        planner.error = "lost"
        for planner.now in range(60, 160):
            controller.tick()
        planner.error = ""
        for planner.now in range(160, 200):
            controller.tick()
    told = [record.getMessage() for record in caplog.records if record.name == "clamp_jax.deploy.control"]
    assert told == ["hold: start", "hold ends", "hold: no chunk", "hold ends"]


def test_after_missed_deadlines_the_arm_is_brought_up_to_speed_anew():
    """It has stood at its last goal meanwhile: going on at full speed would be a leap."""
    robot, planner = ToyRobot(), ToyPlanner(1)
    planner.chunk = lambda asked: chunk(*(0.05 * (np.arange(50) + asked)))  # 2.5 rad/s
    controller = Controller(robot, planner, Safety(robot.limits))
    controller.run(24 / 50, clock=ToyClock(planner, {12: 0.061}))
    steps = np.diff(np.array(robot.sent)[:, 0])
    first = len(robot.sent) - 9  # of the commands after the three that were missed
    assert steps[first - 2] > 0.04  # at speed before
    assert steps[first - 1] == pytest.approx(60 / 50 / 50, abs=1e-6)


def test_a_time_out_does_not_count_as_a_latency(robot):
    planner = ToyPlanner(3)
    controller = Controller(robot, planner, Safety(robot.limits), Settings(execution="realtime"))
    for planner.now in range(100):
        planner.error = "Unavailable: lost" if 30 < planner.now < 60 else ""
        controller.tick()
    assert controller.report().failures and set(controller.report().latencies_ms) == {60.0}


def test_a_safety_layer_of_another_rate_is_refused(robot):
    with pytest.raises(ValueError, match="the loop runs at 25 Hz, safety's period is 0.02 s"):
        Controller(robot, ToyPlanner(), Safety(robot.limits), Settings(hz=25))
