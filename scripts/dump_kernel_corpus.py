"""Dump the golden corpus of codec rans for ``kernel_driver.c``: ``python scripts/dump_kernel_corpus.py OUT``.

All numbers have 32 bits, little-endian; floats are stored as their bits. The file has the number of cases and, for each,
the fields of ``sr_tables`` and ``sr_plane``, every array after its length (0: NULL), the input (symbols, and the latent if
the case has one), the decoded values, and the payload's length and bytes, padded to a multiple of 4.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from golden.corpus import Case, names, read  # noqa: E402

from splitreg.coding import Codec, RansCodec, SymbolModel, encode_streams  # noqa: E402
from splitreg.coding.rans_tables import derive_tables  # noqa: E402


class Recorder(Codec):
    """Encodes with codec rans and records each call of the kernel."""

    def __init__(self, adapt: bool) -> None:
        self.adapt, self.codec, self.dumped = adapt, RansCodec(adapt=adapt), b""
        self.calls = 0

    def encode(self, symbols: np.ndarray, model: SymbolModel) -> bytes:
        payload = self.codec.encode(symbols, model)
        self._dump(symbols, None, model, payload)
        return payload

    def encode_latent(self, latent: np.ndarray, model: SymbolModel) -> bytes:
        payload = self.codec.encode_latent(latent, model)
        self._dump(model.quantise(latent), latent, model, payload)
        return payload

    def decode(self, payload: bytes, shape: tuple[int, int, int], model: SymbolModel) -> np.ndarray:
        raise NotImplementedError

    def _dump(self, symbols: np.ndarray, latent: np.ndarray | None, model: SymbolModel, payload: bytes) -> None:
        tables = derive_tables(model)
        self.calls += 1
        self.dumped += struct.pack(
            "<8i", len(tables.symbols), tables.frequencies.shape[1],
            model.bits if model.mode == "uniform" else 0, *symbols.shape, self.adapt, 0,
        )  # fmt: skip
        decoded = None if latent is None else model.dequantise(symbols)
        for array in (
            tables.symbols, tables.offsets, tables.modes, tables.inverses, tables.frequencies, tables.costs, tables.priors,
            model.shift, model.scale, model.indexes, symbols, latent, decoded,
        ):  # fmt: skip
            flat = np.zeros(0, np.int32) if array is None else np.ascontiguousarray(array).ravel()
            assert flat.dtype.itemsize == 4
            self.dumped += struct.pack("<i", flat.size) + flat.astype(flat.dtype.newbyteorder("<")).tobytes()
        self.dumped += struct.pack("<i", len(payload)) + payload + bytes(-len(payload) % 4)


def dump(case: Case) -> tuple[int, bytes]:
    """Return the number of calls of the kernel in a case, and their dump."""
    calls, dumped = 0, b""
    for name in ("rans", "rans-static"):
        recorder = Recorder(name == "rans")
        if encode_streams(case.model, case.latent, recorder) != case.streams[name]:
            sys.exit(f"{case.name}: codec {name} writes other bytes than the corpus")
        calls, dumped = calls + recorder.calls, dumped + recorder.dumped
    return calls, dumped


def main() -> None:
    cases = [
        case for case in map(read, names()) if "rans" in case.streams and "context.level" not in case.model.to_arrays()
    ]
    dumps = [dump(case) for case in cases]
    out = Path(sys.argv[1])
    out.write_bytes(struct.pack("<i", sum(calls for calls, _ in dumps)) + b"".join(dumped for _, dumped in dumps))
    print(f"{sum(calls for calls, _ in dumps)} calls of the kernel, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
