"""``HyperModel``: a hyperprior in integers.

A small side stream, the hyper-latent, tells both sides how wide (and where) the distribution of each
symbol is. Both run the same integer network on it, so they use the same table for every symbol,
whatever their runtime, thread count or CPU. With floating-point networks they might not, and the
receiver would decode garbage without an error.

Source: Ballé et al. 2018, arXiv:1802.01436 (scales); Minnen et al. 2018, arXiv:1809.02736 (means).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.arrays import digest_of, int_tuple
from splitreg.coding.integer import MAX_CHANNELS, IntegerNetwork, depth_to_space, space_to_depth
from splitreg.coding.symbols import MAX_LATENT, SymbolModel
from splitreg.errors import InvalidLatent, InvalidTables, ShapeMismatch

#: Largest number of entries of padded tables, so that a crafted file cannot exhaust the memory.
MAX_ENTRIES = 2**24

_FACTORS = (1, 2, 4, 8)
_PARTS = ("hyper", "scales", "analysis", "synthesis", "rows", "means")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HyperModel:
    """Frozen coding of a latent with a hyperprior. A packet has two streams: hyper-latent, latent.

    In fixed point, the absolute values of the latent (C, h, w), after the values themselves if there
    are means, pass ``space_to_depth`` and ``analysis`` to the hyper-latent (N, ceil(h / factor),
    ceil(w / factor)). From it, ``synthesis``, ``rows``, ``means`` and ``depth_to_space`` compute the
    row of ``scales`` and the mean of every element.

    Args:
        channels: C of the latent.
        factor: 1, 2, 4 or 8.
        fraction: the analysis reads rint(latent * ``2**fraction``).
        mean_fraction: means are multiples of ``2**-mean_fraction``.
        hyper: tables of the hyper-latent, one row per channel, unshifted.
        scales: tables of the latent's symbols, one row per scale.
        analysis: network from C * factor**2 channels, twice as many with means, to N.
        synthesis: network from N channels to any number.
        rows: network from the synthesis' channels to C * factor**2.
        means: network of the same shape as ``rows``; None: all means are zero.

    Raises:
        InvalidTables: the parts do not fit together.
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
                f"a hyperprior must have a factor of 1, 2, 4 or 8 and fractions of 0 to 12 bits; got {self.factor}, "
                f"{self.fraction}, {self.mean_fraction}"
            )
        for name, tables in (("hyper", self.hyper), ("scales", self.scales)):
            plain = tables.mode == "round" and tables.bits == 0 and tables.has_tables
            if not plain or tables.shift.any() or (tables.scale != 1).any():
                raise InvalidTables(f"the tables {name!r} of a hyperprior must be unshifted and in mode round")
        depth = self.channels * self.factor**2
        networks = [
            ("analysis", self.analysis, 2 * depth if self.means else depth, self.hyper.channels),
            ("synthesis", self.synthesis, self.hyper.channels, self.synthesis.outputs),
            ("rows", self.rows, self.synthesis.outputs, depth),
        ]
        if self.means:
            networks.append(("means", self.means, self.synthesis.outputs, depth))
        for name, network, inputs, outputs in networks:
            if (network.inputs, network.outputs) != (inputs, outputs):
                raise InvalidTables(
                    f"the hyperprior's network {name!r} must map {inputs} to {outputs} channels, it maps "
                    f"{network.inputs} to {network.outputs}"
                )
        low, high = self.rows.range
        if low < 0 or high >= self.scales.channels:
            raise InvalidTables(
                f"the hyperprior's network 'rows' returns rows {low} to {high}, its tables have {self.scales.channels}"
            )

    @property
    def bits(self) -> int:
        """Always 0: symbols are any int32."""
        return 0

    @property
    def has_tables(self) -> bool:
        """Always True."""
        return True

    def restore(self, latent: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the (C, h, w) latent that a receiver decodes with a lossless codec."""
        return self.measure(latent)[0]

    def measure(self, latent: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
        """Return the latent that a receiver decodes, and the ideal code length of both streams in bits.

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
        result: dict[str, NDArray[np.generic]] = {"rule": np.array(rule, np.int32)}
        for part in _PARTS:
            content = getattr(self, part)
            arrays = _ragged(content) if isinstance(content, SymbolModel) else content.to_arrays() if content else {}
            result |= {f"{part}.{name}": array for name, array in arrays.items()}
        return result

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> HyperModel:
        """Rebuild a model from ``to_arrays``.

        Raises:
            InvalidTables: an array is missing, unexpected or not valid.
        """
        parts: dict[str, dict[str, NDArray[np.generic]]] = {}
        for name, array in arrays.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = array
        if set(parts) | {"means"} != {"rule", *_PARTS} or set(parts["rule"]) != {""}:
            names = ", ".join(sorted(parts))
            raise InvalidTables(f"a hyperprior must have the parts rule, {', '.join(_PARTS)}; got {names}")
        channels, factor, fraction, mean_fraction = int_tuple(parts["rule"][""], 4, "a hyperprior's rule")
        return cls(
            channels=channels, factor=factor, fraction=fraction, mean_fraction=mean_fraction,
            hyper=_padded(parts["hyper"]), scales=_padded(parts["scales"]),
            analysis=IntegerNetwork.from_arrays(parts["analysis"]), synthesis=IntegerNetwork.from_arrays(parts["synthesis"]),
            rows=IntegerNetwork.from_arrays(parts["rows"]),
            means=IntegerNetwork.from_arrays(parts["means"]) if "means" in parts else None,
        )  # fmt: skip

    def digest(self) -> bytes:
        """Return the SHA-256 of all arrays: the same on every machine."""
        return digest_of(self.to_arrays())

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Check that a shape is (C, h, w) of this model, with at least one element.

        Raises:
            ShapeMismatch: it is not.
        """
        if len(shape) != 3 or shape[0] != self.channels or min(shape) < 1:
            raise ShapeMismatch(f"the model is for latents ({self.channels}, h, w), got {shape}")

    def hyper_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the (N, h', w') of the hyper-latent of a (C, h, w) latent."""
        return self.hyper.channels, -(-shape[1] // self.factor), -(-shape[2] // self.factor)

    def analyse(self, latent: NDArray[np.float32]) -> tuple[NDArray[np.int32], SymbolModel, NDArray[np.float32]]:
        """Return the (N, h', w') hyper-latent of a (C, h, w) latent, and ``predict`` of it.

        Raises:
            ShapeMismatch: the latent has other channels, or no element.
            InvalidLatent: NaN, infinite or huge values.
        """
        self.check_shape(latent.shape)
        latent = np.asarray(latent, np.float32)
        # Checked here too, because the conversion of NaN to an integer depends on the CPU.
        if not np.isfinite(latent).all() or max(float(latent.max()), -float(latent.min())) > MAX_LATENT:
            raise InvalidLatent(
                f"the latent has NaN, infinite values or values beyond {MAX_LATENT:.0f}; check the encoder's weights and "
                "its input"
            )
        fixed = np.rint(latent * np.float32(2**self.fraction))
        fixed = np.concatenate([fixed, np.abs(fixed)]) if self.means else np.abs(fixed)
        hyper = self.analysis(space_to_depth(fixed, self.factor)).astype(np.int32)
        return hyper, *self.predict(hyper, (latent.shape[1], latent.shape[2]))

    def predict(self, hyper: NDArray[np.int32], size: tuple[int, int]) -> tuple[SymbolModel, NDArray[np.float32]]:
        """Run the integer networks on a hyper-latent.

        Args:
            hyper: (N, h', w'), any integers.
            size: (h, w) of the latent.

        Returns:
            The tables of every element of the latent, and its (C, h, w) means (a single zero without
            means).
        """
        hidden = self.synthesis(hyper)
        rows = self.scales.at(depth_to_space(self.rows(hidden).astype(np.int32), self.factor, size))
        if self.means is None:
            return rows, np.zeros((1, 1, 1), np.float32)
        means = depth_to_space(self.means(hidden).astype(np.float32), self.factor, size)
        return rows, means * np.float32(2.0**-self.mean_fraction)


def _ragged(tables: SymbolModel) -> dict[str, NDArray[np.generic]]:
    """Return the used entries of all rows in one array, a sixth of the size of padded tables."""
    used = np.arange(tables.cdf.shape[1]) < tables.lengths[:, None]
    return {"cdf": tables.cdf[used], "lengths": tables.lengths, "offsets": tables.offsets}


def _padded(arrays: Mapping[str, NDArray[np.generic]]) -> SymbolModel:
    if set(arrays) != {"cdf", "lengths", "offsets"}:
        raise InvalidTables(f"a hyperprior's tables must have cdf, lengths and offsets, got {sorted(arrays)}")
    entries: NDArray[Any] = np.asarray(arrays["cdf"])
    lengths: NDArray[Any] = np.asarray(arrays["lengths"])
    offsets: NDArray[Any] = np.asarray(arrays["offsets"])
    valid = entries.ndim == lengths.ndim == 1 and entries.dtype == lengths.dtype == np.int32 and lengths.size > 0
    if not valid or lengths.min() < 3 or lengths.astype(np.int64).sum() != entries.size:
        raise InvalidTables("a hyperprior's lengths must be at least 3 and add up to the number of its entries")
    if len(lengths) > MAX_CHANNELS or len(lengths) * int(lengths.max()) > MAX_ENTRIES:
        raise InvalidTables(
            f"a hyperprior's tables are limited to {MAX_CHANNELS} rows and {MAX_ENTRIES} entries, got {len(lengths)} rows "
            f"of {lengths.max()}"
        )
    cdf = np.zeros((len(lengths), int(lengths.max())), np.int32)
    cdf[np.arange(cdf.shape[1]) < lengths[:, None]] = entries
    return SymbolModel.from_cdf(cdf, lengths, offsets)
