"""Make the golden corpus: ``python scripts/make_golden.py [--breaking]``.

Synthetic latents and tables from a seed, encoded by every codec that supports them. Existing files stay: missing cases and
codecs are added, and a case whose bytes would change is an error, because a change of coder output is a breaking release;
``--breaking`` makes everything again. Payloads of other libraries' encoders stay as long as they decode to the same values.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from golden.corpus import FOLDER, OTHERS, OURS, Case, arrays_of, make_codec, names, read, stream_of  # noqa: E402
from support.contexts import context_model  # noqa: E402

from splitreg.coding import (  # noqa: E402
    HyperModel,
    IntegerLayer,
    IntegerNetwork,
    LatentModel,
    Packet,
    SymbolModel,
    decode_streams,
    encode_streams,
)
from splitreg.errors import CodingError  # noqa: E402

SEED = 20240
#: Largest size of the whole folder.
MAX_BYTES = 400_000


def laplace_tables(scales: np.ndarray, reach: float = 4.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return cdf, lengths, offsets of a Laplace distribution for each scale; rows end at ``reach`` scales."""
    half = np.maximum(np.ceil(reach * scales), 0).astype(int)
    cdf = np.zeros((len(scales), 2 * half.max() + 3), np.int32)
    for row, (scale, reach_of_row) in enumerate(zip(scales, half, strict=True)):
        edges = np.arange(-reach_of_row, reach_of_row + 1)
        weights = np.exp(-np.abs(edges) / scale)
        frequencies = np.concatenate([1 + np.floor(weights / weights.sum() * 60000), [1]]).astype(np.int64)
        frequencies[reach_of_row] += 2**16 - frequencies.sum()
        cdf[row, 1 : len(frequencies) + 1] = frequencies.cumsum()
    return cdf, (2 * half + 3).astype(np.int32), (-half).astype(np.int32)


def uneven(rng: np.random.Generator, shape: tuple[int, int, int], scales: np.ndarray) -> np.ndarray:
    """Return Laplace values whose scale varies over the image, as in the latent of a photograph."""
    y, x = np.mgrid[: shape[1], : shape[2]]
    busy = 0.3 + 1.5 * (np.sin(y / 4.0) * np.cos(x / 5.0) > 0.2)
    return (rng.laplace(size=shape) * busy * scales[:, None, None]).astype(np.float32)


def uniform_model(rng: np.random.Generator, channels: int, bits: int, *, whole: bool) -> tuple[SymbolModel, np.ndarray]:
    """Return the model of a uniform quantiser and the probabilities of its symbols; ``whole``: no shift and scale."""
    counts = rng.random((channels, 2**bits)) ** 4 + np.exp(-np.arange(2**bits) / 2 ** (bits - 2))
    shift, scale = rng.normal(size=channels) * (not whole), 2.0 ** (rng.integers(-3, 4, channels) * (not whole))
    return SymbolModel.uniform(bits, shift, scale, np.round(counts * 1000)), counts / counts.sum(1, keepdims=True)


def drawn(rng: np.random.Generator, chances: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (C, h, w) symbols, small ones in some parts so that contexts matter."""
    symbols = np.stack([rng.choice(row.size, size=size, p=row) for row in chances])
    y, x = np.mgrid[: size[0], : size[1]]
    return np.where(np.sin(y / 5.0) * np.cos(x / 7.0) > 0.5, symbols // 8, symbols).astype(np.int32)


def network(rng: np.random.Generator, widths: list[int], low: int, high: int, ends: tuple[int, int]) -> IntegerNetwork:
    """Return a network of random integers whose last layer is clipped to ``ends``."""
    layers = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        size = 3 if i == 0 else 1
        last = i == len(widths) - 2
        layers.append(
            IntegerLayer(
                weight=rng.integers(-127, 128, (outputs, inputs, size, size)).astype(np.int16),
                bias=rng.integers(-2000, 2000, outputs).astype(np.int32),
                shift=int(5 + np.log2(inputs * size)),
                low=ends[0] if last else 0,
                high=ends[1] if last else 255,
            )
        )
    return IntegerNetwork(layers, low, high)


def hyper_model(rng: np.random.Generator, channels: int, factor: int, means: bool) -> HyperModel:
    """Return a hyperprior of random networks."""
    wide, hyper, hidden, rows = channels * factor**2, 3, 6, 12
    return HyperModel(
        channels=channels, factor=factor, fraction=4, mean_fraction=6,
        hyper=SymbolModel.from_cdf(*laplace_tables(np.array([3.0, 6.0, 1.5]))),
        scales=SymbolModel.from_cdf(*laplace_tables(0.2 * 1.5 ** np.arange(rows))),
        analysis=network(rng, [2 * wide if means else wide, hidden, hyper], -255, 255, (-20, 20)),
        synthesis=network(rng, [hyper, hidden], -20, 20, (0, 255)),
        rows=network(rng, [hidden, wide], 0, 255, (0, rows - 1)),
        means=network(rng, [hidden, wide], 0, 255, (-255, 255)) if means else None,
    )  # fmt: skip


def latents() -> Iterator[tuple[str, LatentModel, np.ndarray]]:
    """Yield name, model and latent of every case; each has its own random stream."""

    def rng(name: str) -> np.random.Generator:
        return np.random.default_rng([SEED, *name.encode()])

    scales = np.array([0.05, 0.6, 2.0, 5.0, 12.0])
    cdf, lengths, offsets = laplace_tables(scales)
    medians = np.array([0.0, 0.25, -1.5, 3.1, -7.7], np.float32)
    factorized = SymbolModel.from_cdf(cdf, lengths, offsets, medians)
    for name, size in (("fp-one", (1, 1)), ("fp", (9, 7)), ("fp-row", (1, 33)), ("fp-2lanes", (32, 48))):
        latent = uneven(rng(name), (5, *size), scales) + medians[:, None, None]
        # The larger case is stored as whole numbers, the others as floats.
        yield name, factorized, factorized.restore(latent) if name == "fp-2lanes" else latent
    for name, size in (("fp-context", (9, 7)),):
        source = rng(name)
        context = context_model(source, 5, 12, 4, level=5)
        yield name, factorized.with_context(context), uneven(source, (5, *size), scales) + medians[:, None, None]
    far = SymbolModel.from_cdf(cdf, lengths, np.array([-(2**30), 2**30, -5, 5, 0]))
    yield "escapes", far, (rng("escapes").standard_cauchy((5, 4, 6)) * 300).clip(-(2**23), 2**23).astype(np.float32)
    for name, channels, bits, size in (
        ("uniform4", 4, 4, (7, 5)), ("uniform8", 3, 8, (8, 9)), ("uniform4-4lanes", 4, 4, (80, 87)),
        ("uniform4-8lanes", 4, 4, (96, 112)),
    ):  # fmt: skip
        source = rng(name)
        model, chances = uniform_model(source, channels, bits, whole=name.endswith("lanes"))
        yield name, model, model.dequantise(drawn(source, chances, size))
    source = rng("plain12")
    plain = SymbolModel.plain("uniform", 3, 12, np.zeros(3), np.ones(3))
    yield "plain12", plain, (source.random((3, 6, 5)) ** 3 * 4095).round().astype(np.float32)
    source = rng("bits")
    values = source.normal(size=(2, 4, 3)) * 10.0 ** source.integers(-40, 38, (2, 4, 3))
    values[0, 0] = (0.0, -0.0, 1.0)
    yield "bits", SymbolModel.plain("bits", 2, 32), values.astype(np.float32)
    for name, channels, factor, means, size in (
        ("shp", 4, 4, False, (10, 13)), ("shp-one", 4, 4, False, (1, 1)), ("mshp", 3, 2, True, (9, 8)),
        ("mshp-2lanes", 4, 4, True, (30, 32)),
    ):  # fmt: skip
        source = rng(name)
        model = hyper_model(source, channels, factor, means)
        latent = uneven(source, (channels, *size), np.linspace(1, 9, channels))
        yield name, model, np.rint(latent) if name == "mshp-2lanes" else latent


def coded(name: str, model: LatentModel, latent: np.ndarray) -> Case:
    """Encode a latent with every codec that supports it."""
    case = Case(name, model, latent, {}, {})
    # Large cases test the lanes of rans only.
    for codec_name in ("rans", "rans-static") if name.endswith("lanes") else (*OURS, *OTHERS):
        codec = make_codec(codec_name)
        try:
            streams = encode_streams(model, latent, codec)
        except CodingError:  # no tables, too many bits, or values out of range
            continue
        case.streams[codec_name] = streams
        case.restored[codec_name] = decode_streams(model, streams, latent.shape, codec)
    return case


def merged(old: Case, new: Case) -> Case:
    """Keep payloads of other libraries that decode to the same values; reject any other change.

    Raises:
        SystemExit: bytes would change.
    """
    for codec, streams in old.streams.items():
        if codec in OTHERS:
            again = decode_streams(old.model, streams, old.latent.shape, make_codec(codec))
            same = np.array_equal(again, old.restored[codec])
            new.streams[codec], new.restored[codec] = streams, old.restored[codec]
        else:
            same = new.streams.get(codec) == streams
        if not same:
            sys.exit(
                f"{old.name}: codec {codec} writes other bytes than the corpus, which is a breaking release (--breaking)"
            )
    if old.model.digest() != new.model.digest() or not np.array_equal(old.latent, new.latent):
        sys.exit(f"{old.name}: the case has changed; --breaking makes it again")
    return new


def packets() -> list[dict[str, object]]:
    """Return packets and their fields."""
    stream = bytes(range(1, 20))
    one = Packet(model_id=0xC0FFEE01, original=(480, 640), coded=(96, 128), streams=(stream,))
    other = Packet(model_id=one.model_id, original=(3, 4), coded=one.coded, streams=(b"x",))
    two = Packet(model_id=7, original=(1, 65535), coded=(64, 32), streams=(bytes(5), bytes(200)))
    cases = {
        "one": one,
        "empty": Packet(model_id=0, original=(1, 1), coded=(1, 1), streams=(b"",)),
        "two-streams": two,
        "long-stream": Packet(model_id=7, original=(9, 9), coded=(8, 8), streams=(b"\x01" * 128, b"")),
        "sixteen-streams": Packet(model_id=7, original=(9, 9), coded=(8, 8), streams=(b"\x02",) * 16),
        "batch": Packet.join([one] * 3)[0],
        "batch-of-two-streams": Packet.join([two] * 2)[0],
        "batch-of-sizes": Packet.join([one, other])[0],
    }  # fmt: skip
    return [
        {
            "name": name, "model_id": p.model_id, "coded": p.coded, "originals": p.originals,
            "streams": [stream.hex() for stream in p.streams], "bytes": p.to_bytes().hex(),
        }
        for name, p in cases.items()
    ]  # fmt: skip


def stream_packets(cases: list[Case]) -> str:
    """Return the packets of every case's clip as JSON, one line per case."""
    small = [case for case in cases if "rans" in case.streams and case.latent.size < 2000]
    lines = [json.dumps({"name": case.name, "packets": [p.hex() for p in stream_of(case)]}) for case in small]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--breaking", action="store_true", help="make everything again")
    breaking = parser.parse_args().breaking
    existing = names()
    cases = []
    for name, model, latent in latents():
        case = coded(name, model, latent)
        cases.append(case if breaking or name not in existing else merged(read(name), case))
    page = FOLDER / "packets.json"
    text = "[\n" + ",\n".join(json.dumps(entry) for entry in packets()) + "\n]\n"
    if page.exists() and not breaking and not text.startswith(page.read_text().rstrip().rstrip("]").rstrip()):
        sys.exit("packets.json: the packets have changed, which is a breaking release (--breaking)")
    streams_page, streams_text = FOLDER / "streams.json", stream_packets(cases)
    kept = [line.rstrip(",") for line in streams_page.read_text().splitlines()] if streams_page.exists() else []
    written = {line.rstrip(",") for line in streams_text.splitlines()}
    if not breaking and not written.issuperset(kept):
        sys.exit("streams.json: the packets of streams have changed, which is a breaking release (--breaking)")
    if breaking:
        for path in FOLDER.glob("*.safetensors"):
            path.unlink()
    for case in cases:
        path = FOLDER / f"{case.name}.safetensors"
        save_file(arrays_of(case), path)
        path.chmod(0o644)
        sizes = {codec: sum(map(len, streams)) for codec, streams in case.streams.items()}
        print(f"{case.name:16} {'x'.join(map(str, case.latent.shape)):9}", sizes)
    page.write_text(text)
    streams_page.write_text(streams_text)
    total = sum(path.stat().st_size for path in FOLDER.iterdir() if path.suffix in (".safetensors", ".json"))
    print(f"{total} bytes in total")
    if total > MAX_BYTES:
        sys.exit(f"the corpus has {total} bytes, the limit is {MAX_BYTES}")


if __name__ == "__main__":
    main()
