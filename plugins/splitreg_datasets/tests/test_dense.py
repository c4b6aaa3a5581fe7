"""Masks and depth in folders beside the images, and how their values become classes and metres."""

import io

import numpy as np
import pytest
from PIL import Image
from splitreg_datasets import depthmaps, labelimages
from splitreg_datasets.dense import DepthMaps, Masks
from splitreg_datasets.voc import Voc

from splitreg.errors import DataError
from splitreg.tasks import IGNORE
from splitreg.testing import run

GREY = np.arange(96, dtype=np.uint8).reshape(8, 12) % 3


def colours_of(indexes, colours):
    return np.array(colours, np.uint8)[indexes]


def conforms(reader, **options):
    return [result for result in run("dataset", reader, options=options) if not result.passed] == []


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/{s}/{n}.jpg", "masks/{s}/{n}.png"),
        ("{s}/images/{n}.jpg", "{s}/masks/{n}.png"),
        ("Images/{s}/{n}.JPG", "Labels/{s}/{n}_mask.png"),
        ("{s}/{n}.jpg", "{s}_labels/{n}_L.png"),
        ("{s}/{n}.jpg", "{s}annot/{n}.png"),
        ("{s}/{n}.jpg", "{s}/{n}_mask.png"),
        ("img/{s}/sub/{n}.jpg", "gt/{s}/sub/{n}.gif"),
    ],
)
def test_where_masks_may_be(tmp_path, picture, images, masks):
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        picture(images.format(s=split, n=name), GREY)
        picture(masks.format(s=split, n=name), GREY)
    (tmp_path / "class_names.txt").write_text("_background_\ncat\ndog\n")
    dataset = Masks(str(tmp_path), "train")
    assert len(dataset) == 2 and len(Masks(str(tmp_path), "val")) == 1
    assert dataset.targets["segmentation"].labels == ("background", "cat", "dog")
    assert np.array_equal(dataset[0].targets["segmentation"].mask.numpy(), GREY)
    assert Masks.recognise(str(tmp_path)) == "masks: 3 classes, 2 train and 1 val images with masks"
    assert conforms("masks", root=str(tmp_path))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nsky:0,0,200::\nroad:128,64,128::\ncar:1,2,3:door:drive\n"),
        ("class_dict.csv", "name,r,g,b\nsky,0,0,200\nroad,128,64,128\ncar,1,2,3\n"),
        ("label_colors.txt", "0 0 200\tsky\n128 64 128 road\n1 2 3 car\n"),
    ],
)
@pytest.mark.parametrize("kind", ["rgb", "palette", "rgba"])
def test_files_of_colours(tmp_path, picture, file, text, kind):
    colours = [(0, 0, 200), (128, 64, 128), (1, 2, 3)]
    image = Image.fromarray(colours_of(GREY, colours))
    if kind == "palette":  # the palette's order says nothing: the colours count
        image = image.quantize(3)
    if kind == "rgba":
        image = image.convert("RGBA")
    picture("images/a.png")
    picture("images/b.png")
    (tmp_path / "masks").mkdir()
    for name in "ab":
        image.save(tmp_path / f"masks/{name}.png")
    (tmp_path / file).write_text(text)
    dataset = Masks(str(tmp_path), "all")
    assert dataset.targets["segmentation"].labels == ("sky", "road", "car")
    assert np.array_equal(dataset[0].targets["segmentation"].mask.numpy(), GREY)


def test_roboflow_masks(tmp_path, picture):
    for name in "ab":
        picture(f"train/{name}.jpg")
        picture(f"train/{name}_mask.png", GREY)
    (tmp_path / "train/_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cat\n2, dog\n")
    dataset = Masks(str(tmp_path), "train")
    assert dataset.targets["segmentation"].labels == ("background", "cat", "dog")
    assert np.array_equal(dataset[1].targets["segmentation"].mask.numpy(), GREY)


@pytest.mark.parametrize(("mode", "values"), [("L", (0, 255)), ("L", (0, 1)), ("RGB", (0, 255)), ("1", (0, 255))])
def test_masks_of_two_values_are_background_and_foreground(tmp_path, picture, values, mode):
    mask = np.zeros((8, 12), np.uint8)
    mask[2:4] = values[1]
    for name in "ab":
        picture(f"images/{name}.jpg")
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).convert(mode).save(tmp_path / f"masks/{name}.png")
    dataset = Masks(str(tmp_path), "train")
    assert dataset.targets["segmentation"].labels == ("background", "foreground")
    assert np.array_equal(dataset[0].targets["segmentation"].mask.numpy(), mask > 0)


def test_masks_of_0_and_255_are_no_voc_masks(tmp_path, picture):
    mask = np.zeros((8, 12), np.uint8)
    mask[2:4] = 255
    for name in "ab":
        picture(f"JPEGImages/{name}.jpg")
        picture(f"SegmentationClass/{name}.png", mask)
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="255.*dataset masks"):
        Voc(str(tmp_path), "train", mask_classes="thing")
    assert Masks(str(tmp_path), "all")[0].targets["segmentation"].mask.sum() == 24


def test_classes_without_names_are_refused(tmp_path, picture):
    picture("images/a.jpg")
    picture("masks/a.png", GREY)
    with pytest.raises(DataError, match="0, 1, 2.*classes="):
        Masks.describe(str(tmp_path))
    named = Masks(str(tmp_path), "all", classes="a,b,c")
    assert np.array_equal(named[0].targets["segmentation"].mask.numpy(), GREY)
    turned = Masks(str(tmp_path), "all", classes="a,b,c", values="2,1,0")
    assert np.array_equal(turned[0].targets["segmentation"].mask.numpy(), 2 - GREY)
    for values in ("1,2", "1,1,2", "x,1,2"):
        with pytest.raises(DataError, match="values"):
            Masks(str(tmp_path), "all", classes="a,b,c", values=values)


def test_unknown_pixels_are_counted(tmp_path, picture):
    picture("images/a.jpg")
    mask = GREY.copy()
    mask[0, :3] = 77
    picture("masks/a.png", mask)
    with pytest.warns(UserWarning, match=r"3\.1%.*77"):
        dataset = Masks(str(tmp_path), "all", classes="a,b,c")
    assert dataset[0].targets["segmentation"].mask[0, :4].tolist() == [IGNORE] * 3 + [0]
    picture("masks/a.png", np.full((8, 12), 9, np.uint8))
    with pytest.raises(DataError, match="class id 9"):
        Masks(str(tmp_path), "all", classes="a,b,c")


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("made_on", ["stored", "turned"])
def test_masks_of_turned_images(tmp_path, orientation, made_on):
    from splitreg.image_decoding import as_turned

    stored = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(stored).save(tmp_path / "images/a.png", exif=exif)
    turned = np.ascontiguousarray(as_turned(GREY, orientation))
    Image.fromarray(GREY if made_on == "stored" else turned).save(tmp_path / "masks/a.png")
    sample = Masks(str(tmp_path), "all", classes="a,b,c")[0]
    assert np.array_equal(sample.array(), as_turned(stored, orientation))
    if orientation != 3 or made_on == "turned":  # upside down, the sizes tell nothing
        assert np.array_equal(sample.targets["segmentation"].mask.numpy(), turned)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("labelmap.txt", "a:0,0,0::\nb:0,0,0::\n"),
        ("labelmap.txt", "a:0,0::\nb:x::\n"),
        ("class_dict.csv", "name,r,g,b\na,1,2,300\n"),
        ("class_dict.csv", "r,g,b\n1,2,3\n"),
        ("_classes.csv", "Pixel Value, Class\nx, cat\n"),
        ("_classes.csv", "Pixel Value, Class\n1, cat\n1, dog\n"),
        ("class_names.txt", "a\na\n"),
        ("class_names.txt", "\n"),
    ],
)
def test_broken_class_files_are_named(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=file.replace(".", r"\.")):
        labelimages.find_classes(tmp_path)


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(20), bytes(100)])
def test_damaged_label_images(tmp_path, picture, data):
    picture("images/a.jpg")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/a.png").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png"):
        Masks(str(tmp_path), "all", classes="a,b")[0]


def test_label_images_cut_short(tmp_path):
    whole, labels = io.BytesIO(), np.random.default_rng(0).integers(0, 2, (8, 12), dtype=np.uint8)
    Image.fromarray(labels).save(whole, "PNG")
    path = tmp_path / "a.png"
    for end in range(len(whole.getvalue())):
        path.write_bytes(whole.getvalue()[:end])
        try:
            assert np.array_equal(labelimages.read_labels(path), labels), "only the last chunk may be missing"
        except DataError as error:
            assert "a.png" in str(error)
            assert end < len(whole.getvalue()) - 12


# --- depth


def test_depth_in_millimetres_metres_and_numpy(tmp_path, picture):
    for name in "abcd":
        picture(f"images/train/{name}.jpg")
    (tmp_path / "depth/train").mkdir(parents=True)
    metres = np.linspace(0, 4, 96, dtype=np.float32).reshape(8, 12)
    Image.fromarray((metres * 1000).astype(np.uint16)).save(tmp_path / "depth/train/a.png")
    np.save(tmp_path / "depth/train/b.npy", metres)
    Image.fromarray(metres).save(tmp_path / "depth/train/c.tif")
    odd = metres.copy()
    odd[0, :5] = [np.nan, np.inf, -1, 2e6, 0]
    np.save(tmp_path / "depth/train/d.npy", odd)
    dataset = DepthMaps(str(tmp_path), "train")
    for index in range(3):
        assert np.allclose(dataset[index].targets["depth"].depth.numpy(), metres, atol=0.001)
    assert dataset[3].targets["depth"].depth[0, :5].tolist() == [0] * 5
    assert DepthMaps.recognise(str(tmp_path)) == "depth: 4 train images with depth"
    assert conforms("depth", root=str(tmp_path))
    assert np.allclose(
        DepthMaps(str(tmp_path), "train", unit=0.01)[0].targets["depth"].depth.numpy(), metres * 10, atol=0.01
    )
    assert DepthMaps(str(tmp_path), "train", max_depth=2)[0].targets["depth"].depth.max() <= 2


def test_depth_in_exr(tmp_path, picture):
    exr = pytest.importorskip("OpenEXR")
    picture("images/a.jpg")
    picture("images/b.jpg")
    (tmp_path / "depth").mkdir()
    metres = np.linspace(0.5, 4, 96, dtype=np.float32).reshape(8, 12)
    for name, channel in (("a", "Z"), ("b", "Y")):
        exr.File({"type": exr.scanlineimage}, {channel: metres}).write(str(tmp_path / f"depth/{name}.exr"))
    dataset = DepthMaps(str(tmp_path), "all")
    for index in range(2):
        assert np.array_equal(dataset[index].targets["depth"].depth.numpy(), metres)
    (tmp_path / "depth/a.exr").write_bytes((tmp_path / "depth/a.exr").read_bytes()[:300])
    with pytest.raises(DataError, match=r"a\.exr"):
        dataset[0]
    (tmp_path / "depth/a.exr").write_bytes(b"no")
    with pytest.raises(DataError, match=r"a\.exr"):
        dataset[0]


@pytest.mark.parametrize("name", ["a.png", "a.npy"])
def test_depth_that_is_none(tmp_path, picture, name):
    picture("images/a.jpg")
    (tmp_path / "depth").mkdir()
    path = tmp_path / "depth" / name
    if name == "a.png":
        Image.fromarray(GREY).save(path)
    else:
        np.save(path, np.array([{}], object))
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        DepthMaps(str(tmp_path), "all")[0]
    path.write_bytes(
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999, 99999999), }" + b" " * 40
    )
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        DepthMaps(str(tmp_path), "all")[0]


def test_masks_and_depth_together(tmp_path, picture):
    for name in "ab":
        picture(f"images/{name}.jpg")
        picture(f"masks/{name}.png", GREY)
        (tmp_path / "depth").mkdir(exist_ok=True)
        np.save(tmp_path / f"depth/{name}.npy", np.ones((8, 12), np.float32))
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    dataset = Masks(str(tmp_path), "train")
    assert set(dataset[0].targets) == {"segmentation", "depth"} == set(dataset.targets)
    assert conforms("masks", root=str(tmp_path))
    assert depthmaps.is_depth("x.NPY")
