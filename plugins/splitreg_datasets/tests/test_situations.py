"""Folders as people have them: what once was misread, and must be read or refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from splitreg_datasets.coco import Coco
from splitreg_datasets.folder import Folder
from splitreg_datasets.voc import Voc

from splitreg.data.recognition import recognise
from splitreg.errors import DataError


@pytest.fixture
def coco(tmp_path, picture, write_json):
    """Write a COCO dataset of two splits with one image each."""

    def write(
        name="a.jpg",
        disk="a.jpg",
        width=12,
        height=8,
        categories=({"id": 1, "name": "cat"},),
        place="{split}/{disk}",
        notes="annotations/instances_{split}.json",
    ):
        for split in ("train", "val"):
            picture(place.format(split=split, disk=disk))
            box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
            image = {"id": 1, "file_name": name, "width": width, "height": height}
            write_json(
                notes.format(split=split), {"images": [image], "categories": list(categories), "annotations": [box]}
            )
        return str(tmp_path)

    return write


def test_file_names_of_windows(coco):
    root = coco("sub\\a.jpg", "sub/a.jpg")
    assert Coco(root, "train")[0].name == "sub/a.jpg"


@pytest.mark.parametrize("size", [(12.0, 8.0), (12, 8.0)])
def test_sizes_as_floats(coco, size):
    root = coco(width=size[0], height=size[1])
    assert Coco(root, "val")[0].targets["detection"].boxes.tolist() == [[1, 1, 5, 5]]


@pytest.mark.parametrize("size", [(12.5, 8), (0, 8), ("12", 8), (True, 8), (float("inf"), 8)])
def test_sizes_that_are_none(coco, size):
    root = coco(width=size[0], height=size[1])
    with pytest.raises(DataError, match="width"):
        Coco(root, "val")


def test_two_categories_of_one_name_are_refused(coco):
    categories = [{"id": 0, "name": "cat", "supercategory": "none"}, {"id": 1, "name": "cat", "supercategory": "cat"}]
    with pytest.raises(DataError, match="0 and 1.*'cat'"):
        Coco(coco(categories=categories), "train")


def test_the_category_that_groups_the_others_is_left_out(coco, write_json):
    categories = [{"id": 0, "name": "pets", "supercategory": "none"}, {"id": 1, "name": "cat", "supercategory": "pets"}]
    root = coco(categories=categories)
    assert Coco(root, "train").targets["detection"].labels == ("cat",)
    used = json.loads(Path(root, "annotations", "instances_val.json").read_text())
    used["annotations"][0]["category_id"] = 0
    write_json("annotations/instances_val.json", used)
    assert Coco(root, "train").targets["detection"].labels == ("pets", "cat"), "an object of another split has it"


def test_a_split_called_valid_beside_its_json(tmp_path, coco, picture):
    root = coco(notes="{split}/_annotations.coco.json")
    (tmp_path / "val").rename(tmp_path / "valid")
    for split in ("valid", "val", "validation"):
        assert Coco(root, split)[0].name == "a.jpg"
    assert [name for name, _ in recognise(root)] == ["coco"]
    with pytest.raises(DataError, match="dataset coco"):
        Folder(root, "train")
    assert len(Folder(root, "val", unlabelled=True)) == 1


def test_images_in_a_flat_folder_with_one_json(tmp_path, picture, write_json):
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 12, "height": 8} for i in range(10)]
    for image in images:
        picture(image["file_name"])
    write_json("labels.json", {"images": images, "categories": [{"id": 3, "name": "x"}], "annotations": []})
    parts = [{Coco(str(tmp_path), split)[i].name for i in range(n)} for split, n in (("train", 8), ("val", 2))]
    assert len(parts[0]) == 8 and len(parts[1]) == 2 and not parts[0] & parts[1]
    write_json("more.json", {"images": images, "categories": [{"id": 3, "name": "x"}], "annotations": []})
    with pytest.raises(DataError, match="annotations="):
        Coco(str(tmp_path), "train")
    assert len(Coco(str(tmp_path), "train", annotations="more.json")) == 8


def test_panoptic_labels_alone_give_objects(tmp_path, picture, write_json):
    segments = np.zeros((8, 12, 3), np.uint8)
    segments[2:5, 3:7], segments[6:] = (1, 2, 0), (9, 0, 0)
    picture("train/a.jpg")
    picture("annotations/panoptic_train/a.png", segments)
    info = [
        {"id": 513, "category_id": 7, "bbox": [3, 2, 4, 3], "iscrowd": 0, "area": 12},
        {"id": 9, "category_id": 200, "bbox": [0, 6, 12, 2], "iscrowd": 0, "area": 24},
    ]
    categories = [{"id": 7, "name": "cat", "isthing": 1}, {"id": 200, "name": "rug", "isthing": 0}]
    images = [{"id": 5, "file_name": "a.jpg", "height": 8, "width": 12}]
    table = {
        "images": images,
        "annotations": [{"image_id": 5, "file_name": "a.png", "segments_info": info}],
        "categories": categories,
    }
    write_json("annotations/panoptic_train.json", table)
    dataset = Coco(str(tmp_path), "train")
    assert dataset.targets["detection"].labels == ("cat",)
    assert dataset.targets["segmentation"].labels == ("cat", "rug")
    found = dataset[0].targets["detection"]
    assert found.boxes.tolist() == [[3, 2, 7, 5]] and found.masks.sum() == 12 and found.masks[0, 2:5, 3:7].all()
    assert dataset[0].targets["segmentation"].mask[7, 0] == 1


# --- class folders


def test_so_few_images_that_a_fifth_is_none(tmp_path, picture):
    for kind in ("cat", "dog"):
        for number in range(4):
            picture(f"{kind}/{number}.jpg")
    assert [len(Folder(str(tmp_path), split)) for split in ("train", "val")] == [6, 2]


def test_one_image_of_each_class(tmp_path, picture):
    for kind in ("cat", "dog"):
        picture(f"{kind}/1.jpg")
    assert len(Folder(str(tmp_path), "train")) == 2
    with pytest.raises(DataError, match="20%.*2 images"):
        Folder(str(tmp_path), "val")


def test_splits_with_a_capital(tmp_path, picture):
    for split in ("Training", "Testing"):
        for kind in ("cat", "dog"):
            picture(f"{split}/{kind}/1.jpg")
    for split in ("train", "test"):
        dataset = Folder(str(tmp_path), split)
        assert len(dataset) == 2 and dataset.targets["classification"].labels == ("cat", "dog")
    with pytest.raises(DataError, match='hold_out.*val = "test"'):
        Folder(str(tmp_path), "val")


def test_class_folders_that_are_links(tmp_path, picture):
    for kind in ("cat", "dog", "emu"):
        picture(f"store/{kind}/1.jpg")
    (tmp_path / "set").mkdir()
    for kind in ("cat", "emu"):
        (tmp_path / "set" / kind).symlink_to(tmp_path / "store" / kind)
    assert Folder.describe(str(tmp_path / "set"))["classification"].labels == ("cat", "emu")


@pytest.mark.parametrize(
    "parts",
    [
        ("images", "labels"),
        ("images", "masks"),
        ("JPEGImages", "Annotations"),
        ("train/images", "val/images"),
        ("image_2", "label_2"),
    ],
)
def test_parts_of_other_layouts_are_no_classes(tmp_path, picture, parts):
    for part in parts:
        for number in range(3):
            picture(f"{part}/{number}.jpg")
    with pytest.raises(DataError, match=parts[0].split("/")[-1]):
        Folder(str(tmp_path), "train")
    assert "folder" not in dict(recognise(tmp_path))


def test_every_suffix_that_can_be_read(tmp_path, picture):
    for number, suffix in enumerate(("jpg", "JPEG", "avif", "jfif", "WebP", "tiff", "bmp")):
        path = picture(f"cat/{number}.png")
        from PIL import Image

        form = {"jpg": "JPEG", "jpeg": "JPEG", "jfif": "JPEG"}.get(suffix.lower(), suffix.lower())
        Image.open(path).save(path.with_suffix(f".{suffix}"), form)
        path.unlink()
    dataset = Folder(str(tmp_path), "all")
    assert len([dataset[index] for index in range(len(dataset))]) == 7


# --- VOC


def voc(root, picture, names, suffix="jpg", size=True):
    for number, name in enumerate(names):
        picture(f"JPEGImages/{name}.{suffix}", np.full((8, 12, 3), number, np.uint8))
        box = f"<bndbox><xmin>{1 + number}</xmin><ymin>1</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
        shape = "<size><width>12</width><height>8</height></size>" if size else ""
        path = root / f"Annotations/{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<annotation>{shape}<object><name>cat</name>{box}</object></annotation>")
    for split in ("train", "val"):
        listing = root / f"ImageSets/Main/{split}.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("\n".join(names) + "\n")
    return str(root)


def test_names_with_spaces(tmp_path, picture):
    names = ["img", "img (1)", "img (2)"]
    dataset = Voc(voc(tmp_path, picture, names), "train")
    assert [dataset[i].name for i in range(3)] == [f"{name}.jpg" for name in names]
    assert [dataset[i].targets["detection"].boxes[0, 0] for i in range(3)] == [0, 1, 2]


def test_suffixes_in_capitals(tmp_path, picture):
    dataset = Voc(voc(tmp_path, picture, ["IMG_0001", "IMG_0002"], "JPG", size=False), "val")
    assert [dataset[i].name for i in range(2)] == ["IMG_0001.JPG", "IMG_0002.JPG"]


@pytest.mark.parametrize("line", ["a  1", "a -1", "a.jpg", "./a", "a\r"])
def test_lines_of_image_sets(tmp_path, picture, line):
    root = voc(tmp_path, picture, ["a"])
    (tmp_path / "ImageSets/Main/train.txt").write_text(line + "\n", newline="")
    assert Voc(root, "train")[0].name == "a.jpg"


def test_coordinates_that_count_from_zero(tmp_path, picture):
    root = voc(tmp_path, picture, ["a", "b"])
    assert Voc(root, "train")[1].targets["detection"].boxes.tolist() == [[1, 0, 9, 8]]
    assert Voc(root, "train", origin="0")[1].targets["detection"].boxes.tolist() == [[2, 1, 9, 8]]
    path = tmp_path / "Annotations/c.xml"
    path.write_text((tmp_path / "Annotations/a.xml").read_text().replace("<xmin>1<", "<xmin>0<"))
    assert Voc(root, "train")[1].targets["detection"].boxes.tolist() == [[2, 1, 9, 8]], "a box begins at 0"


def test_xml_without_its_encoding(tmp_path, picture):
    root = voc(tmp_path, picture, ["a"])
    path = tmp_path / "Annotations/a.xml"
    path.write_bytes(path.read_text().replace("cat", "café").encode("latin-1"))
    assert Voc.describe(root)["detection"].labels == ("café",)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r", b"").replace(b"\xe9", "é".encode()))
    assert Voc(root, "train", classes="café")[0].targets["detection"].labels.tolist() == [0]
