"""Prediction types: back to the original pixels, into images, into JSON."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from splitreg import drawing
from splitreg.errors import ShapeMismatch
from splitreg.imaging import Geometry
from splitreg.predictions import (
    Classification,
    Depth,
    Detections,
    MultiLabel,
    Reconstruction,
    Segmentation,
    decode_mask,
    encode_mask,
)
from splitreg.tasks import IGNORE

NAMES = ("road", "car", "tree")
#: 200 x 100 pixels in a square of 64: the image fills rows 16 to 48.
WIDE = Geometry(original=(100, 200), coded=(64, 64), mode="letterbox")


def detections(boxes, scores=None, labels=None):
    count = len(boxes)
    return Detections(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores or [0.9] * count, np.float32),
        labels=np.array(labels or [0] * count, np.int64),
        names=NAMES,
    )


def test_boxes_return_to_the_image_and_those_in_the_border_are_dropped():
    original = detections([[0, 16, 32, 32], [0, 0, 64, 15], [60, 40, 64, 64]], [0.9, 0.8, 0.7], [0, 1, 2])
    restored = original.restore(WIDE)
    np.testing.assert_allclose(restored.boxes, [[0, 0, 100, 50], [187.5, 75, 200, 100]])
    assert restored.labels.tolist() == [0, 2] and restored.scores.tolist() == pytest.approx([0.9, 0.7])


def test_masks_and_depths_return_to_the_image():
    mask = np.full((64, 64), 2, np.uint8)
    mask[16:32], mask[32:48] = 0, 1
    restored = Segmentation(mask=mask, names=NAMES).restore(WIDE)
    assert restored.mask.shape == (100, 200)
    assert (restored.mask[:50] == 0).all() and (restored.mask[50:] == 1).all()
    depth = Depth(depth=np.where(mask == 2, 99.0, mask + 1.0).astype(np.float32)).restore(WIDE)
    assert depth.depth.shape == (100, 200) and depth.depth.max() == 2.0 and depth.depth[0, 0] == 1.0


def test_reconstructions_return_to_the_image():
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:48] = 200
    restored = Reconstruction(image=image).restore(WIDE)
    assert restored.image.shape == (100, 200, 3) and (restored.image == 200).all()


@given(npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_run_lengths_hold_any_mask(mask):
    runs = encode_mask(mask)
    np.testing.assert_array_equal(decode_mask(json.loads(json.dumps(runs))), mask)
    assert sum(runs["counts"]) == mask.size
    assert all(count > 0 for count in runs["counts"][1:])


def test_run_lengths_are_those_of_coco():
    mask = np.zeros((3, 2), bool)
    mask[0, 0] = mask[2, 1] = True
    assert encode_mask(mask) == {"size": [3, 2], "counts": [0, 1, 4, 1]}  # column by column, zeros first


def test_json_says_what_is_there():
    sure = Classification(probabilities=np.array([0.1, 0.7, 0.2], np.float32), names=NAMES)
    assert sure.to_json()["label"] == "car" and [t["label"] for t in sure.to_json()["top"]] == ["car", "tree", "road"]
    many = MultiLabel(probabilities=np.array([0.6, np.nan, 0.9], np.float32), names=NAMES)
    assert many.to_json()["labels"] == ["tree", "road"] and many.to_json()["probabilities"]["car"] is None
    assert json.dumps(many.to_json(), allow_nan=False)
    box = detections([[1, 2, 3.456, 4]], labels=[2]).to_json()["objects"]
    assert box == [{"label": "tree", "score": 0.9, "box": [1.0, 2.0, 3.46, 4.0]}]
    mask = Segmentation(mask=np.array([[1, 1], [0, IGNORE]], np.uint8), names=NAMES).to_json()
    assert [c["label"] for c in mask["classes"]] == ["car", "road"] and mask["classes"][0]["share"] == 0.5
    depth = Depth(depth=np.array([[0, 2.0]], np.float32)).to_json()
    assert depth["median_m"] == 2.0
    assert json.dumps(Depth(depth=np.zeros((2, 2), np.float32)).to_json(), allow_nan=False)


IMAGE = np.full((300, 400, 3), 90, np.uint8)
DRAWN = [
    Classification(probabilities=np.array([0.1, 0.7, 0.2], np.float32), names=NAMES),
    MultiLabel(probabilities=np.array([0.1, 0.2, np.nan], np.float32), names=NAMES),
    detections([[20, 40, 200, 150], [0, 0, 5, 5], [395, 295, 400, 300]]),
    detections([]),
    Segmentation(mask=np.full((300, 400), 1, np.uint8), names=NAMES),
    Segmentation(mask=np.full((300, 400), IGNORE, np.uint8), names=NAMES),
    Depth(depth=np.linspace(1, 9, 120000, dtype=np.float32).reshape(300, 400)),
    Depth(depth=np.zeros((300, 400), np.float32)),
    Reconstruction(image=IMAGE),
]


@pytest.mark.parametrize("prediction", DRAWN, ids=lambda p: type(p).__name__)
def test_images_are_images_and_leave_the_original_alone(prediction):
    before = IMAGE.copy()
    drawn = prediction.draw(IMAGE)
    assert drawn.dtype == np.uint8 and drawn.shape[1:] == (400, 3) and drawn.shape[0] >= 300
    np.testing.assert_array_equal(IMAGE, before)


def test_weak_objects_are_not_drawn():
    strong, weak = detections([[20, 40, 200, 150]], [0.9]), detections([[20, 40, 200, 150]], [0.1])
    assert (strong.draw(IMAGE) != IMAGE).any() and (weak.draw(IMAGE)[: len(IMAGE)] == IMAGE).all()


def test_a_mask_of_another_size_is_an_error():
    with pytest.raises(ShapeMismatch, match="restore"):
        Segmentation(mask=np.zeros((3, 4), np.uint8), names=NAMES).draw(IMAGE)


def test_a_mask_that_a_server_scaled_down_is_enlarged():
    mask = np.zeros((100, 133), np.uint8)
    mask[:50] = 1
    tinted = Segmentation(mask=mask, names=NAMES).draw(IMAGE)
    whole = Segmentation(mask=np.repeat([1, 0], 150).astype(np.uint8)[:, None].repeat(400, 1), names=NAMES).draw(IMAGE)
    np.testing.assert_array_equal(tinted, whole)


def test_the_background_is_not_tinted():
    mask = np.zeros((300, 400), np.uint8)
    mask[:150] = 1
    drawn = Segmentation(mask=mask, names=("background", "car")).draw(IMAGE)
    assert (drawn[150:300] == IMAGE[150:]).all() and (drawn[:150] != IMAGE[:150]).any()


def test_masks_tint_their_own_pixels_only():
    mask = np.full((4, 4), IGNORE, np.uint8)
    mask[0] = 1
    tinted = drawing.overlay(IMAGE[:4, :4], mask, drawing.palette(3))
    assert (tinted[1:] == 90).all() and (tinted[0] != 90).any()


@given(st.integers(1, 300))
def test_a_colour_belongs_to_its_class(count):
    np.testing.assert_array_equal(drawing.palette(count), drawing.palette(300)[:count])


def test_colours_of_a_usual_dataset_differ():
    assert len({tuple(c) for c in drawing.palette(80).tolist()}) == 80


def test_near_is_lighter_than_far_and_unknown_is_black():
    colours = drawing.depth_colours(np.array([[1.0, 3.0, 9.0, 0.0, np.nan]]), 1.0, 9.0)[0].astype(int)
    light = colours.sum(axis=1)
    assert light[0] > light[1] > light[2] > 0 and light[3] == light[4] == 0


def test_a_legend_takes_the_lines_that_it_needs():
    few, many = (drawing.legend(IMAGE, ["a class name"] * n, drawing.palette(n)) for n in (2, 40))
    assert 300 < few.shape[0] < many.shape[0]
    assert drawing.legend(IMAGE, []).shape == IMAGE.shape


def test_above_leaves_out_what_scores_less():
    objects = detections([[0, 0, 9, 9], [1, 1, 5, 5], [2, 2, 7, 7]], [0.5, 0.75, 0.25], [0, 1, 2])
    least = 0.75
    best = objects.above(least)
    assert best.scores.tolist() == [least] and best.boxes.shape == (1, 4) and best.labels.shape == (1,)
    assert best.boxes.tolist() == objects.boxes[objects.scores >= least].tolist() and best.names == objects.names
    assert objects.above(0.0) is objects and len(objects.above(1.0).scores) == 0
