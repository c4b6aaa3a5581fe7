"""Send a value of any layout across a cut: to one map (B, C, h, w), and back without a change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLayout:
    """Layout of a value: its dimensions, and tokens that are not on the grid.

    Args:
        kind: ``"map"`` (B, C, h, w), ``"channels-last"`` (B, h, w, C) or ``"tokens"`` (B, extra + h * w, C).
        channels: C.
        grid: (h, w) for the image size of the model; used for tokens only.
        extra: number of tokens that are not on the grid (class, distillation, register); they come first.
        order: dimensions in memory order, slowest first. Convolutions round differently if channels
            are last, so the server restores the order.
        missing: rows and columns by which a map is smaller than its stride requires (Inception does not
            pad); the border is filled with zeros, at most one more at the bottom and the right.

    The values of the extra tokens fill additional channels of the map, padded with zeros. So a map with
    tokens has the same height and width as one without.
    """

    kind: str
    channels: int
    grid: tuple[int, int]
    order: tuple[int, ...]
    extra: int = 0
    missing: tuple[int, int] = (0, 0)

    @property
    def carriers(self) -> int:
        """Number of additional channels for the extra tokens."""
        return -(-self.extra * self.channels // (self.grid[0] * self.grid[1]))

    def pack(self, value: Tensor) -> Tensor:
        """Return the value as a map: (B, C + carriers, h, w), contiguous."""
        if self.kind == "map":
            (top, bottom), (left, right) = self._border
            return functional.pad(value, (left, right, top, bottom)) if any(self.missing) else value.contiguous()
        if self.kind == "channels-last":
            return value.permute(0, 3, 1, 2).contiguous()
        grid = value[:, self.extra :].transpose(1, 2).reshape(-1, self.channels, *self.grid)
        if not self.extra:
            return grid.contiguous()
        missing = self.carriers * self.grid[0] * self.grid[1] - self.extra * self.channels
        tokens = functional.pad(value[:, : self.extra].flatten(1), (0, missing))
        return torch.cat([grid, tokens.reshape(-1, self.carriers, *self.grid)], dim=1)

    def unpack(self, feature: Tensor) -> Tensor:
        """Return the value of a map: the inverse of ``pack``."""
        if self.kind == "map":
            (top, bottom), (left, right) = self._border
            height, width = feature.shape[-2:]
            return self._laid_out(feature[..., top : height - bottom, left : width - right])
        if self.kind == "channels-last":
            return self._laid_out(feature.permute(0, 2, 3, 1))
        grid = feature[:, : self.channels].flatten(2).transpose(1, 2)
        if not self.extra:
            return self._laid_out(grid)
        numbers = feature[:, self.channels :].flatten(1)[:, : self.extra * self.channels]
        return self._laid_out(torch.cat([numbers.reshape(-1, self.extra, self.channels), grid], dim=1))

    @property
    def _border(self) -> tuple[tuple[int, int], tuple[int, int]]:
        rows, columns = self.missing
        return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)

    def _laid_out(self, value: Tensor) -> Tensor:
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return value.permute(self.order).contiguous().permute(back)


def find_layout(value: Tensor, channels: int, grid: tuple[int, int]) -> TokenLayout | None:
    """Return the layout of a value whose map has ``channels`` and ``grid``, or None if it has another shape."""
    shape = tuple(value.shape[1:])
    order = tuple(sorted(range(value.ndim), key=lambda d: (-value.stride()[d], d)))
    if shape == (channels, *grid):
        return TokenLayout(kind="map", channels=channels, grid=grid, order=order)
    if shape == (*grid, channels):
        return TokenLayout(kind="channels-last", channels=channels, grid=grid, order=order)
    if len(shape) == 2 and shape[1] == channels and (extra := shape[0] - grid[0] * grid[1]) >= 0:
        return TokenLayout(kind="tokens", channels=channels, grid=grid, extra=extra, order=order)
    return None
