"""A model with a context network beside the same model without one: bytes, and milliseconds of coding.

    splitreg fit-context BUNDLE --root DATA -o FITTED
    python benchmarks/context_coding.py BUNDLE FITTED IMAGES

One thread; the two models take turns with each image, and each time is the median over the images. Only the latent is coded:
the networks of the two models are the same. Bytes are whole packets.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from splitreg.assembly import EdgeModel
from splitreg.files import IMAGE_SUFFIXES


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs=2)
    parser.add_argument("images", type=Path)
    parser.add_argument("--limit", type=int, default=50)
    options = parser.parse_args()
    models = [EdgeModel.load(bundle) for bundle in options.bundles]
    images = [path for path in sorted(options.images.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]
    images = [images[i] for i in np.linspace(0, len(images) - 1, min(options.limit, len(images))).round().astype(int)]
    rates = [0.0, 0.5, 1.0] if models[0].coding.has_rates else [None]
    rows = []
    for rate in rates:
        sizes, encode, decode = ([[], []] for _ in range(3))
        for number, path in enumerate(images):
            latent, geometry = models[0].latent_of(path)
            latent = latent.copy()
            restored = []
            for which in (0, 1) if number % 2 else (1, 0):
                coding = models[which].coding
                start = time.perf_counter()
                streams = coding.encode(latent, rate)
                middle = time.perf_counter()
                restored.append(coding.decode(streams, latent.shape))
                encode[which].append(1000 * (middle - start))
                decode[which].append(1000 * (time.perf_counter() - middle))
                sizes[which].append(len(models[which].encode_latent(latent, geometry, rate=rate)))
            assert np.array_equal(*restored)
        rows.append(
            {
                "rate": rate, "bytes": [statistics.mean(part) for part in sizes],
                "change": statistics.mean(sizes[1]) / statistics.mean(sizes[0]) - 1,
                "encode_ms": [statistics.median(part) for part in encode],
                "decode_ms": [statistics.median(part) for part in decode],
            }
        )  # fmt: skip
    machine = {"machine": platform.machine(), "cores": os.cpu_count()}
    print(json.dumps({**machine, "images": len(images), "latent": list(latent.shape), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
