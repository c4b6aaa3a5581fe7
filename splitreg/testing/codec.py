"""Conformance suite of codecs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from splitreg.coding import Codec, SymbolModel
from splitreg.errors import CodingError, CorruptPacket, InvalidLatent, ShapeMismatch
from splitreg.testing.isolation import isolated
from splitreg.testing.suite import Suite, expect, expect_report, raises, skip
from splitreg.testing.without_torch import DeviceCase, check_on_device

Symbols = NDArray[np.int32]

_SHAPES = ((5, 6), (1, 1), (1, 7), (16, 12))
_CHANNELS = 3
_MODES = ("round", "bits")


class CodecSuite(Suite):
    """Round trips, determinism, limits, and payloads that the codec did not write."""

    kind: ClassVar[str] = "codec"
    interface: ClassVar[type[Any]] = Codec

    def make(self) -> Codec:
        """Return a new codec."""
        codec: Codec = self.load()(**self.options)
        return codec

    def models(self) -> dict[str, SymbolModel]:
        """Return models of the symbols that the codec must carry, by its limits."""
        codec = self.make()
        models: dict[str, SymbolModel] = {}
        widths = [codec.max_bits] if codec.max_bits else [12, 16]
        for bits in sorted({1, 5, 8, *widths}):
            if codec.max_bits and bits > codec.max_bits:
                continue
            if bits <= 8:
                counts = np.random.default_rng(bits).random((_CHANNELS, 2**bits)) ** 4
                models[f"{bits} bits with tables"] = SymbolModel.uniform(
                    bits, np.zeros(_CHANNELS), np.ones(_CHANNELS), counts
                )
            if not codec.needs_tables:
                models[f"{bits} bits"] = SymbolModel.plain("uniform", _CHANNELS, bits)
        if not codec.max_bits:
            models["tables"] = _tables()
            if not codec.needs_tables:
                models |= {f"mode {mode}": SymbolModel.plain(mode, _CHANNELS, 0) for mode in _MODES}
        return models

    def cases(self) -> Iterator[tuple[str, SymbolModel, Symbols]]:
        """Yield name, model and symbols, of several sizes."""
        for name, model in self.models().items():
            for index, size in enumerate(_SHAPES):
                yield f"{name}, {_CHANNELS}x{size[0]}x{size[1]}", model, _symbols(model, size, index)

    def test_declared_limits(self) -> None:
        """``max_bits``, ``needs_tables`` and ``lossless`` have valid values."""
        codec = self.make()
        expect(isinstance(codec.max_bits, int) and 0 <= codec.max_bits <= 32, "max_bits must be 0 to 32")
        for name in ("needs_tables", "lossless"):
            expect(isinstance(getattr(codec, name), bool), f"{name} must be True or False")

    def test_round_trip(self) -> None:
        """Decoded symbols are int32 of the same shape, and equal; close if the codec is lossy."""

        def check() -> None:
            codec = self.make()
            for name, model, symbols in self.cases():
                before = symbols.copy()
                payload = codec.encode(symbols, model)
                expect(isinstance(payload, bytes), f"{name}: encode must return bytes, not {type(payload).__name__}")
                expect(np.array_equal(symbols, before), f"{name}: encode changes its argument")
                decoded = codec.decode(payload, _shape(symbols), model)
                _expect_symbols(decoded, symbols.shape, model, name)
                if codec.lossless:
                    expect(
                        np.array_equal(decoded, symbols), f"{name}: the decoded symbols differ from the encoded ones"
                    )
                else:
                    error = np.abs(decoded.astype(np.float64) - symbols).mean() / 2**model.bits
                    expect(error < 0.5, f"{name}: the mean error of decoded symbols is {error:.0%} of the range")

        isolated(check)

    def test_deterministic_bytes(self) -> None:
        """The payload depends on symbols and model only, not on earlier calls or the instance."""
        used = self.make()
        for name, model, symbols in self.cases():
            first = used.encode(symbols, model)
            used.decode(first, _shape(symbols), model)
            expect(used.encode(symbols, model) == first, f"{name}: a second call gives different bytes")
            expect(self.make().encode(symbols, model) == first, f"{name}: a new codec gives different bytes")
            strided = np.asfortranarray(symbols)
            strided.setflags(write=False)
            expect(used.encode(strided, model) == first, f"{name}: read-only or strided symbols give different bytes")

    def test_symbols_outside_tables(self) -> None:
        """Symbols outside the tables are carried exactly or raise ``InvalidLatent``; none is clipped.

        A codec with ``max_bits`` raises ``ShapeMismatch`` for symbols without a limit.
        """
        models = {name: model for name, model in self.models().items() if model.bits == 0}
        if not models:
            with raises("encoding symbols without a limit", ShapeMismatch):
                self.make().encode(np.zeros((_CHANNELS, 2, 2), np.int32), SymbolModel.plain("round", _CHANNELS, 0))

        def check() -> None:
            codec = self.make()
            for name, model in models.items():
                for value in (100, -100, 2**23, -(2**23), 2**27, -(2**27), 2**31 - 1, -(2**31)):
                    symbols = np.zeros((_CHANNELS, 2, 3), np.int32)
                    symbols[1, 1, 1] = symbols[2, 0, 0] = value
                    try:
                        payload = codec.encode(symbols, model)
                    except InvalidLatent:
                        expect(abs(value) > 2**23, f"{name}: {value} must be carried, latents reach 2**23")
                        continue
                    decoded = codec.decode(payload, _shape(symbols), model)
                    if codec.lossless:
                        expect(np.array_equal(decoded, symbols), f"{name}: symbol {value} is decoded to another value")

        isolated(check)

    def test_symbols_with_too_many_bits(self) -> None:
        """A symbol with more bits than the model raises ``InvalidLatent``; it is not clipped."""
        for name, model in self.models().items():
            if 0 < model.bits < 31:
                for value in (2**model.bits, -1):
                    with raises(f"{name}: encoding the symbol {value}", InvalidLatent):
                        self.make().encode(np.full((_CHANNELS, 2, 2), value, np.int32), model)

    def test_wrong_shapes(self) -> None:
        """A wrong number of channels or an empty shape raises ``ShapeMismatch`` on both sides."""

        def check() -> None:
            codec = self.make()
            for name, model in self.models().items():
                for shape in ((_CHANNELS + 1, 2, 2), (1, 2, 2), (_CHANNELS, 0, 2), (_CHANNELS, 2, 0)):
                    with raises(f"{name}: encoding {shape}", ShapeMismatch):
                        codec.encode(np.zeros(shape, np.int32), model)
                    for payload in (b"", bytes(8), bytes(64)):
                        with raises(f"{name}: decoding {shape}", ShapeMismatch):
                            codec.decode(payload, shape, model)

        isolated(check)

    def test_damaged_payloads(self) -> None:
        """Truncated, extended and changed payloads raise ``CorruptPacket`` or give valid symbols."""

        def check() -> None:
            generator = np.random.default_rng(0)
            for name, model, symbols in self.cases():
                payload = self.make().encode(symbols, model)
                for damaged in _damaged(payload, generator):
                    self._check_decode(f"{name}: a damaged payload", damaged, _shape(symbols), model)

        isolated(check, seconds=120)

    def test_payloads_that_it_never_writes(self) -> None:
        """A lossless codec accepts only what it writes: truncated and extended payloads are refused.

        A changed payload that it accepts, but would not write for the symbols in it, is a remark.
        """

        def check() -> str:
            codec, generator = self.make(), np.random.default_rng(2)
            changed = accepted = 0
            for name, model, symbols in self.cases() if codec.lossless else ():
                payload = codec.encode(symbols, model)
                for damaged in _damaged(payload, generator):
                    try:
                        written = codec.encode(codec.decode(damaged, _shape(symbols), model), model)
                    except CodingError:
                        written = damaged  # refused
                    changed += len(damaged) == len(payload)
                    accepted += len(damaged) == len(payload) and written != damaged
                    extra = len(damaged) - len(payload)
                    what = f"{extra} bytes after the end" if extra > 0 else f"without the last {-extra} bytes"
                    expect(
                        not extra or written == damaged,
                        f"{name}: decode accepts a payload {what}, which encode never writes; raise CorruptPacket",
                    )
            return f"accepts {accepted} of {changed} changed payloads that it never writes" if accepted else ""

        if remark := isolated(check, seconds=120):
            self.remark(remark)

    def test_runs_without_torch(self) -> None:
        """In a process without torch it writes the same bytes, and decodes them: a device has no torch."""
        codec, cases = self.make(), []
        for name, model in self.models().items():
            symbols = _symbols(model, (5, 6), 0)
            cases.append(DeviceCase.of(name, model, model.dequantise(symbols), codec))
        report = check_on_device(self.resolve()[0].target, self.options, cases)
        if report.skipped:
            skip(report.skipped)
        advice = "; import Codec from splitreg.coding" if "torch" in report.problem else ""
        expect_report(report, f"without torch, as on a device, the codec fails{advice}")

    def test_random_payloads(self) -> None:
        """Random bytes raise ``CorruptPacket`` or give valid symbols: no crash, no hang."""

        def check() -> None:
            generator = np.random.default_rng(1)
            for name, model in self.models().items():
                for length in (0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 20, 64, 100, 1000, 10_000):
                    for payload in (generator.bytes(length), bytes(length), b"\xff" * length):
                        for shape in ((_CHANNELS, 4, 4), (_CHANNELS, 40, 40)):
                            self._check_decode(f"{name}: {length} random bytes", payload, shape, model)

        isolated(check, seconds=120)

    def test_payload_of_another_shape(self) -> None:
        """A payload decoded with another shape raises ``CorruptPacket`` or gives that shape."""

        def check() -> None:
            for name, model, symbols in self.cases():
                payload = self.make().encode(symbols, model)
                for shape in ((_CHANNELS, 6, 5), (_CHANNELS, 3, 3), (_CHANNELS, 60, 60)):
                    self._check_decode(f"{name}: another shape", payload, shape, model)

        isolated(check)

    def _check_decode(self, what: str, payload: bytes, shape: tuple[int, int, int], model: SymbolModel) -> None:
        try:
            decoded = self.make().decode(payload, shape, model)
        except CorruptPacket:
            return
        except CodingError as error:
            raise AssertionError(
                f"{what} must raise CorruptPacket, it raised {type(error).__name__}: {error}"
            ) from error
        except Exception as error:
            raise AssertionError(
                f"{what} must raise CorruptPacket, it raised {type(error).__name__}: {error}"
            ) from error
        _expect_symbols(decoded, shape, model, what)


def _expect_symbols(decoded: Any, shape: tuple[int, ...], model: SymbolModel, what: str) -> None:
    expect(isinstance(decoded, np.ndarray) and decoded.dtype == np.int32, f"{what}: decode must return an int32 array")
    expect(decoded.shape == shape, f"{what}: decode returned {decoded.shape}, asked for {shape}")
    if model.bits:
        top = 2**model.bits - 1
        expect(decoded.min() >= 0 and decoded.max() <= top, f"{what}: decoded symbols have more than {model.bits} bits")


def _tables() -> SymbolModel:
    """Return tables like those of a trained prior: narrow, wide, and almost only escapes."""
    cdf = np.zeros((_CHANNELS, 43), np.int64)
    lengths, offsets = [5, 43, 3], [-1, -20, 0]
    narrow = np.array([3000, 60000, 2500])
    wide = np.maximum(1, 60000 * np.exp(-np.abs(np.arange(-20, 21)) / 3) / 6.5).astype(np.int64)
    for row, frequencies in enumerate((narrow, wide, np.array([2]))):
        cdf[row, 1 : len(frequencies) + 1] = frequencies.cumsum()
        cdf[row, len(frequencies) + 1] = 2**16
    return SymbolModel.from_cdf(cdf, np.array(lengths), np.array(offsets), np.array([0.0, 0.25, -0.5]))


def _symbols(model: SymbolModel, size: tuple[int, int], seed: int) -> Symbols:
    generator = np.random.default_rng(seed)
    shape = (model.channels, *size)
    if model.bits:
        return generator.integers(0, 2**model.bits, shape).astype(np.int32)
    if model.mode == "bits":
        return generator.standard_normal(shape).astype(np.float32).view(np.int32)
    rounded: Symbols = np.rint(generator.standard_t(2, shape) * 3).astype(np.int32)
    return rounded


def _damaged(payload: bytes, generator: np.random.Generator) -> Iterator[bytes]:
    for length in sorted({0, 1, 4, 8, 12, len(payload) // 2, len(payload) - 4, len(payload) - 1}):
        if 0 <= length < len(payload):
            yield payload[:length]
    yield payload + b"\0"
    yield payload + generator.bytes(40)
    for _ in range(40):
        changed = bytearray(payload)
        for position in generator.integers(0, max(1, len(payload)), generator.integers(1, 4)):
            if len(changed):
                changed[position] ^= 1 << generator.integers(0, 8)
        yield bytes(changed)


def _shape(symbols: Symbols) -> tuple[int, int, int]:
    return symbols.shape[0], symbols.shape[1], symbols.shape[2]
