"""Write the clips of ``scenes`` as a video codec delivers them, in COCO's layout: training data of a receiver.

Every clip is coded once or several times at the input size, in the low-delay settings of ``video_rivals.py``: the codecs
take turns, the quality is random. Boxes and masks are those of the frames before coding; solids that are hardly visible
are crowds.

    python benchmarks/coded_frames.py coded-scenes --copies 2
    splitreg train model_zoo/recipes/scenes-video-unsplit.toml --set 'data=["coco"]' --root coded-scenes -o receiver
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image
from splitreg_scenes.dataset import Scenes
from splitreg_scenes.rendering import KINDS, SEMANTIC
from video_rivals import RIVALS, by_codec


def categories(names) -> list[dict]:
    """Return COCO's categories, numbered from 1 in order."""
    return [{"id": number, "name": name} for number, name in enumerate(names, 1)]


def write_split(root: Path, scenes: Scenes, split: str, copies: int, random: np.random.Generator) -> int:
    """Write the images, boxes and masks of a split; return the number of images."""
    pictures, masks = root / split, root / "annotations" / f"semantic_{split}"
    pictures.mkdir(parents=True)
    masks.mkdir(parents=True)
    images, annotations = [], []
    for copy in range(copies):
        for number, clip in enumerate(scenes.clips):
            samples = [scenes[index] for index in clip.frames]
            name = list(RIVALS)[(number + copy) % len(RIVALS)]
            qualities = RIVALS[name][1]
            quality = int(random.integers(min(qualities), max(qualities) + 1))
            frames = [sample.image.permute(1, 2, 0).numpy() for sample in samples]
            coded, _ = by_codec(frames, name, quality, clip.rate, len(frames))
            for sample, decoded in zip(samples, coded, strict=True):
                file = f"{sample.name}-{name}-{quality}-{copy}"
                Image.fromarray(decoded).save(pictures / f"{file}.png")
                mask = sample.targets["segmentation"].mask.numpy() + 1
                Image.fromarray(mask.astype(np.uint8)).save(masks / f"{file}.png")
                height, width = mask.shape
                images.append({"id": len(images), "file_name": f"{file}.png", "width": width, "height": height})
                annotations += boxes_of(sample.targets["detection"], len(images) - 1, len(annotations))
    table = {"images": images, "annotations": annotations, "categories": categories(KINDS)}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(table))
    return len(images)


def boxes_of(target, image: int, first: int) -> list[dict]:
    """Return COCO's annotations of an image; ``first`` is the id of the first one."""
    rows = []
    boxes = zip(target.boxes.tolist(), target.labels.tolist(), target.crowd.tolist(), strict=True)
    for number, ((left, top, right, bottom), label, crowd) in enumerate(boxes, first):
        box = [left, top, right - left, bottom - top]
        row = {"id": number, "image_id": image, "bbox": box, "category_id": label + 1, "area": box[2] * box[3]}
        rows.append({**row, "iscrowd": int(crowd)})
    return rows


def main() -> None:
    """Write both splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="new folder")
    parser.add_argument("--copies", type=int, default=1, help="how often each clip is coded")
    parser.add_argument("--count", type=int, default=1920, help="frames of training before coding")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.copies < 1 or options.count < 1:
        parser.error("--copies and --count must be 1 or more")
    if options.output.exists():
        parser.error(f"{options.output} exists; name a new folder")
    random = np.random.default_rng(options.seed)
    options.output.mkdir(parents=True)
    written = {}
    for split, count, copies in (("train", options.count, options.copies), ("val", 192, 1)):
        scenes = Scenes(None, split, mode="video", count=count)
        written[split] = write_split(options.output, scenes, split, copies, random)
    # the classes of pixels have names of their own: COCO's panoptic file lists them
    panoptic = {"images": [], "annotations": [], "categories": categories(SEMANTIC)}
    (options.output / "annotations" / "panoptic_train.json").write_text(json.dumps(panoptic))
    print(json.dumps({"images": written, "folder": str(options.output)}))


if __name__ == "__main__":
    main()
