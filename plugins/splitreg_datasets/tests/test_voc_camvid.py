import numpy as np
import pytest
import torch
from splitreg_datasets.camvid import CLASSES, CamVid
from splitreg_datasets.voc import VOC20, Voc

from splitreg.errors import DataError
from splitreg.tasks import IGNORE
from splitreg.testing import run

OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{0}</xmin><ymin>{1}</ymin>"
    "<xmax>{2}</xmax><ymax>{3}</ymax></bndbox><part><name>head</name></part></object>"
)


def xml(*objects, size=(8, 12)):
    body = "".join(OBJECT.format(*box, name=name, difficult=difficult) for name, box, difficult in objects)
    return f"<annotation><size><width>{size[1]}</width><height>{size[0]}</height></size>{body}</annotation>"


@pytest.fixture
def voc(tmp_path, picture):
    for name in ("one", "two"):
        picture(f"JPEGImages/{name}.jpg")
    for folder in ("ImageSets/Main", "Annotations", "SegmentationClass"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("one\ntwo\n")
    (tmp_path / "Annotations/one.xml").write_text(
        xml(("dog", (1, 1, 12, 8), 0), ("zebra", (3, 2, 3, 2), 1), ("cat", (5, 5, 4, 9), 0))
    )
    mask = np.zeros((8, 12), np.uint8)
    mask[1], mask[2], mask[3] = 1, 3, 255
    picture("SegmentationClass/one.png", mask)
    return tmp_path


def test_voc_boxes_are_counted_from_one(voc):
    dataset = Voc(str(voc), "train")
    assert dataset.targets["detection"].labels == ("cat", "dog", "zebra"), "VOC's own names first"
    found = dataset[0].targets
    assert found["detection"].boxes.tolist() == [[0, 0, 12, 8], [2, 1, 3, 2]], "one pixel is a box, a turned one is not"
    assert found["detection"].labels.tolist() == [1, 2]
    assert found["detection"].crowd.tolist() == [False, True]
    assert found["multilabel"].present[1] == 1
    assert torch.isnan(found["multilabel"].present[2])
    assert found["segmentation"].mask[:4, 0].tolist() == [0, 1, 3, IGNORE]
    assert dataset.targets["segmentation"].labels == ("background", "cat", "dog", "zebra")
    assert dataset[1].targets == {}, "a picture may lack everything"


def test_voc_real_copies_have_twenty_classes(voc):
    (voc / "ImageSets/Main/aeroplane_train.txt").write_text("")
    with pytest.raises(DataError, match=r"one\.xml holds an object 'zebra'.*20 classes"):
        Voc(str(voc), "train")[0]
    dataset = Voc(str(voc), "train", classes="dog, cat,zebra", mask_classes="a,b,c")
    assert dataset.targets["detection"].labels == ("dog", "cat", "zebra")
    assert dataset.targets["segmentation"].labels == ("background", "a", "b", "c")
    assert Voc.describe(str(voc))["segmentation"].labels == ("background", *VOC20)
    with pytest.raises(DataError, match=r"one\.png holds the class id 3.*mask_classes="):
        Voc(str(voc), "train", classes="dog,cat,zebra", mask_classes="a,b")[0]
    with pytest.raises(DataError, match="'a'"):
        Voc.describe(str(voc), classes="a,a")


def test_voc_class_lists_give_the_class_of_the_picture(voc):
    (voc / "classes_train.csv").write_text("file_name,class_index,breed,species\none.jpg,1,b,x\ntwo.jpg,0,a,x\n")
    dataset = Voc(str(voc), "train", mask_classes="a,b,c")
    assert dataset.targets["classification"].labels == ("a", "b")
    assert [dataset[i].targets["classification"].index for i in range(2)] == [1, 0]
    (voc / "classes_val.csv").write_text("file_name,class_index,breed\none.jpg,1,c\n")
    with pytest.raises(DataError, match=r"classes_val\.csv: class 1 is 'c' here and 'b'"):
        Voc.describe(str(voc))


def test_voc_inside_its_devkit(voc, tmp_path_factory):
    outer = tmp_path_factory.mktemp("outer")
    (outer / "VOCdevkit").mkdir()
    (outer / "VOCdevkit/VOC2012").symlink_to(voc)
    assert len(Voc(str(outer), "train")) == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<annotation><object>", "not an XML"),
        ("", "not an XML"),
        ("<annotation><object></object></annotation>", "object 1 has no name"),
        ("<annotation><object><name>dog</name></object></annotation>", r"object 1 \(dog\) has no bndbox"),
        (xml(("dog", ("x", 1, 2, 3), 0)), "has no bndbox"),
        (xml(("dog", ("nan", 1, 2, 3), 0)), "has no bndbox"),
        (xml(size=(9, 12)), "annotations say 12x9"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>', "entities"),
    ],
)
def test_voc_broken_annotations_are_named(voc, text, complaint):
    (voc / "Annotations/one.xml").write_text(text)
    with pytest.raises(DataError, match=complaint) as error:
        Voc(str(voc), "train", classes="dog")[0]
    assert "one." in str(error.value)
    assert "\n" not in str(error.value)


def test_voc_lists_that_lead_elsewhere(voc):
    (voc / "ImageSets/Main/val.txt").write_text("../../secret\n")
    with pytest.raises(DataError, match=r"val\.txt.*secret"):
        Voc(str(voc), "val")
    (voc / "ImageSets/Main/val.txt").write_text("three\n")
    with pytest.raises(DataError, match=r"val\.txt.*three"):
        Voc(str(voc), "val")[0]
    with pytest.raises(DataError, match="'tset'.*train, val"):
        Voc(str(voc), "tset")
    with pytest.raises(DataError, match="camvid.*dataset voc"):
        CamVid.describe(str(voc))


@pytest.fixture
def camvid(tmp_path, picture):
    labels = np.tile(np.arange(12, dtype=np.uint8), (8, 1))
    for name in ("a", "b"):
        picture(f"train/{name}.png")
        picture(f"trainannot/{name}.png", labels)
    return tmp_path


def test_camvid_classes(camvid):
    dataset = CamVid(str(camvid), "train")
    assert [dataset[i].name for i in range(len(dataset))] == ["a.png", "b.png"]
    assert dataset[0].targets["segmentation"].mask[0].tolist() == [*range(11), IGNORE]
    assert dataset.targets["segmentation"].labels == CLASSES
    assert set(dataset.targets) == {"segmentation"}


def test_camvid_lists_of_another_machine(camvid):
    (camvid / "train.txt").write_text("/SegNet/CamVid/train/b.png /SegNet/CamVid/trainannot/b.png\n")
    assert [sample.name for sample in [CamVid(str(camvid), "train")[0]]] == ["b.png"]
    (camvid / "train.txt").write_text("train/b.png trainannot/b.png\ntrain/c.png trainannot/c.png\n")
    with pytest.raises(DataError, match=r"train\.txt, line 2: there is no .*c\.png"):
        CamVid(str(camvid), "train")
    (camvid / "train.txt").write_text("train/b.png\n")
    with pytest.raises(DataError, match="line 1"):
        CamVid(str(camvid), "train")


def test_camvid_with_derived_boxes(camvid, write_json):
    categories = [{"id": 1, "name": "car"}, {"id": 2, "name": "pedestrian"}]
    images = [{"id": 1, "file_name": "a.png", "height": 8, "width": 12}]
    objects = [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 1, 4, 4]}]
    write_json("instances_train.json", {"categories": categories, "images": images, "annotations": objects})
    dataset = CamVid(str(camvid), "train")
    assert dataset[0].targets["detection"].labels.tolist() == [1]
    assert dataset[0].targets["multilabel"].present.tolist() == [0, 1]
    assert set(dataset[1].targets) == {"segmentation"}, "the second picture is not in the list of boxes"
    labels = {"classes": ["car", "pedestrian"], "labels": {"b.png": [0]}}
    write_json("multilabel_train.json", labels)
    assert CamVid(str(camvid), "train")[1].targets["multilabel"].present.tolist() == [1, 0]
    write_json("multilabel_train.json", {**labels, "labels": {"b.png": [2]}})
    with pytest.raises(DataError, match=r"multilabel_train\.json: the labels of b\.png"):
        CamVid(str(camvid), "train")


def test_camvid_labels_that_are_not_labels(camvid, picture):
    picture("trainannot/a.png", np.full((8, 12), 12, np.uint8))
    with pytest.raises(DataError, match=r"a\.png holds the class id 12"):
        CamVid(str(camvid), "train")[0]
    picture("trainannot/a.png", np.zeros((8, 11), np.uint8))
    with pytest.raises(DataError, match="11x8 pixels"):
        CamVid(str(camvid), "train")[0]
    picture("trainannot/a.png", np.zeros((8, 12, 3), np.uint8))
    with pytest.raises(DataError, match="mode RGB"):
        CamVid(str(camvid), "train")[0]
    with pytest.raises(DataError, match="There are: train"):
        CamVid(str(camvid), "val")


def test_the_contract_is_kept(voc, picture):
    assert [result for result in run("dataset", "voc", options={"root": str(voc)}) if not result.passed] == []
    picture("train/a.png")
    picture("trainannot/a.png", np.zeros((8, 12), np.uint8))
    assert [result for result in run("dataset", "camvid", options={"root": str(voc)}) if not result.passed] == []
