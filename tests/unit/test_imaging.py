import io
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from splitreg import imaging
from splitreg.errors import ImageError, MissingExtra
from splitreg.imaging import (
    FILL,
    RESOLUTIONS,
    Geometry,
    Preprocess,
    letterbox,
    nearest,
    normalise,
    prepare,
    read,
    resize_labels,
    resize_values,
)

SIDES = st.integers(1, 300)
SIZES = st.tuples(SIDES, SIDES)
MODES = st.sampled_from(["letterbox", "resize"])
GEOMETRIES = st.builds(Geometry, original=SIZES, coded=SIZES, mode=MODES)


def saved(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- geometry


@given(GEOMETRIES)
def test_the_image_lies_inside_the_frame_and_keeps_its_shape(geometry):
    (top, left, height, width), (h, w), (ch, cw) = geometry.content, geometry.original, geometry.coded
    assert top >= 0 and left >= 0 and 1 <= height <= ch - top and 1 <= width <= cw - left
    if geometry.mode == "resize":
        assert (height, width) == (ch, cw)
    else:
        assert height == ch or width == cw  # as large as it can be
        assert top in ((ch - height) // 2, 0) and left in ((cw - width) // 2, 0)
        # the free side is the rounded one: at most half a pixel off the true aspect ratio, and at least 1
        assert abs(width - max(1, ch * w / h)) <= 0.5 if height == ch and width != cw else True
        assert abs(height - max(1, cw * h / w)) <= 0.5 if width == cw and height != ch else True


@given(GEOMETRIES, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=5))
def test_points_go_there_and_come_back(geometry, shares):
    (top, left, height, width), (h, w) = geometry.content, geometry.original
    original = np.array(shares).reshape(-1, 2) * [w, h]
    coded = original * [width / w, height / h] + [left, top]
    assert np.allclose(geometry.points(coded), original, rtol=1e-5, atol=1e-3)


@given(GEOMETRIES, st.lists(st.tuples(*[st.floats(-400, 700)] * 4), max_size=5))
def test_boxes_stay_in_the_image_and_agree_with_points(geometry, boxes):
    h, w = geometry.original
    mapped = geometry.boxes(np.array(boxes))
    assert mapped.shape == (len(boxes), 4) and mapped.dtype == np.float32
    assert (mapped >= 0).all() and (mapped <= np.array([w, h, w, h])).all()
    corners = geometry.points(np.array(boxes).reshape(-1, 2, 2))
    assert np.allclose(mapped.reshape(-1, 2, 2), np.clip(corners, 0, [w, h]), rtol=1e-5, atol=1e-3)


def test_the_whole_content_is_the_whole_image():
    geometry = Geometry(original=(100, 200), coded=(64, 64), mode="letterbox")
    assert geometry.boxes(np.array([[0, 16, 64, 48], [-9, 0, 99, 64]])).tolist() == [[0, 0, 200, 100]] * 2


@given(GEOMETRIES)
def test_an_index_map_comes_back_without_its_border_and_without_new_indexes(geometry):
    top, left, height, width = geometry.content
    mask = np.full(geometry.coded, 255, np.uint8)
    rows, columns = np.indices((height, width))
    mask[top : top + height, left : left + width] = (rows * 2 >= height) * 2 + (columns * 2 >= width)
    mapped = geometry.labels(mask)
    assert mapped.shape == geometry.original and mapped.max() <= 3
    if geometry.original[0] >= height and geometry.original[1] >= width:  # nothing is left out on the way back
        assert mapped[-1, -1] == mask[top + height - 1, left + width - 1] and mapped[0, 0] == mask[top, left]


def test_a_map_of_the_same_size_comes_back_exactly():
    geometry = Geometry(original=(13, 21), coded=(13, 21), mode="letterbox")
    field = np.random.default_rng(0).normal(size=(13, 21)).astype(np.float32)
    assert np.array_equal(geometry.values(field), field)
    assert np.array_equal(geometry.labels(field), field)
    assert np.array_equal(geometry.pixels(noise(13, 21)), noise(13, 21))


@given(GEOMETRIES, st.floats(-100, 100, width=32))
def test_a_constant_map_stays_constant(geometry, value):
    mapped = geometry.values(np.full(geometry.coded, value, np.float32))
    assert mapped.shape == geometry.original and np.allclose(mapped, value, rtol=1e-5)


def test_halves_stay_halves_under_letterbox_and_back():
    image = np.zeros((60, 120, 3), np.uint8)
    image[:, 60:] = 200
    geometry = Geometry(original=(60, 120), coded=(64, 64), mode="letterbox")
    framed = letterbox(image, geometry)
    assert (framed[:16] == FILL).all() and (framed[48:] == FILL).all()
    assert (framed[16:48, :30] == 0).all() and (framed[16:48, 34:] == 200).all()
    back = geometry.pixels(framed)
    assert (back[:, :55] == 0).all() and (back[:, 65:] == 200).all()


@given(SIZES, SIZES, MODES)
def test_prepare_gives_the_input_size_in_float32(size, coded, mode):
    pixels, geometry = prepare(np.full((*size, 3), 10, np.uint8), Preprocess(size=coded, mode=mode))
    assert pixels.shape == (3, *coded) and pixels.dtype == np.float32 and pixels.flags.c_contiguous
    assert geometry == Geometry(original=size, coded=coded, mode=mode)


def test_prepare_changes_nothing_of_its_input_and_of_a_fitting_image():
    image = noise(8, 9)
    before = image.copy()
    pixels, _ = prepare(image, Preprocess(size=(8, 9), mean=(0.5, 0.25, 0), std=(0.5, 1, 0.25)))
    expected = (image / 255 - [0.5, 0.25, 0]) / [0.5, 1, 0.25]
    assert np.allclose(pixels, expected.transpose(2, 0, 1), atol=1e-6) and np.array_equal(image, before)
    assert np.array_equal(normalise(image, Preprocess(size=(1, 1), mean=(0, 0, 0), std=(1, 1, 1)))[0, 0, 0], np.float32(image[0, 0, 0]) / np.float32(255))  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [{"size": (0, 4)}, {"size": (4,)}, {"size": (4, 70000)}, {"size": (4.0, 4)}, {"mode": "stretch"}, {"std": (1, 0, 1)}, {"mean": (1, 2)}],
)  # fmt: skip
def test_a_wrong_preprocess_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Preprocess(**{"size": (4, 4), **wrong})


def test_preprocess_takes_lists_as_json_gives_them():
    assert Preprocess(size=[4, 6], mean=[0, 0, 0], std=[1, 1, 1]) == Preprocess(
        size=(4, 6), mean=(0, 0, 0), std=(1, 1, 1)
    )


# --- reading


def test_every_way_in_gives_the_same_pixels(tmp_path):
    image = noise(7, 9)
    data = saved(Image.fromarray(image))
    path = tmp_path / "a b.png"
    path.write_bytes(data)
    for source in (image, data, bytearray(data), memoryview(data), path, str(path), Image.fromarray(image)):
        assert np.array_equal(read(source), image)


def test_grey_is_repeated():
    grey = noise(5, 6)[:, :, 0]
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    for source in (grey, grey[:, :, None], Image.fromarray(grey), saved(Image.fromarray(grey))):
        assert np.array_equal(read(source), expected)
    assert read(Image.new("1", (4, 3), 1)).tolist() == [[[255] * 3] * 4] * 3


def test_sixteen_bits_become_eight():
    deep = np.array([[0, 257, 32768, 65535]], np.uint16)
    expected = [0, 1, 128, 255]
    for image in (Image.fromarray(deep), Image.fromarray(deep.astype(np.int32))):
        assert read(image)[0, :, 0].tolist() == expected
    assert read(saved(Image.fromarray(deep)))[0, :, 1].tolist() == expected


def test_a_dark_sixteen_bit_image_stays_dark():
    dark = np.full((2, 2), 200, np.uint16)  # 200 of 65535 is black, not light grey
    with pytest.warns(UserWarning, match="0 to 65535"):
        assert read(saved(Image.fromarray(dark))).max() <= 1
        assert read(saved(Image.fromarray(dark), "TIFF")).max() <= 1


def test_cmyk_and_other_colour_spaces():
    red = Image.new("RGB", (16, 16), (200, 30, 40))
    for form, mode in (("JPEG", "CMYK"), ("TIFF", "CMYK"), ("JPEG", "YCbCr")):
        mapped = read(saved(red.convert(mode), form))
        assert mapped.shape == (16, 16, 3) and np.abs(mapped.astype(int) - [200, 30, 40]).max() <= 6, mode


def test_alpha_lies_over_white():
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], np.uint8)
    expected = [[10, 20, 30], [255, 255, 255], [127, 127, 127]]
    for source in (
        pixels,
        Image.fromarray(pixels),
        saved(Image.fromarray(pixels)),
        saved(Image.fromarray(pixels), "WEBP", lossless=True),
    ):
        assert np.abs(read(source)[0].astype(int) - expected).max() <= 1
    assert read(Image.new("LA", (2, 2), (0, 0))).min() == 255


def test_palettes_with_and_without_transparency():
    indexed = Image.new("P", (2, 1))
    indexed.putpalette([250, 10, 10, 10, 10, 250] + [0] * 762)
    indexed.putpixel((1, 0), 1)
    assert read(saved(indexed))[0].tolist() == [[250, 10, 10], [10, 10, 250]]
    assert read(saved(indexed, transparency=1))[0].tolist() == [[250, 10, 10], [255, 255, 255]]
    assert read(saved(indexed, "GIF"))[0].tolist() == [[250, 10, 10], [10, 10, 250]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_undone(orientation):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = (250, 0, 0)  # red at the top left
    upright[16:, 24:] = (0, 0, 250)
    rotations = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(rotations[orientation](upright)))
    mapped = read(saved(stored, "JPEG", exif=exif, quality=95, subsampling=0))
    assert mapped.shape == upright.shape
    assert np.abs(mapped[4:12, 4:20].astype(int) - [250, 0, 0]).max() < 12
    assert np.abs(mapped[20:28, 28:44].astype(int) - [0, 0, 250]).max() < 12


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_thin_images_go_through(size):
    image = noise(*size)
    assert np.array_equal(read(saved(Image.fromarray(image))), image)
    pixels, geometry = prepare(image, Preprocess(size=(64, 64)))
    assert np.isfinite(pixels).all()
    assert geometry.labels(np.zeros((64, 64), np.uint8)).shape == size


@pytest.mark.filterwarnings("ignore::UserWarning")  # pillow's, on TIFF
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_an_image_cut_short_is_an_error(form):
    data = saved(Image.fromarray(noise(40, 40)), form)
    for keep in (0, 1, 10, len(data) // 2):
        with pytest.raises(ImageError):
            read(data[:keep])


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 100, b"not an image", b"<svg></svg>", b"GIF89a", b"RIFF\x10\0\0\0WEBPVP8L"]
)
def test_what_is_not_an_image_is_an_error(data, tmp_path):
    with pytest.raises(ImageError, match=f"the {len(data)} bytes"):
        read(data)
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"photo\.jpg"):
        read(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0"])
)
def test_noise_after_a_magic_number_is_never_anything_but_an_error_or_an_image(data, magic):
    try:
        assert read(magic + data).dtype == np.uint8
    except ImageError:
        pass


@pytest.mark.parametrize("missing", ["gone.png", "."])
def test_a_missing_file_is_named(tmp_path, missing):
    with pytest.raises(ImageError, match=missing if missing != "." else str(tmp_path)):
        read(tmp_path / missing)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((1, 4, 4, 3), np.uint8)],
)  # fmt: skip
def test_a_wrong_array_is_refused(array):
    with pytest.raises(ImageError):
        read(array)


@pytest.mark.parametrize("source", [None, 7, 3.5, object()])
def test_what_cannot_be_a_source_is_refused(source):
    with pytest.raises(ImageError, match=type(source).__name__):
        read(source)


def test_more_pixels_than_allowed_are_refused():
    image = noise(10, 10)
    for source in (image, Image.fromarray(image), saved(Image.fromarray(image))):
        assert read(source, max_pixels=100).shape == (10, 10, 3)
        with pytest.raises(ImageError, match=r"10x10\b.*\b99\b"):
            read(source, max_pixels=99)


def test_a_side_beyond_the_packets_field_is_refused():
    with pytest.raises(ImageError, match="1x65536|65536x1|65535"):
        read(np.zeros((1, 65536, 3), np.uint8))


def test_a_decompression_bomb_costs_nothing():
    """A PNG of a few bytes whose header claims 60000 x 60000 pixels."""
    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="60000x60000"):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_pillows_own_limit_is_left_as_it_was():
    before = Image.MAX_IMAGE_PIXELS
    read(saved(Image.fromarray(noise(4, 4))))
    with pytest.raises(ImageError):
        read(b"")
    assert before == Image.MAX_IMAGE_PIXELS


def test_pillows_own_limit_survives_threads():
    from concurrent.futures import ThreadPoolExecutor

    before, data = Image.MAX_IMAGE_PIXELS, saved(Image.fromarray(noise(4, 4)))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, [data] * 400))
    assert before == Image.MAX_IMAGE_PIXELS


def test_without_pillow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"splitreg\[edge\]"):
        imaging.read(b"x")


def test_normalising_in_place_is_the_plain_formula_to_the_last_bit():
    image = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)
    preprocess = Preprocess(size=(31, 47))
    std = np.asarray(preprocess.std, np.float32)
    plain = image * (np.float32(1) / (np.float32(255) * std)) - np.asarray(preprocess.mean, np.float32) / std
    planes = imaging.normalise(image, preprocess)
    assert planes.dtype == np.float32 and planes.flags.c_contiguous
    assert np.array_equal(planes, plain.transpose(2, 0, 1))


def test_a_turned_png_is_read_upright_and_the_callers_image_is_left_alone(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 7, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).save(tmp_path / "p.png", exif=exif)
    with Image.open(tmp_path / "p.png") as opened:
        assert np.array_equal(imaging.read(opened), np.rot90(noise, -1))
        assert opened.size == (7, 4) and opened.getexif()[0x0112] == 6
    assert np.array_equal(imaging.read(tmp_path / "p.png"), np.rot90(noise, -1))


def test_maps_are_bounded_but_boxes_are_in_original_pixels():
    bounded = Geometry(original=(3000, 4000), coded=(48, 64), mode="letterbox", max_mask_pixels=1_000_000)
    whole = Geometry(original=(3000, 4000), coded=(48, 64), mode="letterbox")
    mask = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
    assert bounded.mask_size == (866, 1154) and whole.mask_size == (3000, 4000)
    for kind in ("labels", "values"):
        assert getattr(bounded, kind)(mask).shape == (866, 1154) and getattr(whole, kind)(mask).shape == (3000, 4000)
    assert bounded.pixels(np.zeros((48, 64, 3), np.uint8)).shape == (866, 1154, 3)
    boxes = np.array([[0, 0, 64, 48]], np.float32)
    np.testing.assert_array_equal(bounded.boxes(boxes), whole.boxes(boxes))
    rows, columns = (np.linspace(0, size - 1, 20).astype(int) for size in bounded.mask_size)
    large = whole.labels(mask)[rows[:, None] * 3000 // 866, columns * 4000 // 1154]
    assert (bounded.labels(mask)[rows[:, None], columns] == large).mean() > 0.8
    assert Geometry(original=(10, 10), coded=(48, 64), mode="resize", max_mask_pixels=100).mask_size == (10, 10)


def test_masks_at_a_resolution():
    sizes = {
        resolution: Geometry(original=(432, 768), coded=(192, 256), mode="letterbox", resolution=resolution).mask_size
        for resolution in RESOLUTIONS
    }
    assert sizes == {"full": (432, 768), "network": (144, 256), "1/2": (144, 256), "1/4": (108, 192), "1/8": (54, 96)}
    small = Geometry(original=(20, 40), coded=(64, 64), mode="resize", resolution="network")
    assert small.mask_size == (20, 40)


def test_the_mask_of_the_network_gives_that_of_the_original():
    mask = np.random.default_rng(0).integers(0, 5, (64, 64)).astype(np.uint8)
    for original in ((100, 37), (400, 600), (64, 64)):
        full = Geometry(original=original, coded=(64, 64), mode="letterbox")
        network = Geometry(original=original, coded=(64, 64), mode="letterbox", resolution="network")
        np.testing.assert_array_equal(nearest(network.labels(mask), original), full.labels(mask))


def test_reduced_masks_keep_the_majority_and_enlarged_ones_their_edges():
    mask = np.zeros((40, 60), np.uint8)
    mask[:, 30:] = 7
    geometry = Geometry(original=(40, 60), coded=(40, 60), mode="resize", resolution="1/4")
    small = geometry.labels(mask)
    assert small.shape == (10, 15) and (small[:, :7] == 0).all() and (small[:, 8:] == 7).all()
    assert np.mean(resize_labels(small, (40, 60)) != mask) < 0.04


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.sampled_from([0, 3, 255])),
    st.integers(0, 9), st.integers(0, 9),
)  # fmt: skip
def test_enlarged_masks_have_the_index_with_the_largest_weight(mask, more_rows, more_columns):
    size = (mask.shape[0] + more_rows, mask.shape[1] + more_columns)
    result = resize_labels(mask, size)
    weights = {index: resize_values((mask == index).astype(np.float32), size) for index in (0, 3, 255)}
    own = np.select([result == index for index in weights], list(weights.values()), -1)
    assert (own >= np.max(list(weights.values()), axis=0) - 1e-5).all()
