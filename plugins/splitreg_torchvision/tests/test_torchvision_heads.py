"""The two torchvision heads: they learn, bear empty targets, and place what they find."""

import json

import numpy as np
import pytest
import torch
from splitreg_torchvision.deeplab import DeepLabHead
from splitreg_torchvision.fasterrcnn import FasterRCNNHead, _away_from_crowds, _mostly_in
from splitreg_torchvision.levels import Anchors, region_pool
from support.heads import SIZE, boxes, fit, maps, specs
from torchvision import tv_tensors

from splitreg.errors import RecipeError
from splitreg.imaging import Geometry
from splitreg.tasks import IGNORE, MaskTarget

pytestmark = pytest.mark.integration

LABELS = ("car", "person")


def rcnn(strides=(8, 16)):
    torch.manual_seed(0)
    return FasterRCNNHead(specs(*strides), LABELS, width=16, hidden=32, proposals=60)


def test_fasterrcnn_learns_a_batch_and_finds_its_boxes():
    head, features = rcnn(), maps((8, 16))
    targets = [boxes([[8, 8, 40, 40]], [1]), boxes([[48, 16, 88, 56], [4, 36, 30, 60]], [0, 1])]
    history = fit(head, features, targets, 70, 3e-3)
    assert np.mean(history[-5:]) < history[0] * 0.4
    metric = head.metric()
    metric.update(head.eval().predict(head(features, SIZE)), targets)
    assert metric.compute()["mAP50"] > 0.9


@pytest.mark.parametrize("crowd", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_fasterrcnn_bears_images_without_objects(crowd, training):
    head = rcnn().train(training)
    corners = [[0, 0, 96, 64]] if crowd else []
    targets = [boxes(corners, [0] * len(corners), [True] * len(corners))] * 2
    parts = head.loss(head(maps((8, 16)), SIZE), targets)
    assert set(parts) == {"objectness", "proposal_box", "class", "box"}
    total = sum(parts.values())
    total.backward()
    assert torch.isfinite(total)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in head.parameters())
    assert head.rpn.training is training  # loss() leaves the mode as it was


def test_fasterrcnn_ignores_boxes_without_area():
    parts = rcnn().loss(rcnn()(maps((8, 16)), SIZE), [boxes([[5, 5, 5, 9]], [0])] * 2)
    assert all(torch.isfinite(part) for part in parts.values())


def test_crowds_are_neither_object_nor_background():
    crowd = torch.tensor([[0.0, 0, 40, 40]])
    regions = torch.tensor([[2.0, 2, 20, 20], [30, 30, 60, 60], [5, 5, 35, 35]])
    assert _mostly_in(regions, crowd).tolist() == [True, False, True]
    truth = {"boxes": torch.tensor([[5.0, 5, 35, 35]]), "crowds": crowd}
    assert _away_from_crowds(regions, truth).tolist() == regions[1:].tolist()  # the third lies on an object


def test_fasterrcnn_predicts_a_batch_as_it_does_single_images():
    head, features = rcnn().eval(), maps((8, 16))
    both = head.predict(head(features, SIZE))
    for i, one in enumerate(both):
        alone = head.predict(head({s: f[i : i + 1] for s, f in features.items()}, SIZE))[0]
        np.testing.assert_allclose(alone.scores, one.scores, atol=1e-4)
        np.testing.assert_allclose(alone.boxes, one.boxes, atol=1e-2)


def test_fasterrcnn_boxes_lie_in_the_image_and_serialise():
    head = rcnn((4, 8, 16, 32)).eval()
    head.regions.score_thresh = 0.0
    prediction = head.predict(head(maps((4, 8, 16, 32), size=(50, 70)), (50, 70)))[0]
    assert len(prediction.boxes) and prediction.labels.min() >= 0 and prediction.labels.max() < 2
    assert prediction.boxes.min() >= 0 and (prediction.boxes <= [70, 50, 70, 50]).all()
    restored = prediction.restore(Geometry(original=(100, 140), coded=(50, 70), mode="resize"))
    np.testing.assert_allclose(restored.boxes, prediction.boxes * 2, rtol=1e-5)
    json.dumps(restored.to_json())


def test_anchors_keep_their_stride_where_the_image_is_no_multiple_of_it():
    anchors = Anchors((32,), 1.0)
    anchors.set_cell_anchors(torch.float32, torch.device("cpu"))
    grid = anchors.grid_anchors([[4, 4]], [[torch.tensor(25), torch.tensor(25)]])[0]  # 100 // 4 is torchvision's guess
    assert grid.max() == pytest.approx(96 + 22.5, abs=1)  # the last cell begins at 96; half of a long anchor beyond


def test_regions_are_read_from_the_level_of_their_size():
    pool = region_pool((4, 16), 8.0)
    sides = torch.tensor([8.0, 32, 63, 65, 128, 900])
    corners = torch.stack([torch.zeros(6), torch.zeros(6), sides, sides], dim=1)
    assert pool.map_levels([corners]).tolist() == [0, 0, 0, 1, 1, 1]


def test_deeplab_learns_a_batch():
    torch.manual_seed(0)
    head = DeepLabHead(specs(16, 32), LABELS, rates=(1, 2, 3))
    mask = torch.zeros(2, *SIZE, dtype=torch.int64)
    mask[0, :, 32:] = 1
    mask[1, :32] = 1
    mask[:, :4] = IGNORE
    targets = [MaskTarget(mask=tv_tensors.Mask(m)) for m in mask]
    features = maps((16, 32))
    history = fit(head, features, targets, 60, 3e-3)
    assert np.mean(history[-5:]) < history[0] * 0.3
    metric = head.metric()
    metric.update(head.eval().predict(head(features, SIZE)), targets)
    assert metric.compute()["pixel_accuracy"] > 0.75  # running statistics still lag behind


def test_deeplab_bears_ignored_masks_and_single_images():
    head = DeepLabHead(specs(32), LABELS, rates=(1,)).train()
    blank = MaskTarget(mask=tv_tensors.Mask(torch.full(SIZE, IGNORE)))
    parts = head.loss(head(maps((32,), batch=1), SIZE), [blank])
    assert set(parts) == {"ce", "auxiliary"}
    total = sum(parts.values())
    total.backward()
    assert float(total.detach()) == 0


def test_deeplab_predicts_the_size_of_the_image_and_has_no_auxiliary_head_outside_training():
    head = DeepLabHead(specs(16, 32), LABELS).eval()
    features = maps((16, 32), size=(50, 70))
    output = head(features, (50, 70))
    assert output.auxiliary is None and set(head.loss(output, [_zeros(), _zeros()])) == {"ce"}
    both = head.predict(output)
    assert both[0].mask.shape == (50, 70) and both[0].mask.dtype == np.uint8
    alone = head.predict(head({s: f[1:] for s, f in features.items()}, (50, 70)))[0]
    assert (alone.mask == both[1].mask).mean() > 0.999


@pytest.mark.parametrize(
    ("head", "available", "read"),
    [
        (DeepLabHead, (2, 4, 8, 16, 32), (16, 32)),
        (DeepLabHead, (32,), (32,)),
        (DeepLabHead, (64,), (64,)),
        (FasterRCNNHead, (2, 4, 8, 16, 32), (4, 8, 16, 32)),
        (FasterRCNNHead, (8, 64), (8,)),
        (FasterRCNNHead, (64,), (64,)),
    ],
)
def test_strides_that_are_read(head, available, read):
    assert head.select(available) == read


@pytest.mark.parametrize("head", [DeepLabHead, FasterRCNNHead])
def test_heads_are_built_without_memory(head):
    with torch.device("meta"):
        built = head(specs(16, 32), LABELS)
    assert all(p.is_meta for p in built.parameters())
    with pytest.raises(RecipeError, match="class names"):
        head(specs(16, 32), ())


def _zeros():
    return MaskTarget(mask=tv_tensors.Mask(torch.zeros(50, 70, dtype=torch.int64)))
