"""Integer tables: how a latent becomes symbols, and how often each symbol comes.

A ``SymbolModel`` is frozen once after training, stored with the weights on both sides and hashed into every packet.
Nothing in it is ever recomputed from floating-point parameters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import CorruptPacket, InvalidLatent, InvalidTables, ShapeMismatch

#: Frequencies of a row sum to ``2**PRECISION`` (the layout of compressai's tables).
PRECISION = 16
#: Latents beyond this are refused: float32 counts exactly up to here.
LARGEST = float(2**23)

_MODES = ("round", "uniform", "bits")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SymbolModel:
    """Frozen rules of one latent: quantisation per channel, and integer frequency tables where the prior has them.

    Args:
        mode: ``"round"``: symbol = rint(latent - shift); ``"uniform"``: symbol = rint((latent - shift) * scale), clipped
            to [0, 2**bits - 1], as a calibrated quantiser does; ``"bits"``: the bit pattern of the float32 itself.
        shift: (C,) float32.
        scale: (C,) float32, positive.
        bits: symbols are below ``2**bits``; 0 where any int32 may come.
        cdf: (C, L) int32, rows of cumulative frequencies from 0 to ``2**16``; the last symbol of a row is the escape.
            (0, 0) where there are no tables.
        lengths: (C,) int32, used entries of each row.
        offsets: (C,) int32, value of the first symbol of each row.
        indexes: (C, h, w) int32, the row of each symbol, where a hyperprior chose them (see ``at``); None: row c for
            channel c.

    Raises:
        InvalidTables: the arrays are not what is said above.
    """

    mode: str
    shift: NDArray[np.float32]
    scale: NDArray[np.float32]
    bits: int
    cdf: NDArray[np.int32]
    lengths: NDArray[np.int32]
    offsets: NDArray[np.int32]
    indexes: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise InvalidTables(f"mode must be one of {', '.join(_MODES)}; got {self.mode!r}")
        for name, kind in (
            ("shift", np.float32), ("scale", np.float32), ("cdf", np.int32), ("lengths", np.int32), ("offsets", np.int32),
        ):  # fmt: skip
            given = np.asarray(getattr(self, name))
            if given.dtype.kind not in "fiu":
                raise InvalidTables(f"the array {name!r} of the tables must be of numbers, got {given.dtype}")
            # A copy: the model must not change with the caller's array, nor that become read-only.
            array = np.array(_int32(given) if kind is np.int32 else given, dtype=kind, order="C")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        channels = self.shift.shape[0] if self.shift.ndim == 1 else -1
        if channels < 1 or self.scale.shape != (channels,):
            raise InvalidTables(f"shift and scale must be (C,), got {self.shift.shape} and {self.scale.shape}")
        if not (np.isfinite(self.shift).all() and np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise InvalidTables("shift must be finite, scale finite and positive")
        if not 0 <= self.bits <= 32:
            raise InvalidTables(f"bits must be 0 to 32, got {self.bits}")
        if self.mode == "uniform" and not 1 <= self.bits <= 24:  # float32 counts exactly up to 2**24
            raise InvalidTables(f"a uniform quantiser has 1 to 24 bits, got {self.bits}")
        if self.indexes is not None:
            raise InvalidTables("a model gets the rows of one image's symbols with at(indexes)")
        if self.has_tables:
            _check_tables(self.cdf, self.lengths, self.offsets, channels)

    @classmethod
    def from_cdf(
        cls,
        cdf: NDArray[np.integer[Any]],
        lengths: NDArray[np.integer[Any]],
        offsets: NDArray[np.integer[Any]],
        medians: NDArray[np.floating[Any]] | None = None,
    ) -> SymbolModel:
        """Build a model from tables in compressai's layout.

        Args:
            cdf: (C, L) cumulative frequencies; row c ends at ``2**16`` at entry ``lengths[c] - 1``.
            lengths: (C,).
            offsets: (C,).
            medians: (C,), subtracted before rounding; zeros by default.

        Raises:
            InvalidTables: the tables are not a code.
        """
        cdf = np.asarray(cdf)
        channels = cdf.shape[0] if cdf.ndim == 2 else 0
        shift = np.zeros(channels, np.float32) if medians is None else np.asarray(medians, np.float32)
        return cls(
            mode="round", shift=shift, scale=np.ones(channels, np.float32), bits=0,
            cdf=_int32(cdf), lengths=_int32(lengths), offsets=_int32(offsets),
        )  # fmt: skip

    @classmethod
    def plain(
        cls,
        mode: str,
        channels: int,
        bits: int,
        shift: NDArray[np.floating[Any]] | None = None,
        scale: NDArray[np.floating[Any]] | None = None,
    ) -> SymbolModel:
        """Build a model without tables."""
        none = np.zeros(0, np.int32)
        return cls(
            mode=mode, bits=bits, cdf=np.zeros((0, 0), np.int32), lengths=none, offsets=none,
            shift=np.zeros(channels, np.float32) if shift is None else np.asarray(shift, np.float32),
            scale=np.ones(channels, np.float32) if scale is None else np.asarray(scale, np.float32),
        )  # fmt: skip

    @classmethod
    def uniform(
        cls,
        bits: int,
        shift: NDArray[np.floating[Any]],
        scale: NDArray[np.floating[Any]],
        counts: NDArray[np.floating[Any]],
    ) -> SymbolModel:
        """Build a uniform quantiser's model with tables from a histogram.

        Args:
            bits: at most 15, because every symbol has a frequency of at least 1 in ``2**16``.
            shift: (C,).
            scale: (C,).
            counts: (C, 2**bits), how often each symbol came; a row of zeros becomes a flat table.

        Raises:
            InvalidTables: the counts are not a histogram of these symbols.
        """
        counts = np.asarray(counts, np.float64)
        levels = 2**bits
        if bits > PRECISION - 1 or counts.shape != (len(shift), levels):
            raise InvalidTables(
                f"counts must be ({len(shift)}, {levels}) for {bits} bits of at most 15, got {counts.shape}"
            )
        if not np.isfinite(counts).all() or (counts < 0).any():
            raise InvalidTables("counts must be finite and not negative")
        counts = np.where(counts.sum(1, keepdims=True) > 0, counts, 1.0)
        spare = 2**PRECISION - levels - 1  # one each for the symbols and the escape is spoken for
        frequencies = 1 + np.floor(counts / counts.sum(1, keepdims=True) * spare).astype(np.int64)
        rows = np.arange(len(counts))
        frequencies[rows, counts.argmax(1)] += 2**PRECISION - 1 - frequencies.sum(1)
        cdf = np.zeros((len(counts), levels + 2), np.int64)
        cdf[:, 1:-1] = frequencies.cumsum(1)
        cdf[:, -1] = 2**PRECISION
        return cls(
            mode="uniform", bits=bits, shift=np.asarray(shift, np.float32), scale=np.asarray(scale, np.float32),
            cdf=_int32(cdf), lengths=np.full(len(counts), levels + 2, np.int32), offsets=np.zeros(len(counts), np.int32),
        )  # fmt: skip

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return int(self.shift.shape[0])

    @property
    def has_tables(self) -> bool:
        """Whether frequency tables are there."""
        return self.cdf.size > 0

    def at(self, indexes: NDArray[np.integer[Any]]) -> SymbolModel:
        """Return a model for one image whose symbols have their rows by element, rounded without a shift.

        Args:
            indexes: (C, h, w), rows of these tables; C may be another number than the tables have rows.

        Raises:
            ShapeMismatch: not three axes, or no element.
            InvalidTables: there are no tables, or an index has no row.
        """
        indexes = np.ascontiguousarray(indexes, np.int32)
        if indexes.ndim != 3 or indexes.size == 0:
            raise ShapeMismatch(f"indexes must be (C, h, w) of at least one element, got {indexes.shape}")
        if not self.has_tables or indexes.min() < 0 or indexes.max() >= len(self.cdf):
            raise InvalidTables(f"an index is outside the {len(self.cdf)} rows of the tables")
        indexes.setflags(write=False)
        rows = object.__new__(SymbolModel)  # the tables were checked once
        for name, value in (
            ("mode", "round"), ("bits", self.bits), ("cdf", self.cdf), ("lengths", self.lengths), ("offsets", self.offsets),
            ("shift", np.zeros(len(indexes), np.float32)), ("scale", np.ones(len(indexes), np.float32)), ("indexes", indexes),
        ):  # fmt: skip
            object.__setattr__(rows, name, value)
        return rows

    def rows(self, shape: tuple[int, ...]) -> NDArray[np.int32]:
        """Return the row of ``cdf`` of each of (C, h, w) symbols."""
        if self.indexes is not None:
            return self.indexes
        return np.ascontiguousarray(np.broadcast_to(np.arange(shape[0], dtype=np.int32)[:, None, None], shape))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse a shape that is not (C, h, w) of this model, or has no element.

        Raises:
            ShapeMismatch: says so.
        """
        if len(shape) != 3 or shape[0] != self.channels or min(shape) < 1:
            raise ShapeMismatch(
                f"the tables are for symbols ({self.channels}, h, w) of at least one element, got {shape}"
            )
        if self.indexes is not None and shape != self.indexes.shape:
            raise ShapeMismatch(f"the rows are for symbols {self.indexes.shape}, got {shape}")

    def check_symbols(self, symbols: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return symbols to encode as a contiguous int32 array.

        Raises:
            ShapeMismatch: another shape than (C, h, w), or other than integers.
            InvalidLatent: a symbol has more than ``bits`` bits.
        """
        symbols = np.asarray(symbols)
        self.check_shape(symbols.shape)
        if symbols.dtype != np.int32:
            raise ShapeMismatch(f"symbols are int32, got {symbols.dtype}")
        if not self._within(symbols):
            raise InvalidLatent(f"a symbol does not fit the model's {self.bits} bits")
        return np.ascontiguousarray(symbols)

    def check_decoded(self, symbols: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return decoded symbols if each fits ``bits``.

        Raises:
            CorruptPacket: one does not.
        """
        if not self._within(symbols):
            raise CorruptPacket(
                f"the payload decodes to symbols beyond {self.bits} bits; it was not written for this model"
            )
        return symbols

    def _within(self, symbols: NDArray[np.int32]) -> bool:
        if self.bits in (0, 32):
            return True
        return bool(symbols.min() >= 0 and symbols.max() < 2**self.bits)

    def quantise(self, latent: NDArray[np.float32]) -> NDArray[np.int32]:
        """Turn a latent into symbols.

        Args:
            latent: (C, h, w) float32.

        Returns:
            (C, h, w) int32.

        Raises:
            ShapeMismatch: the latent has other channels than the tables, or no element.
            InvalidLatent: NaN, infinite or beyond ``2**23`` (not with ``mode="bits"``, which carries any finite value).
        """
        if latent.ndim != 3 or latent.shape[0] != self.channels or latent.size == 0:
            raise ShapeMismatch(f"the tables are for latents ({self.channels}, h, w), got {latent.shape}")
        latent = np.ascontiguousarray(latent, np.float32)
        if not np.isfinite(latent).all():
            raise InvalidLatent("the latent has NaN or infinite values; the encoder's weights or its input are damaged")
        if self.mode == "bits":
            return latent.view(np.int32).copy()  # the caller's latent may be overwritten by the next image
        centred = latent - self.shift[:, None, None]
        if self.mode == "uniform":
            with np.errstate(over="ignore"):  # infinity is clipped like any large value
                scaled = np.rint(centred * self.scale[:, None, None])
            return np.asarray(np.clip(scaled, 0, 2**self.bits - 1), np.int32)
        if max(float(centred.max()), -float(centred.min())) > LARGEST:
            raise InvalidLatent(
                f"the latent has values beyond {LARGEST:.0f}; the encoder's weights or its input are damaged"
            )
        return np.rint(centred).astype(np.int32)

    def dequantise(self, symbols: NDArray[np.int32]) -> NDArray[np.float32]:
        """Turn (C, h, w) symbols back into a float32 latent."""
        if self.mode == "bits":
            return np.ascontiguousarray(symbols, np.int32).view(np.float32)
        restored = symbols.astype(np.float32) / self.scale[:, None, None] + self.shift[:, None, None]
        return np.asarray(restored, np.float32)

    def restore(self, latent: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what a receiver gets of a (C, h, w) latent, when the codec is lossless."""
        return self.dequantise(self.quantise(latent))

    def ideal_bits(self, symbols: NDArray[np.int32]) -> float:
        """Return the tables' own code length of (C, h, w) symbols, in bits (an escape counts its symbol alone).

        Raises:
            InvalidTables: there are no tables.
        """
        return float(np.sum(self.symbol_bits(symbols)))

    def symbol_bits(self, symbols: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return the tables' own code length of each of (C, h, w) symbols, in bits; see ``ideal_bits``.

        Raises:
            InvalidTables: there are no tables.
        """
        if not self.has_tables:
            raise InvalidTables("this model has no frequency tables, so its symbols have no code length")
        rows = self.rows(symbols.shape)
        entries = symbols.astype(np.int64) - self.offsets[rows]
        last = self.lengths[rows].astype(np.int64) - 2
        entries = np.where((entries < 0) | (entries >= last), last, entries)
        frequencies = self.cdf[rows, entries + 1] - self.cdf[rows, entries]
        return np.asarray(PRECISION - np.log2(frequencies), np.float64)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays that define this model; the inverse of ``from_arrays``."""
        return {
            "shift": self.shift, "scale": self.scale, "cdf": self.cdf, "lengths": self.lengths, "offsets": self.offsets,
            "mode": np.array([_MODES.index(self.mode), self.bits], np.int32),
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> SymbolModel:
        """Rebuild a model from ``to_arrays``.

        Raises:
            InvalidTables: an array is missing or wrong.
        """
        wanted = {"shift", "scale", "cdf", "lengths", "offsets", "mode"}
        if set(arrays) != wanted:
            raise InvalidTables(f"tables want the arrays {sorted(wanted)}, got {sorted(arrays)}")
        code = np.asarray(arrays["mode"])
        if code.shape != (2,) or code.dtype.kind not in "iu" or not 0 <= int(code[0]) < len(_MODES):
            raise InvalidTables("the array 'mode' of the tables is not one")
        rest: dict[str, NDArray[Any]] = {name: np.asarray(arrays[name]) for name in wanted - {"mode"}}
        return cls(mode=_MODES[int(code[0])], bits=int(code[1]), **rest)

    def digest(self) -> bytes:
        """SHA-256 over all arrays, the same on every machine."""
        return digest_of(self.to_arrays())


def digest_of(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """SHA-256 over names, shapes and little-endian values."""
    total = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        total.update(f"{name}:{array.shape}".encode())
        total.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return total.digest()


def _int32(array: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    array = np.asarray(array)
    if array.dtype.kind not in "iu" or (array.size and (array.max() > 2**31 - 1 or array.min() < -(2**31))):
        raise InvalidTables(f"tables must be integers that fit 32 bits, got {array.dtype}")
    return array.astype(np.int32)


def _check_tables(
    cdf: NDArray[np.int32], lengths: NDArray[np.int32], offsets: NDArray[np.int32], channels: int
) -> None:
    if cdf.ndim != 2 or cdf.shape[0] != channels or lengths.shape != (channels,) or offsets.shape != (channels,):
        raise InvalidTables(
            f"for {channels} channels the tables must be (C, L), (C,), (C,); got {cdf.shape}, {lengths.shape}, {offsets.shape}"
        )
    if (lengths < 3).any() or (lengths > cdf.shape[1]).any():
        raise InvalidTables("a row of the tables needs at least 3 entries (one symbol and the escape) and at most L")
    if (np.abs(offsets.astype(np.int64)) > 2**30).any():
        raise InvalidTables("an offset of the tables is beyond 2**30")
    for row in range(channels):
        entries = cdf[row, : lengths[row]]
        if entries[0] != 0 or entries[-1] != 2**PRECISION or (np.diff(entries) < 1).any():
            raise InvalidTables(
                f"row {row} of the tables must rise from 0 to {2**PRECISION} with every step at least 1"
            )
