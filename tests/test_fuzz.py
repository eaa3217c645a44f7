"""A short form of what a policy server is sent, and that the fuzzer would see a server that falls or answers wrongly."""

import contextlib
import json
import socket
from random import Random

import deployed
import msgpack
import numpy as np
import pytest

from clamp_jax.deploy import protocol
from experiments.torture import frames, fuzz, messages

VALID = messages.tree(deployed.message())
TARGET = fuzz.Target("127.0.0.1", 0, deployed.specification(), [(VALID, np.zeros((50, 14), np.float32))])
RIGHT = {"actions": np.zeros((50, 14), np.float32), "server_timing": {"infer_ms": 1.0}, "request_id": 7}


def test_it_neither_falls_nor_hangs_and_answers_the_valid_ones_rightly(tmp_path):
    found = fuzz.torture(tmp_path, 400)
    assert found["good"], found
    outcomes = found["outcomes"]
    assert {name.split()[0] for name in outcomes} == set(fuzz.KINDS)
    assert outcomes["valid answered"] > 25 and outcomes["grammar refused"] > 100 and outcomes["bytes refused"] > 50


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, None),
        ({"actions": np.full((50, 14), np.nan, np.float32)}, "actions"),
        ({"actions": np.full((50, 14), 9, np.float32)}, "from 9.0 to 9.0"),
        ({"actions": np.zeros((1, 14), np.float32)}, "(1, 14)"),
        ({"actions": np.full((50, 14), 1e-3, np.float32)}, "off by 0.001"),
        ({"server_timing": {"infer_ms": np.inf}}, "times"),
        ({"request_id": 6}, "request_id 6"),
    ],
)
def test_answers_that_are_wrong_are_seen(changes, found):
    case = fuzz.Case("valid", "", b"", np.zeros((50, 14), np.float32))
    outcome, wrong = fuzz.judge(frames.Frame(frames.BINARY, protocol.pack(RIGHT | changes)), case, 7, TARGET)
    assert outcome == "answered" and (wrong is None if found is None else found in wrong)


@contextlib.contextmanager
def reply(*sent, hangs_up=True):
    """A wire on whose other end a server has said this, and will say no more."""
    here, there = socket.socketpair()
    with here, there:
        here.settimeout(0.05)
        there.sendall(b"".join(sent))
        if hangs_up:
            there.shutdown(socket.SHUT_WR)
        wire = object.__new__(frames.Wire)
        wire._socket, wire._held = here, b""
        yield wire


def said(text):
    return frames.frame(frames.TEXT, text.encode(), masked=False)


CLOSED = frames.frame(frames.CLOSE, (1011).to_bytes(2, "big"), masked=False)
REFUSED = said("0123abcd: state is wrong")


@pytest.mark.parametrize(
    ("sent", "outcome", "found"),
    [
        ([REFUSED, CLOSED], "refused", None),
        ([said("0123abcd: late: request 7: too late")], "late", None),
        ([said("state is wrong"), CLOSED], "refused", "it says"),
        ([said("0123abcd: Traceback (most recent call last)"), CLOSED], "refused", "it says"),
        ([said("0123abcd: internal error, see the log"), CLOSED], "refused", "it says"),
        ([REFUSED], "refused", "closed with 0 after"),
        ([REFUSED, REFUSED], "refused", "another message"),
        ([], "closed", "without a word"),
        ([CLOSED], "closed", "closed with 1011"),
    ],
)
def test_refusals_that_are_wrong_are_seen(sent, outcome, found):
    with reply(*sent) as wire:
        got, wrong = fuzz.play(wire, fuzz.Case("grammar", "", b""), 7, TARGET)
    assert got == outcome and (wrong is None if found is None else found in wrong)


def test_a_silent_server_is_a_finding():
    with reply(hangs_up=False) as wire:
        assert fuzz.play(wire, fuzz.Case("bytes", "", b"x"), 7, TARGET) == ("silent", "no answer")


def test_a_case_is_its_seed_and_number_and_every_kind_comes():
    cases = [fuzz.make_case(number, 3, TARGET) for number in range(300)]
    again = [fuzz.make_case(number, 3, TARGET) for number in range(300)]
    assert [case.data for case in cases] == [case.data for case in again]
    assert {case.kind for case in cases} == set(fuzz.KINDS)
    assert VALID == messages.tree(deployed.message())  # what is mutated is a copy


def test_a_message_in_pieces_is_the_message():
    data = msgpack.packb(VALID)
    parts = frames.fragments(frames.BINARY, data, [3, 3, 200])
    assert len(parts) == 4 and [part[0] for part in parts] == [2, 0, 0, 0x80]
    for size in (0, 125, 126, 2**16 - 1, 2**16):
        with reply(frames.frame(frames.BINARY, bytes(size), masked=False)) as wire:
            assert wire.receive() == frames.Frame(frames.BINARY, bytes(size))


def test_growth_is_that_of_the_last_tenth_over_the_first():
    samples = [(done, 1e6 * (100 + (50 if done < 1_000 else done / 1_000)), 5e6) for done in range(0, 20_000, 100)]
    found = json.loads(json.dumps(fuzz.growth(samples, 20_000)))  # it goes into a report
    assert found["growth"] == pytest.approx(118.95 / 102.95 - 1, rel=0.02) and not found["growth"] < fuzz.MOST
    assert found["in_use_growth"] == 0 and fuzz.growth(samples, 400) == {"growth": 0.0, "in_use_growth": 0.0}


def test_a_leak_that_fits_into_what_is_resident_is_seen():
    found = fuzz.growth([(done, 200e6, 40e6 + 200 * done) for done in range(0, 20_000, 100)], 20_000)
    assert found["growth"] == 0 and found["in_use_growth"] == pytest.approx(200 * 16_000 / 200e6, rel=0.05)
    assert not found["in_use_growth"] < fuzz.MOST


def test_every_way_changes_something_sometimes():
    for way in messages.WAYS:
        changed = 0
        for number in range(20):
            message = messages.tree(deployed.message())
            way(message, Random(number))
            changed += repr(message) != repr(VALID)
        assert changed > 5, way
