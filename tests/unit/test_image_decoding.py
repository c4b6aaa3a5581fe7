"""Images of unusual modes: the range that a file declares, transparency, orientation, colour profiles, memory."""

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from splitreg import image_decoding, imaging
from splitreg.errors import ImageError
from splitreg.files import IMAGE_SUFFIXES, is_image


def saved(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def tiff(rows, bits, sample_format=1, tags=(), width=None):
    """Return a little-endian TIFF of one strip of raw rows."""
    data = b"".join(rows)
    entries = [
        (256, 4, width), (257, 4, len(rows)), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
        (278, 4, len(rows)), (279, 4, len(data)), (339, 3, sample_format), *tags,
    ]  # fmt: skip
    entries.sort()
    table = struct.pack("<H", len(entries))
    for tag, kind, value in entries:
        packed = struct.pack({3: "<HH", 4: "<I", 11: "<f"}[kind], *((value, 0) if kind == 3 else (value,)))
        table += struct.pack("<HHI", tag, kind, 1) + packed
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + table + b"\0\0\0\0"


def twelve_bits(values):
    """Pack an even number of samples of 12 bits."""
    return b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in zip(values[::2], values[1::2], strict=True)
    )


def test_twelve_bits_fill_the_range():
    data = tiff([twelve_bits([0, 2048, 4095, 1000])] * 2, 12, width=4)
    assert imaging.read(data)[1, :, 0].tolist() == [0, 128, 255, 62]


@pytest.mark.filterwarnings("ignore:an image of mode I has no sample above")
def test_thirty_two_bits_by_their_largest_sample():
    for top, bits in ((200, 8), (65535, 16), (2**20, 24), (2**32 - 1, 32)):
        row = np.array([0, top // 2, top], np.uint32)
        want = np.rint(row / (2.0**bits - 1) * 255).tolist()
        assert imaging.read(tiff([row.tobytes()], 32, width=3))[0, :, 0].tolist() == want


def test_a_declared_range_counts():
    row = np.array([0, 50, 100], "<f4").tobytes()
    declared = tiff([row], 32, 3, tags=[(340, 11, 0.0), (341, 11, 100.0)], width=3)
    assert imaging.read(declared)[0, :, 0].tolist() == [0, 128, 255]
    signed = np.array([-5, 16384, 32767], "<i2").tobytes()
    assert imaging.read(tiff([signed], 16, 2, width=3))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("values", "want"),
    [([0, 0.5, 1], [0, 128, 255]), ([0, 0.5, 1.05], [0, 128, 255]), ([0, 128, 255], [0, 128, 255]), ([0, 128, 60000], [0, 0, 233])],
)  # fmt: skip
def test_floats_have_one_of_three_ranges(values, want):
    image = Image.fromarray(np.array([values], np.float32))
    for source in (image, saved(image, "TIFF")):
        assert imaging.read(source)[0, :, 0].tolist() == want


@pytest.mark.parametrize("values", [[0, np.nan], [0, np.inf], [-1, 1], [0, 1e6]])
def test_floats_of_no_range_are_refused(values):
    with pytest.raises(ImageError, match="NaN|range"):
        imaging.read(saved(Image.fromarray(np.array([values], np.float32)), "TIFF"))


def test_an_image_that_turns_black_gives_a_warning():
    with pytest.warns(UserWarning, match="4000.*65535"):
        imaging.read(saved(Image.fromarray(np.array([[0, 4000]], np.uint16))))
    with pytest.warns(UserWarning, match=r"\b200\b"):
        imaging.read(saved(Image.fromarray(np.array([[0, 200]], np.uint16))))


def test_sixteen_bits_with_transparency():
    grey = saved(Image.fromarray(np.array([[0, 1000, 65535]], np.uint16)), transparency=1000)
    assert imaging.read(grey)[0, :, 0].tolist() == [0, 255, 255]
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)),
        (b"tRNS", struct.pack(">HHH", 0x1122, 0x3344, 0x5566)),
    ]
    import zlib

    pixels = struct.pack(">6H", 0x1122, 0x3344, 0x5566, 0x9900, 0x3300, 0x1100)
    chunks += [(b"IDAT", zlib.compress(b"\0" + pixels)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    assert imaging.read(data)[0].tolist() == [[255, 255, 255], [0x99, 0x33, 0x11]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("strip", [1, 7, 1 << 20])
def test_orientations_agree_with_pillow(orientation, strip, monkeypatch):
    monkeypatch.setattr(image_decoding, "STRIP_PIXELS", strip)
    stored = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[image_decoding.ORIENTATION] = orientation
    data = saved(Image.fromarray(stored), exif=exif)
    want = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(imaging.read(data), want)
    assert np.array_equal(image_decoding.as_turned(stored, orientation), want)
    assert np.array_equal(image_decoding.as_stored(want, orientation), stored)


@given(st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"]), st.integers(1, 40))
def test_strips_change_nothing(mode, strip):
    values = np.random.default_rng(1).integers(0, 256, (6, 5, 4), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(values[:, :, 0].astype(np.uint16) * 257)
    elif mode in ("I", "F"):
        image = Image.fromarray(values[:, :, 0]).convert(mode)
    else:
        image = Image.fromarray(values).convert(mode if mode != "CMYK" else "RGB").convert(mode)
    whole = imaging.read(image)
    before = image_decoding.STRIP_PIXELS
    try:
        image_decoding.STRIP_PIXELS = strip
        assert np.array_equal(imaging.read(image), whole)
    finally:
        image_decoding.STRIP_PIXELS = before


# --- colour profiles


def profile(primaries, gamma=2.2):
    """Return an ICC profile of three primaries (rows: XYZ of red, green and blue, for D50) and a gamma."""

    def fixed(value):
        return struct.pack(">i", round(value * 65536))

    def xyz(values):
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78 + 3)
    tags = [(b"desc", text), (b"wtpt", xyz((0.9642, 1, 0.8249))), (b"cprt", b"text\0\0\0\0none\0\0\0\0")]
    tags += [(name, xyz(row)) for name, row in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)]
    tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags:
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    header = struct.pack(">I", offset + len(body)) + b"\0\0\0\0" + b"\x02\x40\0\0" + b"mntrRGB XYZ " + bytes(12)
    header += b"acsp" + bytes(28) + b"".join(map(fixed, (0.9642, 1, 0.8249)))
    return header + bytes(128 - len(header)) + struct.pack(">I", len(tags)) + table + body


ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
#: D50 to linear sRGB (Lindbloom).
XYZ_TO_SRGB = np.array(
    ((3.1338561, -1.6168667, -0.4906146), (-0.9787684, 1.9161415, 0.0334540), (0.0719453, -0.2289914, 1.4052427))
)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_colours_of_another_profile_become_srgb():
    image = Image.new("RGB", (4, 3), (100, 180, 60))
    found = imaging.read(saved(image, icc_profile=profile(ADOBE)))[0, 0].astype(int)
    xyz = np.array(ADOBE).T @ (np.array([100, 180, 60]) / 255) ** 2.2
    linear = np.clip(XYZ_TO_SRGB @ xyz, 0, 1)
    want = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(found - want).max() <= 2 < np.abs(want - [100, 180, 60]).max()
    half = Image.new("RGBA", (4, 3), (100, 180, 60, 0))
    assert imaging.read(saved(half, icc_profile=profile(ADOBE))).min() == 255


def test_srgb_and_damaged_profiles_change_nothing():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    for icc in (SRGB, b"nonsense", SRGB[:200], b""):
        assert np.array_equal(imaging.read(saved(image, icc_profile=icc)), np.asarray(image))
    grey = image.convert("L")
    assert np.array_equal(imaging.read(saved(grey, icc_profile=SRGB))[:, :, 0], np.asarray(grey))


# --- other files


@pytest.mark.parametrize(
    ("head", "fact"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow-heif"),
        (b"\x76\x2f\x31\x01\x02\0\0\0", "OpenEXR"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "HDR"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "video"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "drawing"),
        (b"\xff\x0a\xfa\x9f", "JPEG XL"),
    ],
)
def test_formats_that_pillow_does_not_read_are_named(head, fact, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "x.jpg"
    path.write_bytes(head)
    for source in (head, path):
        with pytest.raises(ImageError, match=fact):
            imaging.read(source)


def test_heic_is_read_where_its_package_is_installed():
    heif = pytest.importorskip("pillow_heif")
    image = Image.new("RGB", (64, 48), (200, 30, 60))
    stream = io.BytesIO()
    heif.from_pillow(image).save(stream, quality=90)
    assert np.abs(imaging.read(stream.getvalue()).astype(int) - [200, 30, 60]).max() < 12


def test_avif_and_jfif_are_images():
    assert {".avif", ".jfif"} < set(IMAGE_SUFFIXES) and is_image("a.AVIF")
    image = Image.new("RGB", (64, 48), (200, 30, 60))
    assert np.abs(imaging.read(saved(image, "AVIF")).astype(int) - [200, 30, 60]).max() < 12


def test_pil_images_that_cannot_be_decoded():
    whole = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    for image in (Image.open(io.BytesIO(whole[:900])), Image.open(io.BytesIO(whole[:-1000]))):
        with pytest.raises(ImageError):
            imaging.read(image)
    closed = Image.open(io.BytesIO(whole))
    closed.close()
    with pytest.raises(ImageError):
        imaging.read(closed)


MEASURE = """
import io, resource, sys
import numpy as np
from PIL import Image
from splitreg import imaging
mode = sys.argv[1]
stream = io.BytesIO()
image = Image.new(mode, (6000, 4000))
exif = Image.Exif()
exif[0x0112] = 6 if sys.argv[2] == "turned" else 1
image.save(stream, sys.argv[3], exif=exif)
del image
imaging.read(Image.new("RGB", (8, 8)))
data = stream.getvalue()
def peak():
    text = open("/proc/self/status").read()
    return int(text.split("VmHWM:")[1].split()[0])
open("/proc/self/clear_refs", "w").write("5")
before = peak()
imaging.read(data)
print(peak() - before)
"""


@pytest.mark.slow
def test_no_mode_needs_more_memory_than_rgb():
    def kilobytes(mode, turned="as stored", form="PNG"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", MEASURE, mode, turned, form],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout)

    usual = kilobytes("RGB")
    for mode, turned, form in (
        ("RGBA", "", "PNG"), ("LA", "", "PNG"), ("L", "", "PNG"), ("I;16", "", "PNG"), ("F", "", "TIFF"), ("I", "", "TIFF"),
        ("CMYK", "", "JPEG"), ("RGB", "turned", "JPEG"),
    ):  # fmt: skip
        assert kilobytes(mode, turned, form) <= 1.2 * usual, (mode, turned)
