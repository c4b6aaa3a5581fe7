"""Whatever bytes and arrays come: a typed error or an answer of the right form, never anything else.

``scripts/fuzz_packets.py`` does the same for millions of packets.
"""

import dataclasses
import json

import numpy as np
import pytest
from golden.corpus import make_codec, names, read
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.bundles import write_raw

from splitreg.bundle import BundleConfig
from splitreg.coding import Packet, decode_streams, encode_streams, load_model
from splitreg.errors import BundleError, CodingError, CorruptPacket, InvalidLatent, InvalidTables

CASES = {name: read(name) for name in names() if not name.endswith("lanes")}
CODECS = sorted({codec for case in CASES.values() for codec in case.streams})
MADE = {codec: make_codec(codec) for codec in CODECS}


@st.composite
def damaged(draw, data):
    """Bytes after a few changes; or any others."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.binary(max_size=80))
    mutated = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(mutated)))
        match draw(st.integers(0, 4)):
            case 0:
                del mutated[at:]
            case 1:
                del mutated[at : at + draw(st.integers(1, 8))]
            case 2:
                mutated[at:at] = draw(st.binary(min_size=1, max_size=8))
            case 3:
                mutated[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case _:
                mutated[at : at + 4] = bytes(len(mutated[at : at + 4]))
    return bytes(mutated)


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_streams_give_a_latent_or_corrupt_packet(codec, data):
    case = CASES[data.draw(st.sampled_from([name for name, case in CASES.items() if codec in case.streams]))]
    streams = tuple(data.draw(damaged(stream)) for stream in case.streams[codec])
    try:
        latent = decode_streams(case.model, streams, case.latent.shape, MADE[codec])
    except CorruptPacket:
        return
    assert latent.shape == case.latent.shape and latent.dtype == np.float32


@pytest.mark.parametrize("name", [name for name in CASES if "rans" in CASES[name].streams])
@pytest.mark.parametrize("streams", [(), (b"",), (b"", b""), (b"\0" * 50,) * 3])
def test_another_number_of_streams_is_corrupt(name, streams):
    case = CASES[name]
    with pytest.raises(CorruptPacket):
        decode_streams(case.model, streams, case.latent.shape, MADE["rans"])


@pytest.mark.parametrize("codec", CODECS)
def test_a_payload_of_another_shape_is_refused_or_has_that_shape(codec):
    for case in CASES.values():
        channels, height, width = case.latent.shape
        for shape in ((channels, height + 1, width), (channels, width, height), (channels, 1, 1), (channels, 200, 200)):
            if codec in case.streams and shape != case.latent.shape:
                try:
                    latent = decode_streams(case.model, case.streams[codec], shape, MADE[codec])
                except CorruptPacket:
                    continue
                assert latent.shape == shape


@pytest.mark.parametrize("shape", [(0, 3, 3), (5, 0, 3), (5, 3, 0), (4, 3, 3), (5, 3), (-5, 3, 3)])
def test_shapes_that_no_latent_of_the_model_has(shape):
    model = CASES["fp"].model
    for codec in ("rans", "compressai", "zstd", "raw"):
        with pytest.raises(CodingError):
            decode_streams(model, (b"\0" * 30,), shape, MADE[codec])
        if min(shape) >= 0:
            with pytest.raises(CodingError):
                encode_streams(model, np.zeros(shape, np.float32), MADE[codec])


@pytest.mark.filterwarnings("ignore:Casting complex values")  # by this test itself
@pytest.mark.parametrize("name", CASES)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_arrays_are_a_model_or_invalid_tables(name, data):
    arrays = {key: np.array(value) for key, value in CASES[name].model.to_arrays().items()}
    for _ in range(data.draw(st.integers(1, 2))):
        key = data.draw(st.sampled_from(sorted(arrays)))
        array = arrays[key]
        match data.draw(st.integers(0, 6)):
            case 0:
                del arrays[key]
                if not arrays:
                    return
            case 1:
                arrays[key + "x"] = array
            case 2:
                arrays[key] = array.reshape(-1)[: data.draw(st.integers(0, array.size))]
            case 3:
                arrays[key] = array[..., None] if array.ndim else array.reshape(1)
            case 4:
                with np.errstate(all="ignore"):
                    arrays[key] = array.astype(data.draw(st.sampled_from(["f8", "f4", "i8", "u1", "i2", "?", "c8"])))
            case _:
                if array.size:
                    edges = [0, 1, -1, 2**31 - 1, -(2**31), 2**16, np.nan, np.inf, 1e38]
                    value = data.draw(st.sampled_from(edges if array.dtype.kind == "f" else edges[:6]))
                    with np.errstate(all="ignore"):
                        changed = array.copy()
                        changed.reshape(-1)[data.draw(st.integers(0, array.size - 1))] = np.array(value).astype(
                            array.dtype
                        )
                    arrays[key] = changed
    with np.errstate(all="ignore"):
        try:
            model = load_model(arrays)
        except InvalidTables:
            return
        again = load_model(model.to_arrays())  # what is accepted can be written, read and used
        assert again.digest() == model.digest()
        latent = np.zeros((model.channels, 2, 2), np.float32)
        codec = MADE["rans" if model.has_tables else "zstd"]
        try:
            streams = encode_streams(model, latent, codec)
        except CodingError:
            return
        damaged = decode_streams(model, streams, latent.shape, codec)
        assert np.array_equal(damaged, model.restore(latent), equal_nan=True)


CONFIG = {
    "model_id": "00c0ffee", "trained": True, "plugins": {"codec:rans": "splitreg"},
    "recipe": {
        "backbone": {"name": "x"}, "codec": {"name": "rans"}, "heads": [{"as": "a", "name": "seg", "labels": ["x"]}],
    },
    "preprocess": {"size": [1, 2], "mode": "resize", "mean": [0.5, 0.5, 0.5], "std": [1.0, 1.0, 1.0]},
}  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 5_000)
@example(b'{"format": "splitreg-bundle", "version": 1, "a": ' + b"[" * 5_000)
@example(b"1" * 10_000)
@example(b"\xff\xfe")
def test_any_config_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "config.json").write_bytes(data)
    with pytest.raises(BundleError):
        BundleConfig.read(folder)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([*CONFIG, "format", "version", "files", "digest"]), values, st.booleans())
def test_a_config_with_another_value_is_refused_or_has_its_form(tmp_path_factory, key, value, sealed):
    folder = tmp_path_factory.mktemp("bundle")
    write_raw(folder, {**CONFIG, key: value} if sealed else CONFIG)
    table = json.loads((folder / "config.json").read_text())
    if not sealed:
        table[key] = value
        (folder / "config.json").write_text(json.dumps(table))
    try:
        config = BundleConfig.read(folder)
    except BundleError:
        return
    dumped = config.dump()
    assert all(isinstance(dumped[name], type(CONFIG[name])) for name in CONFIG)
    assert config.codec.name and all(head.name and head.plugin for head in config.heads)
    assert sealed or json.dumps(table[key]) == json.dumps(value)


def test_the_config_of_these_tests_is_valid(tmp_path):
    assert BundleConfig.read(write_raw(tmp_path, CONFIG)).dump()["recipe"] == CONFIG["recipe"]


@pytest.mark.parametrize("mode", ["round", "bits", "uniform"])
def test_tables_of_every_mode_code_what_they_quantise(mode):
    """The kernel quantises what it can; bounded or bit-pattern symbols go the long way, to the same result."""
    tables = CASES["uniform4"].model
    model = dataclasses.replace(tables, mode=mode, bits=4 if mode == "uniform" else 0)
    latent = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32) * 3
    damaged = decode_streams(model, encode_streams(model, latent, MADE["rans"]), latent.shape, MADE["rans"])
    assert np.array_equal(damaged, model.restore(latent))
    bounded = dataclasses.replace(tables, mode="round", bits=2)
    with pytest.raises(InvalidLatent):
        encode_streams(bounded, latent, MADE["rans"])


def test_what_a_codec_writes_does_not_depend_on_what_it_wrote():
    """A hyperprior's tables with and without rows by element share their arrays."""
    model, symbols = CASES["mshp"].model.scales, np.zeros((12, 20, 20), np.int32)
    alone = make_codec("rans").encode(symbols, model)
    used = make_codec("rans")
    used.encode(symbols, model.at(np.zeros(symbols.shape, np.int32)))
    assert used.encode(symbols, model) == alone


def test_a_packet_that_lies_about_its_images_is_refused_before_they_are_decoded():
    case = CASES["mshp"]
    one = Packet(model_id=1, original=(9, 9), coded=(9, 8), streams=case.streams["rans"])
    batch = Packet.join([one] * 2)[0]
    wrong = dataclasses.replace(batch, streams=batch.streams[:2])  # one stream an image
    for image in wrong.images:
        with pytest.raises(CorruptPacket, match="2 streams.*1"):
            decode_streams(case.model, image.streams, case.latent.shape, MADE["rans"])
