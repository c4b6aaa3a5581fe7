"""Metrics per class, confusion matrices, precision-recall curves and the worst images of an evaluation."""

import io
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from support.training_toys import COLOURS, REGISTRY, ToyDataset, ToyHead, toy_recipe
from torchvision import tv_tensors

from splitreg.assembly import build, save
from splitreg.assembly.card import card
from splitreg.evaluation import EvalOptions, evaluate
from splitreg.evaluation.details import (
    NOTHING,
    Confusion,
    Details,
    PrecisionRecallCurve,
    _Boxes,
    _Images,
    _Labels,
    _Pixels,
)
from splitreg.evaluation.metrics import MeanIoU
from splitreg.evaluation.plots import MAX_CLASSES, confusion_png, curves_png, evaluate_with_figures
from splitreg.predictions import Classification, Detections, MultiLabel, Segmentation
from splitreg.tasks import IGNORE, BoxTarget, ClassTarget, MaskTarget, MultiLabelTarget

VAL = ToyDataset(None, "val", count=12)


@pytest.fixture(scope="module")
def model():
    made = build(toy_recipe(), registry=REGISTRY)
    made.freeze_tables()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ToyHead, "truth", lambda self, target: Classification(probabilities=np.ones(1), names=("x",)))
        patch.setattr(Classification, "draw", lambda self, image: image)
        yield made


def detections(rows):
    boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(
        boxes=np.array(boxes, np.float32).reshape(-1, 4), scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int64), names=("cat", "dog"),
    )  # fmt: skip


def truth(boxes, labels, crowd=None):
    return BoxTarget(
        boxes=tv_tensors.BoundingBoxes(torch.tensor(boxes).float().reshape(-1, 4), format="XYXY", canvas_size=(99, 99)),
        labels=torch.tensor(labels, dtype=torch.int64),
        crowd=torch.zeros(len(labels), dtype=torch.bool) if crowd is None else torch.tensor(crowd),
    )


A, B, C = [0, 0, 10, 10], [20, 20, 40, 40], [60, 60, 80, 80]


def test_boxes_are_counted_by_hand():
    counter = _Boxes(("cat", "dog"))
    # cat found; dog called cat; a second cat on the same place; something that is not there, and a faint one
    counter.add(detections([(A, 0.9, 0), (A, 0.5, 0), (B, 0.8, 0), (C, 0.6, 1), (C, 0.1, 0)]), truth([A, B], [0, 1]))
    counter.add(detections([]), truth([A], [0]))
    assert counter.confusion().names == ("cat", "dog", NOTHING)
    assert counter.confusion().counts.tolist() == [[1, 0, 1], [1, 0, 0], [1, 1, 0]]
    cat, dog = counter.curves()
    assert (cat.truths, dog.truths) == (2, 1)
    assert cat.recall.tolist() == [0.5, 0.5, 0.5, 0.5] and cat.precision.tolist() == pytest.approx(
        [1, 0.5, 1 / 3, 0.25]
    )
    assert cat.average == pytest.approx(0.5) and dog.average == 0.0
    assert counter.classes() == {"cat": {"AP50": 0.5, "objects": 2}, "dog": {"AP50": 0, "objects": 1}}


def test_crowds_are_left_out_and_empty_images_count():
    counter = _Boxes(("cat", "dog"))
    counter.add(detections([]), truth([A], [0], crowd=[True]))
    assert not counter.curves() and not counter.confusion().counts.any()


def test_detections_in_a_crowd_are_neither_right_nor_wrong():
    inside, beside = [1, 1, 5, 5], [0, 0, 40, 10]
    counter = _Boxes(("cat", "dog"))
    counter.add(
        detections([(inside, 0.95, 0), (inside, 0.9, 1), (B, 0.8, 0), (beside, 0.7, 0)]),
        truth([A, B], [0, 0], crowd=[True, False]),
    )
    (cat,) = counter.curves()  # the crowd is of cats: only the dog inside, which no truth has, is wrong
    assert cat.truths == 1 and cat.precision.tolist() == [1, 0.5]
    assert counter.right[1] == [False]
    assert counter.confusion().counts.tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("crowds", [0, 2])
def test_the_average_precision_is_near_that_of_coco(crowds):
    from splitreg.evaluation.metrics import MeanAveragePrecision

    rng = np.random.default_rng(0)
    counter, metric = _Boxes(("cat", "dog")), MeanAveragePrecision()
    for _ in range(20):
        corners = rng.uniform(0, 60, (6, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(15, 30, (6, 2))], 1)
        labels = rng.integers(0, 2, 6)
        moved = boxes + rng.normal(0, 3, boxes.shape)
        found = detections([(b, s, y) for b, s, y in zip(moved, rng.random(6), labels, strict=True)])
        target = truth(boxes.tolist(), labels.tolist(), crowd=[number < crowds for number in range(6)])
        counter.add(found, target)
        metric.update([found], [target])
    mean = np.mean([curve.average for curve in counter.curves()])
    assert mean == pytest.approx(metric.compute()["mAP50"], abs=0.02)


def test_pixels_agree_with_the_metric():
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 3, (8, 9))
    mask[0] = IGNORE
    prediction = Segmentation(mask=rng.integers(0, 3, (8, 9)).astype(np.uint8), names=("a", "b", "c", "d"))
    target = MaskTarget(mask=tv_tensors.Mask(torch.from_numpy(mask)))
    counter, metric = _Pixels(("a", "b", "c", "d")), MeanIoU(4)
    counter.add(prediction, target)
    metric.update([prediction], [target])
    classes = counter.classes()
    assert list(classes) == ["a", "b", "c"]  # neither truth nor prediction has d
    assert np.mean([row["IoU"] for row in classes.values()]) == pytest.approx(metric.compute()["mIoU"])
    assert sum(row["pixels"] for row in classes.values()) == pytest.approx(1)
    assert counter.confusion().counts.sum() == 63


def test_images_and_labels():
    images, labels = _Images(("a", "b")), _Labels(("a", "b"))
    for shares, index in (((0.9, 0.1), 0), ((0.6, 0.4), 1), ((0.2, 0.8), 1)):
        probabilities = np.array(shares, np.float32)
        images.add(Classification(probabilities=probabilities, names=("a", "b")), ClassTarget(index=index))
        present = torch.tensor([float(index == 0), float("nan")])
        labels.add(MultiLabel(probabilities=probabilities, names=("a", "b")), MultiLabelTarget(present=present))
    assert images.classes() == {
        "a": {"recall": 1.0, "precision": 0.5, "images": 1.0}, "b": {"recall": 0.5, "precision": 1.0, "images": 2.0},
    }  # fmt: skip
    assert [curve.average for curve in images.curves()] == [1.0, 1.0]
    assert labels.classes() == {"a": {"AP": 1.0, "images": 1.0}} and labels.confusion() is None


def test_the_worst_images_come_first_and_depend_on_the_direction(model):
    details = Details(model, worst=3)
    evaluate(model, VAL, EvalOptions(observer=details.add))
    (colour, size) = details.heads().values()
    scores = [row[0] for row in colour.worst]
    assert len(scores) == 3 and scores == sorted(scores)
    assert all(VAL[row[1]].targets["size"] is not None for row in size.worst)


def test_figures_are_images_of_the_expected_classes(model):
    report, files = evaluate_with_figures(model, VAL, EvalOptions(heads=("colour",)))
    assert set(files) == {"colour-confusion.png", "colour-curves.png", "colour-worst.jpg"}
    for data in files.values():
        image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert min(image.shape[:2]) > 100 and image.std() > 5
    assert set(report.per_class["colour"]) <= set(COLOURS) and "recall" in str(report)
    assert report.to_json()["per_class"] and "per_class" not in evaluate(model, VAL).to_json()
    text = card(model, "name", {"evaluations": [json.loads(json.dumps(report.to_json()))]})
    assert "| colour | recall | precision | images |" in text


def test_many_classes_stay_readable():
    count = 200
    names = tuple(f"class {i}" for i in range(count))
    big = Confusion(names=names, counts=np.diag(np.arange(count, dtype=float)))
    assert Image.open(io.BytesIO(confusion_png(big, "t"))).width < 60 * MAX_CLASSES
    curve = PrecisionRecallCurve.of("x", [0.5], [True], 1)
    assert Image.open(io.BytesIO(curves_png([curve] * count, "t"))).height < 40 * MAX_CLASSES


def test_the_command_writes_figures(model, tmp_path, monkeypatch):
    from splitreg.cli import eval_

    save(model, tmp_path / "bundle")
    monkeypatch.setattr("splitreg.assembly.load", lambda path: model)
    monkeypatch.setattr(eval_, "open_data", lambda *_: (VAL, "toy val", "refuse"))
    result = CliRunner().invoke(eval_.command, [str(tmp_path / "bundle"), "--plots", str(tmp_path / "f"), "--json"])
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "f").iterdir()} >= {"colour-confusion.png", "size-worst.jpg"}
