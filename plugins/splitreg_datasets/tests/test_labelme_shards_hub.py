"""labelme's JSON, WebDataset's shards, and what Hugging Face's datasets load."""

import base64
import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image
from splitreg_datasets.hub import HuggingFace
from splitreg_datasets.labelme import LabelMe
from splitreg_datasets.shards import WebDataset

from splitreg.data.recognition import recognise
from splitreg.errors import DataError
from splitreg.testing import run

NOISE = [np.random.default_rng(i).integers(0, 256, (8, 12, 3), dtype=np.uint8) for i in range(12)]


def conforms(reader, root, **options):
    failed = [result for result in run("dataset", reader, options={"root": str(root), **options}) if not result.passed]
    assert failed == []
    assert [name for name, _ in recognise(root)] == [reader]
    return True


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


# --- labelme


def shape(label="cat", kind="polygon", points=((2, 1), (8, 1), (8, 5)), **more):
    return {
        "label": label,
        "shape_type": kind,
        "points": list(map(list, points)),
        "group_id": None,
        "flags": {},
        **more,
    }


def save(root, name, *shapes, size=(8, 12), data=None, path=None):
    loaded = {
        "version": "5",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": path or f"{name}.png",
        "imageData": data,
    }
    (root / f"{name}.json").write_text(json.dumps({**loaded, "imageHeight": size[0], "imageWidth": size[1]}))


def test_shapes_of_every_kind(tmp_path):
    Image.fromarray(NOISE[0]).save(tmp_path / "a.png")
    mask = base64.b64encode(png(np.full((2, 3), 255, np.uint8))).decode()
    save(
        tmp_path, "a", shape(), shape("dog", "rectangle", ((9, 7), (1, 2))), shape("dog", "circle", ((6, 4), (8, 4))),
        shape("cat", "mask", ((4, 3), (6, 4)), mask=mask), shape("cat", "point", ((1, 1),)),
        shape("pair", "polygon", ((0, 0), (2, 0), (2, 2), (0, 2)), group_id=1),
        shape("pair", "polygon", ((6, 6), (8, 6), (8, 8), (6, 8)), group_id=1),
    )  # fmt: skip
    dataset = LabelMe(str(tmp_path), "all")
    assert dataset.targets["detection"].labels == ("cat", "dog", "pair")
    found = dataset[0].targets["detection"]
    assert np.allclose(
        found.boxes.numpy(), [[2, 1, 8, 5], [1, 2, 9, 7], [4, 2, 8, 6], [4, 3, 7, 5], [0, 0, 8, 8]], atol=0.02
    )
    assert found.labels.tolist() == [0, 1, 1, 0, 2]
    assert [int(mask.sum()) for mask in found.masks][1] == 40 and int(found.masks[3].sum()) == 6
    assert int(found.masks[4].sum()) == 8 and np.array_equal(dataset[0].array(), NOISE[0])
    assert conforms("labelme", tmp_path)


def test_labelme_images_in_the_file_and_in_folders(tmp_path):
    (tmp_path / "train/json").mkdir(parents=True)
    (tmp_path / "train/img").mkdir()
    save(tmp_path / "train/json", "a", shape(), data=base64.b64encode(png(NOISE[0])).decode())
    Image.fromarray(NOISE[1]).save(tmp_path / "train/img/b.png")
    Image.fromarray(NOISE[2]).save(tmp_path / "train/json/c.png")
    save(tmp_path / "train/json", "b", path="..\\img\\b.png")
    save(tmp_path / "train/json", "c", path="C:\\Users\\me\\c.png")
    dataset = LabelMe(str(tmp_path), "train")
    assert [np.array_equal(dataset[0].array(), NOISE[0]), len(dataset)] == [True, 3]
    assert len(dataset[2].targets["detection"].labels) == 0
    with pytest.raises(DataError, match=r"b\.png"):
        dataset[1]


@pytest.mark.parametrize(
    "change",
    [
        {"shapes": {}},
        {"shapes": [{"points": []}]},
        {"shapes": [shape(points=((1, "x"),))]},
        {"shapes": [shape(kind="rectangle", points=((1, 1),))]},
        {"shapes": [shape(kind="star")]},
        {"shapes": [shape(kind="mask", mask="?")]},
        {"shapes": [shape(kind="mask", points=(), mask="")]},
    ],
)
def test_broken_labelme_files_are_named(tmp_path, change):
    Image.fromarray(NOISE[0]).save(tmp_path / "a.png")
    save(tmp_path, "a", shape())
    loaded = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps({**loaded, **change}))
    with pytest.raises(DataError, match=r"a\.json"):
        LabelMe(str(tmp_path), "all")[0]


# --- WebDataset


@pytest.fixture
def shards(tmp_path):
    wds = pytest.importorskip("webdataset")
    for split, numbers in (("train", range(8)), ("val", range(8, 12))):
        with wds.ShardWriter(str(tmp_path / f"{split}-%06d.tar"), maxcount=3, verbose=0) as writer:
            for number in numbers:
                writer.write(
                    {
                        "__key__": f"set/{number:04d}",
                        "png": NOISE[number],
                        "cls": number % 3,
                        "json": {"kind": "abc"[number % 3]},
                    }
                )
    return tmp_path


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the library leaves files open
def test_shards_agree_with_their_library(shards):
    wds = pytest.importorskip("webdataset")
    paths = [str(path) for path in sorted(shards.glob("train-*.tar"))]
    assert len(paths) == 3
    ours = WebDataset(str(shards), "train")
    theirs = list(wds.WebDataset(paths, shardshuffle=False).decode("rgb8").to_tuple("__key__", "png", "cls"))
    assert len(ours) == len(theirs) == 8
    for index, (key, image, label) in enumerate(theirs):
        sample = ours[index]
        assert sample.name.endswith(key) and np.array_equal(sample.array(), image)
        assert sample.targets["classification"].index == label
    assert ours.targets["classification"].labels == ("0", "1", "2")
    again = pickle.loads(pickle.dumps(ours))
    assert np.array_equal(again[5].array(), ours[5].array())
    assert WebDataset.recognise(str(shards)) == "webdataset: 5 shards, 8 train and 4 val images"
    assert conforms("webdataset", shards)


def test_names_of_classes_in_shards(shards):
    assert WebDataset(str(shards), "val", label="json:kind").targets["classification"].labels == ("a", "b", "c")
    assert WebDataset(str(shards), "val", classes="x,y,z").targets["classification"].labels == ("x", "y", "z")
    (shards / "classes.txt").write_text("ant\nbee\ncow\n")
    dataset = WebDataset(str(shards), "val")
    assert dataset.targets["classification"].labels == ("ant", "bee", "cow")
    assert dataset[0].targets["classification"].index == 8 % 3
    with pytest.raises(DataError, match="class"):
        WebDataset(str(shards), "val", classes="x,y")[0]


def write_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_masks_and_one_shard_without_splits(tmp_path):
    mask = np.arange(96, dtype=np.uint8).reshape(8, 12) % 2
    files = {
        f"{i}.{ending}": data for i in range(10) for ending, data in (("PNG", png(NOISE[i])), ("mask.png", png(mask)))
    }
    write_tar(tmp_path / "data.tar", files)
    for place in (tmp_path, tmp_path / "data.tar"):
        parts = [WebDataset(str(place), split, mask_classes="no,yes") for split in ("train", "val")]
        assert [len(part) for part in parts] == [8, 2]
        assert np.array_equal(parts[0][0].targets["segmentation"].mask.numpy(), mask)
    with pytest.raises(DataError, match="mask_classes"):
        WebDataset.describe(str(tmp_path))


def test_damaged_shards(shards):
    path = next(shards.glob("val-*.tar"))
    whole = path.read_bytes()
    for end in (0, 100, 600, len(whole) // 2):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError):
            samples = WebDataset(str(shards), "val", classes="0,1,2")
            [samples[index] for index in range(4)]
    path.write_bytes(b"\x1f\x8b" + whole)
    with pytest.raises(DataError, match=r"\.tar"):
        WebDataset(str(shards), "val")


# --- Hugging Face


@pytest.fixture
def table(tmp_path_factory, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "objects": [
                {
                    "bbox": datasets.Sequence(datasets.Value("float32")),
                    "category": datasets.ClassLabel(names=["a", "b"]),
                }
            ],
            "truth": datasets.Image(),
            "far": datasets.Image(),
        }
    )
    mask = np.arange(96, dtype=np.uint8).reshape(8, 12) % 2
    rows = {
        "image": [{"bytes": png(NOISE[i]), "path": None} for i in range(10)],
        "label": [i % 2 for i in range(10)],
        "objects": [[{"bbox": [1, 2, 3, 4], "category": 1}] * (i % 3) for i in range(10)],
        "truth": [{"bytes": png(mask), "path": None}] * 10,
        "far": [{"bytes": png(np.full((8, 12), 1500, np.uint16)), "path": None}] * 10,
    }
    return datasets.Dataset.from_dict(rows, features=features), mask


OPTIONS = {"mask": "truth", "mask_classes": "no,yes", "depth": "far"}


def test_saved_datasets(tmp_path, table):
    import datasets

    whole, mask = table
    datasets.DatasetDict({"train": whole.select(range(7)), "validation": whole.select(range(7, 10))}).save_to_disk(
        tmp_path
    )
    dataset = HuggingFace(str(tmp_path), "train", **OPTIONS)
    assert len(dataset) == 7 and len(HuggingFace(str(tmp_path), "val")) == 3
    assert dataset.targets["classification"].labels == ("cat", "dog")
    sample = dataset[2]
    assert np.array_equal(sample.array(), NOISE[2]) and sample.targets["classification"].index == 0
    assert sample.targets["detection"].boxes.tolist() == [[1, 2, 4, 6]] * 2
    assert sample.targets["detection"].labels.tolist() == [1, 1]
    assert np.array_equal(sample.targets["segmentation"].mask.numpy(), mask)
    assert np.allclose(sample.targets["depth"].depth.numpy(), 1.5)
    corners = HuggingFace(str(tmp_path), "train", boxes="xyxy")[1].targets["detection"].boxes.tolist()
    assert corners == [[1, 2, 3, 4]]
    assert conforms("hf", tmp_path, **OPTIONS)
    with pytest.raises(DataError, match="'kind'.*label=NAME"):
        HuggingFace(str(tmp_path), "train", label="kind")
    with pytest.raises(DataError, match="'test'"):
        HuggingFace(str(tmp_path), "test")


def test_tables_without_splits(tmp_path, table):
    whole, _ = table
    whole.save_to_disk(tmp_path / "disk")
    (tmp_path / "parquet").mkdir()
    whole.to_parquet(tmp_path / "parquet/part.parquet")
    for name in ("disk", "parquet"):
        parts = [HuggingFace(str(tmp_path / name), split) for split in ("train", "val")]
        assert [len(part) for part in parts] == [8, 2]
        assert "20%" in HuggingFace.recognise(str(tmp_path / name))


def test_parquet_files_of_splits(tmp_path, table):
    whole, _ = table
    (tmp_path / "data").mkdir()
    whole.select(range(6)).to_parquet(tmp_path / "data/train-00000-of-00001.parquet")
    whole.select(range(6, 10)).to_parquet(tmp_path / "data/validation-00000-of-00001.parquet")
    assert [len(HuggingFace(str(tmp_path), split)) for split in ("train", "val")] == [6, 4]
    (tmp_path / "data/validation-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="datasets cannot load"):
        HuggingFace(str(tmp_path), "train")
