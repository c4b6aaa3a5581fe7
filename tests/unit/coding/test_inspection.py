"""Fields of whole and damaged packets, and code lengths of their streams."""

import dataclasses
import struct
import zlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from splitreg.coding import Codec, Packet, SymbolModel, encode_streams
from splitreg.coding.inspection import break_down, measure

PACKET = Packet(
    model_id=0xF48AF71E, original=(480, 640), coded=(96, 128), streams=(b"a" * 3, b"b" * 200, b"c" * 130, b"d" * 9),
    others=((100, 50),),
)  # fmt: skip


def covers(breakdown, data):
    """Fields follow each other from the first byte to the last."""
    at = 0
    for field in breakdown.fields:
        assert field.offset == at and field.size > 0
        at += field.size
    return at == len(data)


def test_fields_of_a_batch():
    data = PACKET.to_bytes()
    breakdown = break_down(data)
    assert breakdown.packet == PACKET and breakdown.crc_fits and not breakdown.problem and covers(breakdown, data)
    assert [(f.offset, f.size, f.name) for f in breakdown.fields] == [
        (0, 2, "magic"), (2, 1, "version"), (3, 1, "flags"), (4, 4, "model id"), (8, 4, "original"), (12, 4, "coded"),
        (16, 1, "images"), (17, 4, "original 1"), (21, 1, "length of stream 0:0"), (22, 2, "length of stream 0:1"),
        (24, 2, "length of stream 1:0"), (26, 3, "stream 0:0"), (29, 200, "stream 0:1"), (229, 130, "stream 1:0"),
        (359, 9, "stream 1:1"), (368, 4, "CRC-32"),
    ]  # fmt: skip
    values = {f.name: f.value for f in breakdown.fields}
    assert values["flags"].startswith("0x31") and "2 streams" in values["flags"] and "batch" in values["flags"]
    assert values["model id"] == "f48af71e" and values["original 1"] == "50x100"
    assert values["length of stream 0:1"] == "200"
    table = breakdown.to_json()
    assert table["ok"] and table["bytes"] == len(data) and table["model_id"] == "f48af71e"
    assert [image["streams"] for image in table["images"]] == [[3, 200], [130, 9]]


@settings(max_examples=300)
@given(st.data())
def test_any_damage_has_a_breakdown(data):
    good = PACKET.to_bytes()
    if data.draw(st.booleans()):
        good = dataclasses.replace(PACKET, others=(), streams=PACKET.streams[:2]).to_bytes()
    bad = bytearray(good[: data.draw(st.integers(0, len(good)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if bad:
            bad[data.draw(st.integers(0, min(len(bad) - 1, 40)))] = data.draw(st.integers(0, 255))
    breakdown = break_down(bytes(bad))
    assert covers(breakdown, bad)
    assert (breakdown.packet is None) == bool(breakdown.problem)
    assert breakdown.packet is None or breakdown.crc_fits


@settings(max_examples=300)
@given(st.integers(0, 63), st.binary(max_size=60))
def test_both_readers_agree_on_sealed_bytes(flags, rest):
    body = b"SR\x01" + bytes([flags]) + bytes(4) + struct.pack("<4H", 3, 4, 1, 2) + rest
    data = body + struct.pack("<I", zlib.crc32(body))
    breakdown = break_down(data)
    assert breakdown.crc_fits and covers(breakdown, data)
    if breakdown.packet is not None:
        sizes = [f.size for f in breakdown.fields if f.name.startswith("stream")]
        assert sizes == [len(stream) for stream in breakdown.packet.streams if stream]
        assert breakdown.packet.header_bytes == len(data) - sum(sizes)


class Plain(Codec):
    def encode(self, symbols, model):
        return symbols.astype("<i4").tobytes()

    def decode(self, payload, shape, model):
        return np.frombuffer(payload, "<i4").reshape(shape)


def test_measure_counts_by_stream_and_channel():
    cdf = np.array([[0, 32768, 49152, 65536], [0, 16384, 32768, 65536]])
    model = SymbolModel.from_cdf(cdf, np.array([4, 4]), np.array([0, 0]))
    latent = np.zeros((2, 3, 5), np.float32)
    lengths = measure(encode_streams(model, latent, Plain()), (2, 3, 5), model, Plain())
    assert (lengths.latent == latent).all()
    assert lengths.channel_bits == (15.0, 30.0) and lengths.stream_bits == (45.0,)
    bare = SymbolModel.plain("bits", 2, 32)
    assert measure(encode_streams(bare, latent, Plain()), (2, 3, 5), bare, Plain()).stream_bits == ()
