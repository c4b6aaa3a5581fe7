"""Mosaic and mix-up: pixels and targets move together, heads that cannot learn from them are named."""

import dataclasses

import numpy as np
import pytest
import torch
from support.squares import VALUES, Squares, square
from support.training_toys import REGISTRY, ToyDataset, toy_recipe
from torchvision import tv_tensors

from splitreg.assembly import build
from splitreg.data.loading import Loader, LoaderOptions, seeded
from splitreg.data.mixing import can_combine, check_tasks, mosaic
from splitreg.data.transforms import Augment
from splitreg.errors import PlanError, RecipeError
from splitreg.imaging import Preprocess
from splitreg.recipe import Recipe
from splitreg.tasks import MultiLabelTarget
from splitreg.training import Datasets, TrainOptions, train
from splitreg.training.checks import check_recipe
from splitreg.training.data import DataLoaders
from splitreg.training.setup import Run
from splitreg.training.stage import StageRun
from splitreg.training.step import StepBatch, mix


@pytest.mark.parametrize("seed", range(8))
def test_boxes_outlines_and_pixels_of_a_mosaic_agree(seed):
    with seeded(seed):
        mixed = mosaic([square(VALUES[0], (48, 64)), *(square(value, (40 + value % 7, 90)) for value in VALUES[1:])])
    assert mixed.image.shape == (3, 48, 64) and mixed.image.dtype == torch.uint8
    boxes, mask = mixed.targets["detection"], mixed.targets["segmentation"].mask.as_subclass(torch.Tensor)
    assert boxes.boxes.canvas_size == (48, 64) and mask.shape == (48, 64)
    pixels = mixed.image[0].as_subclass(torch.Tensor).int()
    assert len(boxes.labels) >= 3 and boxes.masks.shape == (len(boxes.labels), 48, 64)
    for row, value in enumerate(boxes.labels.tolist()):
        ys, xs = (mask == value).nonzero(as_tuple=True)
        extent = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
        torch.testing.assert_close(boxes.boxes[row].as_subclass(torch.Tensor), extent, atol=1.5, rtol=0)
        assert torch.equal(boxes.masks[row].as_subclass(torch.Tensor), mask == value)
        assert float((pixels[mask == value] - value).abs().float().median()) < 3
    assert set(mask.unique().tolist()) <= {0, *VALUES}


def test_objects_outside_their_tile_are_dropped():
    far = square(100, (40, 60), side=4)
    box = far.targets["detection"]
    outside = dataclasses.replace(box, boxes=tv_tensors.wrap(box.boxes - 100, like=box.boxes))
    sample = dataclasses.replace(far, targets={"detection": outside})
    assert len(mosaic([sample] * 4).targets["detection"].labels) == 0


def test_targets_that_a_crop_may_not_show_are_left_out():
    known = square(100)
    tagged = dataclasses.replace(known, targets={**known.targets, "tags": MultiLabelTarget(present=torch.ones(2))})
    assert set(mosaic([tagged] * 4).targets) == {"detection", "segmentation"}


def test_samples_without_a_target_are_not_combined():
    known = square(100)
    unknown = dataclasses.replace(known, targets={**known.targets, "detection": None})
    assert can_combine([known] * 4) and not can_combine([known, known, known, unknown])
    with seeded(0):
        assert Augment(mosaic=1.0).combined(unknown, lambda: known) is unknown
        assert Augment().combined(known, lambda: 1 / 0) is known


def test_the_loader_reads_the_other_images():
    preprocess = Preprocess(size=(40, 60), mode="resize", mean=(0, 0, 0), std=(1, 1, 1))
    augment = Augment(mosaic=1.0, flip=0.0, scale=(1, 1), colour=0.0)

    def read(workers=0):
        loader = Loader(Squares(), preprocess, LoaderOptions(batch_size=4, augment=augment, seed=5, workers=workers))
        (batch,) = loader.epoch(0)
        return batch

    batch = read()
    assert all(len(target.labels) >= 2 for target in batch.targets["detection"])
    assert torch.equal(batch.images, read().images)  # the same for every seed and epoch


def test_heads_that_cannot_learn_from_it_are_named():
    check_tasks({"det": "detection", "seg": "segmentation"}, {"mosaic": 0.5})
    check_tasks({"det": "detection", "depth": "depth"}, {"mosaic": 0.0})
    with pytest.raises(RecipeError, match="mosaic.*'depth'.*depth"):
        check_tasks({"det": "detection", "depth": "depth"}, {"mosaic": 0.5})
    with pytest.raises(RecipeError, match="mixup.*'det'.*detection"):
        check_tasks({"det": "detection", "cls": "classification"}, {"mixup": 0.2})
    with pytest.raises(PlanError, match="mosaic.*'colour'"):
        check_recipe(toy_recipe(augment={"mosaic": 0.5}), REGISTRY)


def test_a_training_refuses_before_its_first_step(tmp_path):
    options = TrainOptions(tensorboard=False, progress=False)
    with pytest.raises(RecipeError, match="mosaic.*'colour'"):
        train(toy_recipe(augment={"mosaic": 0.5}), tmp_path, registry=REGISTRY, options=options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("values", [{"mosaic": 1.5}, {"mosaic": -0.1}, {"mixup": -1.0}])
def test_values_out_of_range(values):
    with pytest.raises(ValueError, match="mosaic.*mixup"):
        Augment(**values)


def stage_run(recipe, folder):
    model = build(recipe, registry=REGISTRY)
    data = ToyDataset(None, "train", missing=False)
    loaders = DataLoaders(recipe=recipe, datasets=Datasets(train=data), preprocess=model.plan.preprocess)
    run = Run(model=model, recipe=recipe, folder=folder, loaders=loaders, registry=REGISTRY)
    return StageRun(run, 0, steps_per_epoch=5, device="cpu"), loaders


def test_the_loss_of_mixed_images_is_that_of_soft_labels(tmp_path):
    recipe = toy_recipe({"epochs": 1, "batch_size": 4}, augment={"mixup": 0.4})
    stage, loaders = stage_run(recipe, tmp_path)
    step, batch = stage._module, next(loaders.train(4).epoch(0))
    from splitreg.training.step import step_batch

    inputs = step_batch(batch, stage.classes, torch.device("cpu"))
    images = inputs.images.clone()
    torch.manual_seed(3)
    mix(inputs, 0.4)
    share, order = inputs.mix
    assert 0 < share < 1
    torch.testing.assert_close(inputs.images, share * images + (1 - share) * images[order])
    step.eval()
    _, parts = step(inputs)
    outputs = stage.model(inputs.images, inputs.select).outputs["colour"].detach()
    soft = torch.zeros(4, 3)
    for row, target in enumerate(inputs.targets["colour"]):
        soft[row, target.index] += share
        soft[row, inputs.targets["colour"][int(order[row])].index] += 1 - share
    wanted = torch.nn.functional.cross_entropy(outputs, soft)
    torch.testing.assert_close(parts["colour.ce"], wanted, rtol=1e-4, atol=1e-5)


def test_batches_with_missing_targets_stay_as_they_are():
    images = torch.rand(2, 3, 4, 4)
    batch = StepBatch(images, {}, {"size": torch.tensor([0])})
    mix(batch, 0.4)
    assert batch.mix is None and batch.images is images


def test_a_run_with_mixup_is_reproducible(tmp_path):
    recipe = toy_recipe({"epochs": 1, "batch_size": 4}, augment={"mixup": 0.4})
    options = TrainOptions(
        tensorboard=False,
        progress=False,
        device="cpu",
        datasets=Datasets(train=ToyDataset(None, "train", missing=False)),
    )
    first, second = (train(recipe, tmp_path / name, registry=REGISTRY, options=options).model for name in "ab")
    plain = train(
        Recipe.from_mapping({**recipe.to_mapping(), "augment": {}}), tmp_path / "c", registry=REGISTRY, options=options
    ).model
    states = [[value.numpy() for value in model.state_dict().values()] for model in (first, second, plain)]
    assert all(np.array_equal(a, b) for a, b in zip(states[0], states[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(states[0], states[2], strict=True))
