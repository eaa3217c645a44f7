"""The wire codec: openpi's arrays, strictly read."""

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clamp_jax.deploy import client, protocol

ARRAYS = st.sampled_from(sorted(protocol.DTYPES)).flatmap(lambda d: hnp.arrays(np.dtype(d), hnp.array_shapes(min_dims=0, max_side=4)))


def openpi_array(array):
    """An array as openpi's own packer writes it."""
    return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": array.shape}


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()  # bytes: NaNs are equal


@settings(max_examples=60, deadline=None)
@given(ARRAYS)
def test_arrays_come_back_as_they_were(array):
    data = protocol.pack({"x": array, "n": [1, "text", None, 2.5]})
    back = protocol.unpack(data)
    assert same(back["x"], array) and back["n"] == [1, "text", None, 2.5]
    assert client.pack({"x": array, "n": [1, "text", None, 2.5]}) == data  # the copy in the client is the same codec
    assert same(client.unpack(data)["x"], array)


def test_bytes_are_openpis():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    theirs = msgpack.packb({"state": openpi_array(array)})
    assert protocol.pack({"state": array}) == theirs
    assert same(protocol.unpack(theirs)["state"], array)
    scalar = protocol.unpack(msgpack.packb({b"__npgeneric__": True, b"data": 1.5, b"dtype": "<f8"}))
    assert scalar == np.float64(1.5) and scalar.dtype == np.float64
    assert protocol.DTYPES == client.DTYPES and protocol.PROTOCOL_VERSION == client.PROTOCOL_VERSION


def test_big_endian_and_strided_arrays_are_sent_as_numbers():
    array = np.arange(12, dtype=">f4").reshape(3, 4)[:, ::2]
    np.testing.assert_array_equal(protocol.unpack(protocol.pack(array)), array)
    np.testing.assert_array_equal(client.unpack(client.pack(array)), array)


def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


def array_map(**changes):
    return msgpack.packb({**openpi_array(np.zeros((2, 3), np.float32)), **{k.encode(): v for k, v in changes.items()}})


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (array_map(dtype="|O"), "dtype '|O' is not allowed"),
        (array_map(dtype="<U4"), "not allowed"),
        (array_map(dtype=7), "not allowed"),
        (array_map(shape=[2, 4]), "needs 32 bytes, found 24"),
        (array_map(shape=[2**40, 2**40, 0]), "not a list of at most"),
        (array_map(shape=[-2, -3]), "not a list of at most"),
        (array_map(shape=[True, 6]), "not a list of at most"),
        (array_map(shape=[1] * 7), "not a list of at most 6 sizes"),
        (array_map(data="x" * 24), "found str"),
        (array_map(extra=1), "other keys"),
        (array_map(dtype="|b1", shape=[1], data=b"\x02"), "boolean array"),
        (msgpack.packb({b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}), "does not fit"),
        (msgpack.packb({b"__npgeneric__": True, b"data": "x", b"dtype": "|u1"}), "a number"),
        (msgpack.packb({b"key": 1}), "not a string"),
        (msgpack.packb({1: 1}), "not valid msgpack"),
        (msgpack.packb(msgpack.ExtType(1, b"x")), "0xd4 is not allowed"),
        (msgpack.packb(nested(9)), "nested deeper than 8"),
        (msgpack.packb([0] * 5000), "more than 4096 items"),
        (b"\xdd\xff\xff\xff\xff", "cut short"),
        (b"\xc6\xff\xff\xff\xff", "cut short"),
        (b"\x01\x01", "ends at byte 1 but has 2"),
        (b"\xa2\xff\xfe", "not valid msgpack"),
        (b"", "cut short"),
    ],
)
def test_what_is_not_of_the_protocol_is_refused(data, found):
    with pytest.raises(protocol.ProtocolError, match="(?s).*" + found.replace("|", r"\|")):
        protocol.unpack(data)


def test_size_is_checked_before_anything_else():
    with pytest.raises(protocol.ProtocolError, match="has 11 bytes, at most 10"):
        protocol.unpack(b"\xff" * 11, protocol.Limits(size=10))


def test_nothing_but_data_is_sent():
    for value in (object(), np.array([object()]), np.array(["text"]), np.datetime64("2020-01-01"), {1, 2}):
        with pytest.raises(ValueError, match="cannot"):
            protocol.pack({"x": value})


def test_damaged_messages_raise_or_decode_but_nothing_else():
    whole = protocol.pack({"a": np.arange(4, dtype=np.int16), "b": ["text", {"c": 1.5}], "d": np.float32(1)})
    rng = np.random.default_rng(0)
    damaged = [whole[:n] for n in range(len(whole))] + [rng.bytes(n % 60) for n in range(300)]
    for _ in range(700):
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        damaged.append(bytes(data))
    for data in damaged:
        try:
            protocol.unpack(data)
        except protocol.ProtocolError as error:
            assert len(str(error)) < 400
