"""All heads: they learn a batch, accept empty targets, and predict each image on its own."""

import json

import numpy as np
import pytest
import torch
from splitreg_heads.depth import DepthHead
from splitreg_heads.detection import CentreHead
from splitreg_heads.pooled import ClassHead, MultiLabelHead
from splitreg_heads.reconstruction import ReconstructionHead
from splitreg_heads.segmentation import SegmentationHead
from support.heads import SIZE, boxes, fit, maps, specs
from torchvision import tv_tensors

from splitreg.errors import RecipeError
from splitreg.imaging import Geometry
from splitreg.tasks import IGNORE, ClassTarget, DepthTarget, ImageTarget, MaskTarget, MultiLabelTarget

LABELS = ("car", "person", "tree")


def halves():
    mask = torch.zeros(2, *SIZE, dtype=torch.int64)
    mask[0, :, 48:], mask[1, 32:] = 1, 2
    mask[:, :6] = IGNORE
    return [MaskTarget(mask=tv_tensors.Mask(m)) for m in mask]


def slopes():
    row = torch.linspace(1, 20, SIZE[1]).expand(*SIZE).clone()
    row[:5] = 0
    return [DepthTarget(depth=tv_tensors.Mask(d)) for d in (row, row.flip(1))]


def images():
    y, x = torch.meshgrid(torch.linspace(0, 255, SIZE[0]), torch.linspace(0, 255, SIZE[1]), indexing="ij")
    return [ImageTarget(image=tv_tensors.Image(torch.stack(c).to(torch.uint8))) for c in ((x, y, x), (y, 255 - x, y))]


NAN = float("nan")
OBJECTS = [
    boxes([[8, 8, 40, 40], [60, 20, 68, 26]], [1, 0]),
    boxes([[48, 16, 88, 56], [4, 36, 30, 60], [34, 2, 44, 12]], [0, 1, 1]),
]
# head, targets to learn, empty targets, steps, minimum of the primary metric after them
CASES = {
    "cls": (ClassHead, [ClassTarget(index=2), ClassTarget(index=0)], None, 150, 1.0),
    "multilabel": (
        MultiLabelHead,
        [MultiLabelTarget(present=torch.tensor(p)) for p in ([1.0, 0, NAN], [0.0, 1, 1])],
        [MultiLabelTarget(present=torch.full((3,), NAN))] * 2,
        250,
        1.0,
    ),
    "det": (CentreHead, OBJECTS, [boxes([], [])] * 2, 70, 0.8),
    "seg": (SegmentationHead, halves(), [MaskTarget(mask=tv_tensors.Mask(torch.full(SIZE, IGNORE)))] * 2, 40, 0.9),
    "depth": (DepthHead, slopes(), [DepthTarget(depth=tv_tensors.Mask(torch.zeros(SIZE)))] * 2, 60, 0.85),
    "recon": (ReconstructionHead, images(), None, 80, 20.0),
}
STRIDES = (4, 8, 16)
#: Options for less work; the finest feature of recon has the size of the image.
SMALL = {"recon": {"width": 12}}


def build(name, strides=STRIDES, **options):
    torch.manual_seed(0)
    head = CASES[name][0]
    read = head.select(strides)
    return head(
        {s: spec for s, spec in specs(*strides).items() if s in read}, LABELS, **{**SMALL.get(name, {}), **options}
    )


@pytest.mark.integration
@pytest.mark.parametrize("name", CASES)
def test_head_learns_a_batch(name):
    _, targets, _, steps, minimum = CASES[name]
    head, features = build(name), maps(STRIDES)
    history = fit(head, features, targets, steps, 5e-3)
    assert history[-1] < history[0] * 0.3
    metric = head.metric()
    metric.update(head.eval().predict(head(features, SIZE)), targets)
    values = metric.compute()
    assert values[head.primary] >= minimum, values


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[2] is not None])
def test_loss_of_empty_targets_is_finite_and_has_gradients(name):
    head = build(name).train()
    parts = head.loss(head(maps(STRIDES), SIZE), CASES[name][2])
    for part in parts.values():
        assert part.shape == () and torch.isfinite(part) and part.requires_grad
    sum(parts.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (32,), (2,), (8, 64)])
@pytest.mark.parametrize("name", CASES)
def test_batch_equals_single_images_at_any_stride_and_size(name, strides):
    size = (50, 70)  # no multiple of any stride
    head, features = build(name, strides).eval(), maps(strides, size=size)
    both = head.predict(head(features, size))
    assert len(both) == 2
    for i, one in enumerate(both):
        alone = head.predict(head({s: f[i : i + 1] for s, f in features.items()}, size))[0].arrays()
        for key, array in one.arrays().items():
            if array.dtype == np.uint8:
                assert np.abs(array.astype(int) - alone[key]).mean() < 0.01
            else:
                np.testing.assert_allclose(array, alone[key], atol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_predictions_and_truth_are_restored_drawn_and_written(name):
    head = build(name).eval()
    geometry = Geometry(original=(40, 30), coded=SIZE, mode="letterbox")
    image = np.zeros((40, 30, 3), np.uint8)
    for prediction in (*head.predict(head(maps(STRIDES), SIZE)), head.truth(CASES[name][1][0])):
        restored = prediction.restore(geometry)
        drawn = restored.draw(image)
        assert drawn.dtype == np.uint8 and drawn.ndim == 3 and drawn.shape[2] == 3
        assert drawn.shape[0] >= 256 and drawn.shape[1] == 30 * 7  # small images are enlarged by a whole factor
        assert json.loads(json.dumps(restored.to_json()))["task"] == head.task
        for array in restored.arrays().values():
            assert array.shape[:2] == (40, 30) or array.ndim == 1 or array.shape[1] == 4
    assert not image.any()


@pytest.mark.parametrize("name", CASES)
def test_truth_scores_perfectly(name):
    head, targets = build(name), CASES[name][1]
    metric = head.metric()
    metric.update([head.truth(target) for target in targets], targets)
    value = metric.compute()[head.primary]
    assert value == pytest.approx(100.0 if name == "recon" else 1.0)
    metric.reset()
    metric.update([], [])
    assert np.isnan(metric.compute()[head.primary])  # nothing to measure


@pytest.mark.parametrize("name", CASES)
def test_heads_are_built_without_memory(name):
    with torch.device("meta"):
        head = build(name)
    assert all(p.is_meta for p in head.parameters())
    assert set(head.needs) == set(head.select(STRIDES))


@pytest.mark.parametrize("name", ["cls", "multilabel", "det", "seg"])
def test_labels_are_wanted(name):
    with pytest.raises(RecipeError, match="class names"):
        CASES[name][0](specs(8), ())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cls", {"dropout": 1.0}), ("cls", {"label_smoothing": -0.1}), ("cls", {"focal": -1.0}),
        ("seg", {"focal": -1.0}), ("multilabel", {"grid": 0}), ("det", {"most": 0}),
        ("seg", {"class_weights": (1.0,)}), ("depth", {"min_depth": 2.0, "max_depth": 1.0}), ("depth", {"loss": "l3"}),
        ("recon", {"loss": "l3"}),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(name, options):
    with pytest.raises(RecipeError, match="got"):
        build(name, **options)


def test_unknown_labels_move_nothing():
    head = build("multilabel")
    output = torch.tensor([[0.3, -2.0, 50.0]], requires_grad=True)
    present = torch.tensor([1.0, NAN, NAN])
    loss = head.loss(output, [MultiLabelTarget(present=present)])["bce"]
    loss.backward()
    assert float(loss.detach()) == pytest.approx(np.log1p(np.exp(-0.3)), rel=1e-5)
    assert output.grad[0, 1:].tolist() == [0.0, 0.0]


def test_ignored_pixels_move_nothing_and_weights_are_a_mean():
    head = build("seg", dropout=0.0, class_weights=(1.0, 3.0, 1.0))
    output = head(maps(STRIDES), SIZE)
    output.values.retain_grad()
    mask = torch.full((2, *SIZE), IGNORE)
    mask[0, 40:, 40:] = 1
    loss = head.loss(output, [MaskTarget(mask=tv_tensors.Mask(m)) for m in mask])["ce"]
    loss.backward()
    assert not output.values.grad[1].any() and not output.values.grad[0, :, :9, :9].any()
    plain = build("seg", dropout=0.0).loss(output, [MaskTarget(mask=tv_tensors.Mask(m)) for m in mask])["ce"]
    torch.testing.assert_close(loss, plain)  # one class only: its weight cancels


def test_dice_counts_known_pixels_and_present_classes():
    head = build("seg", dice=1.0).eval()
    output = head(maps(STRIDES), SIZE)
    sure = torch.full_like(output.values, -30.0)
    mask = torch.zeros(2, *SIZE, dtype=torch.int64)
    sure[:, 0] = 30.0
    mask[:, :, 48:] = IGNORE
    sure[:, :, :, 12:] = sure[:, :, :, 12:].roll(1, dims=1)  # another class where the truth ignores
    right = type(output)(sure, output.stride, output.size)
    parts = head.loss(right, [MaskTarget(mask=tv_tensors.Mask(m)) for m in mask])
    assert float(parts["dice"].detach()) < 0.02


def test_a_focal_loss_weighs_each_example_by_its_error():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], requires_grad=True)
    targets = [ClassTarget(index=0), ClassTarget(index=2)]
    right = logits.detach().softmax(1)[[0, 1], [0, 2]]
    loss = build("cls", focal=2.0).loss(logits, targets)["ce"]
    torch.testing.assert_close(loss.detach(), ((1 - right) ** 2 * -right.log()).mean())

    output = build("seg", dropout=0.0)(maps(STRIDES), SIZE)
    masks = halves()
    plain = build("seg").loss(output, masks)["ce"]
    focal = build("seg", focal=2.0).loss(output, masks)["ce"]
    mask = torch.stack([target.mask.as_subclass(torch.Tensor) for target in masks])
    known = mask != IGNORE
    p = output.full().softmax(1).gather(1, mask.clamp(max=2)[:, None])[:, 0][known].detach()
    torch.testing.assert_close(focal.detach(), ((1 - p) ** 2 * -p.log()).mean())
    assert float(focal.detach()) < float(plain.detach())
    ignored = [MaskTarget(mask=tv_tensors.Mask(torch.full(SIZE, IGNORE)))] * 2
    assert float(build("seg", focal=2.0).loss(output, ignored)["ce"].detach()) == 0.0


def test_silog_forgives_most_of_a_common_factor():
    values = {}
    for kind in ("l1", "silog"):
        head = build("depth", loss=kind)
        output = head(maps(STRIDES), SIZE)
        off = type(output)(torch.full_like(output.values, np.log(6.0)), output.stride, output.size)
        target = DepthTarget(depth=tv_tensors.Mask(torch.full(SIZE, 3.0)))
        values[kind] = float(head.loss(off, [target, target])["log"].detach())
    assert values["l1"] == pytest.approx(np.log(2), rel=1e-4)
    assert values["silog"] == pytest.approx(0.15 * np.log(2) ** 2, rel=1e-4)


def test_depth_loss_is_a_mean_over_images_with_depth():
    head = build("depth")
    output = head(maps(STRIDES), SIZE)
    off = type(output)(torch.full_like(output.values, np.log(6.0)), output.stride, output.size)
    blank, full = torch.zeros(SIZE), torch.full(SIZE, 3.0)
    blank[0, 0] = float("inf")
    targets = [DepthTarget(depth=tv_tensors.Mask(d)) for d in (blank, full)]
    assert float(head.loss(off, targets)["log"].detach()) == pytest.approx(np.log(2), rel=1e-4)
