"""Small networks in exact integer arithmetic: the same output on every runtime, thread count, layout and CPU. numpy only.

The integers are held in floats, so that the matrix products run in BLAS. That is exact where no partial sum can leave
the float's mantissa, in whatever order it is added up. When a network is made, a bound of every layer's sums is computed
from its weights: below 2**24 the layer runs in float32, else in float64, where the limits on a layer's size keep every
sum below 2**50 of the 2**53. Everything else in a layer (adding the bias, dividing by a power of two, floor, clip) is
exact in floats of that size too. Convolutions are written as matrix products, because libraries may compute them by
transforms that round.

Source: Ballé et al. 2019, "Integer networks for data compression with latent-variable models" (the idea).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import InvalidTables, ShapeMismatch

#: Activations and clipping bounds are at most this.
LARGEST = 2**15 - 1
#: A network has at most this many layers, a layer at most this many channels.
MOST_LAYERS, MOST_CHANNELS = 16, 2**16
MOST_SHIFT = 24


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntegerLayer:
    """A convolution, ``clip((weight * x + bias + 2**(shift - 1)) >> shift, low, high)``, with zeros around x.

    Args:
        weight: (out, in, k, k) int16, k 1 or 3.
        bias: (out,) int32.
        shift: 0 to 24; the sum is divided by ``2**shift`` and rounded, halves up (not rounded with 0).
        low: smallest output.
        high: largest output; both within +-32767.

    Raises:
        InvalidTables: the arrays are not what is said above.
    """

    weight: NDArray[np.int16]
    bias: NDArray[np.int32]
    shift: int
    low: int
    high: int

    def __post_init__(self) -> None:
        for name, kind in (("weight", np.int16), ("bias", np.int32)):
            given = np.asarray(getattr(self, name))
            if given.dtype != kind:
                raise InvalidTables(f"an integer layer's {name} must be {np.dtype(kind)}, got {given.dtype}")
            array = np.array(given, order="C")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        shape = self.weight.shape
        if len(shape) != 4 or shape[2:] not in ((1, 1), (3, 3)) or not 1 <= min(shape) <= max(shape) <= MOST_CHANNELS:
            raise InvalidTables(f"an integer layer's weight must be (out, in, k, k) with k 1 or 3, got {shape}")
        if self.bias.shape != shape[:1]:
            raise InvalidTables(f"an integer layer's bias must be ({shape[0]},), got {self.bias.shape}")
        if not 0 <= self.shift <= MOST_SHIFT or not -LARGEST <= self.low <= self.high <= LARGEST:
            raise InvalidTables(
                f"an integer layer shifts by 0 to {MOST_SHIFT} and clips within +-{LARGEST}; got a shift of {self.shift} "
                f"and {self.low} to {self.high}"
            )

    def bound(self, largest: int) -> int:
        """Return what no partial sum exceeds in absolute value, for inputs of at most ``largest``."""
        weights = np.abs(self.weight.reshape(len(self.weight), -1).astype(np.int64)).sum(1)
        return int((weights * largest + np.abs(self.bias.astype(np.int64))).max()) + (1 << self.shift)


class IntegerNetwork:
    """Layers, one after the other.

    Args:
        layers: each reads the channels that the one before gives.
        low: inputs below are set to this.
        high: inputs above are set to this.

    Raises:
        InvalidTables: layers that do not fit together.
    """

    def __init__(self, layers: Sequence[IntegerLayer], low: int, high: int) -> None:
        if not 1 <= len(layers) <= MOST_LAYERS:
            raise InvalidTables(f"an integer network has 1 to {MOST_LAYERS} layers, got {len(layers)}")
        if not -LARGEST <= low <= high <= LARGEST:
            raise InvalidTables(f"an integer network's inputs are within +-{LARGEST}, got {low} to {high}")
        self.layers = tuple(layers)
        self.low, self.high = low, high
        self._matrices: list[tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]] = []
        channels, largest = self.inputs, max(abs(low), abs(high))
        for layer in layers:
            if layer.weight.shape[1] != channels:
                raise InvalidTables(
                    f"an integer layer reads {layer.weight.shape[1]} channels, the one before gives {channels}"
                )
            kind: type[np.floating[Any]] = np.float32 if layer.bound(largest) < 2**24 else np.float64
            bias = layer.bias.astype(np.int64) + ((1 << layer.shift) >> 1)
            matrix: NDArray[np.floating[Any]] = layer.weight.reshape(len(bias), -1).astype(kind)
            self._matrices.append((matrix, bias.astype(kind)[:, None]))
            channels, largest = len(layer.weight), max(abs(layer.low), abs(layer.high))

    @property
    def inputs(self) -> int:
        """Channels that it reads."""
        return int(self.layers[0].weight.shape[1])

    @property
    def outputs(self) -> int:
        """Channels that it gives."""
        return len(self.layers[-1].weight)

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest output."""
        return self.layers[-1].low, self.layers[-1].high

    def __call__(self, x: NDArray[np.generic]) -> NDArray[np.floating[Any]]:
        """Run the layers.

        Args:
            x: (inputs, h, w) of whole numbers of any size and dtype; clipped to the inputs' range first.

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
        found: dict[str, NDArray[np.generic]] = {"inputs": np.array([self.low, self.high], np.int32)}
        for index, layer in enumerate(self.layers):
            found[f"{index}.weight"], found[f"{index}.bias"] = layer.weight, layer.bias
            found[f"{index}.rule"] = np.array([layer.shift, layer.low, layer.high], np.int32)
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> IntegerNetwork:
        """Rebuild a network from ``to_arrays``.

        Raises:
            InvalidTables: an array is missing, unexpected or wrong.
        """
        count = len(arrays) // 3
        wanted = {"inputs", *(f"{i}.{name}" for i in range(count) for name in ("weight", "bias", "rule"))}
        if set(arrays) != wanted:
            raise InvalidTables(
                f"an integer network wants inputs, and weight, bias, rule by layer; got {sorted(arrays)}"
            )
        low, high = integers(arrays["inputs"], 2, "an integer network's inputs")
        layers = []
        for index in range(count):
            shift, least, most = integers(arrays[f"{index}.rule"], 3, "an integer layer's rule")
            weight, bias = np.asarray(arrays[f"{index}.weight"]), np.asarray(arrays[f"{index}.bias"])
            layers.append(IntegerLayer(weight=weight, bias=bias, shift=shift, low=least, high=most))  # type: ignore[arg-type]
        return cls(layers, low, high)


def integers(array: NDArray[np.generic], count: int, what: str) -> tuple[int, ...]:
    """Return the values of a (count,) int32 array.

    Raises:
        InvalidTables: it is not one.
    """
    array = np.asarray(array)
    if array.shape != (count,) or array.dtype != np.int32:
        raise InvalidTables(f"{what} must be {count} int32, got {array.shape} {array.dtype}")
    return tuple(int(value) for value in array)


def space_to_depth(x: NDArray[Any], factor: int) -> NDArray[Any]:
    """(C, h, w) -> (C * factor**2, ceil(h / factor), ceil(w / factor)); the last row and column are repeated to fill up."""
    channels, height, width = x.shape
    rows, columns = -(-height // factor), -(-width // factor)
    if (rows * factor, columns * factor) != (height, width):
        x = np.pad(x, ((0, 0), (0, rows * factor - height), (0, columns * factor - width)), mode="edge")
    blocks = x.reshape(channels, rows, factor, columns, factor).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(blocks).reshape(-1, rows, columns)


def depth_to_space(x: NDArray[Any], factor: int, size: tuple[int, int]) -> NDArray[Any]:
    """(C * factor**2, h, w) -> (C, *size): undo ``space_to_depth``."""
    depth, rows, columns = x.shape
    blocks = x.reshape(depth // factor**2, factor, factor, rows, columns).transpose(0, 3, 1, 4, 2)
    return blocks.reshape(-1, rows * factor, columns * factor)[:, : size[0], : size[1]]


def _columns(x: NDArray[Any], kernel: int) -> NDArray[Any]:
    """(C, h, w) -> (C * kernel**2, h * w): the neighbourhood of every element, zeros around."""
    channels, height, width = x.shape
    if kernel == 1:
        return x.reshape(channels, -1)
    reach = kernel // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
    found = np.empty((channels, kernel, kernel, height, width), x.dtype)
    for row in range(kernel):
        for column in range(kernel):
            found[:, row, column] = padded[:, row : row + height, column : column + width]
    return found.reshape(-1, height * width)
