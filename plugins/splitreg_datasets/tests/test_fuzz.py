"""Whatever the bytes of a label file are: a reader reads them, or raises DataError, and nothing else.

``FUZZ_EXAMPLES=2000`` runs as many examples per file.
"""

import json
import os
import shutil
import tarfile
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support import exports, six

from splitreg.errors import DataError, MissingExtra
from splitreg.registry import discover

pytestmark = pytest.mark.integration

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))
#: File of an export that is damaged -> reader and options.
CASES = {
    "datumaro-coco_instances:annotations/instances_default.json": ("coco", {}),
    "datumaro-coco_panoptic:annotations/panoptic_default.json": ("coco", {}),
    "datumaro-coco_panoptic:annotations/panoptic_default/one.png": ("coco", {}),
    "label_studio-coco:result.json": ("coco", {}),
    "labelme:one.json": ("labelme", {}),
    "datumaro-yolo:obj.data": ("yolo", {}),
    "datumaro-yolo:obj.names": ("yolo", {}),
    "datumaro-yolo:train.txt": ("yolo", {}),
    "datumaro-yolo:obj_train_data/five.txt": ("yolo", {}),
    "datumaro-yolo_ultralytics:data.yaml": ("yolo", {}),
    "label_studio-yolo_polygons:labels/five.txt": ("yolo", {}),
    "label_studio-voc:Annotations/five.xml": ("voc", {}),
    "datumaro-voc_segmentation:labelmap.txt": ("voc", {}),
    "datumaro-voc_segmentation:ImageSets/Segmentation/default.txt": ("voc", {}),
    "datumaro-voc_segmentation:SegmentationClass/one.png": ("voc", {}),
    "datumaro-camvid:label_colors.txt": ("masks", {}),
    "datumaro-camvid:defaultannot/one.png": ("masks", {}),
    "datumaro-open_images:annotations/train-annotations-bbox.csv": ("openimages", {}),
    "datumaro-open_images:annotations/class-descriptions.csv": ("openimages", {}),
    "datumaro-kitti_detection:train/label_2/five.txt": ("kitti", {"classes": "cat,dog"}),
    "synsets:val.txt": ("imagenet", {}),
    "synsets:LOC_synset_mapping.txt": ("imagenet", {}),
    "scenes:objectInfo150.txt": ("ade20k", {}),
    "scenes:sceneCategories.txt": ("ade20k", {}),
    "metres:depth/a.npy": ("depth", {}),
    "metres:depth/b.png": ("depth", {}),
    "tar:data.tar": ("webdataset", {}),
    "parts:classes_train.csv": ("voc", {}),
    "tracks:gt/gt.txt": ("mot", {}),
    "tracks:gt/labels.txt": ("mot", {}),
    "tracks:seqinfo.ini": ("mot", {}),
}


def build(name, place):
    """Write a small dataset."""
    if name == "labelme":
        six.write_images(place)
        for image in six.SIZES:
            (place / image).with_suffix(".json").write_text(json.dumps(six.labelme_json(image)))
    elif name == "synsets":
        for synset in ("n01440764", "n02012849"):
            six.write_images(place / "train" / synset, ["one.png", "two.png"])
        six.write_images(place / "val", ["one.png"])
        (place / "val.txt").write_text("one.png 1\n")
        (place / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\nn02012849 crane\n")
    elif name == "scenes":
        for split in ("training", "validation"):
            six.write_images(place / "images" / split, ["one.png"])
            (place / "annotations" / split).mkdir(parents=True)
            Image.fromarray(six.index_mask("one.png")).save(place / "annotations" / split / "one.png")
        (place / "objectInfo150.txt").write_text("Idx\tName\n1\tcat\n2\tdog\n3\ttraffic light\n")
        (place / "sceneCategories.txt").write_text("one kitchen\n")
    elif name == "metres":
        (place / "depth").mkdir()
        for stem, image in (("a", "one.png"), ("b", "five.png")):
            shutil.copy(
                six.write_images(place.parent / "source", [image]) / image,
                (place / "images").mkdir(exist_ok=True) or place / f"images/{stem}.png",
            )
        np.save(place / "depth/a.npy", np.ones((48, 64), np.float32))
        Image.fromarray(np.full((48, 64), 1000, np.uint16)).save(place / "depth/b.png")
    elif name == "tar":
        source = six.write_images(place.parent / "source", ["one.png", "two.png"])
        (source / "x.cls").write_text("1")
        with tarfile.open(place / "data.tar", "w") as archive:
            for number, image in enumerate(("one.png", "two.png")):
                archive.add(source / image, f"{number}.png")
                archive.add(source / "x.cls", f"{number}.cls")
    elif name == "tracks":
        six.write_images(place / "img1", ["one.png", "two.png"])
        for number, image in enumerate(("one.png", "two.png"), 1):
            (place / "img1" / image).rename(place / f"img1/{number:06d}.png")
        (place / "gt").mkdir()
        (place / "gt/gt.txt").write_text("1,1,1,1,20,10,1,1,1\n2,1,3,2,20,10,1,2,0.5\n2,4,9.5,2,8,9,0,1,1\n")
        (place / "gt/labels.txt").write_text("cat\ndog\n")
        (place / "seqinfo.ini").write_text("[Sequence]\nname=a\nimDir=img1\nframeRate=25\nseqLength=2\n")
    elif name == "parts":
        exports.restore("datumaro-voc_detection", place)
        (place / "classes_train.csv").write_text("file_name,class_index,breed\none.png,0,a\ntwo.png,1,b\n")
    else:
        exports.restore(name, place)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    written = {}

    def place(name):
        if name not in written:
            written[name] = tmp_path_factory.mktemp("fuzz") / "set"
            written[name].mkdir()
            build(name, written[name])
        return written[name]

    return place


def read_all(reader, root, options):
    """Do all that can be done with a dataset; only the package's own errors may come out."""
    kind = discover().component("dataset", reader).cls
    steps = [lambda: kind.recognise(str(root)), lambda: kind.describe(str(root), **options)]
    for split in ("train", "all"):
        steps.append(lambda split=split: [(d := kind(str(root), split, **options)), *map(d.__getitem__, range(len(d)))])
    for step in steps:
        try:
            step()
        except DataError as error:
            assert "\n" not in str(error)
        except MissingExtra:
            raise AssertionError("a test needs a package that is not there") from None


BYTES = st.binary(max_size=12) | st.sampled_from(
    [b"\0", b"\xff\xfe", b"\n", b"../", b"nan", b"-1", b"1e999", b"99999999999", b"[", b"{", b",,", b":::"]
)


@st.composite
def damages(draw):
    """A function that damages bytes: pieces replaced, doubled or cut."""
    edits = draw(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), BYTES), min_size=1, max_size=4))
    keep = draw(st.sampled_from([1.0, 1.0, 1.0, 0.7, 0.3, 0.0]))

    def damage(data):
        for position, length, piece in edits:
            at = int(position * len(data))
            data = data[:at] + piece + data[at + length :]
        return data[: int(len(data) * keep)] if keep < 1 else data

    return damage


@pytest.mark.parametrize("case", CASES)
def test_damaged_bytes(datasets, case):
    name, _, file = case.partition(":")
    reader, options = CASES[case]
    path = datasets(name) / file
    whole = path.read_bytes()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=EXAMPLES == 20,
    )
    @given(damages())
    def check(damage):
        path.write_bytes(damage(whole))
        os.utime(path.parent)  # a folder's time tells caches that something has changed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read_all(reader, datasets(name), options)

    try:
        check()
    finally:
        path.write_bytes(whole)


VALUES = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        3,
        2**70,
        1.5,
        float("nan"),
        float("inf"),
        1e308,
        "",
        "x",
        "../x",
        "a\0b",
        [],
        [1],
        {},
        {"id": 1},
        [[1, 2]],
    ]
)


@st.composite
def edits(draw):
    """A function that puts a value of another type somewhere into JSON."""
    steps = draw(st.lists(st.integers(0, 30), min_size=1, max_size=6))
    value = draw(VALUES)
    delete = draw(st.booleans())

    def edit(loaded):
        here, parent, key = loaded, None, None
        for step in steps:
            if isinstance(here, dict) and here:
                parent, key = here, list(here)[step % len(here)]
            elif isinstance(here, list) and here:
                parent, key = here, step % len(here)
            else:
                break
            here = parent[key]
        if parent is not None:
            if delete and isinstance(parent, dict):
                del parent[key]
            else:
                parent[key] = value
        return loaded

    return edit


@pytest.mark.parametrize("case", [case for case in CASES if case.endswith(".json")])
def test_json_of_other_types(datasets, case):
    name, _, file = case.partition(":")
    reader, options = CASES[case]
    path = datasets(name) / file
    whole = path.read_bytes()

    @settings(
        max_examples=5 * EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=EXAMPLES == 20,
    )
    @given(edits())
    def check(edit):
        path.write_text(json.dumps(edit(json.loads(whole))))
        os.utime(path.parent)
        read_all(reader, datasets(name), options)

    try:
        check()
    finally:
        path.write_bytes(whole)
