"""Record what labelling tools write for the six images of tests/support/six.py.

The tools' libraries need versions of numpy and Pillow that splitreg's other dependencies exclude, so that each is
installed in an environment of its own. The tests read the recorded files and need no tool:

    python -m venv /tmp/tool && /tmp/tool/bin/pip install datumaro       (or label-studio-sdk, labelme2coco)
    /tmp/tool/bin/python scripts/record_exports.py datumaro

Writes tests/exports/TOOL-FORMAT.json: path -> text, or ``base64:...`` for what is not text. Images are left out.
"""

import base64
import importlib.metadata
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE / "tests"))

from support import six  # noqa: E402

DATUMARO = (
    "coco", "coco_instances", "coco_panoptic", "voc_detection", "voc_segmentation", "yolo", "yolo_ultralytics", "open_images", "label_me", "kitti_detection",
    "cityscapes", "camvid", "imagenet",
)  # fmt: skip


def datumaro(folder):
    """Every format that CVAT, which exports with this library, shares with splitreg's readers."""
    import datumaro as dm

    images = six.write_images(folder / "images")

    def dataset(subset, polygons):
        items = []
        for name in six.SIZES:
            annotations = []
            for number, (label, polygon) in enumerate(six.OBJECTS[name]):
                index = six.CLASSES.index(label)
                x0, y0, x1, y1 = six.box(polygon)
                shape = dm.Polygon(polygon, label=index, id=number + 1, group=number + 1) if polygons else dm.Bbox(x0, y0, x1 - x0, y1 - y0, label=index, id=number + 1, group=number + 1)  # fmt: skip
                annotations.append(shape)
            media = dm.Image.from_file(path=str(images / name))
            items.append(dm.DatasetItem(id=Path(name).stem, subset=subset, media=media, annotations=annotations))
        return dm.Dataset.from_iterable(items, categories=list(six.CLASSES))

    def masks(subset):
        items = []
        for name in six.SIZES:
            index = six.index_mask(name)
            annotations = [dm.Mask(index == i + 1, label=i, id=i + 1, group=i + 1) for i in range(3) if (index == i + 1).any()]
            items.append(dm.DatasetItem(id=Path(name).stem, subset=subset, media=dm.Image.from_file(path=str(images / name)), annotations=annotations))  # fmt: skip
        return dm.Dataset.from_iterable(items, categories=list(six.CLASSES))

    def classes(subset):
        items = [
            dm.DatasetItem(id=Path(name).stem, subset=subset, media=dm.Image.from_file(path=str(images / name)), annotations=[dm.Label(number % 3)])  # fmt: skip
            for number, name in enumerate(six.SIZES)
        ]
        return dm.Dataset.from_iterable(items, categories=list(six.CLASSES))

    for form in DATUMARO:
        subset = "train" if form in ("yolo", "yolo_ultralytics", "open_images", "cityscapes", "kitti_detection") else "default"
        polygons = form in ("coco", "coco_instances")
        if form in ("coco_panoptic", "voc_segmentation", "cityscapes", "camvid"):
            source = masks(subset)
        else:
            source = classes(subset) if form == "imagenet" else dataset(subset, polygons)
        try:
            source.export(str(folder / form), form, save_media=True)
        except Exception as error:
            print(form, "failed:", type(error).__name__, error)
            continue
        yield form, folder / form


def _label_studio_tasks(polygons):
    tasks = []
    for number, name in enumerate(six.SIZES):
        width, height = six.SIZES[name]
        results = []
        for index, (label, polygon) in enumerate(six.OBJECTS[name]):
            x0, y0, x1, y1 = six.box(polygon)
            percent = [[100 * x / width, 100 * y / height] for x, y in zip(polygon[::2], polygon[1::2], strict=True)]
            value = {"points": percent, "polygonlabels": [label]} if polygons else {"x": 100 * x0 / width, "y": 100 * y0 / height, "width": 100 * (x1 - x0) / width, "height": 100 * (y1 - y0) / height, "rotation": 0, "rectanglelabels": [label]}  # fmt: skip
            kind = "polygonlabels" if polygons else "rectanglelabels"
            results.append({"id": f"r{number}{index}", "type": kind, "from_name": "label", "to_name": "image", "original_width": width, "original_height": height, "image_rotation": 0, "value": value})  # fmt: skip
        annotation = {"id": number + 1, "completed_by": 1, "result": results, "was_cancelled": False}
        tasks.append({"id": number + 1, "data": {"image": f"/data/upload/1/{name}"}, "annotations": [annotation]})
    return tasks


def label_studio(folder):
    """Label Studio's own converter, with its images beside the labels."""
    from label_studio_sdk.converter import Converter

    images = six.write_images(folder / "upload" / "1")
    for form, polygons in (("COCO", True), ("YOLO", False), ("VOC", False), ("YOLO", True)):
        kind = "PolygonLabels" if polygons else "RectangleLabels"
        choices = "".join(f'<Label value="{name}"/>' for name in six.CLASSES)
        config = f'<View><Image name="image" value="$image"/><{kind} name="label" toName="image">{choices}</{kind}></View>'
        tasks = folder / "tasks.json"
        tasks.write_text(json.dumps(_label_studio_tasks(polygons)))
        converter = Converter(config, str(folder), upload_dir=str(folder / "upload"), download_resources=True)
        name = form.lower() + ("_polygons" if polygons and form == "YOLO" else "")
        converter.convert(str(tasks), str(folder / name), form, is_dir=False)
        for target in (folder / name / "images",):
            if target.is_dir() and not any(target.iterdir()):
                six.write_images(target)
        yield name, folder / name
    assert images.is_dir()


def labelme_json(name):
    """Return what labelme saves for an image."""
    width, height = six.SIZES[name]
    shapes = [
        {"label": label, "points": list(map(list, zip(polygon[::2], polygon[1::2], strict=True))), "group_id": None, "description": "", "shape_type": "polygon", "flags": {}, "mask": None}  # fmt: skip
        for label, polygon in six.OBJECTS[name]
    ]
    return {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": None, "imageHeight": height, "imageWidth": width}  # fmt: skip


def labelme2coco(folder):
    """The converter from labelme's JSON to COCO."""
    import labelme2coco as tool

    images = six.write_images(folder / "labelme")
    for name in six.SIZES:
        (images / name).with_suffix(".json").write_text(json.dumps(labelme_json(name)))
    tool.convert(str(images), str(folder / "whole"))
    yield "whole", folder / "whole"
    tool.convert(str(images), str(folder / "parts"), train_split_rate=0.5)
    yield "parts", folder / "parts"


def record(tool, form, folder):
    """Write the files of a folder, without its images, as JSON."""
    shapes = {size[::-1] for size in six.SIZES.values()}
    files = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in (".png", ".jpg"):
            from PIL import Image

            array = np.array(Image.open(path))
            own = [n for n in six.SIZES if array.ndim == 3 and array.shape == six.pixels(n).shape and (array == six.pixels(n)).all()]
            assert array.shape[:2] in shapes
            if own:
                files[name] = f"image:{own[0]}"
                continue
        try:
            files[name] = data.decode("utf-8")
        except UnicodeDecodeError:
            files[name] = "base64:" + base64.b64encode(data).decode()
    package = {"label_studio": "label-studio-sdk"}.get(tool, tool)
    written = {"tool": f"{package} {importlib.metadata.version(package)}", "files": files}
    text = json.dumps(written, indent=1).replace(str(folder), "/elsewhere").replace(str(folder.parent), "/elsewhere")
    place = HERE / "tests" / "exports" / f"{tool}-{form}.json"
    place.write_text(text + "\n")
    print(place.relative_to(HERE), len(files), "files", place.stat().st_size, "bytes")


if __name__ == "__main__":
    tool = sys.argv[1]
    place = Path(tempfile.mkdtemp())
    try:
        for form, folder in {"datumaro": datumaro, "label_studio": label_studio, "labelme2coco": labelme2coco}[tool](place):
            record(tool, form, folder)
    finally:
        shutil.rmtree(place)
