"""Blocks of JPEG in torch: tiles as numpy has them, inverses, and the pixels that real files restore."""

import numpy as np
import pytest
import torch
from splitreg_classic import blocks, tiling
from splitreg_classic.images import Jpeg

from splitreg.coding import SymbolModel


def latent(shape, amplitude=20.0):
    torch.manual_seed(0)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(*shape), 3, 1, 1)
    return (128 + amplitude * smooth / smooth.std()).clamp(0, 255)


@pytest.mark.parametrize("channels", [1, 3, 8, 24])
def test_tiles_are_those_of_the_codecs(channels):
    symbols = latent((2, channels, 5, 7)).round()
    image = blocks.tile(symbols)
    for row in range(2):
        np.testing.assert_array_equal(image[row, 0].numpy(), tiling.tile(symbols[row].numpy()))
    assert torch.equal(blocks.untile(image, symbols.shape), symbols)


@pytest.mark.parametrize("size", [(8, 8), (12, 20), (3, 9)])
def test_the_transform_can_be_undone(size):
    image, table = latent((2, 1, *size)), blocks.quantisation_table(50)
    steps = blocks.coefficients(image, table)
    assert steps.shape == (2, -(-size[0] // 8), -(-size[1] // 8), 8, 8)
    torch.testing.assert_close(blocks.image_of(steps, table, size), image, rtol=0, atol=1e-3)


@pytest.mark.parametrize("quality", [50, 80, 95])
def test_jpeg_restores_what_real_files_restore(quality):
    symbols = latent((3, 24, 12, 12))
    restored = blocks.jpeg(symbols, quality).numpy()
    model = SymbolModel.plain("uniform", 24, 8, np.zeros(24, np.float32), np.ones(24, np.float32))
    codec = Jpeg(quality=quality)
    exact = symbols.round().to(torch.int32).numpy()
    real = np.stack([codec.decode(codec.encode(each, model), each.shape, model) for each in exact])
    assert (restored != real).mean() < 0.3 and np.abs(restored - real).mean() < 0.5
    loss = np.abs(real - exact).mean()
    assert np.abs(restored - exact).mean() == pytest.approx(loss, rel=0.05) and loss > 0.5
