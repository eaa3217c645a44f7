"""Stands between a policy and a robot: every command is passed, clamped, or rejected and held. Numpy only.

Three bands for each command: pass; clamp to what position, velocity and acceleration limits let the arms reach; or reject and hold,
when the command itself is not finite, jumps, is far outside the limits, or brings the arms too near to each other or the table.
Finite comes first: min and max keep NaN. What is sent can always be stopped: a joint is never faster than it can brake before its
limit, and the arms are judged where they would come to rest, so that a hold after any command is safe too.
"""

import collections
import logging
from typing import NamedTuple

import numpy as np

from clamp_jax.deploy import capsules
from clamp_jax.geometry import aloha
from clamp_jax.structs import ACTION_DIM, CONTROL_HZ

logger = logging.getLogger(__name__)
PASS, CLAMP, REJECT = "pass", "clamp", "reject"
ARM = np.array([0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12])  # the joints of a 14-D command; 6 and 13 are the grippers
JOINTS = tuple(f"{side} {joint}" for side in aloha.SIDES for joint in (*aloha.ARM_JOINTS, "gripper"))
CAUSES = ("", "shape", "not finite", "outside", "jump", "arms", "table", "position", "velocity", "acceleration")
_ROUNDING = 1e-5  # rad; float32 commands at a limit, and 50 of them a second, are not interventions
_NO_NEARER = 1e-9  # m; no more than rounding: what is allowed each period adds up to a way through the margin
LOG_EVERY = 50  # interventions of one cause between two lines of the log


class Limits(NamedTuple):
    """What a command must keep to, each (14,): rad and rad/s, gripper 0 closed, 1 open."""

    low: np.ndarray
    high: np.ndarray
    velocity: np.ndarray  # per second
    outside: np.ndarray  # further outside low..high than this is rejected, not clamped
    jump: np.ndarray  # further from the last command than this is rejected, not clamped
    acceleration: np.ndarray  # per second squared


def aloha_limits() -> Limits:
    """Limits of two ViperX 300 arms: the waist's command to +-pi/2 as upstream, 3.14 rad/s (the servos' own limit).

    ours: a gripper may jump, since its servo limits speed and force; 0.1 rad outside and 0.8 rad away are no rounding or lag but a
    fault. ours: 60 rad/s^2, full speed in three periods; the experts' commands of all tasks reach 35.
    """
    arm = np.concatenate([[[-1.5708, 1.5708]], aloha.JOINT_LIMITS[1:]])
    finger = (np.array(aloha.FINGER_LIMITS) - aloha.GRIPPER_CLOSED_M) / (aloha.GRIPPER_OPEN_M - aloha.GRIPPER_CLOSED_M)
    both = np.tile(np.concatenate([arm, finger[None]]), (2, 1))
    rows = ((3.14, 1e9), (0.1, 0.5), (0.8, 1e9), (60.0, 1e12))
    return Limits(both[:, 0], both[:, 1], *(np.tile([*[value] * 6, gripper], 2) for value, gripper in rows))


class Margins(NamedTuple):
    """Least distances (m) between surfaces of capsules; negative: capsules, which are larger than what they stand for, may overlap.

    ours: found on demonstrations of all tasks; hands meet at a hand-over, reach into boxes, and fingertips touch the table.
    """

    arms: float = 0.03  # of two parts of which none belongs to a hand; demonstrations keep 0.116
    hand_arm: float = 0.01  # of a hand and another part; 0.036
    hands: float = -0.04  # of two hands; -0.028
    table: float = 0.02  # 0.049
    hands_table: float = -0.02  # -0.006


class Verdict(NamedTuple):
    """What became of a command."""

    command: np.ndarray | None  # (14,) to send; None: rejected, hold
    band: str  # PASS, CLAMP or REJECT
    cause: str  # one of CAUSES, "" when passed
    detail: str = ""  # the joint, or the two parts that came near


class Judgement(NamedTuple):
    """What became of several commands, each of its own arms."""

    command: np.ndarray  # (n, 14); of a rejected one: what was asked for
    rejected: np.ndarray  # (n,) bool
    cause: np.ndarray  # (n,) index into CAUSES
    where: np.ndarray  # (n,) the joint's index, or that of the two parts


class Safety:
    """Checks one command after another; `counts` has {(band, cause): number}."""

    def __init__(self, limits: Limits, *, period_s: float = 1 / CONTROL_HZ, margins: Margins = Margins()):  # noqa: B008 - immutable
        """`margins`: how near the arms may come to each other and to the table. ValueError for limits that limit nothing."""
        _check(limits)
        self.limits, self.period_s = limits, period_s
        self._least_arms, self._least_table = _pair_margins(margins), np.where(capsules.HANDS, margins.hands_table, margins.table)
        self._periods = int(np.ceil((limits.velocity / limits.acceleration / period_s).max()))  # that braking takes at most
        self.counts: collections.Counter = collections.Counter()

    def check(self, command: np.ndarray, last: np.ndarray, velocity: np.ndarray | None = None) -> Verdict:
        """Judge a command (14,).

        `last` (14,): the command sent before it (at the start: the measured joints). `velocity` (14,): (last - the one before) over
        the period; None: at rest.
        """
        verdict = self._verdict(np.asarray(command), np.asarray(last, np.float64), velocity)
        self.counts[verdict.band, verdict.cause] += 1
        if verdict.band != PASS and self.counts[verdict.band, verdict.cause] % LOG_EVERY == 1:
            number = self.counts[verdict.band, verdict.cause]
            logger.warning("%s: %s of %s (%d so far)", verdict.band, verdict.cause, verdict.detail or "the command", number)
        return verdict

    def _verdict(self, command: np.ndarray, last: np.ndarray, velocity: np.ndarray | None) -> Verdict:
        if command.shape != (ACTION_DIM,) or not np.issubdtype(command.dtype, np.floating):
            return Verdict(None, REJECT, "shape", f"{command.dtype} {command.shape}")
        velocity = np.zeros(ACTION_DIM) if velocity is None else np.asarray(velocity, np.float64)
        found = self.judge(command[None], last[None], velocity[None])
        cause, where = CAUSES[int(found.cause[0])], int(found.where[0])
        detail = name_of(cause, where)
        if found.rejected[0]:
            return Verdict(None, REJECT, cause, detail)
        return Verdict(found.command[0], CLAMP, cause, detail) if cause else Verdict(command, PASS, "")

    def judge(self, commands: np.ndarray, last: np.ndarray, velocity: np.ndarray) -> Judgement:
        """Judge commands (n, 14) that follow `last` (n, 14) at `velocity` (n, 14), each pair of arms for itself."""
        cause, where = self._faults(commands, last, velocity)
        fault = cause > 0
        of_faulty = fault[:, None]  # nothing is used of these: they would overflow, and are no numbers
        last, velocity = (np.where(of_faulty, 0.0, values) for values in (last, velocity))
        good = np.where(of_faulty, 0.0, commands)
        wanted, limited, joint = self._limited(good, last, velocity)
        near, parts = np.zeros(len(commands), int), np.zeros(len(commands), int)
        near[~fault], parts[~fault] = self._too_near(wanted[~fault], last[~fault], velocity[~fault])
        cause = np.where(fault, cause, np.where(near > 0, near, limited))
        where = np.where(fault, where, np.where(near > 0, parts, joint))
        reached = np.where((limited > 0)[:, None], wanted, good)
        return Judgement(np.where(of_faulty, commands, reached), fault | (near > 0), cause, where)

    def _faults(self, commands: np.ndarray, last: np.ndarray, velocity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Why a command is no motion at all, as an index into CAUSES, and the joint; 0 when it is one.

        From a place or at a speed that is not known (a broken encoder's) there is none.
        """
        limits, cause, where = self.limits, np.zeros(len(commands), int), np.zeros(len(commands), int)
        with np.errstate(invalid="ignore", over="ignore"):
            faults = (
                ("jump", np.abs(commands - last) > limits.jump),
                ("outside", (commands < limits.low - limits.outside) | (commands > limits.high + limits.outside)),
                ("not finite", ~(np.isfinite(commands) & np.isfinite(last) & np.isfinite(velocity))),
            )
        for name, wrong in faults:  # the last that holds has the word
            any_wrong = wrong.any(-1)
            cause, where = np.where(any_wrong, CAUSES.index(name), cause), np.where(any_wrong, wrong.argmax(-1), where)
        return cause, where

    def _limited(self, commands: np.ndarray, last: np.ndarray, velocity: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The nearest commands that keep to the limits, which limit it was (0: none), and of which joint."""
        limits, dt = self.limits, self.period_s
        step = limits.acceleration * dt
        low, high = velocity - step, velocity + step  # acceleration has the last word: an arm that is found faster is slowed by it
        bounds = [
            (CAUSES.index("position"), -self._stoppable(last - limits.low), self._stoppable(limits.high - last)),
            (CAUSES.index("velocity"), -limits.velocity, limits.velocity),
        ]
        wanted = (commands - last) / dt
        speed, cause = np.clip(wanted, low, high), np.where((wanted < low) | (wanted > high), CAUSES.index("acceleration"), 0)
        for index, least, most in bounds:
            held = np.clip(np.clip(speed, least, most), low, high)
            cause, speed = np.where(np.abs(held - speed) > _ROUNDING / dt, index, cause), held
        reached = last + speed * dt
        changed = np.abs(reached - commands) > _ROUNDING
        joint = np.argmax(np.where(changed, np.abs(reached - commands), 0), -1)
        rows = np.arange(len(commands))
        first = np.where(cause[rows, joint] == 0, CAUSES.index("position"), cause[rows, joint])
        return np.where(changed, reached, commands), np.where(changed.any(-1), first, 0), joint

    def _stoppable(self, room: np.ndarray) -> np.ndarray:
        """The fastest next period (rad/s) after which a joint still stops within `room` (rad), braking by a step each period.

        With u = v / (a dt) and m = floor(u) it goes a dt^2 ((m + 1) u - m (m + 1) / 2); this is the inverse. A joint that is past
        its limit (a measured one, which sags) has to go back: negative.
        """
        step = self.limits.acceleration * self.period_s
        share = np.maximum(room, 0.0) / (step * self.period_s)
        whole = np.floor((np.sqrt(1 + 8 * share) - 1) / 2)
        return np.where(room < 0, room / self.period_s, step * (share + whole * (whole + 1) / 2) / (whole + 1))

    def rest_after(self, last: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Where the joints (..., 14) come to rest when they brake from `last` at `velocity`."""
        step = self.limits.acceleration * self.period_s
        units = np.abs(velocity) / step
        whole = np.maximum(np.ceil(units) - 1, 0)
        return last + np.sign(velocity) * step * self.period_s * (whole * units - whole * (whole + 1) / 2)

    def brake(self, last: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """The command (14,) that slows the joints as fast as the limits let it: the first of a hold; `last` itself at rest."""
        step = self.limits.acceleration * self.period_s
        return last + np.sign(velocity) * np.maximum(np.abs(velocity) - step, 0.0) * self.period_s

    def _too_near(self, commands: np.ndarray, last: np.ndarray, velocity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether parts would be nearer than their margin, and nearer than before, at a command or while braking after it.

        Before is while braking without it: the way out is open, and a hold is never worse than what was found good. Exact distances
        are only taken of pairs that a cheap bound does not clear. Half way to the command is looked at too: with all joints at full
        speed parts came 12 mm nearer there than at either end; `experiments.torture` measures what is left.
        """
        cause, where = np.zeros(len(commands), int), np.zeros(len(commands), int)
        path = np.concatenate([[(last + commands) / 2, commands], self._braking(commands, (commands - last) / self.period_s)])
        after = capsules.axes_world(capsules.link_poses(path))
        pairs = np.nonzero((capsules.arm_clearance_bound(after) < self._least_arms).any(0))  # row, left part, right part
        heights = capsules.table_clearance(after) - self._least_table
        parts = np.nonzero((heights < 0).any(0))  # row, side, part
        rows = np.union1d(pairs[0], parts[0])
        if not len(rows):
            return cause, where
        before = np.empty((self._periods, *after.shape[1:]))
        before[:, rows] = capsules.axes_world(capsules.link_poses(self._braking(last[rows], velocity[rows])))
        names = len(capsules.CAPSULES)
        for name, index, worse in (
            ("table", parts, self._lower(before, heights, parts)),
            ("arms", pairs, self._nearer(before, after, pairs)),
        ):  # the last that holds has the word
            row, first, second = (part[worse] for part in index)
            cause[row], where[row] = CAUSES.index(name), first * names + second
        return cause, where

    def _braking(self, last: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """(k, n, 14) where the joints are period by period while they brake; the last is where they rest."""
        path = []
        for _ in range(self._periods):
            now = self.brake(last, velocity)
            velocity, last = (now - last) / self.period_s, now
            path.append(now)
        return np.stack(path)

    def _nearer(self, before: np.ndarray, after: np.ndarray, pairs: tuple[np.ndarray, ...]) -> np.ndarray:
        """(m,) bool: which pairs (row, left part, right part) are nearer than their margin somewhere in `after`, and than in `before`."""
        least = self._least_arms[pairs[1:]]
        old, new = (capsules.pair_clearance(axes, *pairs).min(0) for axes in (before, after))
        return (new < least) & (new < old - _NO_NEARER)

    def _lower(self, before: np.ndarray, heights: np.ndarray, parts: tuple[np.ndarray, ...]) -> np.ndarray:
        """(m,) bool: which parts (row, side, part) of `heights` over their margins are under it, and lower than in `before`."""
        rows = np.unique(parts[0])
        old = np.empty(heights.shape[1:])
        old[rows] = (capsules.table_clearance(before[:, rows]) - self._least_table).min(0)
        return heights.min(0)[parts] < old[parts] - _NO_NEARER


def _check(limits: Limits) -> None:
    """ValueError that names the limit: with NaN in it every comparison is false, and everything passes."""
    for name, value in limits._asdict().items():
        if np.shape(value) != (ACTION_DIM,) or not np.isfinite(value).all() or (name not in ("low", "high") and np.min(value) <= 0):
            what = "finite numbers" if name in ("low", "high") else "finite numbers over 0"
            raise ValueError(f"limit {name!r} is {np.asarray(value).tolist()}; give {ACTION_DIM} {what}, as aloha_limits() does")
    if not np.all(limits.low < limits.high):
        raise ValueError(
            f"limit 'low' of {JOINTS[int(np.argmin(limits.high > limits.low))]} is not under 'high'; give an interval for each joint"
        )


def _pair_margins(margins: Margins) -> np.ndarray:
    return np.array([margins.arms, margins.hand_arm, margins.hands])[capsules.HANDS[:, None].astype(int) + capsules.HANDS]


def name_of(cause: str, where: int) -> str:
    """The joint that an index of a Judgement means, or the parts."""
    names = [capsule.link for capsule in capsules.CAPSULES]
    if cause == "arms":
        return f"left {names[where // len(names)]} and right {names[where % len(names)]}"
    if cause == "table":
        return f"{aloha.SIDES[where // len(names)]} {names[where % len(names)]}"
    return JOINTS[where] if cause else ""
