"""Answers are transmitted exactly, and damaged or foreign bytes are refused."""

import json
import re

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from splitreg.errors import CorruptAnswer
from splitreg.predictions import (
    Classification,
    Depth,
    Detections,
    GenericPrediction,
    MultiLabel,
    Prediction,
    Reconstruction,
    Segmentation,
)
from splitreg.wire import AnswerFormat, dump_json, from_parts, pack, to_json, unpack, write_png
from splitreg.wire.answers import KEY
from splitreg.wire.protocol import ANSWERS, JSON


class Strange(Prediction):
    """A plugin's own."""

    def restore(self, geometry):
        return self

    def draw(self, image):
        return image

    def to_json(self):
        return {"task": "strange", "value": 3}

    def arrays(self):
        return {"value": np.array(3.5, np.float16), "none": np.zeros((0, 7), bool)}


def predictions(seed=0, height=5, width=7):
    random = np.random.default_rng(seed)
    names = ("one", "two / 2", "drei é")
    return {
        "cls": Classification(probabilities=random.random(3, np.float32), names=names),
        "tags": MultiLabel(probabilities=np.array([0.25, np.nan, 1], np.float32), names=names, threshold=0.7),
        "det": Detections(
            boxes=random.random((4, 4), np.float32),
            scores=random.random(4, np.float32),
            labels=random.integers(0, 3, 4),
            names=names,
            threshold=0.1,
        ),
        "nothing": Detections(
            boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32), labels=np.zeros(0, np.int64), names=names
        ),
        "seg": Segmentation(mask=np.asfortranarray(random.choice([0, 2, 255], (height, width)).astype(np.uint8)), names=names),
        "depth": Depth(depth=random.random((height, width), np.float32)),
        "recon": Reconstruction(image=random.integers(0, 256, (height, width, 3), np.uint8)),
        "own": Strange(),
    }  # fmt: skip


def assert_same(expected, actual):
    assert len(expected) == len(actual)
    for a, b in zip(expected, actual, strict=True):
        assert list(a) == list(b)
        for head in a:
            assert type(b[head]) is (GenericPrediction if type(a[head]) is Strange else type(a[head]))
            assert a[head].meta() == b[head].meta() and a[head].to_json() == b[head].to_json()
            assert a[head].arrays().keys() == b[head].arrays().keys()
            for name, array in a[head].arrays().items():
                other = b[head].arrays()[name]
                assert array.dtype == other.dtype and array.shape == other.shape and array.tobytes() == other.tobytes()


def test_every_type_is_restored_exactly():
    answers = [predictions(0), predictions(1, 3, 2), {}]
    blob = pack(answers)
    assert_same(answers, unpack(blob))
    assert pack(unpack(blob)) == blob


def test_images_share_their_names():
    one, many = (len(pack([predictions()] * count)) for count in (1, 9))
    assert pack([predictions()] * 9).count(b"drei") == 5 and many < 9 * one


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=4), st.integers(1, 9), st.integers(1, 9))
def test_any_number_of_images(seeds, height, width):
    answers = [predictions(seed, height, width) for seed in seeds]
    assert_same(answers, unpack(pack(answers)))


BLOB = pack([predictions(), predictions(1)])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_bytes_are_typed_errors(data):
    blob = bytearray(BLOB)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(0, 400), st.integers(0, len(blob) - 1)))
        blob[min(at, len(blob) - 1)] = data.draw(st.integers(0, 255))
    blob = blob[: data.draw(st.one_of(st.just(len(blob)), st.integers(0, len(blob))))]
    try:
        for heads in unpack(bytes(blob)):
            for prediction in heads.values():
                json.dumps(prediction.to_json())
    except CorruptAnswer:
        pass


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_typed_errors(blob):
    with pytest.raises(CorruptAnswer):
        unpack(blob)


def blob_of(index, tensors=None):
    return safetensors.numpy.save(tensors or {}, {KEY: index if isinstance(index, str) else json.dumps(index)})


@pytest.mark.parametrize(
    "index",
    [
        "", "[]", "null", {"version": 2, "metas": [], "images": []}, {"version": 1, "metas": {}, "images": []},
        {"version": 1, "metas": [], "images": [3]}, {"version": 1, "metas": [], "images": [{"a": 0}]},
        {"version": 1, "metas": [3], "images": [{"a": 0}]}, {"version": 1, "metas": [{"kind": "depth"}], "images": [{"a": 0}]},
        {"version": 1, "metas": [{"kind": "unheard"}], "images": [{"a": 0}]},
        {"version": 1, "metas": [{"kind": []}], "images": [{"a": 0}]}, {"version": 1, "metas": [], "images": [{}] * 5000},
        {"version": 1, "metas": [], "images": [{str(i): 0 for i in range(99)}]}, "[" * 100_000,
        {"version": 1, "metas": [{"kind": "other"}], "images": [{"a": True}]},
    ],
    ids=lambda index: str(index)[:40],
)  # fmt: skip
def test_invalid_metadata(index):
    with pytest.raises(CorruptAnswer):
        unpack(blob_of(index))


def test_missing_metadata_and_unknown_arrays():
    with pytest.raises(CorruptAnswer, match=KEY):
        unpack(safetensors.numpy.save({"0/a/b": np.zeros(3)}))
    for name in ("0/a/b", "x/a/b", "-1/a/b", "²/a/b", "0", "", "9" * 30 + "/a/b"):
        with pytest.raises(CorruptAnswer, match=re.escape(repr(name[:60]))):
            unpack(blob_of({"version": 1, "metas": [], "images": []}, {name: np.zeros(3)}))


@pytest.mark.parametrize(
    ("meta", "arrays"),
    [
        ({"kind": "classification", "names": ["a"]}, {"probabilities": np.zeros(2, np.float32)}),
        ({"kind": "classification", "names": "ab"}, {"probabilities": np.zeros(2, np.float32)}),
        ({"kind": "classification", "names": ["a", 3]}, {"probabilities": np.zeros(2, np.float32)}),
        ({"kind": "classification"}, {"probabilities": np.zeros(0, np.float32)}),
        ({"kind": "depth", "names": []}, {"depth": np.zeros((2, 2), np.float32)}),
        ({"kind": "depth"}, {"depth": np.zeros((2, 2), np.int32)}),
        ({"kind": "depth"}, {"depth": np.zeros(4, np.float32)}),
        ({"kind": "depth"}, {"deep": np.zeros((2, 2), np.float32)}),
        ({"kind": "multilabel", "names": [], "threshold": "x"}, {"probabilities": np.zeros(0, np.float32)}),
        ({"kind": "segmentation", "names": ["a"]}, {"mask": np.ones((2, 2), np.uint8)}),
        ({"kind": "reconstruction"}, {"image": np.zeros((2, 2, 4), np.uint8)}),
        ({"kind": "detection", "names": ["a"]},
         {"boxes": np.zeros((2, 4), np.float32), "scores": np.zeros(1, np.float32), "labels": np.zeros(2, np.int64)}),
        ({"kind": "detection", "names": ["a"]},
         {"boxes": np.zeros((1, 4), np.float32), "scores": np.zeros(1, np.float32), "labels": np.array([-1])}),
    ],
)  # fmt: skip
def test_arrays_that_do_not_match_their_metadata(meta, arrays):
    with pytest.raises(CorruptAnswer):
        from_parts(meta, arrays)


def test_masks_in_json():
    import base64
    import io

    from PIL import Image

    def opened(prediction):
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(prediction["png"]))))

    answers = predictions(height=6, width=4)
    (rle,), (png,), (none,) = (to_json([answers], masks) for masks in ("rle", "png", "none"))
    assert rle["seg"] == answers["seg"].to_json() and "png" not in rle["depth"]
    assert (opened(png["seg"]) == answers["seg"].mask).all() and png["seg"]["classes"][0]["index"] in (0, 2)
    assert np.abs(opened(png["depth"]) * png["depth"]["png_unit_m"] - answers["depth"].depth).max() <= 0.0005001
    assert (opened(png["recon"]) == answers["recon"].image).all()
    assert "png" not in none["seg"] and "mask" not in json.dumps(none)
    assert rle["det"] == png["det"] == none["det"]


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (3, 5, 3)])
def test_png_is_read_by_pillow(shape):
    import io

    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(write_png(pixels)))) == pixels).all()


def test_json_has_no_nan():
    assert json.loads(dump_json([{"a": float("nan"), "b": [float("inf"), 1.5]}])) == [{"a": None, "b": [None, 1.5]}]


@pytest.mark.parametrize("media", [ANSWERS, JSON])
@pytest.mark.parametrize("masks", ["rle", "png", "none"])
def test_joined_heads_equal_the_whole_answer(media, masks):
    answers = [predictions(0), predictions(1, 3, 2)]
    answer_format = AnswerFormat(media=media, masks=masks, min_score=0.3)
    written = {head: answer_format.write_head(head, [image[head] for image in answers]) for head in answers[0]}
    assert answer_format.join_heads(written) == answer_format.write(answers)
