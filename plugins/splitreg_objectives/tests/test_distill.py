import math

import pytest
import torch
from scipy.special import rel_entr
from support.objective_toys import context, objective

from splitreg.errors import RecipeError, ShapeMismatch, TrainingError
from splitreg.interfaces import TeacherCapabilities
from splitreg.specs import FeatureSpec, TargetSpec

OWN = {4: torch.zeros(2, 3, 4, 4), 8: torch.ones(2, 5, 2, 2)}
THEIRS = {4: torch.full((2, 3, 4, 4), 0.5), 8: torch.ones(2, 5, 2, 2), 16: torch.ones(2, 7, 1, 1)}


def offer(channels=(3, 5), task="classification", classes=4, heads=("cls",), first=0):
    return TeacherCapabilities(
        features={s: FeatureSpec(channels=c, stride=s) for s, c in zip((4, 8), channels, strict=False)},
        heads={h: TargetSpec(task=task, labels=tuple(map(str, range(first, first + classes)))) for h in heads},
    )


def test_squared_errors_are_summed_over_a_feature_and_averaged_over_the_images():
    terms = objective("distill")(context(features=OWN, teacher=THEIRS))
    assert {k: float(v) for k, v in terms.items()} == {"stride-4": 3 * 16 * 0.25, "stride-8": 0.0}
    one = {s: f[:1] for s, f in OWN.items()}, {s: f[:1] for s, f in THEIRS.items()}
    assert float(objective("distill")(context(features=one[0], teacher=one[1]))["stride-4"]) == 12.0


def test_options_of_the_features():
    distill = objective("distill", weight=2.0, strides=[4], reduction="mean")
    assert {k: float(v) for k, v in distill(context(features=OWN, teacher=THEIRS)).items()} == {"stride-4": 0.5}
    assert objective("distill", weight=0.0)(context(features=OWN, teacher=THEIRS)) == {}


def test_the_gradient_moves_the_student_to_the_teacher():
    own = OWN[4].clone().requires_grad_()
    sum(objective("distill", strides=[4])(context(features={4: own}, teacher=THEIRS)).values()).backward()
    assert torch.allclose(own.grad, torch.full_like(own, -2 * 0.5 / 2))


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2, 2)])
def test_the_divergence_is_of_the_teacher_from_the_student_over_the_classes(shape):
    own, theirs = torch.randn(shape) * 2, torch.randn(shape) * 2
    distill = objective("distill", weight=0.0, logits={"cls": 0.5}, temperature=4.0)
    (term,) = distill(context(teacher={}, outputs={"cls": own}, teacher_outputs={"cls": theirs})).values()
    student, teacher = ((x / 4).softmax(1).numpy() for x in (own, theirs))
    assert float(term) == pytest.approx(0.5 * 16 * rel_entr(teacher, student).sum(1).mean(), rel=1e-5)


def test_a_head_without_images_says_nothing_and_a_missing_teacher_is_an_error():
    distill = objective("distill", logits={"cls": 1.0})
    assert "cls" not in distill(context(features=OWN, teacher=THEIRS))
    with pytest.raises(TrainingError, match="teacher = {"):
        distill(context(features=OWN))


@pytest.mark.parametrize(
    ("options", "teacher", "facts"),
    [
        ({}, offer(), None),
        ({}, None, ["teacher"]),
        ({}, offer((3, 6)), ["stride 8", "5", "6"]),
        ({"strides": [4]}, offer((3, 6)), None),
        ({"strides": [4, 32]}, offer(), ["stride 32", "4, 8"]),
        ({}, TeacherCapabilities(features={}, heads={}), ["stride", "4, 8", "none"]),
        ({"weight": 0.0}, TeacherCapabilities(features={}, heads={}), None),
        ({"logits": {"cls": 1.0}}, offer(classes=5), ["classification", "4", "5"]),
        (
            {"logits": {"cls": 1.0}},
            offer(first=1),
            ["class 0", "'cls'", "'0'", "'1'"],
        ),
        ({"logits": {"cls": 1.0}}, offer(heads=("seg",)), ["'cls'", "seg"]),
        ({"logits": {"cls": 1.0}}, offer(), None),
    ],
)
def test_mismatches_are_problems_before_the_first_step(options, teacher, facts):
    problems = objective("distill", **options).problems(offer(), teacher)
    assert not problems if facts is None else all(fact in problems[0] for fact in facts)


def test_only_exclusive_classes_have_a_divergence():
    (problem,) = objective("distill", logits={"cls": 1.0}).problems(offer(task="detection"), offer(task="detection"))
    assert "detection" in problem


def test_other_shapes_are_named():
    with pytest.raises(ShapeMismatch, match=r"stride 4 .*\(2, 3, 4, 4\).*\(2, 3, 3, 4\)"):
        objective("distill", strides=[4])(context(features=OWN, teacher={4: torch.zeros(2, 3, 3, 4)}))


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"reduction": "max"}, "reduction.*'max'"), ({"temperature": 0}, "temperature"), ({"weight": -1}, "weight.*-1"),
        ({"logits": {"sge": 1}}, "'sge'.*'seg'"), ({"logits": {"seg": math.inf}}, "'seg'.*inf"),
    ],
)  # fmt: skip
def test_options_are_checked(options, facts):
    with pytest.raises(RecipeError, match=facts):
        objective("distill", **options)
