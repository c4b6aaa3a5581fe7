"""Metrics against values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from splitreg.errors import DataError, ShapeMismatch
from splitreg.evaluation.metrics import (
    Accuracy,
    DepthError,
    ImageQuality,
    LabelPrecision,
    MeanAveragePrecision,
    MeanIoU,
)
from splitreg.predictions import Classification, Depth, Detections, MultiLabel, Reconstruction, Segmentation
from splitreg.tasks import IGNORE, BoxTarget, ClassTarget, DepthTarget, ImageTarget, MaskTarget, MultiLabelTarget

NAN = float("nan")


def names(count):
    return tuple(f"n{i}" for i in range(count))


def found(boxes, scores, labels):
    return Detections(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int64),
        names=names(3),
    )


def truth(boxes, labels, crowd=None):
    return BoxTarget(
        boxes=tv_tensors.BoundingBoxes(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), format="XYXY", canvas_size=(400, 400)
        ),
        labels=torch.tensor(labels, dtype=torch.int64),
        crowd=torch.tensor(crowd or [False] * len(labels), dtype=torch.bool),
    )


def precision(predictions, targets):
    metric = MeanAveragePrecision()
    metric.update(predictions, targets)
    return metric.compute()


def test_accuracy_counts_the_first_and_the_first_five():
    scores = np.array([0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.05], np.float32)
    metric = Accuracy()
    prediction = Classification(probabilities=scores, names=names(7))
    metric.update([prediction] * 3, [ClassTarget(index=i) for i in (0, 4, 5)])
    assert metric.compute() == pytest.approx({"top1": 1 / 3, "top5": 2 / 3})
    metric.update([prediction], [ClassTarget(index=0)])
    assert metric.compute()["top1"] == pytest.approx(0.5)


def test_a_classifier_that_says_nothing_is_not_right():
    metric = Accuracy()
    flat = Classification(probabilities=np.full(10, 0.1, np.float32), names=names(10))
    metric.update([flat] * 10, [ClassTarget(index=i) for i in range(10)])
    assert metric.compute() == pytest.approx({"top1": 0.1, "top5": 0.5})


def labelled(scores, present):
    metric = LabelPrecision()
    for s, p in zip(scores, present, strict=True):
        metric.update(
            [MultiLabel(probabilities=np.array(s, np.float32), names=names(len(s)))],
            [MultiLabelTarget(present=torch.tensor(p, dtype=torch.float32))],
        )
    return metric.compute()["mAP"]


def test_label_precision_by_hand():
    # ranks of the two present ones: 1 and 3 -> (1 + 2/3) / 2
    assert labelled([[0.9], [0.8], [0.7], [0.1]], [[1.0], [0.0], [1.0], [0.0]]) == pytest.approx(5 / 6)


def test_labels_that_are_never_present_do_not_count():
    assert labelled([[0.9, 0.9], [0.1, 0.8]], [[1.0, 0.0], [0.0, 0.0]]) == pytest.approx(1.0)


def test_unknown_entries_do_not_count():
    scores, present = [[0.9], [0.8], [0.7]], [[1.0], [NAN], [1.0]]
    assert labelled(scores, present) == pytest.approx(1.0)  # counted as absent it would be (1 + 2/3) / 2
    assert math.isnan(labelled([[0.5]], [[NAN]]))


BOX, OTHER = [10, 10, 60, 60], [200, 200, 300, 300]


def test_perfect_boxes_of_the_first_class_count():
    values = precision([found([BOX], [0.9], [0])], [truth([BOX], [0])])
    assert values == pytest.approx({"mAP": 1.0, "mAP50": 1.0, "mAP75": 1.0})


def test_precision_at_an_overlap():
    shifted = [10, 10, 60, 45]  # IoU 0.7: right at .50 to .70, five of ten thresholds
    values = precision([found([shifted], [0.9], [1])], [truth([BOX], [1])])
    assert values == pytest.approx({"mAP": 0.5, "mAP50": 1.0, "mAP75": 0.0}, abs=1e-6)


def test_a_wrong_class_is_wrong_and_a_missed_object_halves():
    assert precision([found([BOX], [0.9], [0])], [truth([BOX], [1])])["mAP"] == 0
    half = precision([found([BOX], [0.9], [0])], [truth([BOX, OTHER], [0, 0])])
    assert half["mAP"] == pytest.approx(51 / 101, abs=1e-6)  # 101 recall points, 0.00 to 0.50 are reached


def test_false_alarms_cost_only_where_they_rank_above():
    above = precision([found([OTHER, BOX], [0.9, 0.8], [0, 0])], [truth([BOX], [0])])
    below = precision([found([OTHER, BOX], [0.7, 0.8], [0, 0])], [truth([BOX], [0])])
    assert above["mAP"] == pytest.approx(0.5) and below["mAP"] == pytest.approx(1.0)


def test_boxes_in_a_crowd_are_neither_right_nor_wrong():
    inside = [[210, 210, 240, 240], [250, 250, 280, 280]]
    predictions = [found([*inside, BOX], [0.95, 0.9, 0.5], [0, 0, 0])]
    with_crowd = precision(predictions, [truth([BOX, OTHER], [0, 0], [False, True])])
    without = precision(predictions, [truth([BOX], [0])])
    assert with_crowd["mAP"] == pytest.approx(1.0) and without["mAP"] == pytest.approx(1 / 3, abs=1e-3)


def test_no_object_at_all_is_not_a_number_and_no_prediction_is_zero():
    assert math.isnan(precision([found([BOX], [0.9], [0])], [truth([], [])])["mAP"])
    assert precision([found([], [], [])], [truth([BOX], [2])])["mAP"] == 0
    mixed = precision([found([], [], []), found([BOX], [0.9], [2])], [truth([], []), truth([BOX], [2])])
    assert mixed["mAP"] == pytest.approx(1.0)


def test_box_precision_starts_anew_after_reset():
    metric = MeanAveragePrecision()
    metric.update([found([], [], [])], [truth([BOX], [0])])
    assert metric.compute()["mAP"] == 0
    metric.reset()
    metric.update([found([BOX], [0.9], [0])], [truth([BOX], [0])])
    assert metric.compute()["mAP"] == pytest.approx(1.0)


def overlap(pairs, classes):
    metric = MeanIoU(classes)
    for prediction, target in pairs:
        metric.update(
            [Segmentation(mask=np.array(prediction, np.uint8), names=names(classes))],
            [MaskTarget(mask=tv_tensors.Mask(torch.tensor(target)))],
        )
    return metric.compute()


def test_mask_overlap_by_hand():
    values = overlap([([[0, 0, 1, 1]], [[0, 1, 1, 1]])], 3)
    # class 0: 1 / 2, class 1: 2 / 3, class 2 nowhere
    assert values == pytest.approx({"mIoU": (1 / 2 + 2 / 3) / 2, "pixel_accuracy": 0.75})


def test_ignored_pixels_count_nowhere():
    values = overlap([([[0, 1, 2, 0]], [[0, 1, IGNORE, IGNORE]])], 3)
    assert values == pytest.approx({"mIoU": 1.0, "pixel_accuracy": 1.0})
    assert math.isnan(overlap([([[0]], [[IGNORE]])], 3)["mIoU"])


def test_a_class_that_is_only_predicted_counts_as_zero():
    assert overlap([([[0, 2]], [[0, 0]])], 3)["mIoU"] == pytest.approx((1 / 2 + 0) / 2)


def test_mask_overlap_sums_before_it_divides():
    values = overlap([([[0]], [[0]]), ([[1, 1, 1]], [[0, 0, 1]])], 2)
    assert values["mIoU"] == pytest.approx((1 / 3 + 1 / 3) / 2)


def test_masks_that_cannot_be_compared_are_errors():
    with pytest.raises(ShapeMismatch, match="restore"):
        overlap([([[0, 0]], [[0]])], 2)
    with pytest.raises(DataError, match="class 7"):
        overlap([([[0]], [[7]])], 2)


def depth(prediction, target):
    metric = DepthError()
    metric.update(
        [Depth(depth=np.array(p, np.float32)) for p in prediction],
        [DepthTarget(depth=tv_tensors.Mask(torch.tensor(t))) for t in target],
    )
    return metric.compute()


def test_depth_errors_by_hand():
    values = depth([[[1.0, 3.0, 9.0]]], [[[1.0, 2.0, 0.0]]])  # 0: not known
    assert values == pytest.approx({"abs_rel": 0.25, "rmse": math.sqrt(0.5), "delta1": 0.5})


def test_depth_errors_are_means_over_images_that_have_depth():
    values = depth([[[2.0, 2.0]], [[4.0, 4.0]], [[1.0, 1.0]]], [[[1.0, 0.0]], [[4.0, 4.0]], [[0.0, NAN]]])
    assert values == pytest.approx({"abs_rel": 0.5, "rmse": 0.5, "delta1": 0.5})
    assert math.isnan(depth([[[1.0]]], [[[0.0]]])["delta1"])


def quality(*pairs):
    metric = ImageQuality()
    for prediction, target in pairs:
        image = torch.full((3, 4, 4), target, dtype=torch.uint8)
        metric.update(
            [Reconstruction(image=np.full((4, 4, 3), prediction, np.uint8))],
            [ImageTarget(image=tv_tensors.Image(image))],
        )
    return metric.compute()["psnr"]


def test_psnr_by_hand():
    assert quality((10, 15)) == pytest.approx(10 * math.log10(255**2 / 25))
    assert quality((250, 3)) == pytest.approx(10 * math.log10(255**2 / 247**2))  # no wrap-around in uint8
    assert quality((7, 7), (10, 15)) == pytest.approx((100 + 10 * math.log10(255**2 / 25)) / 2)


def test_pictures_of_other_sizes_are_errors():
    with pytest.raises(ShapeMismatch, match="4x4x3"):
        ImageQuality().update(
            [Reconstruction(image=np.zeros((4, 4, 3), np.uint8))],
            [ImageTarget(image=tv_tensors.Image(torch.zeros(3, 5, 4, dtype=torch.uint8)))],
        )


def random_batches(kind):
    rng = np.random.default_rng(3)
    for _ in range(4):
        shares = rng.random(3, dtype=np.float32)
        if kind is Accuracy:
            yield Classification(probabilities=shares, names=names(3)), ClassTarget(index=int(rng.integers(3)))
        elif kind is LabelPrecision:
            present = torch.tensor(rng.integers(0, 2, 3), dtype=torch.float32)
            yield MultiLabel(probabilities=shares, names=names(3)), MultiLabelTarget(present=present)
        elif kind is MeanAveragePrecision:
            corners = rng.integers(0, 50, (3, 4)) + np.array([0, 0, 60, 60])
            yield found(corners + rng.integers(0, 20, (3, 4)), shares, [0, 1, 2]), truth(corners, [0, 1, 1])
        elif kind is MeanIoU:
            mask = tv_tensors.Mask(torch.tensor(rng.integers(0, 3, (4, 5))))
            yield Segmentation(mask=rng.integers(0, 3, (4, 5)).astype(np.uint8), names=names(3)), MaskTarget(mask=mask)
        elif kind is DepthError:
            depth_map = tv_tensors.Mask(torch.tensor(rng.random((4, 5))))
            yield Depth(depth=rng.random((4, 5), dtype=np.float32)), DepthTarget(depth=depth_map)
        else:
            image = tv_tensors.Image(torch.tensor(rng.integers(0, 256, (3, 4, 5)), dtype=torch.uint8))
            yield Reconstruction(image=rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)), ImageTarget(image=image)


@pytest.mark.parametrize("kind", [Accuracy, LabelPrecision, MeanAveragePrecision, MeanIoU, DepthError, ImageQuality])
def test_parts_of_a_set_add_up_to_the_whole(kind):
    whole, left, right = (kind(3) if kind is MeanIoU else kind() for _ in range(3))
    for i, (prediction, target) in enumerate(random_batches(kind)):
        for metric in (whole, left if i % 2 else right):
            metric.update([prediction], [target])
    right.merge_state(left)  # what happens to the states between devices
    assert right.compute() == pytest.approx(whole.compute())
    assert not all(value in (0.0, 1.0) for value in whole.compute().values())
