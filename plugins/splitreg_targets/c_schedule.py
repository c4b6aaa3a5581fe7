"""Rows instead of feature maps: which layer computes a row when, and how many rows of each map must be kept.

A layer computes a row of its output as soon as the rows that it reads exist. Each feature map is a ring of
the rows that are still needed, so memory grows with the width of the image, not with its area.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from splitreg_targets.c_graph import Layer, NetworkGraph

#: Channels are padded to a multiple of this.
CHANNEL_BLOCK = 8


@dataclass(slots=True, kw_only=True)
class Ring:
    """Rows of a feature map in memory.

    Args:
        channels: values per pixel, padded.
        width: pixels per row.
        height: rows in all.
        left: pixels of zeros before a row.
        right: pixels of zeros after it.
        depth: rows in the ring.
        offset: of the ring in the arena, in floats.
        integers: values are 8-bit integers.
        zero: the value of borders.
    """

    channels: int
    width: int
    height: int
    left: int = 0
    right: int = 0
    depth: int = 1
    offset: int = 0
    integers: bool = False
    zero: int = 0

    @property
    def size(self) -> int:
        """Floats of memory; integers have a row of borders behind the ring."""
        return -(-self.stride * (self.depth + 1) // 4) if self.integers else self.stride * self.depth

    @property
    def stride(self) -> int:
        """Values from one row to the next."""
        return (self.left + self.width + self.right) * self.channels


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The order of rows.

    Args:
        steps: the layer of each step: 0 is a row of the image, k the layer k - 1, the last one a row of the latent.
        rings: feature -> its rows.
        arena: values of all rings, and of a row of zeros at its beginning.
    """

    steps: tuple[int, ...]
    rings: dict[str, Ring]
    arena: int


def rows_of(layer: Layer, y: int, height: int) -> tuple[int, int]:
    """Return the first and last row of the inputs, of ``height`` rows, that row ``y`` of the output needs."""
    if layer.kind == "mean":
        return 0, height - 1
    if layer.kind == "pad":
        row = min(max(y - layer.pads[0], 0), height - 1)
        return row, row
    first = y * layer.stride[0] - layer.pads[0]
    return max(first, 0), min(max(first + layer.kernel[0] - 1, 0), height - 1)


def plan_rows(network: NetworkGraph) -> Schedule:
    """Plan the order of rows and the memory of a network."""
    bare = {network.input}  # the image and its padded copies: three values per pixel
    for layer in network.layers:
        if layer.kind in ("pad", "unary") and layer.inputs[0] in bare:
            bare.add(layer.output)
    rings = {}
    for name, (channels, height, width) in network.features.items():
        padded = channels if name in bare else -(-channels // CHANNEL_BLOCK) * CHANNEL_BLOCK
        rings[name] = Ring(channels=padded, width=width, height=height)
    for layer in network.layers:
        if layer.kind in ("conv", "depthwise"):
            ring, width = rings[layer.inputs[0]], network.features[layer.output][2]
            ring.left = max(ring.left, layer.pads[1])
            right = (width - 1) * layer.stride[1] + layer.kernel[1] - layer.pads[1] - ring.width
            ring.right = max(ring.right, right)
    for layer in network.layers:
        if layer.output in network.integers and layer.quantised is not None:
            rings[layer.output].integers, rings[layer.output].zero = True, int(layer.quantised.q)
    steps = _Simulation(network, rings).run()
    arena = max(ring.stride for ring in rings.values())  # the row of zeros
    arena = -(-arena // 16) * 16
    for ring in rings.values():
        ring.offset = arena
        arena += -(-ring.size // 16) * 16
    return Schedule(steps=tuple(steps), rings=rings, arena=arena)


class _Simulation:
    """Computes rows on demand, beginning with the latent's, and notes how many rows were needed at once."""

    def __init__(self, network: NetworkGraph, rings: dict[str, Ring]) -> None:
        self._network, self._rings = network, rings
        self._makers = {layer.output: index + 1 for index, layer in enumerate(network.layers)}
        self._rows = dict.fromkeys(rings, 0)
        self._steps: list[int] = []

    def run(self) -> list[int]:
        last = len(self._network.layers) + 1
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, 10_000))
        try:
            for y in range(self._rings[self._network.output].height):
                self._require(self._network.output, y)
                self._steps.append(last)
        finally:
            sys.setrecursionlimit(limit)
        return self._steps

    def _require(self, name: str, y: int) -> None:
        """Compute the rows of a feature up to row y."""
        while self._rows[name] <= y:
            row = self._rows[name]
            index = self._makers.get(name, 0)
            if index:
                layer = self._network.layers[index - 1]
                spans = [
                    rows_of(layer, 0 if self._rings[i].height == 1 else row, self._rings[i].height)
                    for i in layer.inputs
                ]
                for source, (_, end) in zip(layer.inputs, spans, strict=True):
                    if layer.kind == "mean":  # takes every row as soon as it is there
                        self._sum_up(source, index)
                    else:
                        self._require(source, end)
                for source, (start, _) in zip(layer.inputs, spans, strict=True):
                    if layer.kind != "mean":
                        ring = self._rings[source]
                        ring.depth = max(ring.depth, self._rows[source] - start)
            if not index or self._network.layers[index - 1].kind != "mean":
                self._steps.append(index)
            self._rows[name] = row + 1

    def _sum_up(self, source: str, index: int) -> None:
        for y in range(self._rings[source].height):
            ring = self._rings[source]
            self._require(source, y)
            ring.depth = max(ring.depth, self._rows[source] - y)
            self._steps.append(index)
