"""The packet: round trips, limits, and any bytes at all."""

import struct
import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from splitreg.coding import MAX_PACKET_BYTES, Packet
from splitreg.errors import CorruptPacket

sides = st.integers(1, 65535)
packets = st.builds(
    Packet,
    model_id=st.integers(0, 2**32 - 1),
    original=st.tuples(sides, sides),
    coded=st.tuples(sides, sides),
    streams=st.lists(st.binary(max_size=50), min_size=1, max_size=255).map(tuple),
)


def sealed(body):
    """Bytes with a fitting checksum."""
    return body + struct.pack("<I", zlib.crc32(body))


@given(packets)
def test_round_trip(packet):
    data = packet.to_bytes()
    assert Packet.parse(data) == packet
    assert Packet.parse(bytearray(data)) == packet
    assert Packet.parse(memoryview(data)) == packet
    assert len(data) == packet.header_bytes + packet.payload_bytes


def test_layout_and_cost_of_one_stream():
    packet = Packet(model_id=0x01020304, original=(480, 640), coded=(96, 128), streams=(b"abc",))
    data = packet.to_bytes()
    assert data[:16].hex() == "53520100" + "04030201" + "e0018002" + "60008000"
    assert data[16:19] == b"abc" and len(data) == 23
    assert packet.header_bytes == 20


@settings(max_examples=500)
@given(st.binary(max_size=80))
@example(b"")
@example(b"SR\x01\x00")
def test_any_bytes_are_a_packet_or_corrupt(data):
    with pytest.raises(CorruptPacket):
        Packet.parse(data)  # a CRC that fits by chance is one in 2**32


@settings(max_examples=500)
@given(st.integers(0, 255), st.integers(0, 255), st.binary(min_size=12, max_size=80))
def test_any_sealed_bytes_are_a_packet_or_corrupt(version, flags, rest):
    data = sealed(b"SR" + bytes([version, flags]) + rest)
    try:
        packet = Packet.parse(data)
    except CorruptPacket:
        return
    assert packet.to_bytes() == data  # one packet, one spelling


@given(st.integers(0, 255), st.lists(st.integers(0, 2**32 - 1), max_size=5), st.binary(max_size=40))
def test_lying_stream_tables(count, lengths, rest):
    head = b"SR\x01\x01" + bytes(4) + struct.pack("<4H", 1, 1, 1, 1)
    data = sealed(head + bytes([count]) + struct.pack(f"<{len(lengths)}I", *lengths) + rest)
    try:
        packet = Packet.parse(data)
    except CorruptPacket:
        return
    assert packet.to_bytes() == data


@given(packets, st.data())
def test_damage_is_seen(packet, data):
    good = packet.to_bytes()
    position = data.draw(st.integers(0, len(good) - 1))
    flipped = bytearray(good)
    flipped[position] ^= 1 << data.draw(st.integers(0, 7))
    for bad in (bytes(flipped), good[:position], good + b"\0", b"\0" + good):
        with pytest.raises(CorruptPacket):
            Packet.parse(bad)


@pytest.mark.parametrize(
    "change",
    [
        {"model_id": -1}, {"model_id": 2**32}, {"original": (0, 1)}, {"coded": (1, 65536)}, {"streams": ()},
        {"streams": (b"",) * 256},
    ],
)  # fmt: skip
def test_limits(change):
    with pytest.raises(CorruptPacket):
        Packet(**{"model_id": 0, "original": (1, 1), "coded": (1, 1), "streams": (b"",), **change})


@pytest.mark.parametrize("position", [8, 10, 12, 14])
def test_sides_of_zero_are_corrupt(position):
    body = bytearray(Packet(model_id=1, original=(1, 1), coded=(1, 1), streams=(b"x",)).to_bytes()[:-4])
    body[position : position + 2] = b"\0\0"
    with pytest.raises(CorruptPacket, match="size"):
        Packet.parse(sealed(bytes(body)))


def test_large_packets_are_refused_both_ways():
    with pytest.raises(CorruptPacket, match="limit"):
        Packet(model_id=0, original=(1, 1), coded=(1, 1), streams=(bytes(MAX_PACKET_BYTES),)).to_bytes()
    with pytest.raises(CorruptPacket, match="limit"):
        Packet.parse(bytes(MAX_PACKET_BYTES + 1))


def test_other_versions_and_flags_say_to_upgrade():
    for version, flags in ((2, 0), (1, 2)):
        with pytest.raises(CorruptPacket, match="upgrade"):
            Packet.parse(sealed(b"SR" + bytes([version, flags]) + bytes(4) + struct.pack("<4H", 1, 1, 1, 1)))
