"""How much of the feature at the cut the bottleneck ``calibrated`` restores, without training.

python benchmarks/calibrated_feature.py RECIPE.toml ROOT

The bottleneck is set from the training images as at the start of ``splitreg train``; printed are the squared error on the
validation images over the variance of the feature, at the default rate, and bytes per image at three rates.
"""

import sys
import time

import numpy as np
import torch

from splitreg.assembly import build, calibrate
from splitreg.imaging import prepare
from splitreg.overrides import text_override
from splitreg.recipe import Recipe
from splitreg.training.data import open_datasets


def main() -> None:
    """Measure and print."""
    recipe = Recipe.read(sys.argv[1], [text_override("data.root", sys.argv[2])])
    datasets = open_datasets(recipe)
    train, val = ([source[i].array() for i in range(len(source))] for source in (datasets.train, datasets.val))
    torch.manual_seed(recipe.seed)
    model = build(recipe)
    begin = time.process_time()
    calibrate(model, train[:32], probes=8)
    print(f"set from {len(train[:32])} images in {time.process_time() - begin:.0f} s of processor time")
    with torch.no_grad():
        images = torch.from_numpy(np.stack([prepare(image, model.coding.preprocess)[0] for image in val]))
        feature = model.prefix(images)
        restored, _ = model.bottleneck(feature)
    error = (restored - feature).square().sum() / (feature - feature.mean((0, 2, 3), keepdim=True)).square().sum()
    print(f"relative squared error {float(error):.3f} on {len(val)} images")
    for rate in (0.0, 0.5, 1.0):
        print(f"rate {rate}: {np.mean([len(packet) for packet in model.edge.encode(val, rate=rate)]):,.0f} bytes")


if __name__ == "__main__":
    main()
