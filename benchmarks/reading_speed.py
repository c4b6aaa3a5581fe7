"""Images per second of the YOLO and COCO readers, against a bare loop of Pillow and torchvision.

    python benchmarks/reading_speed.py [--images FOLDER] [--rounds 7] [--workers 0 1 2] > reading_speed.json

Both sides decode the same JPEG files of 640x480 pixels, resize them to 640x640 with a grey border, normalise them, and
scale their boxes. The bare loop parses no label file while it runs: its boxes are in memory. Rounds of the two sides
alternate; the figure is the median over the rounds, the ratio the median of the ratios of neighbouring rounds. Time is
processor time of one thread; with workers it is wall-clock time.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from splitreg.data.loading import Loader, LoaderOptions
from splitreg.data.transforms import FitInput
from splitreg.imaging import Preprocess, normalise
from splitreg.registry import discover

SIZE = (640, 640)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pictures(folder, count, source):
    """Write JPEG files of 640x480: photographs if there are some, else smooth noise of about the same size."""
    folder.mkdir(parents=True)
    photographs = sorted(Path(source).rglob("*.jpg")) if source else []
    rng = np.random.default_rng(0)
    names = []
    for number in range(count):
        if photographs:
            image = Image.open(photographs[number % len(photographs)]).convert("RGB").resize((640, 480))
        else:
            coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(
                (640, 480), Image.BICUBIC
            )
            image = Image.fromarray(
                np.clip(np.asarray(coarse) + rng.normal(0, 6, (480, 640, 1)), 0, 255).astype(np.uint8)
            )
        names.append(f"{number:06d}.jpg")
        image.save(folder / names[-1], quality=90)
    return names


def write_sets(root, count, source):
    """Write the same images with 8 boxes each as YOLO and as COCO; returns the boxes by name."""
    names = pictures(root / "yolo/images/train", count, source)
    (root / "coco").mkdir()
    os.symlink(root / "yolo/images/train", root / "coco/train")
    (root / "yolo/labels/train").mkdir(parents=True)
    (root / "coco/annotations").mkdir()
    rng = np.random.default_rng(1)
    boxes, images, annotations = {}, [], []
    for number, name in enumerate(names):
        corner = rng.integers(0, 300, (8, 2))
        found = np.concatenate([corner, corner + rng.integers(10, 170, (8, 2))], 1).astype(float)
        boxes[name] = found
        lines = [
            f"{i % 3} {(b[0] + b[2]) / 1280} {(b[1] + b[3]) / 960} {(b[2] - b[0]) / 640} {(b[3] - b[1]) / 480}"
            for i, b in enumerate(found)
        ]
        (root / f"yolo/labels/train/{Path(name).stem}.txt").write_text("\n".join(lines))
        images.append({"id": number, "file_name": name, "width": 640, "height": 480})
        for i, b in enumerate(found.tolist()):
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": i % 3,
                    "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]],
                }
            )
    (root / "yolo/data.yaml").write_text("train: images/train\nnames: [a, b, c]\n")
    categories = [{"id": i, "name": name} for i, name in enumerate("abc")]
    table = {"images": images, "annotations": annotations, "categories": categories}
    (root / "coco/annotations/instances_train.json").write_text(json.dumps(table))
    return boxes


def bare(folder, boxes):
    """The loop that a user would write: Pillow decodes and resizes, torchvision pads, normalises and moves boxes."""
    geometry = v2.Compose([v2.Pad([0, 80, 0, 80], fill=114)])
    to_float = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    for name, found in boxes.items():
        image = Image.open(folder / name).convert("RGB").resize((640, 480), Image.BILINEAR)
        tensor = v2.functional.pil_to_tensor(image)
        target = tv_tensors.BoundingBoxes(torch.from_numpy(found).float(), format="XYXY", canvas_size=(480, 640))
        padded, target = geometry(tensor, target)
        yield to_float(padded), target


def ours(dataset):
    preprocess = Preprocess(size=SIZE, mean=MEAN, std=STD)
    fit = FitInput(preprocess)
    for index in range(len(dataset)):
        sample = fit(dataset[index])
        yield normalise(sample.array(), preprocess), sample.targets["detection"].boxes


def seconds(samples):
    """Processor seconds per sample: other programs on the machine do not change them much."""
    start = time.process_time()
    count = sum(1 for _ in samples)
    return (time.process_time() - start) / count


def with_workers(dataset, workers):
    options = LoaderOptions(batch_size=16, shuffle=False, workers=workers)
    loader = Loader(dataset, Preprocess(size=SIZE, mean=MEAN, std=STD), options)
    list(loader.epoch(0))  # starts the workers
    start = time.perf_counter()
    count = sum(len(batch) for batch in loader.epoch(1))
    return count / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", help="folder of JPEG files to use instead of noise")
    parser.add_argument("--count", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "images": options.count,
        "pixels": "640x480 JPEG",
        "input": "640x640",
        "rounds": options.rounds,
        "cpus": os.cpu_count(),
    }
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        boxes = write_sets(root, options.count, options.images)
        registry = discover()
        sets = {name: registry.component("dataset", name).cls(str(root / name), "train") for name in ("yolo", "coco")}
        times = {name: [] for name in ("bare", *sets)}
        for number in range(options.rounds + 1):
            for name in times:
                spent = seconds(bare(root / "yolo/images/train", boxes) if name == "bare" else ours(sets[name]))
                if number:  # the first round warms the caches
                    times[name].append(spent)
        for name, spent in times.items():
            ratios = [b / s for b, s in zip(times["bare"], spent, strict=True)]
            result[name] = {
                "images_per_second": round(1 / statistics.median(spent), 1),
                "ratio_to_bare": round(statistics.median(ratios), 3),
            }
        result["workers"] = {str(count): round(with_workers(sets["yolo"], count), 1) for count in options.workers}
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
