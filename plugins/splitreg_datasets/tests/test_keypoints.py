"""Keypoints of COCO files: read, checked, moved with the image, and of the number that the head predicts."""

import numpy as np
import pytest
import torch
from splitreg_datasets.coco import Coco
from splitreg_datasets.keypoints import mirror

from splitreg.data.transforms import Augment, FitInput
from splitreg.errors import DataError
from splitreg.imaging import Preprocess

NAMES = ["nose", "left_eye", "right_eye"]
OBJECTS = [
    {"id": 1, "image_id": 5, "category_id": 4, "bbox": [1, 1, 8, 6], "keypoints": [2, 2, 2, 4, 3, 1, 0, 0, 0]},
    {"id": 2, "image_id": 5, "category_id": 2, "bbox": [0, 0, 3, 3]},
    {"id": 3, "image_id": 5, "category_id": 4, "bbox": [6, 2, 6, 6], "iscrowd": 1},
]


def listing(objects=OBJECTS, **categories):
    keypoints = {"keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]}
    return {
        "images": [{"id": 5, "file_name": "a.png", "height": 8, "width": 12}], "annotations": objects,
        "categories": [{"id": 2, "name": "dog"}, {"id": 4, "name": "person", **keypoints, **categories}],
    }  # fmt: skip


@pytest.fixture
def root(tmp_path, picture, write_json):
    picture("train/a.png")
    write_json("annotations/person_keypoints_train2017.json", listing())
    return tmp_path


def test_keypoints_are_a_target_beside_the_boxes(root):
    dataset = Coco(str(root), "train")
    assert dataset.targets["pose"].labels == ("person",)
    assert dataset.targets["detection"].labels == ("dog", "person")
    assert Coco.describe(str(root)) == dataset.targets
    assert "3 keypoints" in Coco.recognise(str(root))
    target = dataset[0].targets["pose"]
    assert target.boxes.tolist() == [[1, 1, 9, 7], [6, 2, 12, 8]], "the dog has no keypoints"
    assert target.labels.tolist() == [0, 0] and target.crowd.tolist() == [False, True]
    assert target.points[0].tolist() == [[2, 2], [4, 3], [0, 0]]
    assert target.visible.tolist() == [[True, True, False], [False] * 3]
    assert target.mirror == (0, 2, 1)


def test_instances_come_first_and_keypoints_when_they_are_named(root, write_json):
    plain = listing()
    del plain["categories"][1]["keypoints"]
    write_json("annotations/instances_train2017.json", plain)
    assert "pose" not in Coco(str(root), "train").targets
    named = Coco(str(root), "train", annotations="annotations/person_keypoints_{split}2017.json")
    assert "pose" in named.targets and named[0].targets["pose"] is not None


def test_points_move_with_the_image(root):
    sample = Coco(str(root), "train")[0]
    flipped = Augment(flip=1.0, scale=(1, 1), colour=0.0)(sample).targets["pose"]
    assert flipped.boxes[0].tolist() == [3, 1, 11, 7]
    assert flipped.points[0].tolist() == [[9, 2], [11, 0], [7, 3]], "the left eye is now the right one"
    assert flipped.visible[0].tolist() == [True, False, True]
    fitted = FitInput(Preprocess(size=(16, 24), mode="resize", mean=(0.5,) * 3, std=(0.5,) * 3))(sample)
    np.testing.assert_allclose(fitted.targets["pose"].points[0], [[4, 4], [8, 6], [0, 0]])


def test_points_outside_a_crop_are_unknown(root):
    sample, shown = Coco(str(root), "train")[0], 0
    for seed in range(20):
        torch.manual_seed(seed)
        cropped = Augment(flip=0.0, scale=(2, 2), colour=0.0)(sample)
        target, (height, width) = cropped.targets["pose"], cropped.image.shape[-2:]
        known = target.points.as_subclass(torch.Tensor)[target.visible]
        assert ((known >= 0) & (known < torch.tensor([width, height]))).all()
        sides = target.boxes[:, 2:] - target.boxes[:, :2]
        assert (sides >= 1).all() and len(target.boxes) == len(target.points) == len(target.visible)
        shown += len(known)
    assert 0 < shown < 40


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda v: v["annotations"][0].update(keypoints=[1, 2, 3]), "annotation 1 .* 9 numbers"),
        (lambda v: v["annotations"][0].update(keypoints=[float("nan")] * 9), "annotation 1 .* 9 numbers"),
        (lambda v: v["categories"][1].update(keypoints=["nose", "nose"]), "person"),
        (lambda v: v["categories"][0].update(keypoints=["tail"]), "dog and person .* 1 and 3"),
    ],
)
def test_malformed_keypoints(root, write_json, change, fact):
    value = listing([dict(item) for item in OBJECTS])
    change(value)
    write_json("annotations/person_keypoints_train2017.json", value)
    with pytest.raises(DataError, match=fact):
        Coco(str(root), "train")[0]


def test_mirror_pairs_left_and_right():
    assert mirror(["nose", "left_eye", "right_eye"]) == (0, 2, 1)
    assert mirror(["LeftKnee", "tail", "RightKnee", "left_ear"]) == (2, 1, 0, 3)
