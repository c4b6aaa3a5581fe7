"""A hyperprior in integers: a small side stream tells both sides how wide (and where) every symbol's distribution is.

Both sides run the same integer network on the same side stream, so they use the same table for every symbol, whatever
their runtime, thread count or CPU. With networks in floating point they would not, and the receiver would decode
garbage without an error.

Source: Ballé et al. 2018, arXiv:1802.01436 (scales); Minnen et al. 2018, arXiv:1809.02736 (means).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.integer import MOST_CHANNELS, IntegerNetwork, depth_to_space, integers, space_to_depth
from splitreg.coding.symbols import LARGEST, SymbolModel, digest_of
from splitreg.errors import InvalidLatent, InvalidTables, ShapeMismatch

#: Entries of the rectangle that a file's tables unfold to; a crafted file may not ask for more.
MOST_ENTRIES = 2**24

_FACTORS = (1, 2, 4, 8)
_PARTS = ("hyper", "scales", "analysis", "synthesis", "rows", "means")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HyperModel:
    """Frozen rules of a latent with a hyperprior. A packet has two streams: hyper-latent, latent.

    In fixed point, the absolute values of the latent (C, h, w), after the values themselves where there are means, go
    through ``space_to_depth`` and ``analysis`` to the hyper-latent (N, ceil(h / factor), ceil(w / factor)); then
    ``synthesis``, ``rows`` and ``means`` and ``depth_to_space`` give every element its row of ``scales`` and its mean.

    Args:
        channels: C of the latent.
        factor: 1, 2, 4 or 8.
        fraction: the analysis reads rint(latent * ``2**fraction``).
        mean_fraction: means are multiples of ``2**-mean_fraction``.
        hyper: tables of the hyper-latent, a row a channel, unshifted.
        scales: tables of the latent's symbols, one row a scale.
        analysis: C * factor**2 channels, twice as many with means -> N.
        synthesis: N channels -> any.
        rows: the synthesis' channels -> C * factor**2.
        means: likewise; None: all means are zero.

    Raises:
        InvalidTables: parts that do not fit together.
    """

    channels: int
    factor: int
    fraction: int
    mean_fraction: int
    hyper: SymbolModel
    scales: SymbolModel
    analysis: IntegerNetwork
    synthesis: IntegerNetwork
    rows: IntegerNetwork
    means: IntegerNetwork | None = None

    def __post_init__(self) -> None:
        if self.factor not in _FACTORS or not 0 <= self.fraction <= 12 or not 0 <= self.mean_fraction <= 12:
            raise InvalidTables(
                f"a hyperprior has a factor of 1, 2, 4 or 8 and fractions of 0 to 12 bits; got {self.factor}, "
                f"{self.fraction}, {self.mean_fraction}"
            )
        for name, tables in (("hyper", self.hyper), ("scales", self.scales)):
            plain = tables.mode == "round" and tables.bits == 0 and tables.has_tables
            if not plain or tables.shift.any() or (tables.scale != 1).any():
                raise InvalidTables(f"the tables {name!r} of a hyperprior must be unshifted and of mode round")
        wide = self.channels * self.factor**2
        ends = [("analysis", self.analysis, 2 * wide if self.means else wide, self.hyper.channels)]
        ends += [("synthesis", self.synthesis, self.hyper.channels, self.synthesis.outputs)]
        ends += [("rows", self.rows, self.synthesis.outputs, wide)]
        ends += [("means", self.means, self.synthesis.outputs, wide)] if self.means else []
        for name, network, inputs, outputs in ends:
            if (network.inputs, network.outputs) != (inputs, outputs):
                raise InvalidTables(
                    f"the hyperprior's network {name!r} must turn {inputs} into {outputs} channels, not "
                    f"{network.inputs} into {network.outputs}"
                )
        low, high = self.rows.range
        if low < 0 or high >= self.scales.channels:
            raise InvalidTables(f"the hyperprior gives rows {low} to {high}, its tables have {self.scales.channels}")

    @property
    def bits(self) -> int:
        """0: any int32 may come."""
        return 0

    @property
    def has_tables(self) -> bool:
        """True."""
        return True

    def restore(self, latent: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what a receiver gets of a (C, h, w) latent, when the codec is lossless."""
        return self.measure(latent)[0]

    def measure(self, latent: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
        """Return what a receiver gets of a (C, h, w) latent, and the tables' own code length of both streams in bits.

        Raises:
            ShapeMismatch: the latent has other channels, or no element.
            InvalidLatent: NaN, infinite or huge values.
        """
        hyper, rows, means = self.analyse(latent)
        symbols = rows.quantise(latent - means)
        return rows.dequantise(symbols) + means, self.hyper.ideal_bits(hyper) + rows.ideal_bits(symbols)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays that define this model; the inverse of ``from_arrays``."""
        rule = (self.channels, self.factor, self.fraction, self.mean_fraction)
        found: dict[str, NDArray[np.generic]] = {"rule": np.array(rule, np.int32)}
        for part in _PARTS:
            content = getattr(self, part)
            arrays = _ragged(content) if isinstance(content, SymbolModel) else content.to_arrays() if content else {}
            found |= {f"{part}.{name}": array for name, array in arrays.items()}
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> HyperModel:
        """Rebuild a model from ``to_arrays``.

        Raises:
            InvalidTables: an array is missing, unexpected or wrong.
        """
        parts: dict[str, dict[str, NDArray[np.generic]]] = {}
        for name, array in arrays.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = array
        if set(parts) | {"means"} != {"rule", *_PARTS} or set(parts["rule"]) != {""}:
            raise InvalidTables(f"a hyperprior has the parts rule, {', '.join(_PARTS)}; got {', '.join(sorted(parts))}")
        channels, factor, fraction, mean_fraction = integers(parts["rule"][""], 4, "a hyperprior's rule")
        return cls(
            channels=channels, factor=factor, fraction=fraction, mean_fraction=mean_fraction,
            hyper=_padded(parts["hyper"]), scales=_padded(parts["scales"]),
            analysis=IntegerNetwork.from_arrays(parts["analysis"]), synthesis=IntegerNetwork.from_arrays(parts["synthesis"]),
            rows=IntegerNetwork.from_arrays(parts["rows"]),
            means=IntegerNetwork.from_arrays(parts["means"]) if "means" in parts else None,
        )  # fmt: skip

    def digest(self) -> bytes:
        """SHA-256 over all arrays, the same on every machine."""
        return digest_of(self.to_arrays())

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse a shape that is not (C, h, w) of this model, or has no element.

        Raises:
            ShapeMismatch: it is not.
        """
        if len(shape) != 3 or shape[0] != self.channels or min(shape) < 1:
            raise ShapeMismatch(f"the tables are for latents ({self.channels}, h, w), got {shape}")

    def hyper_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the (N, h', w') of the hyper-latent of a (C, h, w) latent."""
        return self.hyper.channels, -(-shape[1] // self.factor), -(-shape[2] // self.factor)

    def analyse(self, latent: NDArray[np.float32]) -> tuple[NDArray[np.int32], SymbolModel, NDArray[np.float32]]:
        """Return the (N, h', w') hyper-latent of a (C, h, w) latent, and what ``predict`` makes of it.

        Raises:
            ShapeMismatch: the latent has other channels, or no element.
            InvalidLatent: NaN, infinite or huge values.
        """
        self.check_shape(latent.shape)
        latent = np.asarray(latent, np.float32)
        # Not only for the codec: what NaN becomes as an integer depends on the CPU.
        if not np.isfinite(latent).all() or max(float(latent.max()), -float(latent.min())) > LARGEST:
            raise InvalidLatent(
                f"the latent has NaN, infinite values or values beyond {LARGEST:.0f}; the encoder's weights or its input "
                "are damaged"
            )
        fixed = np.rint(latent * np.float32(2**self.fraction))
        fixed = np.concatenate([fixed, np.abs(fixed)]) if self.means else np.abs(fixed)
        hyper = self.analysis(space_to_depth(fixed, self.factor)).astype(np.int32)
        return hyper, *self.predict(hyper, (latent.shape[1], latent.shape[2]))

    def predict(self, hyper: NDArray[np.int32], size: tuple[int, int]) -> tuple[SymbolModel, NDArray[np.float32]]:
        """Run the integer networks on a hyper-latent.

        Args:
            hyper: (N, h', w') of any integers.
            size: (h, w) of the latent.

        Returns:
            The tables of every element of the latent, and its (C, h, w) means (or a zero).
        """
        hidden = self.synthesis(hyper)
        rows = self.scales.at(depth_to_space(self.rows(hidden).astype(np.int32), self.factor, size))
        if self.means is None:
            return rows, np.zeros((1, 1, 1), np.float32)
        means = depth_to_space(self.means(hidden).astype(np.float32), self.factor, size)
        return rows, means * np.float32(2.0**-self.mean_fraction)


def _ragged(tables: SymbolModel) -> dict[str, NDArray[np.generic]]:
    """Return the used entries of all rows in one array: a sixth of the rectangle that the widest row takes."""
    used = np.arange(tables.cdf.shape[1]) < tables.lengths[:, None]
    return {"cdf": tables.cdf[used], "lengths": tables.lengths, "offsets": tables.offsets}


def _padded(arrays: Mapping[str, NDArray[np.generic]]) -> SymbolModel:
    if set(arrays) != {"cdf", "lengths", "offsets"}:
        raise InvalidTables(f"a hyperprior's tables want cdf, lengths and offsets, got {sorted(arrays)}")
    entries: NDArray[Any] = np.asarray(arrays["cdf"])
    lengths: NDArray[Any] = np.asarray(arrays["lengths"])
    offsets: NDArray[Any] = np.asarray(arrays["offsets"])
    fine = entries.ndim == lengths.ndim == 1 and entries.dtype == lengths.dtype == np.int32 and lengths.size > 0
    if not fine or lengths.min() < 3 or lengths.astype(np.int64).sum() != entries.size:
        raise InvalidTables("the lengths of a hyperprior's tables do not add up to its entries")
    if len(lengths) > MOST_CHANNELS or len(lengths) * int(lengths.max()) > MOST_ENTRIES:
        raise InvalidTables(f"a hyperprior's tables of {len(lengths)} rows of {lengths.max()} entries are too large")
    cdf = np.zeros((len(lengths), int(lengths.max())), np.int32)
    cdf[np.arange(cdf.shape[1]) < lengths[:, None]] = entries
    return SymbolModel.from_cdf(cdf, lengths, offsets)
