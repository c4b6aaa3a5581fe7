import json

import numpy as np
import pytest
import torch
from PIL import Image
from splitreg_datasets.coco import Coco

from splitreg.errors import DataError
from splitreg.tasks import IGNORE
from splitreg.testing import run

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 90, "name": "bird"}]
OBJECTS = [
    {"id": 1, "image_id": 5, "category_id": 7, "bbox": [2, 1, 5, 3], "segmentation": [[2, 1, 7, 1, 7, 4, 2, 4]]},
    {
        "id": 2,
        "image_id": 5,
        "category_id": 90,
        "bbox": [0, 0, 12, 8],
        "iscrowd": 1,
        "segmentation": {"size": [8, 12], "counts": [8, 8, 80]},
    },
    {"id": 3, "image_id": 5, "category_id": 3, "bbox": [10, 6, 5, 5], "segmentation": [[10, 6, 12, 6, 12, 8]]},
    {"id": 4, "image_id": 5, "category_id": 3, "bbox": [3, 3, 0, 2], "segmentation": [[3, 3, 3, 5]]},
]


def listing(objects=OBJECTS, **more):
    images = [
        {"id": 5, "file_name": "a.jpg", "height": 8, "width": 12},
        {"id": 9, "file_name": "b.jpg", "height": 8, "width": 12},
    ]
    return {"images": images, "annotations": objects, "categories": CATEGORIES, **more}


@pytest.fixture
def root(tmp_path, picture, write_json):
    picture("train/a.jpg")
    picture("train/b.jpg")
    write_json("annotations/instances_train.json", listing())
    return tmp_path


def test_objects_in_contiguous_classes(root):
    dataset = Coco(str(root), "train")
    assert dataset.targets["detection"].labels == ("dog", "cat", "bird")
    assert Coco.describe(str(root)) == dataset.targets
    sample = dataset[0]
    found = sample.targets["detection"]
    assert sample.name == "a.jpg"
    assert found.boxes.tolist() == [[2, 1, 7, 4], [0, 0, 12, 8], [10, 6, 12, 8]], "clipped; the empty one is left out"
    assert found.boxes.canvas_size == (8, 12)
    assert found.labels.tolist() == [1, 2, 0]
    assert found.crowd.tolist() == [False, True, False]
    assert found.masks[0].nonzero().tolist() == [[y, x] for y in (1, 2, 3) for x in range(2, 7)]
    assert found.masks[1].nonzero().tolist() == [[y, 1] for y in range(8)]
    present = sample.targets["multilabel"].present
    assert present[:2].tolist() == [1, 1]
    assert torch.isnan(present[2]), "seen in a crowd only"


def test_a_picture_without_objects(root):
    found = Coco(str(root), "train")[1].targets
    assert found["detection"].boxes.shape == (0, 4)
    assert found["detection"].masks.shape == (0, 8, 12)
    assert found["multilabel"].present.tolist() == [0, 0, 0]
    assert len(Coco(str(root), "train", min_objects=1)) == 1


def test_the_contract_is_kept(root):
    assert [result for result in run("dataset", "coco", options={"root": str(root)}) if not result.passed] == []


def test_masks_can_be_left_out_or_missing(root, write_json):
    assert Coco(str(root), "train", masks=False)[0].targets["detection"].masks is None
    bare = [{k: v for k, v in o.items() if k != "segmentation"} for o in OBJECTS]
    write_json("annotations/instances_train.json", listing(bare))
    assert Coco(str(root), "train")[0].targets["detection"].masks is None


def test_the_years_and_the_options_of_real_copies(root, picture, write_json):
    picture("val2017/a.jpg")
    picture("val2017/b.jpg")
    write_json("annotations/instances_val2017.json", listing([]))
    assert len(Coco(str(root), "val")) == 2
    write_json("mine/own_val.json", listing(OBJECTS[:1]))
    own = Coco(str(root), "val", annotations="mine/own_{split}.json", images="{split}2017")
    assert len(own[0].targets["detection"].labels) == 1
    own = Coco(str(root), "val", annotations=str(root / "mine/own_val.json"))
    assert len(own[0].targets["detection"].labels) == 1


def test_semantic_labels_from_label_pictures(root, picture):
    labels = np.zeros((8, 12), np.uint8)
    labels[2:4], labels[4:6], labels[6:] = 3, 7, 90
    picture("annotations/semantic_train/a.png", labels)
    dataset = Coco(str(root), "train")
    assert dataset.targets["segmentation"].labels == ("dog", "cat", "bird")
    mask = dataset[0].targets["segmentation"].mask
    assert mask[:, 0].tolist() == [IGNORE, IGNORE, 0, 0, 1, 1, 2, 2]
    assert dataset[1].targets["segmentation"] is None
    assert "segmentation" not in Coco(str(root), "train", semantic="none").targets
    labels[0, 0] = 4
    picture("annotations/semantic_train/a.png", labels)
    with pytest.raises(DataError, match=r"a\.png holds the class id 4"):
        Coco(str(root), "train")[0]


def test_semantic_labels_from_panoptic_files(root, picture, write_json):
    segments = np.zeros((8, 12, 3), np.uint8)
    segments[2:5] = 1, 2, 3
    segments[5:] = 77, 0, 0
    picture("annotations/panoptic_train/a.png", segments)
    stuff = [*CATEGORIES, {"id": 200, "name": "rug", "isthing": 0}]
    entry = {
        "image_id": 5,
        "file_name": "a.png",
        "segments_info": [{"id": 1 + 2 * 256 + 3 * 65536, "category_id": 200}, {"id": 77, "category_id": 7}],
    }
    write_json("annotations/panoptic_train.json", {"annotations": [entry], "categories": stuff})
    dataset = Coco(str(root), "train")
    assert dataset.targets["segmentation"].labels == ("dog", "cat", "bird", "rug")
    assert dataset[0].targets["segmentation"].mask[:, 3].tolist() == [IGNORE, IGNORE, 3, 3, 3, 1, 1, 1]
    assert dataset[1].targets["segmentation"] is None
    del entry["segments_info"][1]
    write_json("annotations/panoptic_train.json", {"annotations": [entry], "categories": stuff})
    with pytest.raises(DataError, match="segment 77"):
        Coco(str(root), "train")[0]


def test_pictures_turned_by_exif(root):
    stored = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to look at it
    Image.fromarray(stored).save(root / "train" / "a.png", exif=exif)
    path = root / "annotations/instances_train.json"
    path.write_text(json.dumps(listing([])).replace("a.jpg", "a.png"))
    assert (Coco(str(root), "train")[0].array() == stored).all(), "annotated as stored"
    turned = (
        json.dumps(listing([]))
        .replace("a.jpg", "a.png")
        .replace('"height": 8, "width": 12', '"height": 12, "width": 8')
    )
    path.write_text(turned)
    assert (Coco(str(root), "train")[0].array() == np.rot90(stored, -1)).all(), "annotated as seen"


def broken(change):
    value = json.loads(json.dumps(listing()))
    change(value)
    return value


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda v: v.pop("categories"), "no list of categories"),
        (lambda v: v.pop("images"), "no list of images"),
        (lambda v: v.update(annotations={}), "no list of annotations"),
        (lambda v: v["categories"].append({"id": 7, "name": "x"}), "category id 7 .*twice"),
        (lambda v: v["annotations"][0].update(category_id=8), "annotation 1 has the category 8"),
        (lambda v: v["annotations"][2].update(image_id=6), "annotation 3 belongs to the image 6"),
        (lambda v: v["annotations"][1].update(bbox=[1, 2, 3]), "annotation 2 has the box"),
        (lambda v: v["annotations"][1].update(bbox=[1, 2, None, 4]), "annotation 2 has the box"),
        (lambda v: v["images"][0].update(file_name="../a.jpg"), "image number 0 has the file name"),
        (lambda v: v["images"][1].update(height=0), "b.jpg.* no width and height"),
        (lambda v: v["images"][1].update(height=9), "b.jpg has 12x8 pixels, its annotations say 12x9"),
        (lambda v: v["annotations"][1]["segmentation"].update(counts=[1]), "annotation 2 of a.jpg.*add up to 1"),
        (lambda v: v["images"][0].update(file_name="c.jpg"), "c.jpg"),
    ],
)
def test_broken_records_are_named(root, write_json, change, complaint):
    path = write_json("annotations/instances_train.json", broken(change))
    with pytest.raises(DataError, match=complaint) as error:
        [sample for sample in map(Coco(str(root), "train").__getitem__, range(2))]
    assert str(path) in str(error.value) or "train/" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[1]", '{"images": [', "[" * 100_000])
def test_what_is_not_a_json_object(root, write_json, text):
    write_json("annotations/instances_train.json", text)
    with pytest.raises(DataError, match=r"instances_train\.json"):
        Coco(str(root), "train")


def test_splits_and_folders_that_are_not_there(root, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no split 'tain' for coco. Did you mean 'train'"):
        Coco(str(root), "tain")
    with pytest.raises(DataError, match=r"expected annotations/instances_<split>\.json.*there is a\.jpg, b\.jpg"):
        Coco.describe(str(root / "train"))
    with pytest.raises(DataError, match="no folder .*Did you mean 'train'"):
        Coco.describe(str(root / "trian"))
    monkeypatch.delenv("SPLITREG_DATA", raising=False)
    with pytest.raises(DataError, match="pass --root"):
        Coco.describe(None)
    monkeypatch.setenv("SPLITREG_DATA", str(root.parent))
    with pytest.raises(DataError, match="pass --root"):
        Coco.describe(None)
    root.rename(root.parent / "coco")
    try:
        assert "detection" in Coco.describe(None)
    finally:
        (root.parent / "coco").rename(root)
