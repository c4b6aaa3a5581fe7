"""YOLO's text labels: configuration files of many tools, lines of labels, and what is refused."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from splitreg_datasets import yolotext
from splitreg_datasets.yolo import Yolo

from splitreg.errors import DataError
from splitreg.testing import run


@pytest.fixture
def write(tmp_path, picture):
    """Write texts and images below tmp_path: a list of names for images, name=text for the others."""

    def files(*images, **texts):
        for name in images:
            picture(name)
        for name, text in texts.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return files


NAMES = "names: [cat, dog]\n"


def roboflow(write):
    return write(
        "train/images/a.jpg", "train/images/b.jpg", "valid/images/c.jpg",
        **{
            "data.yaml": "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['cat', 'dog']\n",
            "train/labels/a.txt": "0 0.5 0.5 0.5 0.5\n1 0.25 0.25 0.5 0.5\n",
            "valid/labels/c.txt": "1 0.5 0.5 1 1\n",
        },
    )  # fmt: skip


def names_of(dataset):
    return [dataset[index].name for index in range(len(dataset))]


def test_roboflow(write):
    root = str(roboflow(write))
    train, val = Yolo(root, "train"), Yolo(root, "valid")
    assert names_of(train) == ["train/images/a.jpg", "train/images/b.jpg"]
    assert names_of(val) == ["valid/images/c.jpg"]
    target = train[0].targets["detection"]
    assert target.boxes.tolist() == [[3, 2, 9, 6], [0, 0, 6, 4]]
    assert target.labels.tolist() == [0, 1]
    assert train[1].targets["detection"].boxes.shape == (0, 4)
    assert train[1].targets["multilabel"].present.tolist() == [0, 0]
    assert Yolo.describe(root) == train.targets
    assert Yolo.recognise(root) == "yolo: 2 classes, 2 train and 1 val images, 3 boxes, 1 image without labels"
    with pytest.raises(DataError, match="'test'"):
        Yolo(root, "test")
    assert [result for result in run("dataset", "yolo", options={"root": root}) if not result.passed] == []


@pytest.mark.parametrize(
    ("config", "images"),
    [
        ("path: .\ntrain: images/train\nval: images/val\n", "images/{split}"),
        ("train: [images/train]\nval: [images/val, images/none]\n", "images/{split}"),
        ("train: ./train/images\nval: ./val/images\n", "{split}/images"),
        ("path: /content/gone\ntrain: set/images/train\nval: set/images/val\n", "images/{split}"),
        ("train: C:\\data\\images\\train\nval: C:\\data\\images\\val\n", "images/{split}"),
        ("train: train.txt\nval: val.txt\n", "images/{split}"),
        ("", "images/{split}"),
        ("", "{split}/images"),
        ("", "{split}"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*'images/none'")
def test_where_images_may_be(write, config, images):
    texts = {"data.yaml": config + NAMES}
    for split, name in (("train", "a"), ("val", "b")):
        folder = images.format(split=split)
        place = folder.replace("images", "labels")
        texts[f"{place}/{name}.txt"] = "1 0.5 0.5 1 1\n"
        texts[f"{split}.txt"] = f"./{folder}/{name}.png\n"
    root = write(
        *(f"{images.format(split=split)}/{name}.png" for split, name in (("train", "a"), ("val", "b"))), **texts
    )
    for split, name in (("train", "a"), ("val", "b")):
        for place in (root, root / "data.yaml"):
            dataset = Yolo(str(place), split)
            assert [os.path.basename(n) for n in names_of(dataset)] == [f"{name}.png"]
            assert dataset[0].targets["detection"].labels.tolist() == [1]


def test_paths_of_the_working_folder(write, monkeypatch, tmp_path):
    root = write("sets/one/images/train/a.jpg", **{"cfg/my.yaml": "path: sets/one\ntrain: images/train\n" + NAMES})
    monkeypatch.chdir(root)
    assert len(Yolo("cfg/my.yaml", "train")) == 1


def test_flat_folders_hold_some_out(write):
    texts = {f"{i}.txt": "0 0.5 0.5 0.5 0.5" for i in range(10)}
    root = write(*(f"{i}.jpg" for i in range(10)), **{"classes.txt": "cat\ndog\n", **texts})
    parts = [set(names_of(Yolo(str(root), split))) for split in ("train", "val")]
    assert [len(part) for part in parts] == [8, 2] and not parts[0] & parts[1]
    assert "20%" in Yolo.recognise(str(root))
    assert len(Yolo(str(root), "val", hold_out=0.5)) == 5


def test_only_train_needs_an_answer(write):
    root = str(write(*(f"train/images/{i}.jpg" for i in range(4)), **{"data.yaml": "train: train/images\n" + NAMES}))
    assert len(Yolo(root, "train")) == 4
    with pytest.raises(DataError, match="hold_out"):
        Yolo(root, "val")
    assert [len(Yolo(root, split, hold_out=0.5)) for split in ("train", "val")] == [2, 2]


def test_outlines_are_masks(write):
    root = str(write("a.jpg", "b.jpg", **{"classes.txt": "cat", "a.txt": "0 0 0 0.5 0 0.5 0.5 0 0.5", "b.txt": ""}))
    dataset = Yolo(root, "all")
    target = dataset[0].targets["detection"]
    assert target.boxes.tolist() == [[0, 0, 6, 4]]
    assert target.masks.shape == (1, 8, 12) and target.masks[0, :4, :6].all() and target.masks.sum() == 24
    assert dataset[1].targets["detection"].masks.shape == (0, 8, 12)
    assert Yolo(root, "all", masks=False)[0].targets["detection"].masks is None


def test_rotated_boxes_are_refused_in_words(write):
    rotated = "0 0.5 0.1 0.9 0.5 0.5 0.9 0.1 0.5\n"
    root = write("a.jpg", **{"classes.txt": "cat", "a.txt": rotated})
    with pytest.raises(DataError, match="rotated.*four_corners"):
        Yolo(str(root), "all")
    assert len(Yolo(str(root), "all", four_corners="polygon")[0].targets["detection"].labels) == 1
    (root / "a.txt").write_text(rotated + "0 0.5 0.5 0.5 0.5\n")
    assert len(Yolo(str(root), "all")[0].targets["detection"].labels) == 2, "outlines beside boxes are no rotated boxes"
    with pytest.raises(DataError, match="four_corners"):
        Yolo(str(root), "all", four_corners="x")


def test_keypoints_are_left_out(write):
    config = "train: images\nkpt_shape: [2, 3]\n" + NAMES
    line = "0 0.5 0.5 0.5 0.5 0.1 0.1 2 0.2 0.2 1\n"
    root = write("images/a.jpg", **{"data.yaml": config, "labels/a.txt": line})
    assert Yolo(str(root), "train")[0].targets["detection"].boxes.tolist() == [[3, 2, 9, 6]]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ("names: [yes, no, on]", ("yes", "no", "on")),
        ("names: {0: '1', 1: 2.50, 2: null}", ("1", "2.50", "null")),
        ("names:\n  1: b\n  0: a\n", ("a", "b")),
        ("names:\n- traffic light\n- café\n", ("traffic light", "café")),
    ],
)
def test_names_are_strings_as_written(write, names, labels):
    root = write("images/a.jpg", **{"data.yaml": f"train: images\n{names}\n"})
    assert Yolo.describe(str(root))["detection"].labels == labels


@pytest.mark.parametrize(
    ("config", "fact"),
    [
        ("names: [a, a]", "'a'"),
        ("names: {0: a, 2: b}", "0, 1, 2"),
        ("names: []", "names"),
        ("names: 3", "names"),
        ("nc: 3\nnames: [a, b]", "3.*2"),
        ("names: [a\n", "YAML"),
        ("- names: [a]", "names"),
        ("names: [a]\ntrain: {x: y}", "train"),
        ("names: [a]\nkpt_shape: 17", "kpt_shape"),
        ("names: &x [*x]", "names|YAML"),
    ],
)
def test_broken_configurations_are_named(write, config, fact):
    root = write("images/a.jpg", **{"data.yaml": config, "labels/a.txt": "0 0.5 0.5 1 1"})
    with pytest.raises(DataError, match=fact) as error:
        Yolo(str(root / "data.yaml"), "train")
    assert "data.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        ("0 0.5 0.5 0.5", "4 numbers"),
        ("0 0.5 0.5 0.5 0.5 0.9", "confidence"),
        ("0 0.5 0.5 0.5 0.5 0.9 0.1 0.2", "8 numbers"),
        ("2 0.5 0.5 0.5 0.5", "index 2.*2 classes"),
        ("-1 0.5 0.5 0.5 0.5", "class index"),
        ("0.5 0.5 0.5 0.5 0.5", "class index"),
        ("cat 0.5 0.5 0.5 0.5", "cat"),
        ("0 120 80 40 40", "fractions"),
        ("0 nan 0.5 0.5 0.5", "finite"),
    ],
)
def test_broken_lines_are_named(write, line, fact):
    root = write("a.jpg", **{"classes.txt": "cat\ndog", "a.txt": f"0 0.5 0.5 0.5 0.5\n\n{line}\n"})
    with pytest.raises(DataError, match=fact) as error:
        Yolo(str(root), "all")
    assert "a.txt, line 3" in str(error.value) and "\n" not in str(error.value)


def test_names_of_classes_may_be_an_option(write):
    root = str(write("images/a.jpg", **{"labels/a.txt": "1 0.5 0.5 0.5 0.5"}))
    with pytest.raises(DataError, match="names=a,b,c"):
        Yolo.describe(root)
    with pytest.raises(DataError, match="classes.txt"):
        Yolo.recognise(root)
    assert Yolo(root, "all", names="cat,dog").targets["detection"].labels == ("cat", "dog")


def test_lists_that_name_what_is_not_there(write):
    root = write(
        "images/a.jpg", **{"data.yaml": "train: train.txt\n" + NAMES, "train.txt": "images/a.jpg\nimages/b.jpg\n"}
    )
    with pytest.raises(DataError, match=r"train\.txt, line 2.*b\.jpg"):
        Yolo(str(root), "train")


def test_windows_lists_and_suffixes_in_any_case(write):
    root = write("Images/A.JPG", **{"data.yaml": "train: train.txt\n" + NAMES, "Labels/A.txt": "0 0.5 0.5 1 1"})
    (root / "train.txt").write_bytes("﻿Images\\A.JPG\r\n".encode())
    assert Yolo(str(root), "train")[0].targets["detection"].labels.tolist() == [0]


def test_an_unpacked_archive_has_a_folder_with_everything(write):
    texts = {"all/data.yaml": "train: images\n" + NAMES, "all/labels/a.txt": "0 0.5 0.5 1 1"}
    root = write("all/images/a.jpg", **texts)
    assert len(Yolo(str(root), "train")) == 1 and Yolo.recognise(str(root)).startswith("yolo: 2 classes")


@given(st.text(max_size=200))
def test_any_text_is_labels_or_a_data_error(text):
    try:
        lines = yolotext.read_objects(text, "a.txt", 3)
    except DataError as error:
        assert "a.txt" in str(error)
    else:
        for line in lines:
            shape = line.shape((10, 20))
            assert 0 <= shape.label < 3 and np.isfinite(shape.box).all()


@given(st.integers(0, 2), st.tuples(*[st.floats(0, 1, width=32)] * 4))
def test_a_box_comes_back(label, numbers):
    [line] = yolotext.read_objects(" ".join(map(str, (label, *numbers))), "a.txt", 3)
    x, y, w, h = numbers
    assert line.label == label
    assert np.allclose(
        line.shape((48, 64)).box, [(x - w / 2) * 64, (y - h / 2) * 48, (x + w / 2) * 64, (y + h / 2) * 48]
    )
