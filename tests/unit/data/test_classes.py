"""Classes of datasets and heads are matched by name, everywhere that predictions meet targets."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from support.training import train, train_late_head
from support.training_toys import COLOURS, REGISTRY, ToyDataset, toy_recipe
from torch import Tensor
from torchvision import tv_tensors

from splitreg.assembly import build, plan
from splitreg.data.classes import ClassMapping, match, match_classes
from splitreg.errors import DataError, PlanError
from splitreg.evaluation import EvalOptions, evaluate, evaluate_image_codec
from splitreg.evaluation.metrics import MeanIoU
from splitreg.interfaces import TeacherCapabilities
from splitreg.predictions import Segmentation
from splitreg.recipe import DataPart
from splitreg.specs import TargetSpec
from splitreg.tasks import IGNORE, BoxTarget, ClassTarget, MaskTarget, MultiLabelTarget, Target
from splitreg.training import Datasets
from splitreg.training.teacher import TeacherOutput, as_teacher

QUIET = {"registry": REGISTRY, "tensorboard": False, "progress": False, "device": "cpu"}


class Renamed:
    """The toy images with the colours under other names or in another order."""

    def __init__(self, labels, order, count=12, split="val"):
        self.inner = ToyDataset(None, split, count=count)
        self.targets = {**self.inner.targets, "colour": TargetSpec(task="classification", labels=tuple(labels))}
        self.order = order

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        sample = self.inner[index]
        colour = sample.targets["colour"]
        return dataclasses.replace(
            sample, targets={**sample.targets, "colour": ClassTarget(index=self.order[colour.index])}
        )


@pytest.fixture(scope="module")
def model():
    model = build(toy_recipe(), registry=REGISTRY)
    model.freeze_tables()
    return model


REVERSED = Renamed(COLOURS[::-1], (2, 1, 0))
PLAIN = ToyDataset(None, "val", count=12)


def test_names_are_matched_exactly_then_loosely_and_numbers_by_index():
    assert match(["cat", "Cat"], ["Cat", "cat"]) == ((1, 0), False)
    assert match(["dining table"], ["Dining_Table"]) == ((0,), False)
    assert match(["a b", "a-b"], ["a_b"]) == ((None,), False), "two candidates"
    assert match(["class 0", "class 1"], ["1", "0"]) == ((1, 0), False), "both are numbers: by value"
    assert match(["class 0", "class 1"], ["cat", "dog"]) == ((0, 1), True)
    assert match(["0", "1"], ["cat", "dog", "emu"]) == ((None, None, None), False)


def test_other_classes_are_refused_or_ignored():
    with pytest.raises(DataError, match="dgo.*Did you mean 'dog'"):
        match_classes("det", ("cat", "dog"), "boxes", ("cat", "dgo"), "refuse")
    mapping = match_classes("det", ("cat", "dog"), "boxes", ("cat", "emu"), "ignore")
    assert mapping.indexes == (0, None) and mapping.missing == ("dog",) and mapping.unknown == ("emu",)
    assert "1 of 2" in str(mapping) and "dog" in str(mapping) and "emu" in str(mapping)
    for unknown in ("refuse", "ignore"):
        with pytest.raises(DataError, match="no class.*cat"):
            match_classes("det", ("cat", "dog"), "boxes", ("emu", "fox"), unknown)


def mapping(*indexes, labels=("a", "b", "c")):
    theirs = tuple(f"their {index}" for index in range(len(indexes)))
    return ClassMapping(target="t", labels=labels, theirs=theirs, indexes=indexes)


def test_every_target_type_is_relabelled():
    swap = mapping(2, None, 0)
    assert swap.apply(ClassTarget(index=0)).index == 2 and swap.apply(ClassTarget(index=1)) is None
    present = swap.apply(MultiLabelTarget(present=torch.tensor([1.0, 0.0, 0.5]))).present
    assert present[0] == 0.5 and present[2] == 1 and present[1].isnan()
    boxes = BoxTarget(
        boxes=tv_tensors.BoundingBoxes(torch.arange(12.0).reshape(3, 4), format="XYXY", canvas_size=(20, 20)),
        labels=torch.tensor([0, 1, 2]), crowd=torch.tensor([False, False, True]),
        masks=tv_tensors.Mask(torch.eye(3, dtype=torch.bool)[:, None]),
    )  # fmt: skip
    relabelled = swap.apply(boxes)
    assert relabelled.labels.tolist() == [2, 0] and relabelled.crowd.tolist() == [False, True]
    assert relabelled.boxes.canvas_size == (20, 20) and relabelled.boxes[1, 0] == 8 and relabelled.masks.shape[0] == 2
    mask = swap.apply(MaskTarget(mask=tv_tensors.Mask(torch.tensor([[0, 1], [2, IGNORE]])))).mask
    assert mask.as_subclass(Tensor).tolist() == [[2, IGNORE], [0, IGNORE]] and isinstance(mask, tv_tensors.Mask)
    assert mapping(0, 1, 2).apply(boxes) is boxes
    with pytest.raises(DataError, match="Target.*relabel"):
        swap.apply(Target())


def test_evaluation_does_not_depend_on_the_order_of_the_classes(model):
    own, theirs = evaluate(model, PLAIN), evaluate(model, REVERSED)
    assert own.metrics == theirs.metrics and not theirs.classes
    own, theirs = (evaluate_image_codec(model, source, "png") for source in (PLAIN, REVERSED))
    assert own.metrics == theirs.metrics


def test_a_dataset_with_fewer_classes_is_measured_on_the_common_ones(model):
    fewer = Renamed(("blue", "red"), {0: 1, 2: 0})
    fewer.inner = [sample for sample in PLAIN if sample.targets["colour"].index != 1]
    report = evaluate(model, fewer)
    assert report.images == 8 and "green" in report.classes["colour"]
    assert "green" in str(report) and "green" in json.dumps(report.to_json())


def test_classes_that_the_model_lacks(model):
    more = Renamed(("white", *COLOURS), (1, 2, 0))  # all blue images are "white"
    with pytest.raises(DataError, match="white"):
        evaluate(model, more)
    report = evaluate(model, more, EvalOptions(unknown_classes="ignore"))
    assert report.labelled["colour"] == 8 and "white" in report.classes["colour"]
    with pytest.raises(DataError, match="no class.*cat"):
        evaluate(model, Renamed(("cat", "dog", "emu"), (0, 1, 2)), EvalOptions(unknown_classes="ignore"))
    numbers = evaluate(model, Renamed(("0", "1", "2"), (0, 1, 2)))
    assert numbers.metrics == evaluate(model, PLAIN).metrics and "by number" in numbers.classes["colour"]


def test_a_mean_over_classes_is_over_the_common_ones():
    metric = MeanIoU(3)
    metric.restrict([0, 1])
    truth = MaskTarget(mask=tv_tensors.Mask(torch.tensor([[0, 1, 1, 1]])))
    metric.update([Segmentation(mask=np.array([[0, 1, 1, 2]], np.uint8), names=("a", "b", "c"))], [truth])
    assert metric.compute()["mIoU"] == pytest.approx((1 + 2 / 3) / 2)


def test_training_does_not_depend_on_the_order_of_the_classes(tmp_path):
    """Fine-tuning: the model has its own order of classes."""

    def weights(name, order, labels):
        data = Datasets(train=Renamed(labels, order, split="train"), val=Renamed(labels, order))
        model = build(toy_recipe(), registry=REGISTRY)
        return train(toy_recipe(), output=tmp_path / name, model=model, datasets=data, **QUIET)

    plain, other = weights("plain", (0, 1, 2), COLOURS), weights("reversed", (2, 1, 0), COLOURS[::-1])
    for (name, own), theirs in zip(plain.model.state_dict().items(), other.model.state_dict().values(), strict=True):
        assert torch.equal(own, theirs), name
    assert plain.history[-1]["val"] == other.history[-1]["val"]
    with pytest.raises(DataError, match="white"):
        weights("white", (0, 1, 2), ("red", "green", "white"))


def test_a_late_head_is_matched_by_name(tmp_path, model):
    recipe = toy_recipe(heads=[{"name": "toy", "as": "late", "target": "colour", "labels": list(COLOURS)}])
    data = [Datasets(train=source) for source in (PLAIN, REVERSED)]
    results = [
        train_late_head(model, recipe, "late", tmp_path / str(i), datasets=item, **QUIET) for i, item in enumerate(data)
    ]
    own, theirs = (result.model.branches["late"].state_dict() for result in results)
    assert all(torch.equal(own[name], theirs[name]) for name in own)


def test_labels_of_a_recipe_are_matched_by_name():
    def labels(names, **data):
        head = {"name": "toy", "as": "colour", "target": "colour", "labels": names}
        table = toy_recipe(heads=[head])
        part = DataPart(name=table.data[0].name, options=table.data[0].options, **data)
        return plan(dataclasses.replace(table, data=(part,)), registry=REGISTRY).heads[0].labels

    assert labels(["blue", "red", "green"]) == ("blue", "red", "green")
    assert labels(["zero", "one", "two", "red", "green", "blue"])[3:] == COLOURS
    assert labels(3) == ("class 0", "class 1", "class 2")
    with pytest.raises(PlanError, match="blue"):
        labels(["red", "green"])
    assert labels(["red", "green"], unknown_classes="ignore") == ("red", "green")
    with pytest.raises(PlanError, match="no class.*cat"):
        labels(["cat", "dog", "emu"])


def test_a_teacher_answers_in_the_order_of_its_student():
    teacher = as_teacher(build(toy_recipe(), registry=REGISTRY))
    own = {"colour": TargetSpec(task="classification", labels=("blue", "red"))}
    offer = teacher.capabilities(TeacherCapabilities(features={}, heads=own), (32, 32))
    assert offer.heads["colour"].labels == ("blue", "red")
    logits = torch.arange(6.0).reshape(2, 3)
    output = TeacherOutput(features={}, outputs={"colour": logits})
    selected = teacher.head_outputs(output, {"colour": "classification"}, {"colour": None})["colour"]
    assert torch.equal(selected, logits[:, [2, 0]])
    other = {"colour": TargetSpec(task="classification", labels=("blue", "white"))}
    assert (
        teacher.capabilities(TeacherCapabilities(features={}, heads=other), (32, 32)).heads["colour"].labels == COLOURS
    )
