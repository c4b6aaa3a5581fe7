"""Copy-paste: pixels, outlines, boxes and masks of the pasted objects agree, and covered ones shrink or go."""

import dataclasses

import pytest
import torch
from support.squares import VALUES, Squares, square
from torchvision import tv_tensors

from splitreg.data.loading import Loader, LoaderOptions, seeded
from splitreg.data.mixing import check_tasks
from splitreg.data.pasting import check_outlines, copy_paste
from splitreg.data.transforms import Augment
from splitreg.errors import RecipeError
from splitreg.imaging import Preprocess


def without_outlines(sample):
    boxes = dataclasses.replace(sample.targets["detection"], masks=None)
    return dataclasses.replace(sample, targets={**sample.targets, "detection": boxes})


def empty(sample):
    boxes = sample.targets["detection"].select(torch.tensor([False]))
    return dataclasses.replace(sample, targets={**sample.targets, "detection": boxes})


@pytest.mark.parametrize("seed", range(12))
def test_boxes_outlines_and_pixels_agree(seed):
    sample, other = square(100, (48, 64)), square(200, (40, 90))
    with seeded(seed):
        pasted = copy_paste(sample, other)
    boxes, mask = pasted.targets["detection"], pasted.targets["segmentation"].mask.as_subclass(torch.Tensor)
    pixels = pasted.image[0].as_subclass(torch.Tensor).int()
    assert pasted.image.shape == (3, 48, 64) and pasted.image.dtype == torch.uint8
    assert 200 in boxes.labels.tolist() and boxes.masks.shape == (len(boxes.labels), 48, 64)
    for row, value in enumerate(boxes.labels.tolist()):
        ys, xs = (mask == value).nonzero(as_tuple=True)
        extent = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
        torch.testing.assert_close(boxes.boxes[row].as_subclass(torch.Tensor), extent)
        assert torch.equal(boxes.masks[row].as_subclass(torch.Tensor), mask == value)
        assert float((pixels[mask == value] - value).abs().float().median()) < 3
    assert torch.equal(sample.image, square(100, (48, 64)).image)  # the original is not changed


def test_places_and_sizes_differ():
    results = []
    for seed in range(6):
        with seeded(seed):
            results.append(copy_paste(empty(square(100)), square(200)).targets["detection"].boxes[0].tolist())
    assert len({tuple(box) for box in results}) == 6
    assert len({box[2] - box[0] for box in results}) >= 4


def test_a_covered_object_is_dropped():
    small, large = square(100, side=4), square(200, (40, 60), side=38)
    labels = set()
    for seed in range(20):
        with seeded(seed):
            pasted = copy_paste(small, large).targets
        if not (pasted["segmentation"].mask == 100).any():
            labels.add(tuple(pasted["detection"].labels.tolist()))
    assert labels == {(200,)}


def test_nothing_to_paste_and_nothing_below():
    nothing = empty(square(100))
    assert len(copy_paste(nothing, nothing).targets["detection"].labels) == 0
    assert copy_paste(square(100), without_outlines(nothing)).targets["detection"].labels.tolist() == [100]
    assert copy_paste(without_outlines(nothing), square(200)).targets["detection"].labels.tolist() == [200]


def test_groups_are_not_pasted():
    other = square(200)
    crowd = dataclasses.replace(other.targets["detection"], crowd=torch.tensor([True]))
    other = dataclasses.replace(other, targets={**other.targets, "detection": crowd})
    assert copy_paste(square(100), other).targets["detection"].labels.tolist() == [100]


def test_boxes_without_outlines():
    known, unknown = square(100), without_outlines(square(200))
    for pair in ((known, unknown), (unknown, known)):  # one image of many, or one object of many
        assert copy_paste(*pair).targets["detection"].labels.tolist() == pair[0].targets["detection"].labels.tolist()
    check_outlines([known, unknown], range(2))
    check_outlines([empty(unknown)], range(1))
    with pytest.raises(RecipeError, match="masks = true"):
        check_outlines([unknown, unknown], range(2))


def test_objects_with_an_empty_outline_stay():
    boxes = square(100).targets["detection"]
    line = dataclasses.replace(boxes, masks=tv_tensors.Mask(torch.zeros_like(boxes.masks)))
    sample = dataclasses.replace(square(100), targets={"detection": line})
    pasted = copy_paste(sample, square(200)).targets["detection"]
    assert pasted.labels.tolist() == [100, 200] and torch.equal(pasted.boxes[0], boxes.boxes[0])
    assert copy_paste(square(200), sample).targets["detection"].labels.tolist() == [200]


def test_the_loader_pastes():
    preprocess = Preprocess(size=(40, 60), mode="resize", mean=(0, 0, 0), std=(1, 1, 1))
    augment = Augment(copy_paste=1.0, flip=0.0, scale=(1, 1), colour=0.0)

    def read():
        loader = Loader(Squares(), preprocess, LoaderOptions(batch_size=4, augment=augment, seed=5))
        (batch,) = loader.epoch(0)
        return batch

    batch = read()
    assert sum(len(target.labels) == 2 for target in batch.targets["detection"]) >= 2
    assert torch.equal(batch.images, read().images)
    assert all(torch.isin(target.labels, torch.tensor(VALUES)).all() for target in batch.targets["detection"])


def test_samples_without_a_target_stay():
    unknown = dataclasses.replace(square(100), targets={**square(100).targets, "detection": None})
    assert Augment(copy_paste=1.0).combined(square(100), lambda: unknown).targets["detection"].labels.tolist() == [100]


def test_heads_and_values_that_do_not_fit():
    check_tasks({"det": "detection", "seg": "segmentation"}, {"copy_paste": 0.5})
    with pytest.raises(RecipeError, match="copy_paste.*'depth'"):
        check_tasks({"det": "detection", "depth": "depth"}, {"copy_paste": 0.5})
    with pytest.raises(RecipeError, match="copy_paste.*detection head"):
        check_tasks({"seg": "segmentation"}, {"copy_paste": 0.5})
    with pytest.raises(ValueError, match="copy_paste"):
        Augment(copy_paste=1.5)


def test_boxes_stay_bounding_boxes():
    pasted = copy_paste(square(100), square(200)).targets["detection"]
    assert isinstance(pasted.boxes, tv_tensors.BoundingBoxes) and pasted.boxes.canvas_size == (40, 60)
