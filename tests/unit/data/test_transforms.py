from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision import tv_tensors

from splitreg import imaging
from splitreg.data.transforms import Augment, FitInput
from splitreg.imaging import Preprocess
from splitreg.tasks import (
    IGNORE,
    BoxTarget,
    ClassTarget,
    DepthTarget,
    MaskTarget,
    MultiLabelTarget,
    Sample,
    Target,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignTarget(Target):
    """What a plugin that nobody here knows might bring."""

    weight: float
    heat: tv_tensors.Mask = field(metadata={"fill": 7})
    corners: tv_tensors.BoundingBoxes
    picture: tv_tensors.Image


def boxes(values, size):
    return tv_tensors.BoundingBoxes(
        torch.tensor(values, dtype=torch.float32).reshape(-1, 4), format="XYXY", canvas_size=size
    )


def sample(height, width, objects=((1.0, 1.0, 3.0, 4.0),), seed=0):
    """A picture whose red channel is its segmentation, and masks that fill their boxes."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    masks = torch.zeros(len(objects), height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, objects, strict=True):
        mask[int(y0) : int(y1), int(x0) : int(x1)] = True
    return Sample(
        image=tv_tensors.Image(image),
        targets={
            "classification": ClassTarget(index=2),
            "multilabel": MultiLabelTarget(present=torch.tensor([1.0, 0.0])),
            "detection": BoxTarget(
                boxes=boxes(objects, (height, width)),
                labels=torch.arange(len(objects)),
                crowd=torch.zeros(len(objects), dtype=torch.bool),
                masks=tv_tensors.Mask(masks),
            ),
            "segmentation": MaskTarget(mask=tv_tensors.Mask(image[0].to(torch.int64) % 100)),
            "depth": DepthTarget(depth=tv_tensors.Mask(image[1].to(torch.float32) + 1)),
            "missing": None,
        },
        name="x",
    )


sides = st.one_of(st.integers(1, 40), st.sampled_from([1, 2, 300]))


@given(sides, sides, st.integers(1, 48), st.integers(1, 48), st.sampled_from(["letterbox", "resize"]))
@settings(deadline=None, max_examples=150)
def test_everything_lands_where_the_geometry_says(height, width, ch, cw, mode):
    before = sample(height, width, [(0.0, 0.0, float(width), float(height))])
    fit = FitInput(Preprocess(size=(ch, cw), mode=mode))
    geometry, after = fit.geometry(before), fit(before)
    top, left, h, w = geometry.content

    pixels = imaging.letterbox(before.array(), geometry)
    assert (after.array() == pixels).all(), "exactly the pixels that a device sees"

    found = after.targets["detection"]
    assert found.boxes.canvas_size == (ch, cw)
    np.testing.assert_allclose(found.boxes.numpy()[0], [left, top, left + w, top + h], atol=1e-3)
    np.testing.assert_allclose(geometry.boxes(found.boxes.numpy())[0], [0, 0, width, height], atol=1e-2)

    inside = torch.zeros(ch, cw, dtype=torch.bool)
    inside[top : top + h, left : left + w] = True
    assert (found.masks[0] == inside).all()
    segmentation, depth = after.targets["segmentation"].mask, after.targets["depth"].depth
    assert ((segmentation == IGNORE) == ~inside).all()
    assert ((depth == 0) == ~inside).all()
    assert segmentation.dtype == torch.int64
    assert depth.dtype == torch.float32
    assert after.targets["classification"] is before.targets["classification"]
    assert after.targets["missing"] is None


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 4), st.sampled_from(["letterbox", "resize"]), st.data())
@settings(deadline=None, max_examples=100)
def test_there_and_back(height, width, times, mode, data):
    """Enlarged by a whole number and mapped back, masks are the same; boxes come back from any size."""
    corners = sorted(data.draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
    rows = sorted(data.draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
    box = tuple(map(float, (corners[0], rows[0], corners[1], rows[1])))
    before = sample(height, width, [box])
    fit = FitInput(Preprocess(size=(height * times, width * times), mode=mode))
    geometry, after = fit.geometry(before), fit(before)
    back = geometry.labels(after.targets["segmentation"].mask.numpy())
    assert (back == before.targets["segmentation"].mask.numpy()).all()
    mask = geometry.labels(after.targets["detection"].masks[0].numpy())
    assert (mask == before.targets["detection"].masks[0].numpy()).all()
    side = data.draw(st.integers(1, 70))
    fit = FitInput(Preprocess(size=(side, 33), mode=mode))
    coded = fit(before).targets["detection"].boxes.numpy()
    np.testing.assert_allclose(fit.geometry(before).boxes(coded)[0], box, atol=1e-2)


def test_a_target_of_a_stranger_moves_too():
    foreign = ForeignTarget(
        weight=0.5,
        heat=tv_tensors.Mask(torch.ones(10, 20)),
        corners=boxes([[0, 0, 20, 10]], (10, 20)),
        picture=tv_tensors.Image(torch.full((3, 10, 20), 9, dtype=torch.uint8)),
    )
    before = Sample(image=foreign.picture, targets={"foreign": foreign})
    after = FitInput(Preprocess(size=(20, 20)))(before).targets["foreign"]
    assert after.weight == 0.5
    assert after.heat.tolist() == [[7.0] * 20] * 5 + [[1.0] * 20] * 10 + [[7.0] * 20] * 5
    assert after.corners.tolist() == [[0, 5, 20, 15]]
    assert after.corners.canvas_size == (20, 20)
    assert after.picture[0, 0, 0] == imaging.FILL
    assert after.picture[0, 10, 10] == 9
    augmented = Augment(flip=1, scale=(0.5, 0.5), colour=0)(before).targets["foreign"]
    assert augmented.heat.shape == (20, 40)
    assert int((augmented.heat == 7).sum()) == 600


def test_boxes_without_extent_go_with_all_that_is_theirs():
    objects = [
        (2.0, 2.0, 2.0, 6.0),
        (1.0, 1.0, 3.0, 4.0),
        (5.0, 5.0, 5.0, 5.0),
        (4.0, 0.0, 9.0, 5.0),
        (float("nan"), 0, 1, 1),
    ]
    before = sample(8, 9, objects[:4])
    target = before.targets["detection"]
    nan = BoxTarget(
        boxes=boxes(objects, (8, 9)),
        labels=torch.arange(5),
        crowd=torch.tensor([False, False, False, True, False]),
        masks=tv_tensors.Mask(torch.cat([target.masks, target.masks[:1]])),
        identities=torch.tensor([5, 6, 7, 8, 9]),
    )
    after = FitInput(Preprocess(size=(16, 18)))(Sample(image=before.image, targets={"detection": nan})).targets[
        "detection"
    ]
    assert after.labels.tolist() == [1, 3]
    assert after.crowd.tolist() == [False, True]
    assert after.identities.tolist() == [6, 8]
    assert after.boxes.tolist() == [[2, 2, 6, 8], [8, 0, 18, 10]]
    assert [int(mask.sum()) for mask in after.masks] == [4 * 6, 4 * 25]
    assert isinstance(after.boxes, tv_tensors.BoundingBoxes)
    assert isinstance(after.masks, tv_tensors.Mask)


def test_no_objects_at_all():
    after = Augment(scale=(0.5, 2.0))(FitInput(Preprocess(size=(32, 32)))(sample(8, 9, [])))
    assert after.targets["detection"].boxes.shape == (0, 4)
    assert len(after.targets["detection"].masks) == 0


def test_a_flip_turns_all_targets():
    before = sample(6, 10, [(1.0, 2.0, 4.0, 5.0)])
    after = Augment(flip=1, scale=(1, 1), colour=0)(before)
    assert torch.equal(after.image, before.image.flip(-1))
    assert after.targets["detection"].boxes.tolist() == [[6, 2, 9, 5]]
    assert torch.equal(after.targets["detection"].masks, before.targets["detection"].masks.flip(-1))
    assert torch.equal(after.targets["segmentation"].mask, before.targets["segmentation"].mask.flip(-1))
    assert torch.equal(after.targets["depth"].depth, before.targets["depth"].depth.flip(-1))


def test_without_options_nothing_changes():
    before = sample(6, 10)
    after = Augment(flip=0, scale=(1, 1), colour=0)(before)
    assert torch.equal(after.image, before.image)
    assert torch.equal(after.targets["detection"].boxes, before.targets["detection"].boxes)


@given(st.integers(1, 30), st.integers(1, 30), st.floats(0.2, 5), st.integers(0, 1000))
@settings(deadline=None, max_examples=100)
def test_zoom_keeps_picture_and_targets_together(height, width, zoom, seed):
    before = sample(height, width, [(0.0, 0.0, float(width), float(height))])
    torch.manual_seed(seed)
    after = Augment(flip=0.5, scale=(zoom, zoom), colour=0)(before)
    size = tuple(after.image.shape[-2:])
    assert size == (max(1, round(height / zoom)), max(1, round(width / zoom)))
    segmentation, found = after.targets["segmentation"].mask, after.targets["detection"]
    known = segmentation != IGNORE
    assert torch.equal(segmentation[known], after.image[0].as_subclass(Tensor).to(torch.int64)[known] % 100)
    assert (after.image.as_subclass(Tensor)[:, ~known] == imaging.FILL).all()
    assert torch.equal(found.masks[0].as_subclass(Tensor), known.as_subclass(Tensor))
    rows, columns = known.any(1).nonzero(), known.any(0).nonzero()
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert found.boxes[0].tolist() == [int(edge) for edge in edges]


def test_colour_leaves_targets_alone_and_changes_the_picture():
    before = sample(6, 10)
    after = Augment(flip=0, scale=(1, 1), colour=0.5, hue=0.2)(before)
    assert (after.image != before.image).any()
    assert after.image.dtype == torch.uint8
    assert after.targets == before.targets


@pytest.mark.parametrize(
    "wrong",
    [
        {"flip": 2},
        {"scale": (2, 1)},
        {"scale": (0, 1)},
        {"colour": -1},
        {"hue": 0.7},
        {"webp": (0, 5)},
        {"webp": (5,)},
        {"webp": 0},
        {"webp": (1.5, 3)},
    ],
)
def test_options_outside_their_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augment(**wrong)
