"""Tiled images in torch: the blocks of JPEG, their cosine transform and its quantisation, with gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from splitreg_classic.tiling import grid

#: Luminance table of ITU-T T.81, annex K, for quality 50, row by row.
LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87,
    80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92,
    95, 98, 112, 100, 103, 99,
)  # fmt: skip


def tile(latent: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 1, rows * h, columns * w), row by row; unused tiles are zero.

    >>> tile(torch.arange(8.0).reshape(1, 8, 1, 1)).tolist()
    [[[[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]]]
    """
    batch, channels, height, width = latent.shape
    rows, columns = grid(channels)
    filled = functional.pad(latent, (0, 0, 0, 0, 0, rows * columns - channels))
    tiles = filled.reshape(batch, rows, columns, height, width).transpose(2, 3)
    return tiles.reshape(batch, 1, rows * height, columns * width)


def untile(image: Tensor, shape: torch.Size) -> Tensor:
    """Undo ``tile``: (B, 1, H, W) -> a latent of ``shape``."""
    batch, channels, height, width = shape
    rows, columns = grid(channels)
    tiles = image.reshape(batch, rows, height, columns, width).transpose(2, 3)
    return tiles.reshape(batch, rows * columns, height, width)[:, :channels]


def basis(size: int, like: Tensor) -> Tensor:
    """Return the (size, size) matrix of the orthonormal DCT-II."""
    index = torch.arange(size, device=like.device, dtype=like.dtype)
    matrix = torch.cos(math.pi / size * (index + 0.5) * index[:, None]) * math.sqrt(2 / size)
    return torch.cat([matrix[:1] / math.sqrt(2), matrix[1:]])


def quantisation_table(quality: int) -> Tensor:
    """Return the (8, 8) table of libjpeg for a quality.

    >>> quantisation_table(50)[0, :3].tolist(), quantisation_table(100).max().item()
    ([16.0, 11.0, 10.0], 1.0)
    """
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    table = torch.tensor(LUMINANCE, dtype=torch.float32).reshape(8, 8)
    return ((table * scale + 50) / 100).floor().clamp(1, 255)


def coefficients(image: Tensor, table: Tensor) -> Tensor:
    """(B, 1, H, W) of 0 to 255 -> (B, rows, columns, 8, 8) coefficients of its blocks in steps, not rounded."""
    height, width = image.shape[-2:]
    image = functional.pad(image, (0, -width % 8, 0, -height % 8), mode="replicate")[:, 0] - 128
    blocks = image.unfold(-2, 8, 8).unfold(-2, 8, 8)
    matrix = basis(8, image)
    return matrix @ blocks @ matrix.T / table


def image_of(steps: Tensor, table: Tensor, size: tuple[int, int]) -> Tensor:
    """Undo ``coefficients`` for an image of ``size`` (H, W)."""
    matrix = basis(8, steps)
    blocks = matrix.T @ (steps * table) @ matrix
    rows, columns = blocks.shape[1] * 8, blocks.shape[2] * 8
    return blocks.transpose(2, 3).reshape(-1, 1, rows, columns)[..., : size[0], : size[1]] + 128


def jpeg(latent: Tensor, quality: int) -> Tensor:
    """(B, C, h, w) symbols of 8 bits -> the symbols that a JPEG of their tiled image restores; no gradient.

    Up to the arithmetic of libjpeg, which differs by at most a step for a few pixels.
    """
    with torch.no_grad():
        image, table = tile(latent), quantisation_table(quality).to(latent.device)
        restored = image_of(coefficients(image.round(), table).round(), table, (image.shape[-2], image.shape[-1]))
        return untile(restored.round().clamp(0, 255), latent.shape)
