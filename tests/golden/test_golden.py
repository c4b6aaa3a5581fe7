"""The golden corpus: what was written once is written again, and read, byte for byte and symbol for symbol.

Encoders of other libraries may change what they write; of their payloads only the decoding is held.
"""

import json

import numpy as np
import pytest
from golden.corpus import FOLDER, OURS, PREPROCESS, frames_of, make_codec, names, read, stream_of

from splitreg.coding import FrameDecoder, HyperModel, LatentCoding, Packet, decode_streams, encode_streams, rans_kernel
from splitreg.errors import CorruptPacket

KERNELS = ["numpy", *(["c"] if rans_kernel.load() else [])]
CASES = {name: read(name) for name in names()}
CODED = [
    (name, codec, kernel)
    for name, case in CASES.items()
    for codec in case.streams
    for kernel in (KERNELS if codec.startswith("rans") else ["auto"])
]
PACKETS = json.loads((FOLDER / "packets.json").read_text())
STREAMS = {entry["name"]: entry["packets"] for entry in json.loads((FOLDER / "streams.json").read_text())}


def same(a, b):
    """The same floats to the last bit: -0.0 is not 0.0."""
    return a.shape == b.shape and np.array_equal(a.view(np.int32), b.view(np.int32))


@pytest.mark.parametrize(("name", "codec", "kernel"), CODED)
def test_decodes_to_exactly_what_was_coded(name, codec, kernel):
    case = CASES[name]
    decoded = decode_streams(case.model, case.streams[codec], case.latent.shape, make_codec(codec, kernel))
    assert same(decoded, case.restored[codec])


@pytest.mark.parametrize(("name", "codec", "kernel"), [item for item in CODED if item[1] in OURS])
def test_encodes_to_exactly_the_same_bytes(name, codec, kernel):
    case = CASES[name]
    assert encode_streams(case.model, case.latent, make_codec(codec, kernel)) == case.streams[codec]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "name", [n for n, c in CASES.items() if "rans" in c.streams and not isinstance(c.model, HyperModel)]
)
def test_symbols_and_latents_code_to_the_same(name, kernel):
    """``encode`` of quantised symbols is ``encode_latent``, and ``decode`` is ``decode_latent`` before it is scaled."""
    case = CASES[name]
    codec, symbols = make_codec("rans", kernel), case.model.quantise(case.latent)
    assert (codec.encode(symbols, case.model),) == case.streams["rans"]
    assert np.array_equal(codec.decode(case.streams["rans"][0], symbols.shape, case.model), symbols)


@pytest.mark.parametrize("name", CASES)
def test_restores_the_same_latent(name):
    case = CASES[name]
    exact = case.model.restore(case.latent)
    assert all(same(exact, case.restored[codec]) for codec in case.streams if make_codec(codec).lossless)


# A payload of a context model has no redundancy; only the packet's checksum detects that it is cut.
REDUNDANT = [item for item in CODED if not (item[0].startswith("fp-context") and item[1].startswith("rans"))]


@pytest.mark.parametrize(("name", "codec", "kernel"), REDUNDANT)
def test_cut_and_longer_streams_are_refused(name, codec, kernel):
    case, coder = CASES[name], make_codec(codec, kernel)
    for number, stream in enumerate(case.streams[codec]):
        damaged = [b"", stream[:1], stream[: len(stream) // 2]]
        if codec not in ("png", "webp", "jpeg"):  # pillow ignores the last bytes of an image, and bytes after them
            damaged += [stream[:-1], stream + b"\0"]
        for bad in damaged:
            streams = list(case.streams[codec])
            streams[number] = bad
            with pytest.raises(CorruptPacket):
                decode_streams(case.model, streams, case.latent.shape, coder)


def test_the_corpus_holds_every_form_of_payload():
    heads = {
        stream[0]
        for name, case in CASES.items()
        for codec in {"rans", "rans-static"} & case.streams.keys()
        for stream in case.streams[codec]
        if not name.startswith("fp-context")
    }
    assert {head & 3 for head in heads} == {0, 1, 2, 3}  # 1, 2, 4 and 8 lanes
    assert {(head & 3, head >> 2 & 1) for head in heads} == {(lanes, adapt) for lanes in range(4) for adapt in range(2)}
    assert {head >> 3 & 1 for head in heads} == {0, 1}  # escapes
    assert {codec for case in CASES.values() for codec in case.streams} == {
        "rans", "rans-static", "raw", "compressai", "zstd", "png", "webp", "jpeg",
    }  # fmt: skip
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 400_000


@pytest.mark.parametrize("entry", PACKETS, ids=[entry["name"] for entry in PACKETS])
def test_packets(entry):
    data = bytes.fromhex(entry["bytes"])
    packet = Packet.parse(data)
    assert packet.model_id == entry["model_id"] and list(packet.coded) == entry["coded"]
    assert [list(size) for size in packet.originals] == entry["originals"]
    assert [stream.hex() for stream in packet.streams] == entry["streams"]
    assert packet.to_bytes() == data


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", STREAMS)
def test_streams_are_written_and_read_as_ever(name, kernel):
    case, packets = CASES[name], [bytes.fromhex(packet) for packet in STREAMS[name]]
    assert stream_of(case, kernel) == packets
    coding = LatentCoding(
        codec=make_codec("rans", kernel), preprocess=PREPROCESS, frozen=case.model, model_id=0xC0FFEE01
    )
    decoder = FrameDecoder(coding, case.latent.shape, stream=3)
    for packet, frame in zip(packets, frames_of(case), strict=True):
        assert same(decoder.decode(packet), case.model.restore(frame))
