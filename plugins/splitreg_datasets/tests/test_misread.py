"""Files that were read wrongly without a word: a mask of another class, a part of the images, an object that is lost."""

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from splitreg_datasets.coco import Coco
from splitreg_datasets.dense import Masks
from splitreg_datasets.kitti import Kitti
from splitreg_datasets.labelimages import palette
from splitreg_datasets.labelme import LabelMe
from splitreg_datasets.openimages import OpenImages
from splitreg_datasets.shards import WebDataset
from splitreg_datasets.voc import Voc
from splitreg_datasets.yolo import Yolo

from splitreg import tasks
from splitreg.errors import DataError
from splitreg.specs import MAX_PIXEL_CLASSES, TargetSpec

STRIPES = np.repeat(np.arange(4, dtype=np.uint8) % 3, 2)[:, None].repeat(12, 1)  # (8, 12): classes 0, 1, 2, 0


def low_bit_png(values, bits):
    """Return a grey PNG of 1, 2 or 4 bits per sample, which Pillow does not write."""
    per = 8 // bits
    rows = b""
    for row in values.tolist():
        row += [0] * (-len(row) % per)
        packed = (
            sum(v << (8 - bits * (k + 1)) for k, v in enumerate(row[at : at + per])) for at in range(0, len(row), per)
        )
        rows += b"\0" + bytes(packed)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.fixture
def masks(tmp_path, picture):
    """Write images and their masks, each an array, a PIL image or bytes."""

    def write(*values, names=""):
        for number, value in enumerate(values):
            picture(f"images/{number}.png")
            path = tmp_path / f"masks/{number}.png"
            path.parent.mkdir(exist_ok=True)
            if isinstance(value, bytes):
                path.write_bytes(value)
            else:
                (value if isinstance(value, Image.Image) else Image.fromarray(value)).save(path)
        if names:
            (tmp_path / "class_names.txt").write_text(names)
        return str(tmp_path)

    return write


def mask_of(dataset, index=0):
    return dataset[index].targets["segmentation"].mask.numpy()


# --- masks


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_masks_of_few_bits_hold_indexes(masks, bits):
    root = masks(*[low_bit_png(STRIPES, bits)] * 2, names="sky\nsea\nland\n")
    assert (mask_of(Masks(root, "all")) == STRIPES).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_white_is_the_foreground_at_any_depth(masks, bits):
    white = (STRIPES > 0).astype(np.uint8)
    root = masks(white * 255, low_bit_png(white * (2**bits - 1), bits), white * 255)
    dataset = Masks(root, "all")
    assert all((mask_of(dataset, index) == white).all() for index in range(3))


def test_grey_colours_are_indexes(masks):
    root = masks(*[STRIPES[:, :, None].repeat(3, 2)] * 2, names="sky\nsea\nland\n")
    assert (mask_of(Masks(root, "all")) == STRIPES).all()


@pytest.mark.parametrize("colours", [False, True])
def test_masks_of_0_and_255_are_not_background_alone(masks, colours):
    mask = (STRIPES > 0).astype(np.uint8) * 255
    root = masks(*[mask[:, :, None].repeat(3, 2) if colours else mask] * 3)
    with pytest.raises(DataError, match="'ground'.*values=0,255"):
        Masks(root, "all", classes="ground,road")
    assert (mask_of(Masks(root, "all", classes="ground,road", values="0,255")) == (STRIPES > 0)).all()


def test_masks_of_0_and_255_in_shards(tmp_path, masks):
    import tarfile

    masks(np.where(STRIPES > 0, np.uint8(255), np.uint8(0)))
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        archive.add(tmp_path / "images/0.png", "0.png")
        archive.add(tmp_path / "masks/0.png", "0.mask.png")
    with pytest.raises(DataError, match="'ground'"):
        WebDataset(str(tmp_path / "train-0.tar"), "all", mask_classes="ground,road")


def test_one_unknown_colour_changes_no_other_pixel(masks, tmp_path):
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\ncat:64,0,0::\ndog:64,0,128::\n")
    stored = np.array([0, 8, 12], np.uint8)[STRIPES]  # VOC's indexes of cat and dog
    stored[0, :3] = 1  # aeroplane, which no line of the file names
    image = Image.fromarray(stored)
    image.putpalette([value for colour in palette() for value in colour])
    root = masks(image, image)
    with pytest.warns(UserWarning, match="128, 0, 0"):
        mask = mask_of(Masks(root, "all"))
    expected = STRIPES.copy()
    expected[0, :3] = tasks.IGNORE
    assert (mask == expected).all()


def test_a_segmentation_has_at_most_255_classes(masks):
    assert MAX_PIXEL_CLASSES == tasks.IGNORE
    TargetSpec(task="segmentation", labels=tuple(map(str, range(255))))
    with pytest.raises(DataError, match="255.*256"):
        TargetSpec(task="segmentation", labels=tuple(map(str, range(256))))
    root = masks(*[STRIPES] * 2, names="\n".join(f"class {number}" for number in range(300)))
    with pytest.raises(DataError, match="300"):
        Masks(root, "all")


# --- lists of images


@pytest.fixture
def yolo(tmp_path, picture):
    def write(config, suffix=".txt"):
        for split in ("train", "val"):
            picture(f"images/{split}/a.png")
            (tmp_path / f"labels/{split}").mkdir(parents=True)
            (tmp_path / f"labels/{split}/a{suffix}").write_text("0 .5 .5 .5 .5\n")
        (tmp_path / "data.yaml").write_text(f"names: [cat]\n{config}")
        return str(tmp_path)

    return write


def test_a_folder_that_data_yaml_names_is_there(yolo):
    root = yolo("train: images/trian\nval: [images/val, images/vall]\ntest: images/test\n")
    with pytest.raises(DataError, match="data.yaml.*'images/trian'"):
        Yolo(root, "train")
    with pytest.warns(UserWarning, match="data.yaml.*'images/vall'"):
        assert len(Yolo(root, "val")) == 1


def test_hold_out_replaces_a_val_that_is_not_there(yolo, picture):
    root = yolo("train: [images/train, images/val]\nval: images/valid\n")
    assert len(Yolo(root, "val", hold_out=0.5)) == len(Yolo(root, "train", hold_out=0.5)) == 1


@pytest.mark.parametrize("suffix", [".txt", ".TXT", ".Txt"])
def test_label_files_in_any_case(yolo, suffix):
    assert len(Yolo(yolo("train: images/train\nval: images/val\n", suffix), "train")[0].targets["detection"].boxes) == 1


@pytest.fixture
def coco(picture, tmp_path, write_json):
    def write(names=("instances_train.json",), **annotation):
        picture("train/a.png")
        box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "iscrowd": 0, **annotation}
        image = {"id": 1, "file_name": "a.png", "width": 12, "height": 8}
        for name in names:
            write_json(
                f"annotations/{name}",
                {"images": [image], "categories": [{"id": 1, "name": "cat"}], "annotations": [box]},
            )
        return str(tmp_path)

    return write


def test_two_files_of_one_split_are_not_one(coco):
    assert len(Coco(coco(["instances_train2014.json", "instances_train2017.json"]), "train")) == 1
    with pytest.raises(DataError, match="instances_train1.json.*annotations="):
        Coco(coco(["instances_train1.json", "instances_train2.json"]), "train")


# --- objects


@pytest.mark.parametrize(("crowd", "value"), [("0", False), ("1", True), (True, True), (None, False)])
def test_crowds_as_other_types(coco, crowd, value):
    assert Coco(coco(iscrowd=crowd), "train")[0].targets["detection"].crowd.tolist() == [value]


@pytest.mark.parametrize("wrong", [{"iscrowd": "no"}, {"bbox": [5, 5, -4, 4]}, {"bbox": [1, 1, 10**400, 4]}])
def test_values_that_coco_does_not_have(coco, wrong):
    with pytest.raises(DataError, match="annotation 1"):
        Coco(coco(**wrong), "train")


def test_numbers_that_no_float_holds(coco, tmp_path, write_json, picture):
    with pytest.raises(DataError, match="annotation 1"):
        Coco(coco(segmentation=[[1, 1, 5, 5, 10**400, 3]]), "train")[0]
    picture("labelme/a.png")
    shape = {"label": "cat", "points": [[1, 1], [10**400, 1], [3, 3]], "shape_type": "polygon"}
    write_json("labelme/a.json", {"shapes": [shape], "imagePath": "a.png"})
    with pytest.raises(DataError, match="shape 0"):
        LabelMe(str(tmp_path / "labelme"), "all")


@pytest.fixture
def voc(picture, tmp_path):
    def write(corners):
        for name in "ab":
            picture(f"{name}.png")
            box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
            text = f"<annotation><object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
            (tmp_path / f"{name}.xml").write_text(text)
        return str(tmp_path)

    return write


def test_a_box_that_ends_before_it_begins_is_not_left_out(voc):
    assert len(Voc(voc((2, 2, 2, 2)), "all")[0].targets["detection"].boxes) == 1
    with pytest.raises(DataError, match="object 1"):
        Voc(voc((9, 2, 3, 6)), "all")[0]


def test_an_image_in_a_labelme_file_has_the_size_that_the_file_states(tmp_path, write_json):
    data = io.BytesIO()
    Image.new("RGB", (12, 8)).save(data, "PNG")
    table = {
        "imagePath": "a.png",
        "imageData": base64.b64encode(data.getvalue()).decode(),
        "imageHeight": 8,
        "shapes": [],
    }
    table["shapes"] = [{"label": "cat", "points": [[1, 1], [5, 1], [5, 5], [1, 5]], "shape_type": "rectangle"}]
    write_json("a.json", {**table, "imageWidth": 12})
    assert LabelMe(str(tmp_path), "all")[0].targets["detection"].boxes.tolist() == [[1, 1, 5, 5]], "4 corners"
    write_json("a.json", {**table, "imageWidth": 24})
    with pytest.raises(DataError, match="12x8.*24x8"):
        LabelMe(str(tmp_path), "all")[0]


# --- names


def test_kitti_labels_and_lists_of_voc_in_capitals(tmp_path, picture):
    line = "Car 0 0 -1.58 2 2 6 6 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n"
    for name in ("0", "1"):
        picture(f"kitti/training/image_2/{name}.PNG")
        (tmp_path / "kitti/training/label_2").mkdir(exist_ok=True)
        (tmp_path / f"kitti/training/label_2/{name}.TXT").write_text(line)
        picture(f"voc/JPEGImages/{name}.png")
        xml = tmp_path / f"voc/Annotations/{name}.xml"
        xml.parent.mkdir(exist_ok=True)
        xml.write_text("<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax>"
                       "<ymax>4</ymax></bndbox></object></annotation>")  # fmt: skip
    assert len(Kitti(str(tmp_path / "kitti"), "train")) == 1
    lists = tmp_path / "voc/ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.TXT").write_text("0\n")
    (lists / "VAL.TXT").write_text("1\n")
    assert [Voc(str(tmp_path / "voc"), split)[0].name for split in ("train", "val")] == ["0.png", "1.png"]


def test_names_of_open_images_in_latin_1(tmp_path, picture):
    picture("train/a.png")
    (tmp_path / "class-descriptions-boxable.csv").write_bytes("/m/1,Kätzchen\r\n".encode("latin-1"))
    header = "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n"
    (tmp_path / "train-annotations-bbox.csv").write_text(f"{header}a,/m/1,0.1,0.5,0.1,0.5,0\n")
    assert OpenImages(str(tmp_path), "train").targets["detection"].labels == ("Kätzchen",)
    assert json.dumps(OpenImages(str(tmp_path), "train")[0].targets["detection"].labels.tolist()) == "[0]"
