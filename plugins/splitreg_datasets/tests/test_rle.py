import numpy as np
import pytest
from faster_coco_eval.core import mask as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from splitreg_datasets import rle

masks = arrays.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40)))


def runs_of(mask):
    flat = np.concatenate([[False], mask.ravel(order="F"), [not mask.ravel(order="F")[-1]]])
    return np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat.astype(int)))])).tolist()


@given(masks)
def test_run_lengths_of_any_mask(mask):
    for segmentation in (
        {"size": list(mask.shape), "counts": runs_of(mask)},
        {"size": list(mask.shape), "counts": reference.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]},
    ):
        assert (rle.decode(segmentation, mask.shape) == mask).all()


def test_long_runs_need_several_digits():
    mask = np.zeros((700, 900), bool)
    mask[300:500, 100:850] = True
    counts = reference.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert (rle.decode({"size": [700, 900], "counts": counts}, (700, 900)) == mask).all()


@given(st.one_of(st.text(max_size=30), st.binary(max_size=30)))
@settings(max_examples=300)
def test_any_string_is_a_mask_or_an_error(text):
    try:
        found = rle.decode({"size": [5, 7], "counts": text}, (5, 7))
    except ValueError:
        return
    assert found.shape == (5, 7)


json_like = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 60), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(st.sampled_from(["size", "counts"]), inner)),
    max_leaves=20,
)


@given(json_like)
@settings(max_examples=300)
def test_anything_else_is_a_mask_or_an_error(value):
    try:
        found = rle.decode(value, (5, 7))
    except ValueError:
        return
    assert found.shape == (5, 7)
    assert found.dtype == bool


def test_a_polygon_covers_its_pixels():
    found = rle.decode([[2, 1, 7, 1, 7, 4, 2, 4], [0, 0, 1, 0]], (6, 9))
    wanted = np.zeros((6, 9), bool)
    wanted[1:4, 2:7] = True
    assert (found == wanted).all()
    assert not rle.decode([[1, 1, 2, 2]], (6, 9)).any()


@pytest.mark.parametrize(
    ("segmentation", "complaint"),
    [
        ({"size": [5, 7], "counts": [30]}, "30"),
        ({"size": [7, 5], "counts": [35]}, "size"),
        ({"size": [5, 7], "counts": [-1, 36]}, "run lengths"),
        ({"size": [5, 7], "counts": "\x7f"}, "127"),
        ({"size": [5, 7], "counts": "o" * 20}, "run length"),
        ([[1, 2, 3]], "polygon"),
        ([[1, 2, 3, 4, 5, 1e9]], "polygon"),
        ([[1, 2, 3, 4, 5, float("nan")]], "polygon"),
        ("polygon", "polygons"),
    ],
)
def test_what_is_malformed_is_named(segmentation, complaint):
    with pytest.raises(ValueError, match=complaint):
        rle.decode(segmentation, (5, 7))
