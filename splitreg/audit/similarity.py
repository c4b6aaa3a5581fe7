"""Multi-scale structural similarity."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5


def multi_scale_ssim(image: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    """Return the MS-SSIM of two (H, W, 3) images, 0 to 1; small images have fewer scales.

    Negative terms count as 0. Source: Wang, Simoncelli and Bovik 2003, "Multiscale structural
    similarity for image quality assessment".
    """
    pair = [torch.from_numpy(np.array(one)).permute(2, 0, 1)[:, None].float() for one in (image, original)]
    scales = 0
    while scales < len(_WEIGHTS) and min(image.shape[:2]) >> scales >= _WINDOW:
        scales += 1
    if not scales:
        return 1.0 if np.array_equal(image, original) else 0.0
    weights = np.array(_WEIGHTS[:scales]) / sum(_WEIGHTS[:scales])
    product = 1.0
    for scale, weight in enumerate(weights):
        luminance, contrast = _terms(pair[0], pair[1])
        value = float((luminance * contrast).mean() if scale == scales - 1 else contrast.mean())
        product *= max(0.0, value) ** float(weight)
        pair = [functional.avg_pool2d(one, 2) for one in pair]
    return product


def _terms(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maps of luminance and contrast-structure."""
    offsets = torch.arange(_WINDOW) - _WINDOW // 2
    line = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    window = (line[:, None] * line[None]) / line.sum() ** 2

    def blur(x: Tensor) -> Tensor:
        return functional.conv2d(x, window[None, None])

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance, (2 * covariance + c2) / (var_a + var_b + c2)
