"""Frames of a stream as packets: exact latents, key frames, loss, reordering, other rates, damaged bytes."""

import dataclasses
import zlib

import numpy as np
import pytest
from golden.corpus import PREPROCESS, frames_of, make_codec, names, read
from hypothesis import given, settings
from hypothesis import strategies as st
from support.laplace import laplace_model

from splitreg.coding import (
    STREAM_HEADER_BYTES,
    FrameDecoder,
    FrameEncoder,
    LatentCoding,
    Packet,
    StreamFormat,
    StreamPacket,
    VariableModel,
)  # fmt: skip
from splitreg.errors import CorruptPacket, InvalidLatent, KeyFrameNeeded, RecipeError, ShapeMismatch

SHAPE = (3, 8, 10)
CASES = {name: case for name in names() if "rans" in (case := read(name)).streams}


def coding(tables, codec="rans", model_id=7):
    return LatentCoding(codec=make_codec(codec), preprocess=PREPROCESS, frozen=tables, model_id=model_id)


FORMAT = StreamFormat(model_id=7, original=(40, 50), coded=(32, 40), latent=SHAPE, number=0)


def variable(models=None):
    """256 rates, with gains in exact binary fractions."""
    gains = np.arange(1, 257, dtype=np.float32)[:, None] / 64 + np.zeros(3, np.float32)
    models = models or (laplace_model([1.0, 2.0, 4.0]), laplace_model([4.0, 8.0, 9.0]))
    return VariableModel(
        models=models, chosen=(np.arange(256) // 128).astype(np.uint8), gains=gains, inverses=1 / gains,
        shift=np.array([0.5, -3, 0], np.float32), default=128,
    )  # fmt: skip


def sides(tables=None, **options):
    held = coding(laplace_model([1.0, 2.0, 4.0]) if tables is None else tables)
    return FrameEncoder(held, SHAPE, **options), FrameDecoder(held, SHAPE)


def clip(count, seed=0, shape=SHAPE, changed=0.03):
    rng = np.random.default_rng(seed)
    frame = rng.normal(0, 2, shape).astype(np.float32)
    for _ in range(count):
        yield frame
        frame = np.where(rng.random(shape) < changed, frame + rng.normal(0, 2, shape).astype(np.float32), frame)


@pytest.mark.parametrize("name", CASES)
def test_latents_are_those_of_single_packets_bit_for_bit(name):
    case = CASES[name]
    encoder, decoder = (side(coding(case.model), case.latent.shape) for side in (FrameEncoder, FrameDecoder))
    for frame in frames_of(case):
        data = encoder.encode(frame)
        found, wanted = decoder.decode(data), case.model.restore(frame)
        assert np.array_equal(found.view(np.int32), wanted.view(np.int32))
        held = coding(case.model)
        if held.has_context and not StreamPacket.parse(data).key:
            held = dataclasses.replace(held, context=False)
        alone = held.encode(frame)
        assert decoder.streams() == alone
        ordinary = Packet.parse(decoder.packet(FORMAT))
        assert (ordinary.streams, ordinary.context) == (alone, held.packet_context)
        decoded = held.decode(ordinary.streams, case.latent.shape, context=ordinary.context)
        assert np.array_equal(decoded, found)
        assert len(data) <= sum(map(len, alone)) + STREAM_HEADER_BYTES + 2 * (len(alone) - 1)


@pytest.mark.parametrize("models", [None, (CASES["mshp"].model, CASES["mshp"].model)], ids=["plain", "hyperprior"])
def test_the_rate_may_change_from_frame_to_frame(models):
    tables = variable(models)
    encoder, decoder = sides(tables)
    for i, (frame, rate) in enumerate(
        zip(clip(12), [0.5, 0.5, 0.6, 0.1, 0.1, 1.0, 0, 0.3, 0.3, None, None, 0.9], strict=True)
    ):
        data = encoder.encode(frame, rate)
        assert np.array_equal(decoder.decode(data), tables.restore(frame, rate))
        assert np.array_equal(coding(tables).decode(decoder.streams(), SHAPE), tables.restore(frame, rate))
        assert StreamPacket.parse(data).key or i > 0
    unchanged = encoder.encode(frame, 0.9)
    assert len(unchanged) <= STREAM_HEADER_BYTES + 1


def test_what_a_frame_costs():
    encoder, _ = sides()
    first, *rest = [encoder.encode(frame) for frame in clip(10)]
    assert StreamPacket.parse(first).key and not any(StreamPacket.parse(data).key for data in rest)
    assert np.mean([len(data) for data in rest]) < 0.5 * len(first)
    assert len(encoder.encode(list(clip(10))[-1])) == STREAM_HEADER_BYTES == 6
    assert encoder.frame == 10


def test_key_frames_without_the_context_network():
    case = CASES["fp-context"]
    held = coding(case.model)
    encoder = FrameEncoder(dataclasses.replace(held, context=False), case.latent.shape)
    decoder = FrameDecoder(held, case.latent.shape)
    contexts = []
    for number, frame in enumerate(frames_of(case)):
        data = encoder.encode(frame, key=number == 3)
        assert np.array_equal(decoder.decode(data), case.model.restore(frame))
        assert not Packet.parse(decoder.packet(FORMAT)).context
        packet = StreamPacket.parse(data)
        assert packet.context == (not packet.key)
        contexts.append(packet.context)
    assert not contexts[0] and not contexts[3] and any(contexts)
    with pytest.raises(CorruptPacket, match="key frames"):
        StreamPacket(key=False, frame=0, streams=(b"",), context=False)
    foreign = FrameDecoder(coding(laplace_model([1.0, 2.0, 4.0])), SHAPE)
    (frame,) = clip(1)
    data = bytearray(FrameEncoder(foreign.coding, SHAPE).encode(frame))
    data[0] |= 4
    data[-4:] = zlib.crc32(data[:-4], foreign._stream).to_bytes(4, "little")
    with pytest.raises(CorruptPacket, match="this model has none"):
        foreign.decode(bytes(data))


def test_unrelated_frames_are_key_frames():
    encoder, decoder = sides()
    for seed in range(5):
        (frame,) = clip(1, seed)
        data = encoder.encode(frame)
        assert StreamPacket.parse(data).key
        decoder.decode(data)


def test_a_key_frame_on_request_can_be_decoded_alone():
    encoder, decoder = sides()
    frames = list(clip(4))
    for frame in frames[:3]:
        encoder.encode(frame)
    data = encoder.encode(frames[3], key=True)
    assert np.array_equal(decoder.decode(data), laplace_model([1.0, 2.0, 4.0]).restore(frames[3]))


def test_loss_reordering_and_repetition_ask_for_a_key_frame_and_leave_the_state():
    encoder, decoder = sides()
    frames = list(clip(6))
    packets = [encoder.encode(frame) for frame in frames]
    with pytest.raises(KeyFrameNeeded):
        decoder.decode(packets[1])  # nothing arrived yet
    decoder.decode(packets[0])
    with pytest.raises(KeyFrameNeeded, match="0"):
        decoder.decode(packets[2])  # 1 is missing
    decoder.decode(packets[1])  # 1 was only late
    decoder.decode(packets[2])
    with pytest.raises(KeyFrameNeeded):
        decoder.decode(packets[2])
    assert np.array_equal(decoder.decode(packets[3]), laplace_model([1.0, 2.0, 4.0]).restore(frames[3]))
    assert decoder.frame == 3


def test_frames_of_the_same_number_from_another_history_are_refused():
    """256 frames later the numbers come again; the checksum continues all that was sent."""
    encoder, decoder = sides()
    other, _ = sides()
    frames = list(clip(3))
    decoder.decode(encoder.encode(frames[0]))
    other.encode(frames[1])
    with pytest.raises(KeyFrameNeeded):
        decoder.decode(other.encode(frames[2]))


@pytest.mark.parametrize("change", [{"stream": 2}, {"model_id": 8}])
def test_packets_of_another_stream_or_model_are_refused(change):
    tables = laplace_model([1.0, 2.0, 4.0])
    encoder = FrameEncoder(coding(tables, model_id=change.get("model_id", 7)), SHAPE, stream=change.get("stream", 1))
    decoder = FrameDecoder(coding(tables), SHAPE, stream=1)
    with pytest.raises(CorruptPacket, match="another stream"):
        decoder.decode(encoder.encode(next(clip(1))))


@pytest.mark.parametrize("key", [True, False])
def test_every_flipped_bit_and_every_cut_is_noticed(key):
    encoder, decoder = sides()
    frames = list(clip(2))
    decoder.decode(encoder.encode(frames[0]))
    data = encoder.encode(frames[1], key=key)
    damaged = [data[:n] for n in range(len(data))]
    damaged += [data[:i] + bytes([data[i] ^ 1 << bit]) + data[i + 1 :] for i in range(len(data)) for bit in range(8)]
    for packet in [*damaged, data + b"\0"]:
        with pytest.raises(CorruptPacket):
            decoder.decode(packet)
    decoder.decode(data)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_with_a_fitting_checksum_are_decoded_or_refused(body, started):
    encoder, decoder = sides()
    if started:
        decoder.decode(encoder.encode(next(clip(1))))
    import zlib

    chain = decoder._stream if body[:1] and body[0] & 1 else decoder._chain
    try:
        found = decoder.decode(body + zlib.crc32(body, chain).to_bytes(4, "little"))
    except CorruptPacket:
        return
    assert found.shape == SHAPE and np.isfinite(found).all()


def test_tolerance_keeps_symbols_within_it_and_no_others():
    step = 1.0
    exact, _ = sides()
    loose, decoder = sides(tolerance=0.2)
    rng = np.random.default_rng(0)
    still = rng.normal(0, 2, SHAPE).astype(np.float32)
    sizes = {exact: 0, loose: 0}
    for i in range(12):
        frame = still + rng.normal(0, 0.1, SHAPE).astype(np.float32)
        sizes[exact] += len(exact.encode(frame))
        data = loose.encode(frame)
        sizes[loose] += len(data)
        assert (np.abs(decoder.decode(data) - frame) <= (0.5 + (0.2 if i else 0)) * step + 1e-5).all()
    assert sizes[loose] < 0.8 * sizes[exact]
    with pytest.raises(RecipeError, match=r"0\.7"):
        sides(tolerance=0.7)


@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_a_codec_without_temporal_coding_sends_key_frames(codec):
    held = coding(laplace_model([1.0, 2.0, 4.0]), codec)
    encoder, decoder = FrameEncoder(held, SHAPE), FrameDecoder(held, SHAPE)
    for frame in clip(3):
        data = encoder.encode(frame)
        assert StreamPacket.parse(data).key
        assert np.array_equal(decoder.decode(data), held.tables.restore(frame))


def test_what_does_not_fit_is_refused_and_leaves_the_state():
    encoder, decoder = sides()
    frames = list(clip(3))
    decoder.decode(encoder.encode(frames[0]))
    for latent, kind in (
        (np.zeros((3, 8, 9), np.float32), ShapeMismatch),
        (np.full(SHAPE, np.nan, np.float32), InvalidLatent),
    ):
        with pytest.raises(kind):
            encoder.encode(latent)
    with pytest.raises(RecipeError):
        encoder.encode(frames[1], 0.5)
    assert np.array_equal(decoder.decode(encoder.encode(frames[1])), laplace_model([1.0, 2.0, 4.0]).restore(frames[1]))
    with pytest.raises(ShapeMismatch):
        FrameEncoder(coding(laplace_model([1.0])), SHAPE)


@settings(deadline=None)
@given(
    st.builds(
        StreamPacket, key=st.booleans(), frame=st.integers(0, 255), position=st.none() | st.integers(0, 255),
        streams=st.lists(st.binary(max_size=300), min_size=1, max_size=16).map(tuple),
    )
)  # fmt: skip
def test_a_packet_is_read_as_it_was_written(packet):
    assert StreamPacket.parse(packet.to_bytes(5)) == packet
    assert len(packet.to_bytes(5)) - packet.payload_bytes <= STREAM_HEADER_BYTES + 1 + 2 * 15
    assert dataclasses.replace(packet, frame=0).to_bytes(5)[2:-4] == packet.to_bytes(5)[2:-4]
