"""Our packets against the vendor's SDK: checksums, stuffing, and a stream cut anywhere."""

import dynamixel_sdk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clamp_jax.deploy.robots import packets

SDK = dynamixel_sdk.PacketHandler(2.0)
tricky = st.lists(st.sampled_from([b"\xff", b"\xfd", b"\xff\xff\xfd", b"\x00", b"\x55", b"a"]), max_size=40).map(b"".join)


class Wire:
    """The SDK's port that keeps what is written and plays back what is to be read."""

    def __init__(self, incoming=b""):
        self.is_using, self.sent, self.incoming = False, b"", bytearray(incoming)

    def clearPort(self):  # noqa: N802 - the SDK's names
        pass

    def writePort(self, packet):  # noqa: N802
        self.sent += bytes(packet)
        return len(packet)

    def readPort(self, length):  # noqa: N802
        data, self.incoming = self.incoming[:length], self.incoming[length:]
        return data

    def isPacketTimeout(self):  # noqa: N802
        return True


@given(tricky.filter(lambda data: packets.stuff(data) == data), st.integers(0, 252))
@settings(max_examples=100, deadline=None)
def test_an_instruction_is_the_sdks_byte_for_byte(data, identity):
    wire = Wire()  # SDK 4.1.0 sends what needs stuffing without it; nothing that an arm is sent does
    length = len(data) + 3
    SDK.txPacket(wire, [0, 0, 0, 0, identity, length % 256, length // 256, packets.WRITE, *data, 0, 0])
    assert wire.sent == packets.encode(identity, packets.WRITE, data)
    assert packets.Parser().feed(wire.sent) == [packets.Packet(identity, packets.WRITE, data)]


@given(tricky, st.integers(0, 252), st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_a_status_is_read_by_the_sdk(data, identity, error):
    got, result = SDK.rxPacket(Wire(packets.encode_status(identity, error, data)), False)
    length = got[5] + 256 * got[6]
    assert result == dynamixel_sdk.COMM_SUCCESS and got[4] == identity and got[8] == error
    assert bytes(got[9 : 7 + length - 2]) == data


@given(st.lists(st.one_of(tricky, st.binary(max_size=8)), min_size=1, max_size=5), st.data())
@settings(max_examples=100, deadline=None)
def test_a_stream_may_be_cut_anywhere(payloads, data):
    sent = [packets.Packet(number, packets.WRITE, payload) for number, payload in enumerate(payloads)]
    stream = b"".join(packets.encode(*packet[:3]) for packet in sent)
    cut = data.draw(st.integers(0, len(stream)))
    parser = packets.Parser()
    assert parser.feed(stream[:cut]) + parser.feed(stream[cut:]) == sent


@pytest.mark.parametrize("noise", [b"\x00\x13", b"\xff", b"\xff\xff", b"\xff\xff\xfd\x00\x01\xff\xff"])
def test_noise_before_a_packet_is_passed_over(noise):
    assert packets.Parser().feed(noise + packets.encode(3, packets.PING)) == [packets.Packet(3, packets.PING, b"")]


def test_every_flipped_bit_is_seen():
    whole = packets.encode(3, packets.WRITE, b"\x74\x00\x00\x08\x00\x00")
    for bit in range(8 * 7, 8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << (bit % 8)
        assert not any(packet.sound for packet in packets.Parser().feed(bytes(damaged)))
