"""State and constants of the coding of label maps; integers only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.mixing import MAX_INPUTS

#: Labels share contexts modulo this; bands of rows; labels that are tried after the guess.
CLASSES, BANDS, RIVALS = 32, 16, 2
#: Slots of the first step: by the pattern of ten neighbours, by class, by the map before, by place.
PATTERNS, BY_CLASS, PAST, PLACES = 1 << 10, CLASSES * 64, 128 * 8, BANDS * CLASSES * 8
#: Slots of a rival: by the pair of labels, by its neighbours, by the map before.
PAIRS, SIDES, PASTS = CLASSES * CLASSES, 64, 16
RIVAL = PAIRS + SIDES + PASTS
SLOTS = PATTERNS + BY_CLASS + PAST + PLACES + RIVALS * RIVAL + 256
#: Mixers of a rival and of the bits of a label; how slowly slots learn in the end.
RIVAL_MIX, TREE_MIX, LIMIT, TREE_LIMIT = 3, 5, 255, 30

_FIRST_WEIGHTS = ((0.3,) * 5,) * 3 + ((0.4,) * 4,) * 2 + ((0.6,),)


@dataclass(slots=True, kw_only=True, eq=False)
class LabelState:
    """What encoder and decoder keep from map to map.

    Args:
        slots: (SLOTS,) uint32, adaptive probabilities.
        weights: (6, MAX_INPUTS + 1) int32, of mixers, in 1/65536.
        previous: (H, W) uint8, the map before, if it had the same size.
    """

    slots: NDArray[np.uint32]
    weights: NDArray[np.int32]
    previous: NDArray[np.uint8] | None = None

    @classmethod
    def begin(cls) -> LabelState:
        """Return the state before the first map."""
        weights = np.zeros((len(_FIRST_WEIGHTS), MAX_INPUTS + 1), np.int32)
        for row, first in enumerate(_FIRST_WEIGHTS):
            weights[row, : len(first)] = [int(weight * 65536) for weight in first]
        return cls(slots=np.zeros(SLOTS, np.uint32), weights=weights)
