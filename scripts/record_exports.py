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

#: Format -> what is exported: boxes, polygons, masks, or a class for each image.
DATUMARO = {
    "coco_instances": "polygons",
    "coco_panoptic": "masks",
    "voc_detection": "boxes",
    "voc_segmentation": "masks",
    "yolo": "boxes",
    "yolo_ultralytics": "boxes",
    "open_images": "boxes",
    "kitti_detection": "boxes",
    "camvid": "masks",
    "imagenet": "classes",
}
#: Formats that need a split of this name; for the others it is the "default" of the tool.
TRAIN = ("yolo", "open_images", "kitti_detection")


def datumaro(folder):
    """Every format that CVAT, which exports with this library, shares with splitreg's readers."""
    import datumaro as dm

    images = six.write_images(folder / "images")

    def annotations(kind, number, name):
        if kind == "classes":
            return [dm.Label(number % 3)]
        if kind == "masks":
            index = six.index_mask(name)
            return [dm.Mask(index == i, label=i, id=i + 1, group=i + 1) for i in range(4) if (index == i).any()]
        shapes = []
        for number, (label, polygon) in enumerate(six.OBJECTS[name], 1):
            x0, y0, x1, y1 = six.box(polygon)
            common = {"label": six.CLASSES.index(label), "id": number, "group": number}
            outline = (
                dm.Polygon(polygon, **common) if kind == "polygons" else dm.Bbox(x0, y0, x1 - x0, y1 - y0, **common)
            )
            shapes.append(outline)
        return shapes

    for form, kind in DATUMARO.items():
        items = []
        for number, name in enumerate(six.SIZES):
            subset = "train" if form in TRAIN else "default"
            if form == "yolo_ultralytics":
                subset = "val" if number >= 4 else "train"
            media = dm.Image.from_file(path=str(images / name))
            found = annotations(kind, number, name)
            items.append(dm.DatasetItem(id=Path(name).stem, subset=subset, media=media, annotations=found))
        categories = list(six.CLASSES)
        if kind == "masks":
            labels = dm.LabelCategories.from_iterable(["background", *six.CLASSES])
            colours = dm.MaskCategories(dict(enumerate(six.COLOURS)))
            categories = {dm.AnnotationType.label: labels, dm.AnnotationType.mask: colours}
        dm.Dataset.from_iterable(items, categories=categories).export(str(folder / form), form, save_media=True)
        yield form, folder / form


def _label_studio_tasks(polygons):
    tasks = []
    for number, name in enumerate(six.SIZES):
        width, height = six.SIZES[name]
        results = []
        for index, (label, polygon) in enumerate(six.OBJECTS[name]):
            x0, y0, x1, y1 = six.box(polygon)
            kind = "polygonlabels" if polygons else "rectanglelabels"
            value = {kind: [label]}
            if polygons:
                points = zip(polygon[::2], polygon[1::2], strict=True)
                value["points"] = [[100 * x / width, 100 * y / height] for x, y in points]
            else:
                value.update(x=100 * x0 / width, y=100 * y0 / height, rotation=0)
                value.update(width=100 * (x1 - x0) / width, height=100 * (y1 - y0) / height)
            result = {"id": f"r{number}{index}", "type": kind, "from_name": "label", "to_name": "image", "value": value}
            results.append({**result, "original_width": width, "original_height": height, "image_rotation": 0})
        annotation = {"id": number + 1, "completed_by": 1, "result": results, "was_cancelled": False}
        tasks.append({"id": number + 1, "data": {"image": f"/data/upload/1/{name}"}, "annotations": [annotation]})
    return tasks


def label_studio(folder):
    """Label Studio's own converter, with its images beside the labels."""
    from label_studio_sdk.converter import Converter

    six.write_images(folder / "upload" / "1")
    for form, polygons in (("COCO", True), ("YOLO", False), ("VOC", False), ("YOLO", True)):
        kind = "PolygonLabels" if polygons else "RectangleLabels"
        choices = "".join(f'<Label value="{name}"/>' for name in six.CLASSES)
        labels = f'<{kind} name="label" toName="image">{choices}</{kind}>'
        tasks = folder / "tasks.json"
        tasks.write_text(json.dumps(_label_studio_tasks(polygons)))
        config = f'<View><Image name="image" value="$image"/>{labels}</View>'
        converter = Converter(config, str(folder), upload_dir=str(folder / "upload"), download_resources=True)
        name = form.lower() + ("_polygons" if polygons and form == "YOLO" else "")
        converter.convert(str(tasks), str(folder / name), form, is_dir=False)
        place = folder / name / "images"
        if place.is_dir() and not any(place.iterdir()):
            six.write_images(place)
        yield name, folder / name


def labelme2coco(folder):
    """The converter from labelme's JSON to COCO."""
    import labelme2coco as tool

    images = six.write_images(folder / "labelme")
    for name in six.SIZES:
        (images / name).with_suffix(".json").write_text(json.dumps(six.labelme_json(name)))
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
            assert array.shape[:2] in shapes
            own = [name for name in six.SIZES if np.array_equal(array, six.pixels(name))]
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
        for form, folder in {"datumaro": datumaro, "label_studio": label_studio, "labelme2coco": labelme2coco}[tool](
            place
        ):
            record(tool, form, folder)
    finally:
        shutil.rmtree(place)
