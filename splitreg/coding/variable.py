"""Many rates in one model: gains on the latent's channels, chosen for each image and told in the stream's first byte.

A larger gain means finer steps: more bytes, a better latent. Gains are frozen numbers, one row for each of 256 positions
from the fewest bytes to the most, so that both sides use the same bits; nothing is interpolated when a model runs.

Source: Cui et al. 2021, arXiv:2003.02012 (gains by channel, and between trained points their geometric interpolation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.hyper import HyperModel
from splitreg.coding.symbols import SymbolModel, digest_of
from splitreg.errors import CorruptPacket, InvalidTables, RecipeError, ShapeMismatch

#: Rates that a packet can name, in a byte.
POSITIONS = 256
#: Gains and their inverses are from 1 / ``MOST_GAIN`` to this: a decoded int32 times one of them is finite.
MOST_GAIN = 2.0**20

_ARRAYS = ("gains", "inverses", "shift", "chosen", "default")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VariableModel:
    """Frozen rules of a latent that is sent at any of 256 rates.

    At position p the model ``models[chosen[p]]`` codes (latent - shift) * gains[p], and a receiver gets what that
    restores, times inverses[p], plus shift: float32, one operation after the other. The first stream of a packet begins
    with a byte p.

    Args:
        models: tables, or hyperpriors, for one or more of the positions.
        chosen: (256,), which of them codes at each position.
        gains: (256, C) float32, from the fewest bytes to the most.
        inverses: (256, C) float32; they may differ from 1 / gains.
        shift: (C,) float32.
        default: position where none is asked for.

    Raises:
        InvalidTables: parts that do not fit together.
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
            given = np.asarray(getattr(self, name))
            if given.dtype != kind or given.shape != shape:
                raise InvalidTables(
                    f"a variable rate's {name!r} must be {shape} {np.dtype(kind)}, got {given.shape} {given.dtype}"
                )
            array = np.array(given, order="C")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if any(model.channels != channels or model.bits for model in self.models):
            raise InvalidTables(
                "the models of a variable rate must have the same channels, and symbols without a limit"
            )
        if int(self.chosen.max()) >= len(self.models) or not 0 <= self.default < POSITIONS:
            raise InvalidTables(
                f"a position chooses a model that is none of {len(self.models)}, or the default is none"
            )
        for name, gains in (("gains", self.gains), ("inverses", self.inverses)):
            if not ((gains >= 1 / MOST_GAIN) & (gains <= MOST_GAIN)).all():  # NaN is not
                raise InvalidTables(
                    f"the {name} of a variable rate must be from 2**-20 to 2**20; training has diverged"
                )
        if not np.isfinite(self.shift).all():
            raise InvalidTables("the shift of a variable rate must be finite; training has diverged")

    @property
    def channels(self) -> int:
        """C of the latent."""
        return self.models[0].channels

    @property
    def bits(self) -> int:
        """0: any int32 may come."""
        return 0

    @property
    def has_tables(self) -> bool:
        """Whether frequency tables are there."""
        return all(model.has_tables for model in self.models)

    def position(self, rate: float | None = None) -> int:
        """Return the position of a rate from 0 (fewest bytes) to 1 (most), or the default.

        Raises:
            RecipeError: another number.
        """
        if rate is None:
            return self.default
        if not 0 <= rate <= 1:  # nor is NaN
            raise RecipeError(f"a rate is a number from 0 (fewest bytes) to 1 (most bytes), got {rate}")
        return round(float(rate) * (POSITIONS - 1))

    def rate_of(self, streams: Sequence[bytes]) -> float:
        """Return the rate, from 0 to 1, at which one image's streams were written.

        Raises:
            CorruptPacket: there is no first byte.
        """
        return position_of(streams) / (POSITIONS - 1)

    def restore(self, latent: NDArray[np.float32], rate: float | None = None) -> NDArray[np.float32]:
        """Return what a receiver gets of a (C, h, w) latent at a rate, when the codec is lossless."""
        at = self.position(rate)
        return self.unscaled(self.model_at(at).restore(self.scaled(latent, at)), at)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays that define this model; the inverse of ``from_arrays``."""
        return {
            "gains": self.gains, "inverses": self.inverses, "shift": self.shift, "chosen": self.chosen,
            "default": np.array([self.default], np.int32),
            **{f"{i}.{name}": array for i, model in enumerate(self.models) for name, array in model.to_arrays().items()},
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> VariableModel:
        """Rebuild a model from ``to_arrays``.

        Raises:
            InvalidTables: an array is missing, unexpected or wrong.
        """
        own: dict[str, NDArray[Any]] = {name: np.asarray(array) for name, array in arrays.items() if name in _ARRAYS}
        parts: dict[str, dict[str, NDArray[np.generic]]] = {}
        for name in arrays.keys() - own.keys():
            number, _, rest = name.partition(".")
            parts.setdefault(number, {})[rest] = arrays[name]
        numbers = [str(i) for i in range(len(parts))]
        if set(own) != set(_ARRAYS) or not parts or set(parts) != set(numbers):
            raise InvalidTables(
                f"a variable rate has the arrays {', '.join(_ARRAYS)} and models from 0; got {', '.join(sorted(arrays))}"
            )
        default = own.pop("default")
        if default.shape != (1,) or default.dtype != np.int32:
            raise InvalidTables("the array 'default' of a variable rate is not one number")
        models = tuple(fixed_model(parts[number]) for number in numbers)
        return cls(models=models, default=int(default[0]), **own)

    def digest(self) -> bytes:
        """SHA-256 over all arrays, the same on every machine."""
        return digest_of(self.to_arrays())

    def model_at(self, position: int) -> SymbolModel | HyperModel:
        """Return the model that codes at a position."""
        return self.models[int(self.chosen[position])]

    def scaled(self, latent: NDArray[np.float32], position: int) -> NDArray[np.float32]:
        """Return what the model of a position codes: (latent - shift) * gains, (C, h, w) float32.

        Raises:
            ShapeMismatch: the latent has other channels, or no element.
        """
        latent = np.asarray(latent, np.float32)
        if latent.ndim != 3 or latent.shape[0] != self.channels or latent.size == 0:
            raise ShapeMismatch(f"the tables are for latents ({self.channels}, h, w), got {latent.shape}")
        with np.errstate(over="ignore", invalid="ignore"):  # the model refuses the result
            return np.asarray((latent - self.shift[:, None, None]) * self.gains[position][:, None, None], np.float32)

    def unscaled(self, scaled: NDArray[np.float32], position: int) -> NDArray[np.float32]:
        """Return the latent of what the model of a position decoded: scaled * inverses + shift."""
        return np.asarray(scaled * self.inverses[position][:, None, None] + self.shift[:, None, None], np.float32)


def fixed_model(arrays: Mapping[str, NDArray[np.generic]]) -> SymbolModel | HyperModel:
    """Rebuild a model of one rate from its arrays; those of a hyperprior are named part.array.

    Raises:
        InvalidTables: an array is missing or wrong.
    """
    return HyperModel.from_arrays(arrays) if "rule" in arrays else SymbolModel.from_arrays(arrays)


def position_of(streams: Sequence[bytes]) -> int:
    """Return the position that the first byte of one image's streams names.

    Raises:
        CorruptPacket: there is no first byte.
    """
    if not streams or not streams[0]:
        raise CorruptPacket(
            "the first stream is empty; in this model's packets it begins with a byte that tells the rate"
        )
    return streams[0][0]
