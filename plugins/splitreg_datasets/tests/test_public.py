"""Readers of public datasets, on small copies in their published layout."""

import csv
import json
import pickle
import sys

import h5py
import numpy as np
import pytest
from PIL import Image
from splitreg_datasets.ade20k import Ade20k
from splitreg_datasets.cityscapes import CLASSES, THINGS, Cityscapes
from splitreg_datasets.imagenet import ImageNet
from splitreg_datasets.kitti import CLASSES as KITTI
from splitreg_datasets.kitti import Kitti
from splitreg_datasets.nyu import FILE, NyuDepth
from splitreg_datasets.openimages import OpenImages
from timm.data import ImageNetInfo

from splitreg.assembly.labels import class_names
from splitreg.data.recognition import recognise
from splitreg.errors import DataError
from splitreg.tasks import IGNORE
from splitreg.testing import run


def conforms(reader, root, **options):
    failed = [result for result in run("dataset", reader, options={"root": str(root), **options}) if not result.passed]
    names = [name for name, _ in recognise(root)]
    assert failed == []
    assert names == [reader]
    return True


def write(root, **texts):
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


# --- Cityscapes


@pytest.fixture
def cityscapes(tmp_path, picture):
    ids = np.zeros((8, 12), np.uint8)
    ids[2], ids[3], ids[4], ids[5] = 7, 26, 33, 255
    instances = np.zeros((8, 12), np.int32)
    instances[2], instances[3, :4], instances[3, 6:], instances[4] = 7, 26000, 26001, 33
    for split, city in (("train", "aachen"), ("train", "bochum"), ("val", "ulm")):
        name = f"{split}/{city}/{city}_000000_000019"
        picture(f"leftImg8bit/{name}_leftImg8bit.png")
        picture(f"gtFine/{name}_gtFine_labelIds.png", ids)
        Image.fromarray(instances.astype(np.uint16)).save(tmp_path / f"gtFine/{name}_gtFine_instanceIds.png")
    return tmp_path


def test_cityscapes(cityscapes):
    dataset = Cityscapes(str(cityscapes), "train")
    assert len(dataset) == 2 and len(Cityscapes(str(cityscapes), "val")) == 1
    assert dataset.targets["segmentation"].labels == tuple(CLASSES) and len(CLASSES) == 19
    targets = dataset[0].targets
    car, bicycle = tuple(CLASSES).index("car"), tuple(CLASSES).index("bicycle")
    assert targets["segmentation"].mask[:6, 0].tolist() == [IGNORE, IGNORE, 0, car, bicycle, IGNORE]
    found = targets["detection"]
    assert found.boxes.tolist() == [[0, 4, 12, 5], [0, 3, 4, 4], [6, 3, 12, 4]]
    assert [THINGS[label] for label in found.labels] == ["bicycle", "car", "car"]
    assert found.crowd.tolist() == [True, False, False]
    assert found.masks.sum((1, 2)).tolist() == [12, 4, 6]
    assert Cityscapes.recognise(str(cityscapes)) == "cityscapes: 19 classes, 2 train and 1 val images"
    assert conforms("cityscapes", cityscapes)


def test_cityscapes_without_instances(cityscapes, picture):
    for path in cityscapes.glob("gtFine/*/*/*_instanceIds.png"):
        path.unlink()
    assert set(Cityscapes(str(cityscapes), "train").targets) == {"segmentation"}
    picture("gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png", np.full((8, 12), 99, np.uint8))
    with pytest.raises(DataError, match="class id 99"):
        Cityscapes(str(cityscapes), "train")[0]
    with pytest.raises(DataError, match="leftImg8bit"):
        Cityscapes.describe(str(cityscapes / "gtFine"))


# --- ADE20K


@pytest.fixture
def ade(tmp_path, picture):
    labels = np.zeros((8, 12), np.uint8)
    labels[2], labels[3] = 1, 3
    for split, name in (
        ("training", "ADE_train_00000001"),
        ("training", "ADE_train_00000002"),
        ("validation", "ADE_val_00000001"),
    ):
        picture(f"images/{split}/{name}.jpg")
        picture(f"annotations/{split}/{name}.png", labels)
    rows = [
        "Idx\tRatio\tTrain\tVal\tStuff\tName",
        "1\t0.1\t1\t1\t1\twall",
        "2\t0.1\t1\t1\t0\tscreen, silver screen",
        "3\t0.1\t1\t1\t0\tscreen, CRT screen",
    ]
    scenes = "ADE_train_00000001 kitchen\nADE_train_00000002 street\nADE_val_00000001 kitchen\n"
    write(tmp_path, **{"objectInfo150.txt": "\n".join(rows), "sceneCategories.txt": scenes})
    return tmp_path


def test_ade20k(ade):
    dataset = Ade20k(str(ade), "train")
    assert dataset.targets["segmentation"].labels == ("wall", "screen, silver screen", "screen, CRT screen")
    assert dataset.targets["classification"].labels == ("kitchen", "street")
    assert dataset[1].targets["segmentation"].mask[:4, 0].tolist() == [IGNORE, IGNORE, 0, 2]
    assert [dataset[i].targets["classification"].index for i in range(2)] == [0, 1]
    assert len(Ade20k(str(ade), "val")) == 1
    assert conforms("ade20k", ade)
    (ade / "objectInfo150.txt").write_text("1 wall")
    with pytest.raises(DataError, match="objectInfo150"):
        Ade20k.describe(str(ade))


# --- KITTI

LINES = (
    "Car 0.00 0 -1.57 2.00 1.00 8.00 5.00 1.5 1.6 3.9 1.0 1.5 20.0 -1.56\n"
    "DontCare -1 -1 -10 9.00 1.00 11.00 3.00 -1 -1 -1 -1000 -1000 -1000 -10\n"
)


@pytest.fixture
def kitti(tmp_path, picture):
    for number in range(5):
        picture(f"training/image_2/{number:06d}.png")
        write(tmp_path, **{f"training/label_2/{number:06d}.txt": LINES})
    return tmp_path


def test_kitti_boxes(kitti):
    assert [len(Kitti(str(kitti), split)) for split in ("train", "val", "all")] == [4, 1, 5]
    found = Kitti(str(kitti), "all")[0].targets["detection"]
    assert found.boxes[0].tolist() == [2, 1, 8, 5] and found.labels[0] == KITTI.index("Car")
    assert found.crowd.tolist() == [False] + [True] * len(KITTI), "what does not count is a crowd of every class"
    assert sorted(found.labels[1:].tolist()) == list(range(len(KITTI)))
    assert "5 boxes" in Kitti.recognise(str(kitti))
    assert len(Kitti(str(kitti), "all", classes="Cyclist")[0].targets["detection"].labels) == 1
    assert conforms("kitti", kitti)


def test_kitti_lists_of_splits(kitti):
    write(kitti, **{"ImageSets/train.txt": "000001\n000002\n", "ImageSets/val.txt": "000004\n"})
    assert [Kitti(str(kitti), "val")[0].name] == ["training/image_2/000004.png"]
    write(kitti, **{"ImageSets/val.txt": "000009\n"})
    with pytest.raises(DataError, match="000009"):
        Kitti(str(kitti), "val")


@pytest.mark.parametrize(
    "line",
    [
        "Car 1 2 3",
        "Car 0 0 0 a 1 2 3 1 1 1 1 1 1 1",
        "Car 0 0 0 nan 1 2 3 1 1 1 1 1 1 1",
        "Cow 0 0 0 0 1 2 3 1 1 1 1 1 1 1",
    ],
)
def test_kitti_broken_lines(kitti, line):
    write(kitti, **{"training/label_2/000000.txt": f"{LINES}{line}\n"})
    with pytest.raises(DataError, match=r"000000\.txt, line 3"):
        Kitti(str(kitti), "all")[0]


def test_kitti_depth(tmp_path, picture):
    metres = np.zeros((8, 12), np.float32)
    metres[4] = 10.5
    drive = "2011_09_26_drive_0001_sync"
    for split, images in (("train", f"2011_09_26/{drive}"), ("val", "val/2011_09_26_drive_0002_sync")):
        name = drive if split == "train" else "2011_09_26_drive_0002_sync"
        for number in range(2):
            picture(f"{images}/image_02/data/{number:010d}.png")
            place = tmp_path / f"{split}/{name}/proj_depth/groundtruth/image_02/{number:010d}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((metres * 256).astype(np.uint16)).save(place)
    for split in ("train", "val"):
        dataset = Kitti(str(tmp_path), split)
        assert len(dataset) == 2
        assert np.array_equal(dataset[0].targets["depth"].depth.numpy(), metres)
    assert conforms("kitti", tmp_path)
    assert Kitti.recognise(str(tmp_path)) == "kitti: 2 train and 2 val images with depth"


# --- NYU Depth


@pytest.fixture
def nyu(tmp_path):
    rng = np.random.default_rng(0)
    text = h5py.special_dtype(ref=h5py.Reference)
    with h5py.File(tmp_path / FILE, "w") as file:
        file["images"] = rng.integers(0, 256, (10, 3, 12, 8), dtype=np.uint8)
        file["depths"] = rng.uniform(0.5, 9, (10, 12, 8)).astype(np.float32)
        file["labels"] = rng.integers(0, 4, (10, 12, 8)).astype(np.uint16)
        for key, values in (
            ("names", ["book", "bottle", "cabinet"]),
            ("scenes", [f"room_{i // 2}" for i in range(10)]),
        ):
            cells = file.create_dataset(key, (1, len(values)), dtype=text)
            for index, value in enumerate(values):
                inner = file.create_dataset(f"refs/{key}{index}", data=np.array([[ord(c)] for c in value], np.uint16))
                cells[0, index] = inner.ref
    return tmp_path


def test_nyu_depth(nyu):
    dataset = NyuDepth(str(nyu), "all")
    assert len(dataset) == 10 and dataset.targets["segmentation"].labels == ("book", "bottle", "cabinet")
    sample = dataset[3]
    with h5py.File(nyu / FILE) as file:
        assert np.array_equal(sample.array(), file["images"][3].transpose(2, 1, 0))
        assert np.array_equal(sample.targets["depth"].depth.numpy(), file["depths"][3].T)
        labels = file["labels"][3].T.astype(int)
    assert np.array_equal(sample.targets["segmentation"].mask.numpy(), np.where(labels == 0, IGNORE, labels - 1))
    parts = {
        split: {s.name for s in map(d.__getitem__, range(len(d)))}
        for split in ("train", "val")
        for d in [NyuDepth(str(nyu), split)]
    }
    assert [len(part) for part in parts.values()] == [8, 2]
    assert len({int(name) // 2 for name in parts["val"]}) == 1, "a scene is in one split"
    again = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(again[3].array(), sample.array())
    assert NyuDepth(str(nyu), "all", classes="bottle").targets["segmentation"].labels == ("bottle",)
    assert conforms("nyu-depth", nyu)


def test_nyu_depth_with_its_other_files(nyu):
    scipy = pytest.importorskip("scipy.io")
    names = np.empty((1, 2), object)
    names[0] = ["furniture", "things"]
    scipy.savemat(nyu / "classMapping40.mat", {"mapClass": np.array([[2, 2, 1]]), "className": names})
    scipy.savemat(nyu / "splits.mat", {"trainNdxs": np.array([[1], [2], [9]]), "testNdxs": np.array([[3]])})
    dataset = NyuDepth(str(nyu), "train")
    assert [s.name for s in map(dataset.__getitem__, range(3))] == ["0000", "0001", "0008"]
    assert [NyuDepth(str(nyu), split)[0].name for split in ("val", "test")] == ["0002", "0002"]
    assert dataset.targets["segmentation"].labels == ("furniture", "things")
    with h5py.File(nyu / FILE) as file:
        labels = file["labels"][0].T
    assert np.array_equal(dataset[0].targets["segmentation"].mask.numpy(), np.array([IGNORE, 1, 1, 0])[labels])
    (nyu / "splits.mat").write_bytes(b"no")
    with pytest.raises(DataError, match=r"splits\.mat"):
        NyuDepth(str(nyu), "train")


@pytest.mark.parametrize("damage", ["bytes", "missing", "shape"])
def test_nyu_depth_damaged(nyu, damage):
    if damage == "bytes":
        (nyu / FILE).write_bytes((nyu / FILE).read_bytes()[:500])
    else:
        with h5py.File(nyu / FILE, "a") as file:
            del file["depths"]
            if damage == "shape":
                file["depths"] = np.zeros((10, 12, 9), np.float32)
    with pytest.raises(DataError, match="nyu_depth"):
        NyuDepth(str(nyu), "train")


# --- ImageNet

SYNSETS = ("n01440764", "n02012849", "n03126707")


@pytest.fixture
def imagenet(tmp_path, picture):
    for synset in SYNSETS:
        for number in range(3):
            picture(f"train/{synset}/{synset}_{number}.JPEG", np.full((8, 12, 3), 9, np.uint8))
    words = "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\n"
    write(tmp_path, **{"LOC_synset_mapping.txt": words})
    return tmp_path


def test_imagenet_has_the_class_names_of_models(tmp_path, picture):
    names = ImageNetInfo("imagenet-1k").label_names()
    for synset in names:
        (tmp_path / "train" / synset).mkdir(parents=True)
    picture(f"train/{names[0]}/a.JPEG")
    assert ImageNet.describe(str(tmp_path))["classification"].labels == class_names("classification", 1000)


def test_imagenet_words_of_several_synsets(imagenet):
    write(imagenet, **{"LOC_synset_mapping.txt": "n01440764 fish\nn02012849 fish\nn03126707 crane\n"})
    labels = ImageNet.describe(str(imagenet))["classification"].labels
    assert labels == ("fish (n01440764)", "fish (n02012849)", "crane")


def test_imagenet_in_folders(imagenet, picture):
    picture("val/n02012849/x.JPEG")
    dataset = ImageNet(str(imagenet), "train")
    assert dataset.targets["classification"].labels == ("tench", "crane bird", "crane")
    assert [dataset[i].targets["classification"].index for i in (0, 4, 8)] == [0, 1, 2]
    assert ImageNet(str(imagenet), "val")[0].targets["classification"].index == 1
    assert ImageNet.describe(str(imagenet), names="synsets")["classification"].labels == SYNSETS
    assert conforms("imagenet", imagenet)
    assert ImageNet.recognise(str(imagenet)) == "imagenet: 3 classes, 9 train and 1 val images"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\nILSVRC2012_val_00000001,n03126707 8 1 9 7\nILSVRC2012_val_00000002,n01440764 1 2 3 4 \n",
        ),
        ("val.txt", "ILSVRC2012_val_00000001.JPEG 2\nILSVRC2012_val_00000002.JPEG 0\n"),
        ("val_map.txt", "ILSVRC2012_val_00000001.JPEG n03126707\nILSVRC2012_val_00000002.JPEG n01440764\n"),
        (
            "val/val_annotations.txt",
            "ILSVRC2012_val_00000001.JPEG\tn03126707\t0\t32\t44\t62\nILSVRC2012_val_00000002.JPEG\tn01440764\t0\t0\t1\t1\n",
        ),
        ("ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", "490\n17\n"),
    ],
)
def test_imagenet_flat_validation(imagenet, picture, file, text):
    for number in (1, 2):
        picture(f"val/ILSVRC2012_val_{number:08d}.JPEG")
    with pytest.raises(DataError, match="flat"):
        ImageNet(str(imagenet), "val")
    write(imagenet, **{file: text})
    if "devkit" in file:
        scipy = pytest.importorskip("scipy.io")
        rows = np.array(
            [(17, "n01440764"), (490, "n03126707"), (3, "n02012849")], [("ILSVRC2012_ID", "O"), ("WNID", "O")]
        )
        scipy.savemat(imagenet / "ILSVRC2012_devkit_t12/data/meta.mat", {"synsets": rows})
    dataset = ImageNet(str(imagenet), "val")
    assert [dataset[i].targets["classification"].index for i in range(2)] == [2, 0]
    assert conforms("imagenet", imagenet)


def test_imagenet_words_from_timm(imagenet):
    pytest.importorskip("timm")
    (imagenet / "LOC_synset_mapping.txt").unlink()
    assert ImageNet.describe(str(imagenet))["classification"].labels[0] == "tench"


def test_imagenet_foreign_folders(imagenet, picture):
    picture("train/cats/x.JPEG")
    with pytest.raises(DataError, match="cats.*folder"):
        ImageNet.describe(str(imagenet))


# --- Open Images

HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside".split(
    ","
)


@pytest.fixture
def openimages(tmp_path, picture):
    rows = [
        ["0001", "xclick", "/m/01", 1, 0.25, 0.75, 0.5, 1, 0, 0, 0, 0, 0],
        ["0001", "xclick", "/m/02", 1, 0, 0.5, 0, 0.5, 0, 0, 1, 0, 0],
        ["0009", "xclick", "/m/03", 1, 0, 0.5, 0, 0.5, 0, 0, 1, 0, 0],
    ]
    for split in ("train", "validation"):
        for name in ("0001", "0002"):
            picture(f"{split}/{name}.jpg")
        with (tmp_path / f"oidv6-{split}-annotations-bbox.csv").open("w", newline="") as file:
            csv.writer(file).writerows([HEADER, *rows])
    write(tmp_path, **{"class-descriptions-boxable.csv": "/m/01,Tortoise\n/m/02,Container, large\n"})
    return tmp_path


def test_openimages(openimages):
    dataset = OpenImages(str(openimages), "train")
    assert dataset.targets["detection"].labels == ("Tortoise", "Container")
    found = dataset[0].targets["detection"]
    assert found.boxes.tolist() == [[3, 4, 9, 8], [0, 0, 6, 4]] and found.crowd.tolist() == [False, True]
    assert len(dataset[1].targets["detection"].labels) == 0 and len(OpenImages(str(openimages), "val")) == 2
    assert OpenImages.recognise(str(openimages)) == "openimages: 2 classes, 2 train and 2 val images"
    one = OpenImages(str(openimages), "train", classes="Container")
    assert one.targets["detection"].labels == ("Container",) and len(one[0].targets["detection"].labels) == 1
    assert conforms("openimages", openimages)


@pytest.mark.parametrize(("cell", "value"), [(4, "x"), (4, "nan"), (4, "7"), (2, "/m/04")])
def test_openimages_broken_rows(openimages, cell, value):
    path = openimages / "oidv6-train-annotations-bbox.csv"
    lines = path.read_text().splitlines()
    fields = lines[1].split(",")
    fields[cell] = value
    path.write_text("\n".join([lines[0], ",".join(fields)]))
    with pytest.raises(DataError, match=r"bbox\.csv, line 2"):
        OpenImages(str(openimages), "train")
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="LabelName"):
        OpenImages(str(openimages), "train")


# --- what a folder of another layout is told


@pytest.mark.parametrize(
    "reader",
    [
        "cityscapes",
        "ade20k",
        "kitti",
        "nyu-depth",
        "imagenet",
        "openimages",
        "labelme",
        "webdataset",
        "hf",
        "masks",
        "depth",
        "yolo",
        "coco",
        "voc",
        "camvid",
    ],
)
def test_every_reader_names_the_right_one(kitti, reader):
    if reader == "kitti":
        reader = "folder"
    from splitreg.registry import discover

    kind = discover().component("dataset", reader).cls
    with pytest.raises(DataError, match="dataset kitti"):
        kind.describe(str(kitti))
    assert json.dumps(sys.version)
