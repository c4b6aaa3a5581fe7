"""Every reader on the real sets of ``SPLITREG_DATA``; the numbers are those of the sets' own descriptions."""

import json
import os
from pathlib import Path

import pytest

from splitreg.data.loading import Loader, LoaderOptions
from splitreg.imaging import Preprocess
from splitreg.registry import discover
from splitreg.tasks import IGNORE
from splitreg.testing import run

pytestmark = pytest.mark.realdata


def load(reader, name, split, **options):
    registry = discover()
    root = Path(os.environ["SPLITREG_DATA"]) / name
    kind = registry.load(registry.spec("dataset", reader))
    dataset = kind(str(root), split, **options)
    assert dict(kind.describe(str(root), **options)) == dict(dataset.targets)
    return dataset


def samples(dataset):
    return [dataset[index] for index in range(len(dataset))]


@pytest.mark.parametrize(("split", "images", "objects", "categories"), [("train", 80, 739, 80), ("val", 24, 200, 61)])
def test_coco_mini(split, images, objects, categories):
    dataset = load("coco", "coco_mini", split)
    found = samples(dataset)
    boxes = [sample.targets["detection"] for sample in found]
    assert len(found) == images
    assert sum(len(target.labels) for target in boxes) == objects
    assert len({int(label) for target in boxes for label in target.labels}) == categories
    assert all(target.masks.flatten(1).any(1).all() for target in boxes if len(target.labels))
    path = Path(os.environ["SPLITREG_DATA"]) / f"coco_mini/annotations/multilabel_{split}.json"
    labels = json.loads(path.read_text())["labels"]
    for sample in found:
        assert (sample.targets["multilabel"].present == 1).nonzero().flatten().tolist() == sorted(labels[sample.name])


@pytest.mark.parametrize(("split", "images", "objects", "categories"), [("train", 60, 508, 59), ("val", 20, 131, 29)])
def test_coco_panoptic(split, images, objects, categories):
    found = samples(load("coco", "coco_panoptic", split, semantic="png"))
    other = load("coco", "coco_panoptic", split, semantic="panoptic")
    assert len(other.targets["segmentation"].labels) == 133
    assert len(found) == images
    assert sum(len(sample.targets["detection"].labels) for sample in found) == objects
    assert len({int(label) for sample in found for label in sample.targets["detection"].labels}) == categories
    for one, two in zip(found, samples(other), strict=True):
        assert one.targets["segmentation"].mask.equal(two.targets["segmentation"].mask)
        assert one.targets["segmentation"].mask.max() in (IGNORE, *range(133))


@pytest.mark.parametrize(("split", "images", "objects"), [("train", 72, 72), ("val", 21, 21)])
def test_pets(split, images, objects):
    dataset = load("voc", "pets", split)
    found = samples(dataset)
    assert dataset.targets["classification"].labels == ("Abyssinian", "Bengal", "american_bulldog")
    assert dataset.targets["segmentation"].labels[1:] == dataset.targets["classification"].labels
    assert dataset.targets["detection"].labels == ("cat", "dog")
    assert len(found) == images
    assert sum(len(sample.targets["detection"].labels) for sample in found) == objects
    counts = [sum(sample.targets["classification"].index == breed for sample in found) for breed in range(3)]
    assert counts == [images // 3] * 3
    breeds = load("coco", "pets", split, annotations="instances_{split}.json", images="JPEGImages")
    for one, two in zip(found, samples(breeds), strict=True):
        assert one.targets["detection"].boxes.equal(two.targets["detection"].boxes)
        assert one.targets["classification"].index == int(two.targets["detection"].labels[0])
        assert one.targets["classification"].index + 1 in one.targets["segmentation"].mask


@pytest.mark.parametrize(
    ("split", "images", "counts"), [("train", 367, (1114, 757, 167)), ("val", 101, (156, 161, 200))]
)
def test_camvid(split, images, counts):
    dataset = load("camvid", "camvid", split, masks=False)
    labels = [int(label) for sample in samples(dataset) for label in sample.targets["detection"].labels]
    assert len(dataset) == images
    assert tuple(labels.count(kind) for kind in range(3)) == counts
    first = load("camvid", "camvid", split)[0].targets
    for label, mask in zip(first["detection"].labels, first["detection"].masks, strict=True):
        assert (first["segmentation"].mask[mask] == 8 + label).float().mean() > 0.99


@pytest.mark.parametrize(("split", "images"), [("train", 3000), ("val", 600)])
def test_cifar_in_its_tar(split, images):
    dataset = load("folder", "cifar10_subset", split)
    assert len(dataset) == images
    assert len(dataset.targets["classification"].labels) == 10
    batches = Loader(dataset, Preprocess(size=(32, 32)), LoaderOptions(batch_size=100))
    indexes = [target.index for batch in batches for target in batch.targets["classification"]]
    assert [indexes.count(kind) for kind in range(10)] == [images // 10] * 10


def test_kodak():
    found = samples(load("folder", "kodak", "val"))
    assert len(found) == 24
    assert {tuple(sample.image.shape[1:]) for sample in found} == {(512, 768), (768, 512)}


@pytest.mark.parametrize(
    ("reader", "name"),
    [
        ("coco", "coco_mini"),
        ("coco", "coco_panoptic"),
        ("voc", "pets"),
        ("camvid", "camvid"),
        ("folder", "cifar10_subset"),
    ],
)
def test_real_sets_conform(reader, name):
    root = str(Path(os.environ["SPLITREG_DATA"]) / name)
    assert [result for result in run("dataset", reader, options={"root": root}) if not result.passed] == []
