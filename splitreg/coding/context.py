"""``ContextModel``: how likely a symbol is, given the symbols that were coded before it.

The tables of a ``SymbolModel`` say how frequent a symbol is in its channel. A small network corrects them for every symbol,
from the symbols around it that the decoder already has. It was trained with the model and runs in exact integer arithmetic, so
both sides compute the same probabilities; nothing is sent for it.

Source: Minnen et al. 2018, arXiv:1809.02736 (the autoregressive part); Ballé et al. 2019, "Integer networks for data
compression with latent-variable models".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.arrays import int_tuple
from splitreg.coding.integer import IntegerLayer, layers_from_arrays, layers_to_arrays
from splitreg.coding.mixing import mixing_tables
from splitreg.errors import InvalidTables

#: Rows and columns from a symbol to the positions that it is predicted from; all channels of them are known.
NEIGHBOURS = (*((row, column) for row in (-2, -1) for column in range(-2, 3)), (0, -2), (0, -1))
#: A symbol enters the network as at most this, in one of two inputs by its sign.
MAX_INPUT = 6
#: Levels of the rate, an input of the network: 0 to this.
MAX_LEVEL = 16
#: Activations are multiples of ``2**-FRACTION`` below ``2**10 * 2**-FRACTION``.
FRACTION, MAX_ACTIVATION = 4, 1023
#: Largest corrections, in 1/256 nats.
MAX_LOGIT = 2047
#: Decisions that a symbol is made of: is it not zero; is it positive; is it further from zero, step by step.
DECISIONS = 3
#: Steps from zero that the network corrects; what is further away follows the tables alone.
STEPS = 7
#: Largest widths, so that a crafted file cannot exhaust the memory.
MAX_WIDTH, MAX_CHANNELS = 1024, 1024

_LAYERS = ("around", "hidden", "here", "logits")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ContextModel:
    """Four integer layers that correct the probabilities of C channels' symbols.

    Positions are coded row by row; at each position, channel by channel. A symbol s enters as two inputs,
    min(max(s, 0), ``MAX_INPUT``) and min(max(-s, 0), ``MAX_INPUT``):

    - ``around`` reads those of all channels at the ``NEIGHBOURS``, (neighbour, sign, channel), 0 outside, and the level;
    - ``hidden`` reads its output;
    - ``here`` reads that, and those of the channels before at the same position, (sign, channel), times ``2**FRACTION``;
      it has H outputs per channel;
    - ``logits`` maps the H outputs of each channel to ``DECISIONS`` corrections in 1/256 nats.

    Args:
        around: (U, 24 C + 1, 1, 1).
        hidden: (U, U, 1, 1).
        here: (C H, U + 2 C, 1, 1); output c H + i must not read channels from c on.
        logits: (3 C, H, 1, 1).
        level: of the rate, 0 to ``MAX_LEVEL``.

    Raises:
        InvalidTables: the layers do not fit together.
    """

    around: IntegerLayer
    hidden: IntegerLayer
    here: IntegerLayer
    logits: IntegerLayer
    level: int = 0

    def __post_init__(self) -> None:
        channels, width, units = self.channels, self.width, self.units
        shapes = {
            "around": (width, 2 * len(NEIGHBOURS) * channels + 1), "hidden": (width, width),
            "here": (channels * units, width + 2 * channels), "logits": (DECISIONS * channels, units),
        }  # fmt: skip
        for name, shape in shapes.items():
            layer: IntegerLayer = getattr(self, name)
            if layer.weight.shape != (*shape, 1, 1):
                raise InvalidTables(
                    f"the context model's layer {name!r} must be {(*shape, 1, 1)}, got {layer.weight.shape}"
                )
            low, high = (-MAX_LOGIT, MAX_LOGIT) if name == "logits" else (0, MAX_ACTIVATION)
            if not low <= layer.low <= layer.high <= high:
                raise InvalidTables(
                    f"the context model's layer {name!r} must clip within {low} to {high}, it clips to {layer.low} to "
                    f"{layer.high}"
                )
            if layer.bound(MAX_LEVEL if name == "around" else MAX_ACTIVATION) >= 2**31:
                raise InvalidTables(f"sums of the context model's layer {name!r} may exceed 32 bits")
        if max(width, units) > MAX_WIDTH or channels > MAX_CHANNELS:
            raise InvalidTables(f"a context model is limited to {MAX_WIDTH} units and {MAX_CHANNELS} channels")
        if not 0 <= self.level <= MAX_LEVEL:
            raise InvalidTables(f"the level of a context model must be 0 to {MAX_LEVEL}, got {self.level}")
        later = np.arange(channels) >= np.arange(channels)[:, None]  # (reader, read)
        read = self.here.weight[:, width:, 0, 0].reshape(channels, units, 2, channels)
        if (read * later[:, None, None]).any():
            raise InvalidTables("the context model's layer 'here' reads channels that a decoder does not have yet")

    @property
    def channels(self) -> int:
        """C of the symbols."""
        return len(self.logits.weight) // DECISIONS

    @property
    def width(self) -> int:
        """U, units of the first two layers."""
        return len(self.around.weight)

    @property
    def units(self) -> int:
        """H, units of each channel."""
        return int(self.logits.weight.shape[1])

    def at(self, level: int) -> ContextModel:
        """Return the same layers at another level of the rate."""
        return replace(self, level=level)

    def shares_layers(self, other: ContextModel | None) -> bool:
        """Whether another model has the same layers, not only equal ones."""
        return other is not None and all(getattr(self, name) is getattr(other, name) for name in _LAYERS)

    def corrections(self, symbols: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the corrections of all decisions, for symbols that are known.

        Args:
            symbols: (C, h, w).

        Returns:
            (C, ``DECISIONS``, h, w) int32, in 1/256 nats.
        """
        channels, height, width = symbols.shape
        clipped = np.clip(symbols, -MAX_INPUT, MAX_INPUT)
        planes = np.concatenate([np.maximum(clipped, 0), np.maximum(-clipped, 0)]).astype(np.float64)  # (2 C, h, w)
        padded = np.pad(planes, ((0, 0), (2, 2), (2, 2)))
        around = [padded[:, 2 + row : 2 + row + height, 2 + column : 2 + column + width] for row, column in NEIGHBOURS]
        inputs = np.concatenate([*around, np.full((1, height, width), float(self.level))])
        hidden = _apply(self.hidden, _apply(self.around, inputs.reshape(len(inputs), -1)))
        here = np.concatenate([hidden, planes.reshape(2 * channels, -1) * 2**FRACTION])
        units = _apply(self.here, here).reshape(channels, self.units, -1)
        weight = self.logits.weight.reshape(channels, DECISIONS, self.units).astype(np.float64)
        sums = np.matmul(weight, units) + self.logits.bias.reshape(channels, DECISIONS, 1)
        return self.logits.shifted(sums).astype(np.int32).reshape(channels, DECISIONS, height, width)

    def symbol_bits(
        self, symbols: NDArray[np.int32], cdf: NDArray[np.int32], lengths: NDArray[np.int32], offsets: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """Return the ideal code length of each of (C, h, w) symbols, in bits, without what the coder learns on the way.

        Args:
            symbols: (C, h, w).
            cdf: of the tables, see ``SymbolModel``.
            lengths: (C,).
            offsets: (C,).
        """
        corrections, size = self.corrections(symbols), np.abs(symbols.astype(np.int64))
        logits = table_logits(cdf, lengths, offsets)[:, :, None, None]
        bits = _bits(symbols != 0, logits[:, 0] + corrections[:, 0])
        bits += np.where(size > 0, _bits(symbols > 0, logits[:, 1] + corrections[:, 1]), 0)
        for step in range(1, STEPS + 1):
            bits += np.where(size >= step, _bits(size > step, logits[:, 1 + step] + corrections[:, 2]), 0)
        for place in np.argwhere(size > STEPS):
            c, y, x = place.tolist()
            bits[c, y, x] += _tail_bits(int(symbols[c, y, x]), cdf[c], int(lengths[c]), int(offsets[c]))
        return bits

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays that define this model; the inverse of ``from_arrays``."""
        layers = layers_to_arrays([getattr(self, name) for name in _LAYERS])
        return {"level": np.array([self.level], np.int32), **layers}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> ContextModel:
        """Rebuild a model from ``to_arrays``.

        Raises:
            InvalidTables: an array is missing, unexpected or not valid.
        """
        arrays = dict(arrays)
        (level,) = int_tuple(arrays.pop("level", np.zeros(0, np.int32)), 1, "a context model's level")
        layers: Sequence[IntegerLayer] = layers_from_arrays(arrays)
        if len(layers) != len(_LAYERS):
            raise InvalidTables(f"a context model must have {len(_LAYERS)} layers, got {len(layers)}")
        return cls(level=level, **dict(zip(_LAYERS, layers, strict=True)))


def _apply(layer: IntegerLayer, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Run a layer of kernel size 1 on (inputs, N) whole numbers; exact, because sums are below ``2**31``."""
    sums = layer.weight[:, :, 0, 0].astype(np.float64) @ inputs
    return layer.shifted(sums + layer.bias[:, None])


def table_logits(cdf: NDArray[np.int32], lengths: NDArray[np.int32], offsets: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the logits of the decisions by the tables alone, in 1/256 nats.

    Half of the escape's frequency is on either side of zero, beyond all steps.

    Args:
        cdf: (C, L), see ``SymbolModel``.
        lengths: (C,).
        offsets: (C,).

    Returns:
        (C, 2 + ``STEPS``) int32: a symbol is not 0; it is positive; it is further from 0 than 1, 2, ... steps.
    """
    rows, escape = np.arange(len(cdf)), lengths.astype(np.int64) - 2
    places = np.arange(cdf.shape[1] - 1)
    frequencies = np.where(places <= escape[:, None], 2 * np.diff(cdf.astype(np.int64), axis=1), 0)
    escapes = frequencies[rows, escape] // 2  # on each side
    inside = np.where(places < escape[:, None], frequencies, 0)
    values = places + offsets.astype(np.int64)[:, None]
    positive, negative = ((inside * side).sum(1) + escapes for side in (values > 0, values < 0))
    columns = [_logit(positive + negative, (inside * (values == 0)).sum(1)), _logit(positive, negative)]
    for step in range(1, STEPS + 1):
        further = (inside * (np.abs(values) > step)).sum(1) + 2 * escapes
        columns.append(_logit(further, (inside * (np.abs(values) == step)).sum(1)))
    return np.stack(columns, 1).astype(np.int32)


def _logit(one: NDArray[np.int64], zero: NDArray[np.int64]) -> NDArray[np.int64]:
    probability = (one << 16) // np.maximum(one + zero, 1)
    return np.asarray(mixing_tables().stretch[np.minimum(probability, 65535) >> 4], np.int64)


def _bits(one: NDArray[np.bool_], logits: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the code length of decisions."""
    signed = np.where(one, -logits, logits).clip(-MAX_LOGIT, MAX_LOGIT) / 256
    return np.asarray(np.logaddexp(0, signed) / np.log(2))


def _tail_bits(symbol: int, cdf: NDArray[np.int32], length: int, offset: int) -> float:
    """Return the code length of a symbol, given its sign and that it is beyond all steps."""
    frequencies = np.diff(cdf[:length].astype(np.int64))
    values = np.arange(length - 2) + offset
    beyond = frequencies[:-1] * (values > STEPS if symbol > 0 else values < -STEPS)
    escape, index = int(frequencies[-1]), symbol - offset
    if 0 <= index < length - 2:
        return float(np.log2((beyond.sum() + escape) / frequencies[index]))
    gamma = 2 * (abs(symbol) - STEPS).bit_length() - 1
    return gamma + float(np.log2((beyond.sum() + escape) / escape))
