"""What both sides of a stream keep from frame to frame, and the constants of temporal coding; integers only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.mixing import MAX_INPUTS
from splitreg.coding.rans_tables import Tables

#: Age of a symbol that has not changed since the key frame; the greatest age.
NEVER = 255
#: Frames that a background value is preferred at most.
MAX_VOTES = 20
#: The count of changed channels ends here.
MAX_COUNT = 8
#: Distances from here on are in Elias gamma code.
UNARY = 20
#: Symbols whose logit of a change is below this share one answer per row.
QUIET = -1350

#: Slots by what they are for: whether a quiet row changes; changes by neighbours and by history; directions; distances.
QUIET_SLOTS, NEIGHBOUR_SLOTS, PAST_SLOTS = 8 * 16 * 2, 225 * 16, 60 * 16 * 8
DIRECTION_SLOTS, DISTANCE_SLOTS = 15 * 4 * 7 + 225, 512 + 256 + 288
SLOTS = QUIET_SLOTS + NEIGHBOUR_SLOTS + PAST_SLOTS + DIRECTION_SLOTS + DISTANCE_SLOTS
#: Mixers, in rows of the weights; three are for distances.
QUIET_MIX, CHANGE_MIX, DIRECTION_MIX, DISTANCE_MIX, MIXES = 0, 1, 2, 3, 6

_FIRST_WEIGHTS = {QUIET_MIX: (0.5, 0.5), CHANGE_MIX: (0.35, 0.35, 0.45), DIRECTION_MIX: (0.5, 0.5, 0.5)}
_FIRST_DISTANCE_WEIGHTS = (0.35, 0.35, 0.35, 0.35)
#: State after a key frame: fraction of a channel that changes, in 1/65536; how sure the background is.
FIRST_RATE, FIRST_VOTES = 327, 4


class Scores(NamedTuple):
    """Initial logits of a change of a symbol, in 1/256 nats.

    They were fitted by logistic regression to the latents of fixed-camera clips.
    """

    bias: int = -890
    west: int = 215
    west2: int = 140
    north: int = 231
    northwest: int = 112
    northeast: int = 141
    north2: int = 139
    below: int = 48
    below4: int = 19
    channels: int = 53
    channels4: int = 32
    age2: int = 117
    age4: int = 147
    age12: int = 158
    aged: int = 208
    away: int = 146
    magnitude: int = 61
    rate: int = 133


#: The scores, in the order of the kernel.
SCORES = Scores()


def first_weights() -> NDArray[np.int32]:
    """Return (MIXES, MAX_INPUTS + 1): the mixers' weights after a key frame, in 1/65536."""
    weights = np.zeros((MIXES, MAX_INPUTS + 1), np.int32)
    for row in range(MIXES):
        first = _FIRST_WEIGHTS.get(row, _FIRST_DISTANCE_WEIGHTS)
        weights[row, : len(first)] = [int(weight * 65536) for weight in first]
    return weights


@dataclass(slots=True, kw_only=True, eq=False)
class History:
    """State of one (C, h, w) plane of a stream.

    Args:
        previous: (C, h, w) int32, symbols of the frame before.
        background: (C, h, w) int32, what they are most of the time.
        alternative: (C, h, w) int32, what they were before their last change.
        votes: (C, h, w) uint8, how sure the background is.
        age: (C, h, w) uint8, frames since the last change, at most ``NEVER``.
        rates: (C,) uint32, fraction of a channel that changes, in 1/65536.
        slots: (SLOTS,) uint32, adaptive probabilities.
        weights: (MIXES, MAX_INPUTS + 1) int32, of mixers, in 1/65536.
    """

    previous: NDArray[np.int32]
    background: NDArray[np.int32]
    alternative: NDArray[np.int32]
    votes: NDArray[np.uint8]
    age: NDArray[np.uint8]
    rates: NDArray[np.uint32]
    slots: NDArray[np.uint32]
    weights: NDArray[np.int32]

    @classmethod
    def begin(cls, symbols: NDArray[np.int32]) -> History:
        """Return the state after a key frame of (C, h, w) symbols."""
        return cls(
            previous=symbols.copy(), background=symbols.copy(), alternative=symbols.copy(),
            votes=np.full(symbols.shape, FIRST_VOTES, np.uint8), age=np.full(symbols.shape, NEVER, np.uint8),
            rates=np.full(symbols.shape[0], FIRST_RATE, np.uint32), slots=np.zeros(SLOTS, np.uint32),
            weights=first_weights(),
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    def translate(self, requantise: Callable[[NDArray[np.int32]], NDArray[np.int32]]) -> None:
        """Replace all symbols by what they are under other tables."""
        for name in ("previous", "background", "alternative"):
            setattr(self, name, np.ascontiguousarray(requantise(getattr(self, name)), np.int32))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameTables:
    """What temporal coding takes from a model's tables.

    Args:
        modes: (R,) int32, most frequent symbol of each row.
        inverses: (R,) uint32, see ``rans_tables.Tables``.
        indexes: (C, h, w) int32, the row of each symbol; None: row c for channel c.
    """

    modes: NDArray[np.int32]
    inverses: NDArray[np.uint32]
    indexes: NDArray[np.int32] | None

    @classmethod
    def of(cls, tables: Tables, indexes: NDArray[np.int32] | None) -> FrameTables:
        """Return them for the coder's tables of a model."""
        return cls(modes=tables.modes + tables.offsets, inverses=tables.inverses, indexes=indexes)
