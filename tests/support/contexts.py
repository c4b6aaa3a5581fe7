"""Context models of random integers."""

import numpy as np

from splitreg.coding import ContextModel, IntegerLayer
from splitreg.coding.context import DECISIONS, NEIGHBOURS


def context_model(rng, channels, width=8, units=3, *, level=0, weights=60):
    """A context model whose corrections depend on everything that it may read."""

    def layer(weight, shift, low, high):
        bias = rng.integers(-300, 300, len(weight)).astype(np.int32)
        return IntegerLayer(weight=weight[..., None, None], bias=bias, shift=shift, low=low, high=high)

    def drawn(*shape):
        return rng.integers(-weights, weights + 1, shape).astype(np.int16)

    here = drawn(channels * units, width + 2 * channels)
    reader = np.repeat(np.arange(channels), units)
    for sign in range(2):
        first = width + sign * channels
        here[:, first : first + channels][np.arange(channels) >= reader[:, None]] = 0
    return ContextModel(
        around=layer(drawn(width, 2 * len(NEIGHBOURS) * channels + 1), 3, 0, 1023),
        hidden=layer(drawn(width, width), 6, 0, 1023),
        here=layer(here, 6, 0, 1023),
        logits=layer(drawn(DECISIONS * channels, units), 6, -2047, 2047),
        level=level,
    )
