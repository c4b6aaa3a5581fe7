"""What both sides derive to code symbols with a context model, and the constants of the coder; integers only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.context import STEPS, ContextModel, table_logits
from splitreg.coding.mixing import MAX_INPUTS
from splitreg.coding.symbols import SymbolModel

#: Levels that slots tell apart, by the logit of the decision.
LEVELS = 16
#: Mixers, in rows of the weights.
ZERO_MIX, SIGN_MIX, STEP_MIX, MIXES = 0, 1, 2, 3
#: Weights of the slot and of the network's probability.
FIRST_WEIGHTS = (0.2, 0.8)


def slot_count(channels: int) -> int:
    """Return the number of adaptive probabilities: of zeros and signs by channel and level, of steps by step and level."""
    return 2 * channels * LEVELS + STEPS * LEVELS


def first_weights() -> NDArray[np.int32]:
    """Return (MIXES, MAX_INPUTS + 1): the mixers' weights at the beginning, in 1/65536."""
    weights = np.zeros((MIXES, MAX_INPUTS + 1), np.int32)
    weights[:, : len(FIRST_WEIGHTS)] = [int(weight * 65536) for weight in FIRST_WEIGHTS]
    return weights


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ContextTables:
    """A model's tables and network, as the coder reads them.

    Args:
        context: the network.
        cdf: (C, L) int32, see ``SymbolModel``, as ``lengths`` and ``offsets``.
        lengths: (C,) int32.
        offsets: (C,) int32.
        logits: (C, 2 + STEPS) int32, see ``table_logits``.
        around: (24 C + 1, U) int16, the weights with the inputs first, as in ``hidden`` and ``here``.
        hidden: (U, U) int16.
        here: (U + 2 C, C H) int16.
        output: (C, 3, H) int16.
    """

    context: ContextModel
    cdf: NDArray[np.int32]
    lengths: NDArray[np.int32]
    offsets: NDArray[np.int32]
    logits: NDArray[np.int32]
    around: NDArray[np.int16]
    hidden: NDArray[np.int16]
    here: NDArray[np.int16]
    output: NDArray[np.int16]

    def workspace(self, width: int) -> int:
        """Return the bytes of the kernel's workspace for a latent of this width."""
        context = self.context
        units = 3 * (width + 4) * context.width + 2 * context.width + context.channels * context.units
        return 4 * (slot_count(context.channels) + units) + 64

    @classmethod
    def of(cls, model: SymbolModel, context: ContextModel) -> ContextTables:
        """Return them for a model and its context model."""
        around, hidden, here = (
            np.ascontiguousarray(layer.weight[:, :, 0, 0].T) for layer in (context.around, context.hidden, context.here)
        )
        return cls(
            context=context, cdf=model.cdf, lengths=model.lengths, offsets=model.offsets,
            logits=table_logits(model.cdf, model.lengths, model.offsets), around=around, hidden=hidden, here=here,
            output=np.ascontiguousarray(context.logits.weight.reshape(model.channels, 3, context.units)),
        )  # fmt: skip
