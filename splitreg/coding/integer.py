"""Small networks in exact integer arithmetic: the same output on every runtime and CPU; numpy only.

The integers are held in floats, so that matrix products run in BLAS. That is exact if no partial sum
exceeds the float's mantissa, in whatever order it is added up. The constructor computes a bound of
every layer's sums from its weights: below 2**24 the layer runs in float32, else in float64, where
the limits on a layer's size keep every sum below 2**50 of the 2**53. All other operations of a layer
(adding the bias, dividing by a power of two, floor, clip) are exact in floats of that size too.
Convolutions are matrix products, because libraries may compute them with transforms that round.

Source: Ballé et al. 2019, "Integer networks for data compression with latent-variable models" (the
idea).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.arrays import frozen_copy, int_tuple
from splitreg.errors import InvalidTables, ShapeMismatch

#: Largest absolute value of activations and clipping bounds.
MAX_ACTIVATION = 2**15 - 1
#: Largest number of layers in a network, and of channels in a layer.
MAX_LAYERS, MAX_CHANNELS = 16, 2**16
MAX_SHIFT = 24


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntegerLayer:
    """A convolution, ``clip((weight * x + bias + 2**(shift - 1)) >> shift, low, high)``, x zero-padded.

    Args:
        weight: (out, in, k, k) int16, k 1 or 3.
        bias: (out,) int32.
        shift: 0 to 24; the sum is divided by ``2**shift`` and rounded, halves up.
        low: smallest output.
        high: largest output; both within +-32767.

    Raises:
        InvalidTables: an array or a number breaks one of these rules.
    """

    weight: NDArray[np.int16]
    bias: NDArray[np.int32]
    shift: int
    low: int
    high: int

    def __post_init__(self) -> None:
        for name, kind in (("weight", np.int16), ("bias", np.int32)):
            array = np.asarray(getattr(self, name))
            if array.dtype != kind:
                raise InvalidTables(f"an integer layer's {name} must be {np.dtype(kind)}, got {array.dtype}")
            object.__setattr__(self, name, frozen_copy(array))
        shape = self.weight.shape
        if len(shape) != 4 or shape[2:] not in ((1, 1), (3, 3)) or not 1 <= min(shape) <= max(shape) <= MAX_CHANNELS:
            raise InvalidTables(f"an integer layer's weight must be (out, in, k, k) with k 1 or 3, got {shape}")
        if self.bias.shape != shape[:1]:
            raise InvalidTables(f"an integer layer's bias must be ({shape[0]},), got {self.bias.shape}")
        if not 0 <= self.shift <= MAX_SHIFT or not -MAX_ACTIVATION <= self.low <= self.high <= MAX_ACTIVATION:
            raise InvalidTables(
                f"an integer layer must shift by 0 to {MAX_SHIFT} and clip within +-{MAX_ACTIVATION}; got a shift of "
                f"{self.shift} and {self.low} to {self.high}"
            )

    def shifted(self, sums: NDArray[Any]) -> NDArray[Any]:
        """Divide whole sums, bias included, by ``2**shift``, round halves up, and clip; exact for integers and floats."""
        return np.asarray(np.clip((sums + ((1 << self.shift) >> 1)) // (1 << self.shift), self.low, self.high))

    def bound(self, max_input: int) -> int:
        """Return a bound of the absolute value of every partial sum, for inputs up to ``max_input``."""
        weights = np.abs(self.weight.reshape(len(self.weight), -1).astype(np.int64)).sum(1)
        return int((weights * max_input + np.abs(self.bias.astype(np.int64))).max()) + (1 << self.shift)


class IntegerNetwork:
    """A sequence of layers.

    Args:
        layers: each reads the output channels of the one before.
        low: smallest input; smaller ones are clipped.
        high: largest input; larger ones are clipped.

    Raises:
        InvalidTables: the layers do not fit together.
    """

    def __init__(self, layers: Sequence[IntegerLayer], low: int, high: int) -> None:
        if not 1 <= len(layers) <= MAX_LAYERS:
            raise InvalidTables(f"an integer network must have 1 to {MAX_LAYERS} layers, got {len(layers)}")
        if not -MAX_ACTIVATION <= low <= high <= MAX_ACTIVATION:
            raise InvalidTables(f"an integer network's inputs must be within +-{MAX_ACTIVATION}, got {low} to {high}")
        self.layers = tuple(layers)
        self.low, self.high = low, high
        self._matrices: list[tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]] = []
        channels, max_input = self.inputs, max(abs(low), abs(high))
        for layer in layers:
            if layer.weight.shape[1] != channels:
                raise InvalidTables(
                    f"an integer layer reads {layer.weight.shape[1]} channels, the one before returns {channels}"
                )
            kind: type[np.floating[Any]] = np.float32 if layer.bound(max_input) < 2**24 else np.float64
            bias = layer.bias.astype(np.int64) + ((1 << layer.shift) >> 1)
            matrix: NDArray[np.floating[Any]] = layer.weight.reshape(len(bias), -1).astype(kind)
            self._matrices.append((matrix, bias.astype(kind)[:, None]))
            channels, max_input = len(layer.weight), max(abs(layer.low), abs(layer.high))

    @property
    def inputs(self) -> int:
        """Number of input channels."""
        return int(self.layers[0].weight.shape[1])

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return len(self.layers[-1].weight)

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest output."""
        return self.layers[-1].low, self.layers[-1].high

    def __call__(self, x: NDArray[np.generic]) -> NDArray[np.floating[Any]]:
        """Run the layers.

        Args:
            x: (inputs, h, w) of whole numbers of any dtype; clipped to the inputs' range first.

        Returns:
            (outputs, h, w) of whole numbers, as float32 or float64.

        Raises:
            ShapeMismatch: another number of channels, or no element.
        """
        if x.ndim != 3 or x.shape[0] != self.inputs or x.size == 0:
            raise ShapeMismatch(f"the integer network reads ({self.inputs}, h, w), got {x.shape}")
        height, width = x.shape[1:]
        values: NDArray[np.floating[Any]] = np.clip(x, self.low, self.high).astype(
            self._matrices[0][0].dtype, copy=False
        )
        for layer, (matrix, bias) in zip(self.layers, self._matrices, strict=True):
            columns = _columns(values.reshape(-1, height, width), layer.weight.shape[2])
            values = matrix @ columns.astype(matrix.dtype, copy=False)
            values += bias
            values *= matrix.dtype.type(2.0**-layer.shift)
            np.floor(values, out=values)
            np.clip(values, layer.low, layer.high, out=values)
        return values.reshape(-1, height, width)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays that define this network; the inverse of ``from_arrays``."""
        return {"inputs": np.array([self.low, self.high], np.int32), **layers_to_arrays(self.layers)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> IntegerNetwork:
        """Rebuild a network from ``to_arrays``.

        Raises:
            InvalidTables: an array is missing, unexpected or not valid.
        """
        arrays = dict(arrays)
        low, high = int_tuple(arrays.pop("inputs", np.zeros(0, np.int32)), 2, "an integer network's inputs")
        return cls(layers_from_arrays(arrays), low, high)


def layers_to_arrays(layers: Sequence[IntegerLayer]) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of some layers; the inverse of ``layers_from_arrays``."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for index, layer in enumerate(layers):
        arrays[f"{index}.weight"], arrays[f"{index}.bias"] = layer.weight, layer.bias
        arrays[f"{index}.rule"] = np.array([layer.shift, layer.low, layer.high], np.int32)
    return arrays


def layers_from_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> list[IntegerLayer]:
    """Rebuild layers from ``layers_to_arrays``.

    Raises:
        InvalidTables: an array is missing, unexpected or not valid.
    """
    count = len(arrays) // 3
    if set(arrays) != {f"{i}.{name}" for i in range(count) for name in ("weight", "bias", "rule")}:
        raise InvalidTables(f"integer layers must have weight, bias and rule each; got {sorted(arrays)}")
    layers = []
    for index in range(count):
        shift, low, high = int_tuple(arrays[f"{index}.rule"], 3, "an integer layer's rule")
        weight, bias = np.asarray(arrays[f"{index}.weight"]), np.asarray(arrays[f"{index}.bias"])
        layers.append(IntegerLayer(weight=weight, bias=bias, shift=shift, low=low, high=high))  # type: ignore[arg-type]
    return layers


def space_to_depth(x: NDArray[Any], factor: int) -> NDArray[Any]:
    """(C, h, w) -> (C * factor**2, ceil(h / factor), ceil(w / factor)), edge-padded."""
    channels, height, width = x.shape
    rows, columns = -(-height // factor), -(-width // factor)
    if (rows * factor, columns * factor) != (height, width):
        x = np.pad(x, ((0, 0), (0, rows * factor - height), (0, columns * factor - width)), mode="edge")
    blocks = x.reshape(channels, rows, factor, columns, factor).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(blocks).reshape(-1, rows, columns)


def depth_to_space(x: NDArray[Any], factor: int, size: tuple[int, int]) -> NDArray[Any]:
    """(C * factor**2, h, w) -> (C, *size), the inverse of ``space_to_depth``."""
    depth, rows, columns = x.shape
    blocks = x.reshape(depth // factor**2, factor, factor, rows, columns).transpose(0, 3, 1, 4, 2)
    return blocks.reshape(-1, rows * factor, columns * factor)[:, : size[0], : size[1]]


def _columns(x: NDArray[Any], kernel: int) -> NDArray[Any]:
    """(C, h, w) -> (C * kernel**2, h * w): the neighbourhood of every element, zero-padded."""
    channels, height, width = x.shape
    if kernel == 1:
        return x.reshape(channels, -1)
    reach = kernel // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
    columns = np.empty((channels, kernel, kernel, height, width), x.dtype)
    for row in range(kernel):
        for column in range(kernel):
            columns[:, row, column] = padded[:, row : row + height, column : column + width]
    return columns.reshape(-1, height * width)
