"""The packet: round trips, one spelling, limits, and any bytes at all."""

import dataclasses
import itertools
import struct
import tracemalloc
import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from splitreg import imaging
from splitreg.coding import MAX_PACKET_BYTES, Packet, packet
from splitreg.errors import CorruptPacket

sides = st.integers(1, 65535)
sizes = st.tuples(sides, sides) | st.just((480, 640))
lengths = st.integers(0, 20) | st.sampled_from([127, 128, 129, 16383, 16384])  # where a length takes one byte more


@st.composite
def packets(draw, images=None, streams=None):
    images = draw(st.integers(1, 5)) if images is None else images
    streams = draw(st.integers(1, 16)) if streams is None else streams
    return Packet(
        model_id=draw(st.integers(0, 2**32 - 1)),
        original=draw(sizes),
        coded=draw(sizes),
        streams=tuple(bytes([i % 256]) * draw(lengths) for i in range(images * streams)),
        others=tuple(draw(sizes) for _ in range(images - 1)),
        context=draw(st.booleans()),
    )


def sealed(body):
    """Bytes with a fitting checksum."""
    return body + struct.pack("<I", zlib.crc32(body))


@given(packets())
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
    alone = dataclasses.replace(packet, context=False).to_bytes()
    assert alone[3] == 0x40 and alone[:3] + alone[4:19] == data[:3] + data[4:19]


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


@settings(max_examples=500)
@given(
    st.sampled_from([0, 1, 2, 15, 0x10, 0x11, 0x30, 0x31, 0x3F]),
    st.lists(st.sampled_from([0, 1, 2, 3, 5, 0x7F, 0x80, 0x81, 0x83, 0xFF]), max_size=30).map(bytes),
    st.binary(max_size=40),
)
def test_lying_tables(flags, table, rest):
    data = sealed(b"SR\x01" + bytes([flags]) + bytes(4) + struct.pack("<4H", 1, 1, 1, 1) + table + rest)
    try:
        parsed = Packet.parse(data)
    except CorruptPacket:
        return
    assert parsed.to_bytes() == data


@given(packets(), st.data())
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
        {"streams": (b"",) * 17}, {"others": ((0, 1),), "streams": (b"",) * 2}, {"others": ((1, 1),)},
        {"others": ((1, 1),) * 256, "streams": (b"",) * 257}, {"others": ((1, 1),), "streams": (b"",) * 34},
    ],
)  # fmt: skip
def test_limits(change):
    with pytest.raises(CorruptPacket):
        Packet(**{"model_id": 0, "original": (1, 1), "coded": (1, 1), "streams": (b"",), **change})


@pytest.mark.parametrize("position", [8, 10, 12, 14])
def test_sides_of_zero_are_corrupt(position):
    body = bytearray(Packet(model_id=1, original=(1, 1), coded=(1, 1), streams=(b"x",)).to_bytes()[:-4])
    body[position : position + 2] = b"\0\0"
    with pytest.raises(CorruptPacket, match="65535"):
        Packet.parse(sealed(bytes(body)))


def test_large_packets_are_refused_both_ways():
    with pytest.raises(CorruptPacket, match=str(MAX_PACKET_BYTES)):
        Packet(model_id=0, original=(1, 1), coded=(1, 1), streams=(bytes(MAX_PACKET_BYTES),)).to_bytes()
    with pytest.raises(CorruptPacket, match=str(MAX_PACKET_BYTES)):
        Packet.parse(bytes(MAX_PACKET_BYTES + 1))


def test_other_versions_and_flags_say_to_upgrade():
    for version, flags in ((2, 0), (1, 0x80), (1, 0xC0), (1, 0x20)):
        with pytest.raises(CorruptPacket, match="upgrade"):
            Packet.parse(sealed(b"SR" + bytes([version, flags]) + bytes(4) + struct.pack("<4H", 1, 1, 1, 1)))


def test_cost_of_streams_and_images():
    one = Packet(model_id=1, original=(480, 640), coded=(96, 128), streams=(b"z" * 60, b"y" * 540))
    assert one.header_bytes == 21  # two streams cost one byte more than one
    same = Packet.join([one] * 8)
    assert len(same) == 1 and same[0].header_bytes == 20 + 1 + 8 * 1 + 7 * 2
    assert same[0].to_bytes()[3] == 0x11
    other = dataclasses.replace(one, original=(1, 2))
    mixed = Packet.join([one] * 7 + [other])[0]
    assert mixed.header_bytes == same[0].header_bytes + 7 * 4 and mixed.to_bytes()[3] == 0x31


@given(packets())
def test_images_of_a_batch(batch):
    images = batch.images
    assert [image.original for image in images] == list(batch.originals)
    assert all(image.images == (image,) and image.coded == batch.coded for image in images)
    assert tuple(stream for image in images for stream in image.streams) == batch.streams


@given(st.lists(packets(), max_size=6))
def test_join_keeps_every_image_in_order(several):
    joined = Packet.join(several)
    assert [i for packet in joined for i in packet.images] == [i for packet in several for i in packet.images]
    assert Packet.join(joined) == joined
    for a, b in itertools.pairwise(joined):  # two that could be one would be
        kinds = {(p.model_id, p.context, p.coded, len(p.images[0].streams)) for p in (a, b)}
        area = sum(height * width for p in (a, b) for height, width in p.originals)
        assert len(kinds) == 2 or area > packet.MAX_JOINED_PIXELS


def test_join_keeps_the_limits(monkeypatch):
    one = Packet(model_id=1, original=(10, 10), coded=(8, 8), streams=(b"x" * 1000,))
    assert [len(p.images) for p in Packet.join([one] * 600)] == [256, 256, 88]
    wide = dataclasses.replace(one, original=(6000, 6000))
    assert [len(p.images) for p in Packet.join([wide] * 5)] == [2, 2, 1]
    monkeypatch.setattr(packet, "MAX_PACKET_BYTES", 4000)
    joined = Packet.join([one] * 7)
    assert [len(p.images) for p in joined] == [3, 3, 1]
    assert all(len(p.to_bytes()) <= 4000 for p in joined)
    assert Packet.join([]) == []


def test_a_batch_may_have_as_many_original_pixels_as_an_image():
    assert packet.MAX_JOINED_PIXELS == imaging.MAX_PIXELS


@pytest.mark.parametrize(
    ("flags", "rest", "fact"),
    [
        (0x10, b"", "images"), (0x10, b"\0", "images"), (0x30, b"\x01\x01\0\x01", "2 images"),
        (0x30, b"\x01\x01\0\x01\0\0", "original sizes"), (0x30, b"\x01\x01\0\0\0\0", "1 to 65535"),
        (0x01, b"", "length"), (0x01, b"\x80\0abc", "length"), (0x01, b"\x80\x80\x80\x80\x01abc", "length"),
        (0x01, b"\x04abc", r"\b4\b.*\b3\b"), (0x02, b"\x02\x02abc", r"\b4\b.*\b3\b"),
    ],
)  # fmt: skip
def test_invalid_tables_are_rejected(flags, rest, fact):
    with pytest.raises(CorruptPacket, match=fact):
        Packet.parse(sealed(b"SR\x01" + bytes([flags]) + bytes(4) + struct.pack("<4H", 1, 1, 1, 1) + rest))


def test_claims_allocate_nothing():
    table = b"\xff\xff\xff\x7f" * (256 * 16 - 1)
    data = sealed(b"SR\x01\x1f" + bytes(4) + struct.pack("<4H", 1, 1, 1, 1) + b"\xff" + table)
    tracemalloc.start()
    with pytest.raises(CorruptPacket, match=r"\d+ bytes"):
        Packet.parse(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
