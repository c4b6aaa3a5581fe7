"""``SymbolModel``: how a latent becomes symbols, and how frequent each symbol is.

A model is frozen once after training, stored with the weights on both sides and hashed into every
packet. Nothing in it is recomputed from floating-point parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.arrays import as_int32, digest_of, frozen_copy
from splitreg.coding.context import ContextModel
from splitreg.coding.frequencies import PRECISION, check_rows, rows_from_counts, rows_from_probabilities
from splitreg.errors import CorruptPacket, InvalidLatent, InvalidTables, ShapeMismatch

#: Largest absolute value of a latent: float32 holds all integers up to here.
MAX_LATENT = float(2**23)

_MODES = ("round", "uniform", "bits")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SymbolModel:
    """Quantisation of one latent, per channel, and integer frequency tables if the prior has them.

    Args:
        mode: ``"round"``: symbol = rint(latent - shift); ``"uniform"``: symbol = rint((latent -
            shift) * scale), clipped to [0, 2**bits - 1]; ``"bits"``: the bit pattern of the float32.
        shift: (C,) float32.
        scale: (C,) float32, positive.
        bits: symbols are below ``2**bits``; 0: any int32.
        cdf: (C, L) int32, rows of cumulative frequencies from 0 to ``2**16``; the last symbol of a
            row is the escape. (0, 0) without tables.
        lengths: (C,) int32, used entries of each row.
        offsets: (C,) int32, value of the first symbol of each row.
        indexes: (C, h, w) int32, the row of each symbol, if a hyperprior chose them (see ``at``);
            None: channel c uses row c.
        context: network that corrects the tables' probabilities, for codecs that can use it; None: there is none.

    Raises:
        InvalidTables: an array or a number breaks one of these rules.
    """

    mode: str
    shift: NDArray[np.float32]
    scale: NDArray[np.float32]
    bits: int
    cdf: NDArray[np.int32]
    lengths: NDArray[np.int32]
    offsets: NDArray[np.int32]
    indexes: NDArray[np.int32] | None = None
    context: ContextModel | None = None

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise InvalidTables(f"mode must be one of {', '.join(_MODES)}; got {self.mode!r}")
        for name, kind in (
            ("shift", np.float32), ("scale", np.float32), ("cdf", np.int32), ("lengths", np.int32), ("offsets", np.int32),
        ):  # fmt: skip
            array = np.asarray(getattr(self, name))
            if array.dtype.kind not in "fiu":
                raise InvalidTables(f"{name} must be an array of numbers, got {array.dtype}")
            if kind is np.int32:
                array = as_int32(array)
            object.__setattr__(self, name, frozen_copy(array, kind))
        channels = self.shift.shape[0] if self.shift.ndim == 1 else -1
        if channels < 1 or self.scale.shape != (channels,):
            raise InvalidTables(f"shift and scale must be (C,), got {self.shift.shape} and {self.scale.shape}")
        if not (np.isfinite(self.shift).all() and np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise InvalidTables("shift must be finite, and scale finite and positive")
        if not 0 <= self.bits <= 32:
            raise InvalidTables(f"bits must be 0 to 32, got {self.bits}")
        if self.mode == "uniform" and not 1 <= self.bits <= 24:  # float32 is exact up to 2**24
            raise InvalidTables(f"bits must be 1 to 24 in mode uniform, got {self.bits}")
        if self.indexes is not None:
            raise InvalidTables("indexes are set by at(indexes), not by the constructor")
        if self.has_tables:
            check_rows(self.cdf, self.lengths, self.offsets, channels)
        if self.context is not None and (
            self.context.channels != channels or not self.has_tables or self.mode != "round" or self.bits
        ):
            raise InvalidTables(
                f"a context model of {self.context.channels} channels needs tables of as many, in mode round and without "
                f"bits; the tables have {channels} channels, mode {self.mode}"
            )

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
            lengths: (C,) used entries of each row.
            offsets: (C,) value of the first symbol of each row.
            medians: (C,), subtracted before rounding; zeros by default.

        Raises:
            InvalidTables: the tables are not valid.
        """
        cdf = np.asarray(cdf)
        channels = cdf.shape[0] if cdf.ndim == 2 else 0
        shift = np.zeros(channels, np.float32) if medians is None else np.asarray(medians, np.float32)
        return cls(
            mode="round", shift=shift, scale=np.ones(channels, np.float32), bits=0,
            cdf=as_int32(cdf), lengths=as_int32(lengths), offsets=as_int32(offsets),
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
        """Build a model without tables; see the class for the arguments."""
        empty = np.zeros(0, np.int32)
        return cls(
            mode=mode, bits=bits, cdf=np.zeros((0, 0), np.int32), lengths=empty, offsets=empty,
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
            counts: (C, 2**bits), how often each symbol occurred; a row of zeros becomes a flat
                table.

        Raises:
            InvalidTables: ``counts`` is not a histogram of these symbols.
        """
        cdf = rows_from_counts(counts, len(shift), bits)
        return cls(
            mode="uniform", bits=bits, shift=np.asarray(shift, np.float32), scale=np.asarray(scale, np.float32),
            cdf=as_int32(cdf), lengths=np.full(len(cdf), cdf.shape[1], np.int32), offsets=np.zeros(len(cdf), np.int32),
        )  # fmt: skip

    @classmethod
    def from_probabilities(
        cls,
        probabilities: NDArray[np.floating[Any]],
        offsets: NDArray[np.integer[Any]] | int,
        medians: NDArray[np.floating[Any]] | None = None,
    ) -> SymbolModel:
        """Build a model of rounded values from the probability of each value, for ``Bottleneck.freeze``.

        The integer frequencies are computed here, once; only they reach the two sides.

        Args:
            probabilities: (C, L), of the values ``offset`` to ``offset + L - 1`` per channel, after the
                median is subtracted. What a row lacks to 1 is the probability of other values, which are
                carried as escapes.
            offsets: (C,) value of the first symbol per channel, or one number for all.
            medians: (C,), subtracted before rounding; zeros by default.

        Raises:
            InvalidTables: the probabilities are not valid.

        >>> model = SymbolModel.from_probabilities(np.array([[0.25, 0.5, 0.2]]), -1)
        >>> round(model.ideal_bits(np.array([[[0, -1]]], np.int32)), 2)  # log2 of 1/0.5 and 1/0.25
        3.0
        """
        cdf = rows_from_probabilities(probabilities)
        lengths = np.full(len(cdf), cdf.shape[1], np.int32)
        return cls.from_cdf(cdf, lengths, np.broadcast_to(np.asarray(offsets), (len(cdf),)), medians)

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return int(self.shift.shape[0])

    @property
    def has_tables(self) -> bool:
        """Whether there are frequency tables."""
        return self.cdf.size > 0

    def at(self, indexes: NDArray[np.integer[Any]]) -> SymbolModel:
        """Return a model for one image in which every symbol has its own row; no shift.

        Args:
            indexes: (C, h, w), rows of these tables; C is independent of the number of rows.

        Raises:
            ShapeMismatch: not three axes, or no element.
            InvalidTables: there are no tables, or no such row.
        """
        indexes = np.ascontiguousarray(indexes, np.int32)
        if indexes.ndim != 3 or indexes.size == 0:
            raise ShapeMismatch(f"indexes must be (C, h, w) with at least one element, got {indexes.shape}")
        if not self.has_tables or indexes.min() < 0 or indexes.max() >= len(self.cdf):
            raise InvalidTables(
                f"indexes must be rows 0 to {len(self.cdf) - 1} of the tables, got {indexes.min()} to {indexes.max()}"
            )
        indexes.setflags(write=False)
        rows = object.__new__(SymbolModel)  # the tables are checked already
        for name, value in (
            ("mode", "round"), ("bits", self.bits), ("cdf", self.cdf), ("lengths", self.lengths), ("offsets", self.offsets),
            ("shift", np.zeros(len(indexes), np.float32)), ("scale", np.ones(len(indexes), np.float32)), ("indexes", indexes),
            ("context", None),
        ):  # fmt: skip
            object.__setattr__(rows, name, value)
        return rows

    def with_context(self, context: ContextModel | None) -> SymbolModel:
        """Return the same tables with a context model, or without one.

        Raises:
            InvalidTables: it does not fit the tables.
        """
        return replace(self, context=context)

    def rows(self, shape: tuple[int, ...]) -> NDArray[np.int32]:
        """Return the row of ``cdf`` for each of (C, h, w) symbols."""
        if self.indexes is not None:
            return self.indexes
        return np.ascontiguousarray(np.broadcast_to(np.arange(shape[0], dtype=np.int32)[:, None, None], shape))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Check that a shape is (C, h, w) of this model, with at least one element.

        Raises:
            ShapeMismatch: it is not.
        """
        if len(shape) != 3 or shape[0] != self.channels or min(shape) < 1:
            raise ShapeMismatch(
                f"the model is for symbols ({self.channels}, h, w) with at least one element, got {shape}"
            )
        if self.indexes is not None and shape != self.indexes.shape:
            raise ShapeMismatch(f"the indexes are for symbols {self.indexes.shape}, got {shape}")

    def check_symbols(self, symbols: NDArray[np.int32], max_bits: int = 0) -> NDArray[np.int32]:
        """Return symbols to encode as a contiguous int32 array.

        Args:
            symbols: (C, h, w) int32.
            max_bits: ``Codec.max_bits`` of the codec; 0: no limit.

        Raises:
            ShapeMismatch: another shape than (C, h, w), another type than int32, or a model of wider
                symbols than the codec's.
            InvalidLatent: a symbol has more than ``bits`` bits.
        """
        symbols = np.asarray(symbols)
        self.check_shape(symbols.shape)
        if symbols.dtype != np.int32:
            raise ShapeMismatch(f"symbols must be int32, got {symbols.dtype}")
        if max_bits and not 0 < self.bits <= max_bits:
            width = f"{self.bits} bits" if self.bits else "any 32-bit integer"
            raise ShapeMismatch(f"the codec is limited to {max_bits} bits per symbol, the model's are {width}")
        if not self._within(symbols):
            raise InvalidLatent(
                f"symbols must fit the model's {self.bits} bits, got {symbols.min()} to {symbols.max()}"
            )
        return np.ascontiguousarray(symbols)

    def check_decoded(self, symbols: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return decoded symbols, all within ``bits``.

        Raises:
            CorruptPacket: a symbol has more bits.
        """
        if not self._within(symbols):
            raise CorruptPacket(f"the payload decodes to symbols of more than {self.bits} bits; it is of another model")
        return symbols

    def _within(self, symbols: NDArray[np.int32]) -> bool:
        if self.bits in (0, 32):
            return True
        return bool(symbols.min() >= 0 and symbols.max() < 2**self.bits)

    def quantise(self, latent: NDArray[np.float32]) -> NDArray[np.int32]:
        """Quantise a latent.

        Args:
            latent: (C, h, w) float32.

        Returns:
            (C, h, w) int32.

        Raises:
            ShapeMismatch: the latent has other channels than the tables, or no element.
            InvalidLatent: NaN or infinite; or, unless ``mode`` is ``"bits"``, beyond ``2**23``.
        """
        if latent.ndim != 3 or latent.shape[0] != self.channels or latent.size == 0:
            raise ShapeMismatch(f"the model is for latents ({self.channels}, h, w), got {latent.shape}")
        latent = np.ascontiguousarray(latent, np.float32)
        if self.mode == "round":
            centred = latent - self.shift[:, None, None]
            if float(centred.max()) <= MAX_LATENT and float(centred.min()) >= -MAX_LATENT:  # False for NaN
                return np.rint(centred, out=centred).astype(np.int32)
        if not np.isfinite(latent).all():
            raise InvalidLatent("the latent has NaN or infinite values; check the encoder's weights and its input")
        if self.mode == "bits":
            return latent.view(np.int32).copy()  # the next image may overwrite the caller's latent
        if self.mode == "uniform":
            with np.errstate(over="ignore"):  # infinity is clipped
                scaled = np.rint((latent - self.shift[:, None, None]) * self.scale[:, None, None])
            return np.asarray(np.clip(scaled, 0, 2**self.bits - 1), np.int32)
        raise InvalidLatent(f"the latent has values beyond {MAX_LATENT:.0f}; check the encoder's weights and its input")

    def dequantise(self, symbols: NDArray[np.int32]) -> NDArray[np.float32]:
        """(C, h, w) symbols -> float32 latent."""
        if self.mode == "bits":
            return np.ascontiguousarray(symbols, np.int32).view(np.float32)
        restored = symbols.astype(np.float32)
        restored /= self.scale[:, None, None]
        restored += self.shift[:, None, None]
        return restored

    def restore(self, latent: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the (C, h, w) latent that a receiver decodes with a lossless codec."""
        return self.dequantise(self.quantise(latent))

    def ideal_bits(self, symbols: NDArray[np.int32]) -> float:
        """Return the ideal code length of (C, h, w) symbols by these tables, in bits.

        An escape counts its symbol, but not the bytes of its value.

        Raises:
            InvalidTables: there are no tables.
        """
        return float(np.sum(self.symbol_bits(symbols)))

    def symbol_bits(self, symbols: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return the ideal code length of each of (C, h, w) symbols, in bits; see ``ideal_bits``.

        Raises:
            InvalidTables: there are no tables.
        """
        if not self.has_tables:
            raise InvalidTables("the model has no frequency tables, so no code length")
        if self.context is not None:
            return self.context.symbol_bits(symbols, self.cdf, self.lengths, self.offsets)
        rows = self.rows(symbols.shape)
        entries = symbols.astype(np.int64) - self.offsets[rows]
        last = self.lengths[rows].astype(np.int64) - 2
        entries = np.where((entries < 0) | (entries >= last), last, entries)
        frequencies = self.cdf[rows, entries + 1] - self.cdf[rows, entries]
        return np.asarray(PRECISION - np.log2(frequencies), np.float64)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays that define this model; the inverse of ``from_arrays``."""
        context = {} if self.context is None else self.context.to_arrays()
        return {
            "shift": self.shift, "scale": self.scale, "cdf": self.cdf, "lengths": self.lengths, "offsets": self.offsets,
            "mode": np.array([_MODES.index(self.mode), self.bits], np.int32),
            **{f"context.{name}": array for name, array in context.items()},
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> SymbolModel:
        """Rebuild a model from ``to_arrays``.

        Raises:
            InvalidTables: an array is missing or not valid.
        """
        names = {"shift", "scale", "cdf", "lengths", "offsets", "mode"}
        network = {name.removeprefix("context."): arrays[name] for name in arrays if name.startswith("context.")}
        context = ContextModel.from_arrays(network) if network else None
        if {name for name in arrays if not name.startswith("context.")} != names:
            raise InvalidTables(f"tables must have the arrays {sorted(names)}, got {sorted(arrays)}")
        code = np.asarray(arrays["mode"])
        if code.shape != (2,) or code.dtype.kind not in "iu" or not 0 <= int(code[0]) < len(_MODES):
            raise InvalidTables(f"mode must be a number below {len(_MODES)} and the bits, got {code!r:.80}")
        rest: dict[str, NDArray[Any]] = {name: np.asarray(arrays[name]) for name in names - {"mode"}}
        return cls(mode=_MODES[int(code[0])], bits=int(code[1]), context=context, **rest)

    def digest(self) -> bytes:
        """Return the SHA-256 of all arrays: the same on every machine."""
        return digest_of(self.to_arrays())
