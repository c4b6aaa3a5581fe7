"""``VariableModel``: several rates in one model, by gains on the latent's channels.

The rate is chosen for each image and sent in the first byte of its first stream. A larger gain means
finer quantisation: more bytes, a better latent. Gains are frozen numbers, one row for each of 256
positions from the fewest bytes to the most, so that both sides use the same bits; nothing is
interpolated when a model runs.

Source: Cui et al. 2021, arXiv:2003.02012 (gains per channel, and geometric interpolation between
trained points).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.arrays import digest_of, frozen_copy, int_tuple
from splitreg.coding.hyper import HyperModel
from splitreg.coding.symbols import SymbolModel
from splitreg.errors import CorruptPacket, InvalidTables, RecipeError, ShapeMismatch

#: Number of rates: a packet names one in a byte.
POSITIONS = 256
#: Gains and inverses are 1 / ``MAX_GAIN`` to ``MAX_GAIN``, so that int32 times a gain is finite.
MAX_GAIN = 2.0**20

_ARRAYS = ("gains", "inverses", "shift", "chosen", "default")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VariableModel:
    """Frozen coding of a latent at any of 256 rates.

    At position p, ``models[chosen[p]]`` codes (latent - shift) * gains[p]; the receiver decodes it,
    multiplies by inverses[p] and adds shift, in float32 and in this order. The first stream of a
    packet begins with the byte p.

    Args:
        models: tables or hyperpriors, each for one or more positions.
        chosen: (256,), index of the model at each position.
        gains: (256, C) float32, from the fewest bytes to the most.
        inverses: (256, C) float32; they may differ from 1 / gains.
        shift: (C,) float32.
        default: position if no rate is given.

    Raises:
        InvalidTables: the parts do not fit together.
    """

    models: tuple[SymbolModel | HyperModel, ...]
    chosen: NDArray[np.uint8]
    gains: NDArray[np.float32]
    inverses: NDArray[np.float32]
    shift: NDArray[np.float32]
    default: int

    def __post_init__(self) -> None:
        channels = self.models[0].channels if self.models else 0
        for name, kind, shape in (
            ("chosen", np.uint8, (POSITIONS,)), ("gains", np.float32, (POSITIONS, channels)),
            ("inverses", np.float32, (POSITIONS, channels)), ("shift", np.float32, (channels,)),
        ):  # fmt: skip
            array = np.asarray(getattr(self, name))
            if array.dtype != kind or array.shape != shape:
                raise InvalidTables(
                    f"{name} of a variable rate must be {shape} {np.dtype(kind)}, got {array.shape} {array.dtype}"
                )
            object.__setattr__(self, name, frozen_copy(array))
        if any(model.channels != channels or model.bits for model in self.models):
            raise InvalidTables(f"the models of a variable rate must have {channels} channels and symbols of any int32")
        if int(self.chosen.max()) >= len(self.models) or not 0 <= self.default < POSITIONS:
            raise InvalidTables(
                f"chosen must be below {len(self.models)} and default below {POSITIONS}; got {int(self.chosen.max())} "
                f"and {self.default}"
            )
        for name, gains in (("gains", self.gains), ("inverses", self.inverses)):
            if not ((gains >= 1 / MAX_GAIN) & (gains <= MAX_GAIN)).all():  # also false for NaN
                raise InvalidTables(
                    f"{name} of a variable rate must be 2**-20 to 2**20, got {gains.min()} to {gains.max()}; training has "
                    "diverged"
                )
        if not np.isfinite(self.shift).all():
            raise InvalidTables("shift of a variable rate must be finite; training has diverged")

    @property
    def channels(self) -> int:
        """C of the latent."""
        return self.models[0].channels

    @property
    def bits(self) -> int:
        """Always 0: symbols are any int32."""
        return 0

    @property
    def has_tables(self) -> bool:
        """Whether there are frequency tables."""
        return all(model.has_tables for model in self.models)

    def position(self, rate: float | None = None) -> int:
        """Return the position of a rate from 0 (fewest bytes) to 1 (most), or the default.

        Raises:
            RecipeError: the rate is not 0 to 1.
        """
        if rate is None:
            return self.default
        if not 0 <= rate <= 1:  # also false for NaN
            raise RecipeError(f"rate must be 0 (fewest bytes) to 1 (most bytes), got {rate}")
        return round(float(rate) * (POSITIONS - 1))

    def rate_of(self, streams: Sequence[bytes]) -> float:
        """Return the rate, from 0 to 1, at which one image's streams were written.

        Raises:
            CorruptPacket: the first stream is empty.
        """
        return position_of(streams) / (POSITIONS - 1)

    def restore(self, latent: NDArray[np.float32], rate: float | None = None) -> NDArray[np.float32]:
        """Return the (C, h, w) latent that a receiver decodes with a lossless codec, at a rate."""
        position = self.position(rate)
        return self.unscaled(self.model_at(position).restore(self.scaled(latent, position)), position)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays that define this model; the inverse of ``from_arrays``."""
        return {
            "gains": self.gains, "inverses": self.inverses, "shift": self.shift, "chosen": self.chosen,
            "default": np.array([self.default], np.int32),
            **{f"{i}.{name}": array for i in range(len(self.models)) for name, array in self._model_arrays(i).items()},
        }  # fmt: skip

    def _model_arrays(self, index: int) -> dict[str, NDArray[np.generic]]:
        """Return the arrays of a model, without layers that it shares with the first one."""
        model, first = self.models[index], self.models[0]
        arrays = model.to_arrays()
        if index and isinstance(model, SymbolModel) and isinstance(first, SymbolModel) and model.context is not None:
            if model.context.shares_layers(first.context):
                arrays = {name: array for name, array in arrays.items() if not _is_layer(name)}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> VariableModel:
        """Rebuild a model from ``to_arrays``.

        Raises:
            InvalidTables: an array is missing, unexpected or not valid.
        """
        own: dict[str, NDArray[Any]] = {name: np.asarray(array) for name, array in arrays.items() if name in _ARRAYS}
        parts: dict[str, dict[str, NDArray[np.generic]]] = {}
        for name in arrays.keys() - own.keys():
            number, _, rest = name.partition(".")
            parts.setdefault(number, {})[rest] = arrays[name]
        numbers = [str(i) for i in range(len(parts))]
        if set(own) != set(_ARRAYS) or not parts or set(parts) != set(numbers):
            raise InvalidTables(
                f"a variable rate must have the arrays {', '.join(_ARRAYS)} and models from 0; got "
                f"{', '.join(sorted(arrays))}"
            )
        default = own.pop("default")
        if default.shape != (1,) or default.dtype != np.int32:
            raise InvalidTables(f"default of a variable rate must be (1,) int32, got {default.shape} {default.dtype}")
        models = [fixed_model(parts["0"])]
        for number in numbers[1:]:
            models.append(_sharing(models[0], parts[number]))
        return cls(models=tuple(models), default=int(default[0]), **own)

    def digest(self) -> bytes:
        """Return the SHA-256 of all arrays: the same on every machine."""
        return digest_of(self.to_arrays())

    def model_at(self, position: int) -> SymbolModel | HyperModel:
        """Return the model of a position."""
        return self.models[int(self.chosen[position])]

    def scaled(self, latent: NDArray[np.float32], position: int) -> NDArray[np.float32]:
        """Return (latent - shift) * gains at a position, (C, h, w) float32.

        Raises:
            ShapeMismatch: the latent has other channels, or no element.
        """
        latent = np.asarray(latent, np.float32)
        if latent.ndim != 3 or latent.shape[0] != self.channels or latent.size == 0:
            raise ShapeMismatch(f"the model is for latents ({self.channels}, h, w), got {latent.shape}")
        with np.errstate(over="ignore", invalid="ignore"):  # the model rejects the result
            scaled = latent - self.shift[:, None, None]
            scaled *= self.gains[position][:, None, None]
        return scaled

    def unscaled(self, scaled: NDArray[np.float32], position: int) -> NDArray[np.float32]:
        """Return scaled * inverses + shift at a position, (C, h, w) float32."""
        latent: NDArray[np.float32] = scaled * self.inverses[position][:, None, None]
        latent += self.shift[:, None, None]
        return latent


def _is_layer(name: str) -> bool:
    """Whether an array is a weight, bias or rule of a context model's layer."""
    return name.startswith("context.") and name != "context.level"


def _sharing(first: SymbolModel | HyperModel, arrays: Mapping[str, NDArray[np.generic]]) -> SymbolModel | HyperModel:
    """Rebuild a model which may share the layers of the first one's context model.

    Raises:
        InvalidTables: an array is missing or not valid.
    """
    level = arrays.get("context.level")
    if level is None or any(map(_is_layer, arrays)):
        return fixed_model(arrays)
    if not isinstance(first, SymbolModel) or first.context is None:
        raise InvalidTables("a model of a variable rate shares the layers of a context model that the first one lacks")
    own = {name: array for name, array in arrays.items() if name != "context.level"}
    context = first.context.at(int_tuple(level, 1, "a context model's level")[0])
    return SymbolModel.from_arrays(own).with_context(context)


def fixed_model(arrays: Mapping[str, NDArray[np.generic]]) -> SymbolModel | HyperModel:
    """Rebuild a model of one rate from its arrays; a hyperprior's are named ``part.array``.

    Raises:
        InvalidTables: an array is missing or not valid.
    """
    return HyperModel.from_arrays(arrays) if "rule" in arrays else SymbolModel.from_arrays(arrays)


def position_of(streams: Sequence[bytes]) -> int:
    """Return the position in the first byte of one image's streams.

    Raises:
        CorruptPacket: the first stream is empty.
    """
    if not streams or not streams[0]:
        raise CorruptPacket("the first stream is empty; in packets of this model it begins with a byte for the rate")
    return streams[0][0]
