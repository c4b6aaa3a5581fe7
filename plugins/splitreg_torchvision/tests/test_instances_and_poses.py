"""Masks and keypoints of objects: placed as torchvision does, measured as COCO does."""

import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from splitreg_torchvision.keypointrcnn import KeypointRCNNHead
from splitreg_torchvision.maskrcnn import MaskRCNNHead
from splitreg_torchvision.metrics import PosePrecision
from splitreg_torchvision.poses import COCO_KEYPOINTS
from splitreg_torchvision.predictions import InstanceMasks, Poses, paste
from support.heads import SIZE, boxes, maps, specs
from torchvision import tv_tensors
from torchvision.models.detection.roi_heads import paste_masks_in_image

from splitreg.errors import DataError
from splitreg.imaging import Geometry
from splitreg.tasks import PoseTarget
from splitreg.wire import pack, unpack

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "box", [[3.2, 4.7, 20.1, 15.9], [-5.0, -3.0, 8.0, 60.0], [10.0, 10.0, 10.2, 10.1], [50, 0, 70, 9]]
)
def test_masks_are_placed_as_torchvision_does(box):
    mask = torch.rand(28, 28, generator=torch.Generator().manual_seed(0))
    expected = paste_masks_in_image(mask[None, None], torch.tensor([box]), (40, 60))[0, 0]
    np.testing.assert_allclose(paste(mask.numpy(), np.array(box, np.float32), (40, 60)), expected.numpy(), atol=1e-5)


def instances(count=2, size=(40, 60)):
    generator = np.random.default_rng(1)
    return InstanceMasks(
        boxes=np.array([[4, 5, 30, 25], [20, 10, 50, 38]], np.float32)[:count],
        scores=np.array([0.9, 0.2], np.float32)[:count], labels=np.array([1, 0])[:count], names=("car", "person"),
        masks=generator.random((count, 28, 28)).astype(np.float32), size=size,
    )  # fmt: skip


def poses(points=None):
    points = np.tile(np.linspace(5, 30, 17, dtype=np.float32)[None, :, None], (1, 1, 2)) if points is None else points
    return Poses(
        boxes=np.array([[2, 2, 36, 36]], np.float32), scores=np.array([0.8], np.float32), labels=np.array([0]),
        names=("person",), keypoints=points, keypoint_scores=np.ones((1, 17), np.float32), keypoint_names=COCO_KEYPOINTS,
    )  # fmt: skip


@pytest.mark.parametrize("prediction", [instances(), instances(0), poses()])
def test_predictions_travel_exactly_and_are_restored(prediction):
    restored = prediction.restore(Geometry(original=(80, 120), coded=(40, 60), mode="resize"))
    np.testing.assert_allclose(restored.boxes, prediction.boxes * 2)
    (received,) = (answers["head"] for answers in unpack(pack([{"head": restored}])))
    assert type(received) is type(prediction)
    assert all(np.array_equal(value, received.arrays()[name]) for name, value in restored.arrays().items())
    assert json.dumps(received.to_json()) == json.dumps(restored.to_json())
    assert restored.draw(np.zeros((80, 120, 3), np.uint8)).any()


def test_json_has_masks_of_shown_objects():
    table = instances().to_json()
    assert [item["label"] for item in table["objects"]] == ["person"] and table["size"] == [40, 60]
    assert table["objects"][0]["mask"]["size"] == [40, 60]


@pytest.mark.parametrize(
    "change",
    [{"masks": np.zeros((2, 3, 4), np.float32)}, {"size": (0, 5)}, {"labels": np.array([7, 0])}, {"size": ("a", 1)}],
)
def test_damaged_answers_are_refused(change):
    fields = {**instances().arrays(), **instances().fields(), **change}
    with pytest.raises(ValueError, match=r"size|masks|labels"):
        InstanceMasks(**{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()})


def test_boxes_without_masks_cannot_train_masks():
    head = MaskRCNNHead(specs(8, 16), ("a", "b"), width=16, hidden=32, proposals=20)
    output = head(maps((8, 16)), SIZE)
    with pytest.raises(DataError, match="det-fasterrcnn"):
        head.loss(output, [boxes([[8, 8, 40, 40]], [1])] * 2)
    empty = boxes([], [])
    assert "mask" in head.loss(output, [empty, empty])


def test_another_number_of_keypoints_is_refused():
    head = KeypointRCNNHead(specs(8, 16), ("a",), width=16, hidden=32, layers=8, proposals=20)
    target = PoseTarget(
        boxes=tv_tensors.BoundingBoxes(torch.tensor([[8.0, 8, 40, 40]]), format="XYXY", canvas_size=SIZE),
        labels=torch.zeros(1, dtype=torch.int64), crowd=torch.zeros(1, dtype=torch.bool),
        points=tv_tensors.KeyPoints(torch.full((1, 3, 2), 20.0), canvas_size=SIZE),
        visible=torch.ones(1, 3, dtype=torch.bool),
    )  # fmt: skip
    with pytest.raises(DataError, match="17 keypoints.* 3; set keypoints"):
        head.loss(head(maps((8, 16)), SIZE), [target] * 2)


def test_keypoint_precision_is_that_of_coco():
    generator = np.random.default_rng(3)
    metric, truths, results = PosePrecision(17), [], []
    for image in range(12):
        count = int(generator.integers(1, 4))
        corners = generator.uniform(0, 60, (count, 2))
        outlines = np.concatenate([corners, corners + generator.uniform(20, 60, (count, 2))], axis=1)
        points = outlines[:, None, :2] + generator.random((count, 17, 2)) * (
            outlines[:, None, 2:] - outlines[:, None, :2]
        )
        visible, crowd = generator.random((count, 17)) > 0.3, generator.random(count) > 0.85
        visible[0] &= image != 4  # an object without a known point
        found = np.concatenate([points + generator.normal(0, 1, points.shape), points[:1] + 15])
        scores = generator.random(len(found)).astype(np.float32)
        target = PoseTarget(
            boxes=tv_tensors.BoundingBoxes(torch.tensor(outlines), format="XYXY", canvas_size=(200, 200)),
            labels=torch.zeros(count, dtype=torch.int64), crowd=torch.tensor(crowd),
            points=tv_tensors.KeyPoints(torch.tensor(points), canvas_size=(200, 200)), visible=torch.tensor(visible),
        )  # fmt: skip
        prediction = Poses(
            boxes=np.zeros((len(found), 4), np.float32), scores=scores, labels=np.zeros(len(found), np.int64),
            names=("person",), keypoints=found.astype(np.float32), keypoint_names=COCO_KEYPOINTS,
            keypoint_scores=np.ones(found.shape[:2], np.float32),
        )  # fmt: skip
        metric.update([prediction], [target])
        for outline, own, seen, group in zip(
            outlines.astype(np.float32), points.astype(np.float32), visible, crowd, strict=True
        ):
            x0, y0, x1, y1 = map(float, outline)
            truths.append({
                "id": len(truths) + 1, "image_id": image + 1, "category_id": 1, "iscrowd": int(group),
                "area": 0.5 * (x1 - x0) * (y1 - y0), "bbox": [x0, y0, x1 - x0, y1 - y0],
                "keypoints": np.concatenate([own, 2.0 * seen[:, None]], axis=1).ravel().tolist(),
                "num_keypoints": int(seen.sum()),
            })  # fmt: skip
        for own, score in zip(found.astype(np.float32), scores, strict=True):
            flat = np.concatenate([own, np.ones((17, 1))], axis=1).ravel().tolist()
            results.append({"image_id": image + 1, "category_id": 1, "keypoints": flat, "score": float(score)})
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i + 1} for i in range(12)], "annotations": truths, "info": {},
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_KEYPOINTS)}],
    }  # fmt: skip
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    values = metric.compute()
    expected = dict(zip(("OKS_AP", "OKS_AP50", "OKS_AP75"), evaluation.stats[:3], strict=True))
    assert 0.2 < expected["OKS_AP"] < 0.95
    assert values == pytest.approx(expected, abs=1e-6)
