"""Six images as real tools export them: every format gives the same targets."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import exports, six

from splitreg.data.recognition import recognise
from splitreg.registry import discover
from splitreg.testing import run

pytestmark = pytest.mark.integration

#: Export -> reader, and options beside the folder.
OBJECTS = {
    "datumaro-coco_instances": ("coco", {}),
    "datumaro-kitti_detection": ("kitti", {"classes": ",".join(six.CLASSES)}),
    "datumaro-open_images": ("openimages", {}),
    "datumaro-voc_detection": ("voc", {}),
    "datumaro-yolo": ("yolo", {}),
    "datumaro-yolo_ultralytics": ("yolo", {}),
    "label_studio-coco": ("coco", {}),
    "label_studio-voc": ("voc", {}),
    "label_studio-yolo": ("yolo", {}),
    "label_studio-yolo_polygons": ("yolo", {}),
    "labelme": ("labelme", {}),
    "labelme2coco-parts": ("coco", {}),
    "labelme2coco-whole": ("coco", {}),
    "supervision-coco": ("coco", {}),
    "supervision-voc": ("voc", {}),
    "supervision-yolo": ("yolo", {}),
    "supervision-yolo_polygons": ("yolo", {}),
}
OUTLINES = [
    name
    for name in OBJECTS
    if "polygons" in name or "instances" in name or "labelme" in name or name == "label_studio-coco"
]
MASKS = {"datumaro-voc_segmentation": "voc", "datumaro-camvid": "masks", "datumaro-coco_panoptic": "coco"}


def make(name, reader, root, split="all", **options):
    registry = discover()
    return registry.load(registry.spec("dataset", reader))(str(root), split, **options)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Write an export once per session."""
    written = {}

    def write(name):
        if name not in written:
            place = tmp_path_factory.mktemp("export")
            if name.startswith("supervision"):
                supervision_export(name, place)
            elif name == "labelme":
                six.write_images(place)
                for image in six.SIZES:
                    (place / image).with_suffix(".json").write_text(json.dumps(six.labelme_json(image)))
            else:
                exports.restore(name, place)
                if name.startswith("labelme2coco"):
                    six.write_images(place)
            written[name] = place
        return written[name]

    return write


def supervision_export(name, place):
    sv = pytest.importorskip("supervision")
    images = six.write_images(place / "source")
    paths, annotations = [], {}
    for image, objects in six.OBJECTS.items():
        path = str(images / image)
        paths.append(path)
        boxes = np.array([six.box(polygon) for _, polygon in objects], float).reshape(-1, 4)
        masks = np.array(
            [sv.polygon_to_mask(np.array(polygon).reshape(-1, 2), six.SIZES[image]) for _, polygon in objects]
        )
        annotations[path] = sv.Detections(
            xyxy=boxes,
            class_id=np.array([six.CLASSES.index(label) for label, _ in objects], int),
            mask=masks.astype(bool) if "polygons" in name and objects else None,
        )
    dataset = sv.DetectionDataset(classes=list(six.CLASSES), images=paths, annotations=annotations)
    if "coco" in name:
        dataset.as_coco(images_directory_path=str(place / "images"), annotations_path=str(place / "annotations.json"))
    elif "voc" in name:
        dataset.as_pascal_voc(
            images_directory_path=str(place / "images"), annotations_directory_path=str(place / "annotations")
        )
    else:
        dataset.as_yolo(
            images_directory_path=str(place / "images"),
            annotations_directory_path=str(place / "labels"),
            data_yaml_path=str(place / "data.yaml"),
        )
    shutil.rmtree(images)


def objects_of(dataset):
    """Return stem -> sorted (class, box) of every sample."""
    labels = dataset.targets["detection"].labels
    found = {}
    for sample in map(dataset.__getitem__, range(len(dataset))):
        target = sample.targets.get("detection")
        stem = Path(sample.name).stem
        assert np.array_equal(sample.array(), six.pixels(f"{stem}.png"))
        if target is not None:
            found[stem] = sorted(
                (labels[label], *np.round(box, 2))
                for label, box in zip(target.labels.tolist(), target.boxes.tolist(), strict=True)
            )
    return found


TRUTH = {
    Path(name).stem: sorted((label, *map(float, six.box(polygon))) for label, polygon in objects)
    for name, objects in six.OBJECTS.items()
}


@pytest.mark.parametrize("name", OBJECTS)
def test_every_export_gives_the_same_boxes(folder, name):
    reader, options = OBJECTS[name]
    found = objects_of(make(name, reader, folder(name), **options))
    tolerance = 1.0 if "polygons" in name and "supervision" in name else 0.011
    for stem, objects in TRUTH.items():
        if objects or stem in found:
            assert [item[0] for item in found[stem]] == [item[0] for item in objects], stem
            assert np.allclose([item[1:] for item in found[stem]], [item[1:] for item in objects], atol=tolerance), stem


@pytest.mark.parametrize("name", OBJECTS)
def test_every_export_is_recognised_as_one_format(folder, name):
    reader, _ = OBJECTS[name]
    lines = recognise(folder(name))
    assert [other for other, _ in lines] == [reader]
    line = lines[0][1]
    assert "damaged" not in line
    assert "7 boxes" in line or "7 objects" in line or reader == "openimages"


@pytest.mark.parametrize("name", OBJECTS)
def test_every_export_keeps_the_contract(folder, name):
    reader, options = OBJECTS[name]
    results = run("dataset", reader, options={"root": str(folder(name)), **options})
    assert [result for result in results if not result.passed] == []


@pytest.mark.parametrize("name", OUTLINES)
def test_masks_agree_with_pycocotools(folder, name):
    mask = pytest.importorskip("pycocotools.mask")
    reader, options = OBJECTS[name]
    dataset = make(name, reader, folder(name), **options)
    labels = dataset.targets["detection"].labels
    for sample in map(dataset.__getitem__, range(len(dataset))):
        image = f"{Path(sample.name).stem}.png"
        width, height = six.SIZES[image]
        want = {
            (label, six.box(polygon)): mask.decode(mask.frPyObjects([list(map(float, polygon))], height, width))[
                :, :, 0
            ]
            for label, polygon in six.OBJECTS[image]
        }
        target = sample.targets["detection"]
        assert len(target.labels) == len(want)
        for label, box, drawn in zip(target.labels.tolist(), target.boxes.tolist(), target.masks.numpy(), strict=True):
            key = min(want, key=lambda k: (k[0] != labels[label], np.abs(np.subtract(k[1], box)).sum()))
            if "supervision" in name:  # it makes outlines of the masks again
                assert (drawn != want[key]).mean() < 0.05
            else:
                assert np.array_equal(drawn, want[key])


def test_supervision_reads_the_same_boxes(folder):
    sv = pytest.importorskip("supervision")
    for name in ("supervision-yolo", "label_studio-yolo"):
        place = folder(name)
        names = place / "data.yaml"
        if not names.exists():
            names = place / "other.yml"
            names.write_text(f"classes: {list(six.CLASSES)}\nnames: {json.dumps(six.CLASSES)}\n")
        other = sv.DetectionDataset.from_yolo(str(place / "images"), str(place / "labels"), str(names))
        ours = {sample.name: sample.targets["detection"] for sample in samples(make(name, "yolo", place))}
        assert len(ours) == len(other)
        for path, _, detections in other:
            target = ours[str(Path(path).relative_to(place))]
            assert target.labels.tolist() == detections.class_id.tolist()
            assert np.allclose(target.boxes.numpy(), detections.xyxy, atol=0.01)


def samples(dataset):
    return [dataset[index] for index in range(len(dataset))]


@pytest.mark.parametrize("name", MASKS)
def test_every_export_gives_the_same_masks(folder, name):
    dataset = make(name, MASKS[name], folder(name))
    labels = dataset.targets["segmentation"].labels
    assert set(labels) == {"background", *six.CLASSES}
    found = samples(dataset)
    assert len(found) >= 5
    for sample in found:
        mask = sample.targets["segmentation"].mask.numpy()
        names = ("background", *six.CLASSES)
        want = np.array([labels.index(label) for label in names])[six.index_mask(f"{Path(sample.name).stem}.png")]
        assert np.array_equal(mask, want)
    results = run("dataset", MASKS[name], options={"root": str(folder(name))})
    assert [result for result in results if not result.passed] == []


# labelme2coco-parts has splits of its own, label_studio-voc leaves images out
@pytest.mark.parametrize(
    "name",
    [
        name
        for name in OBJECTS
        if name.startswith(("label_studio", "supervision", "labelme"))
        and name not in ("labelme2coco-parts", "label_studio-voc")
    ],
)
def test_every_format_holds_out_the_same_images(folder, name):
    reader, options = OBJECTS[name]
    parts = {
        split: {Path(s.name).stem for s in samples(make(name, reader, folder(name), split, **options))}
        for split in ("train", "val")
    }
    assert parts["val"] == {"four.x"}
    assert len(parts["train"]) == 5 and not parts["train"] & parts["val"]


def test_class_folders_of_datumaro(folder):
    dataset = make("datumaro-imagenet", "folder", folder("datumaro-imagenet"))
    assert dataset.targets["classification"].labels == six.CLASSES
    for sample in samples(dataset):
        number = list(six.SIZES).index(Path(sample.name).name)
        assert sample.targets["classification"].index == number % 3
