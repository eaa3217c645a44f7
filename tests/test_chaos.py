"""A short form of what a running robot has to survive, and that the judge would see what must not be."""

import numpy as np
import pytest

from experiments.torture import chaos
from experiments.torture.chaos_server import MARKS, told

AT_REST = np.zeros(14)


def action(question, place):
    command = AT_REST.copy()
    command[[6, 13]] = question / MARKS, place / 50
    return command


def sent(*commands, period=0.02):
    return [chaos.Sent(number * period, command) for number, command in enumerate(commands)]


def test_actions_in_their_order_and_holds_are_right():
    commands = sent(action(3, 0), action(3, 1), action(3, 1), action(3, 1), action(4, 0))
    found = chaos.judge_commands(commands, {3: -0.1, 4: 0.05})
    assert not found["wrong"] and found["holds"] == 2 and found["late_holds"] == 0
    assert found["oldest_s"] == pytest.approx(0.12)
    assert told(action(7, 49)) == (7, 49) and told(AT_REST + 0.0013) is None


def test_what_must_not_be_is_seen():
    stale = chaos.judge_commands(sent(action(3, 0), action(3, 1)), {3: -5.0})
    assert len(stale["wrong"]) == 2 and "5.02 s old" in stale["wrong"][1]
    unknown = chaos.judge_commands(sent(action(3, 0), AT_REST + 0.0013), {3: 0.0})
    assert "neither an action nor a hold" in unknown["wrong"][0]
    other = action(4, 0)
    other[13] = chaos.OTHER
    assert chaos.judge_commands(sent(action(3, 0), other), {3: 0.0, 4: 0.0})["wrong"]
    late = chaos.judge_commands(sent(action(3, 0), action(3, 1), period=0.2), {3: 0.0})
    assert late["late_holds"] == 1 and late["longest_gap_s"] == pytest.approx(0.2)
    never = chaos.judge_commands(sent(action(3, 0), action(5, 0)), {3: 0.0})
    assert never["wrong"]


@pytest.mark.timeout(240)
def test_a_robot_holds_and_goes_on_by_itself():
    found = chaos.torture(4, names=("frozen", "another policy", "corrupted", "killed"))
    assert found["faults"] == found["recovered"] == 4, found
    assert not found["commands"]["wrong"], found["commands"]
    assert found["held"].get("no chunk", 0) > 0 and found["commands"]["sent"] > 200
