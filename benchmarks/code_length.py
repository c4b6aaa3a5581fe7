"""How well the objectives for image codecs follow the bytes of real files, on drawn latents; no training.

::

    python benchmarks/code_length.py

36 latents of 16 channels of 16x16: four amplitudes, three degrees of smoothness, and three degrees of difference
between channels. Each is written as PNG and as JPEG 85 of the tiled 8-bit image. Prints Spearman's rank correlation of
each objective with the bits per element of the files.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from splitreg_classic.blocks import quantisation_table
from splitreg_classic.tiling import tile
from splitreg_objectives.codelength import jpeg_bits, png_bits
from splitreg_objectives.compressibility import Compressibility

from splitreg.interfaces import StepContext


def latents():
    """Yield latents in 8-bit steps, (4, 16, 16, 16)."""
    generator = torch.Generator().manual_seed(0)
    for amplitude in (3.0, 6.0, 20.0, 50.0):
        for passes in (0, 1, 3):
            for uneven in (0.0, 1.0, 2.0):
                latent = torch.randn(4, 16, 16, 16, generator=generator)
                for _ in range(passes):
                    latent = torch.nn.functional.avg_pool2d(latent, 3, 1, 1, count_include_pad=False)
                latent = latent / latent.std() * (uneven * torch.randn(16, 1, 1, generator=generator)).exp()
                yield (128 + amplitude * latent / latent.std()).clamp(0, 255)


def file_bits(latent, kind, **options):
    """Return the bits per element of the files, without the bytes of an empty image."""
    sizes = [written(tile(symbols), kind, **options) for symbols in latent.round().to(torch.int32).numpy()]
    empty = written(np.zeros_like(tile(latent[0].round().to(torch.int32).numpy())), kind, **options)
    return 8 * (np.mean(sizes) - empty) / latent[0].numel()


def written(pixels, kind, **options):
    """Return the bytes of an image file."""
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, kind, optimize=True, **options)
    return stream.tell()


def published(scale):
    """Return the published term with a scale."""
    objective = Compressibility([], scale=scale, tiled=True)

    def term(latent):
        context = StepContext(
            losses={},
            rate=torch.zeros(1),
            images=torch.zeros(1),
            features={},
            teacher=None,
            progress=0.0,
            latent=latent,
        )
        return objective(context)["compressibility"]

    return term


def ranks(values):
    """Return the rank of each value."""
    return np.argsort(np.argsort(values))


@torch.no_grad()
def main():
    """Print the correlations."""
    torch.set_num_threads(1)
    table, drawn = quantisation_table(85), list(latents())
    terms = {
        "code-length, png": png_bits, "code-length, jpeg": lambda latent: jpeg_bits(latent, table),
        "compressibility, deviation": published("deviation"), "compressibility, range": published("range"),
    }  # fmt: skip
    real = {"PNG": [file_bits(x, "PNG") for x in drawn], "JPEG 85": [file_bits(x, "JPEG", quality=85) for x in drawn]}
    for name, term in terms.items():
        values = [float(term(latent)) for latent in drawn]
        shown = {kind: np.corrcoef(ranks(values), ranks(bits))[0, 1] for kind, bits in real.items()}
        print(f"{name:28}", *(f"{kind} {value:.3f}" for kind, value in shown.items()))


if __name__ == "__main__":
    main()
