import os
import shutil
import signal

import pytest
import torch
from support.training import train, train_late_head
from support.training_toys import REGISTRY, Spy, ToyBackbone, ToyClassifier, toy_recipe

from splitreg.assembly import build, save
from splitreg.errors import PlanError, RecipeError, TrainingError, TrainingInterrupted
from splitreg.imaging import Preprocess
from splitreg.recipe import Recipe, TeacherPart
from splitreg.training.checkpoint import from_bytes
from splitreg.training.teacher import TeacherOutput, as_teacher, open_teacher

pytestmark = pytest.mark.integration

QUIET = {"registry": REGISTRY, "tensorboard": False, "progress": False, "device": "cpu", "validate_every": 0}
DISTILL = {"epochs": 1, "batch_size": 4, "objectives": ["distill"], "train": ["encoder", "prior", "decoder"]}
ONE = [{"name": "toy", "as": "colour", "target": "colour"}]


@pytest.fixture
def bundle(tmp_path):
    return str(save(build(toy_recipe(seed=11), registry=REGISTRY), tmp_path / "teacher"))


def shown(folder, stage=None, **keys):
    """What an objective sees in the first step of a run."""
    Spy.seen.clear()
    recipe = toy_recipe({"epochs": 1, "batch_size": 10, "objectives": ["spy"], **(stage or {})}, **keys)
    train(recipe, output=folder, **QUIET)
    return Spy.seen[0]


def test_a_bundle_shows_its_features_and_answers_for_the_labelled_images(tmp_path, bundle):
    context = shown(tmp_path / "without")
    assert context.teacher is None and context.teacher_outputs == {}
    context = shown(tmp_path / "with", teacher={"bundle": bundle})
    teacher = build(toy_recipe(seed=11), registry=REGISTRY).eval()
    with torch.no_grad():
        wanted = teacher(context.images)
    for stride, feature in wanted.features.items():
        assert torch.allclose(context.teacher[stride], feature, atol=1e-5)
        assert not context.teacher[stride].requires_grad
    assert torch.allclose(context.teacher_outputs["colour"], wanted.outputs["colour"], atol=1e-5)
    answered, own = context.teacher_outputs["size"], context.outputs["size"]
    assert len(answered) == len(own) < len(context.images)
    rows = [bool((wanted.outputs["size"] - row).abs().sum(1).min() < 1e-5) for row in answered]
    assert all(rows)


def test_a_backbone_sees_images_in_its_own_normalisation_and_keeps_its_classifier(tmp_path):
    context = shown(tmp_path, teacher={"backbone": "toy-classifier", "shift": 0.5})
    torch.manual_seed(0)
    backbone = ToyClassifier(classifier=True, shift=0.5).eval()
    own, theirs = Preprocess(size=(32, 32)), backbone
    pixels = context.images * torch.tensor(own.std)[:, None, None] + torch.tensor(own.mean)[:, None, None]
    images = (pixels - torch.tensor(theirs.mean)[:, None, None]) / torch.tensor(theirs.std)[:, None, None]
    with torch.no_grad():
        features, logits = backbone.teach(images)
    assert torch.allclose(context.teacher[8], features[8], atol=1e-5)
    assert torch.allclose(context.teacher_outputs["colour"], logits, atol=1e-5)
    assert context.teacher_outputs["size"].shape == (len(context.outputs["size"]), 3), "of the labelled images alone"


def test_a_student_may_start_with_its_teachers_parts(tmp_path, bundle):
    def start(*names, **keys):
        stage = {**DISTILL, "train": ["encoder"], "optimizer": {"name": "sgd", "lr": 0.0}}
        recipe = toy_recipe(stage, teacher={"bundle": bundle, "start": list(names)}, **keys)
        return train(recipe, output=tmp_path / "-".join(("run", *names)), **QUIET).model.state_dict()

    own, theirs = (build(toy_recipe(seed=seed), registry=REGISTRY).state_dict() for seed in (3, 11))
    for name, tensor in start("body", "heads.colour").items():
        taken = name.startswith(("body", "branches.colour"))
        assert torch.equal(tensor, (theirs if taken else own)[name]), name
    with pytest.raises(PlanError, match=r"heads.other .*heads.colour"):
        start("heads.other", heads=[{"name": "toy", "as": "other", "target": "colour"}])
    with pytest.raises(PlanError, match=r"heads.colour .*2 tensors.*head.linear"):
        start("heads.colour", heads=[{"name": "toy", "as": "colour", "target": "size"}])
    with pytest.raises(RecipeError, match="'bdoy'.*'body'"):
        start("bdoy")


def test_a_teacher_learns_nothing_and_is_in_no_checkpoint(tmp_path):
    teacher = build(toy_recipe(seed=11), registry=REGISTRY).train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    result = train(toy_recipe(DISTILL), output=tmp_path, teacher=teacher, checkpoint_steps=2, **QUIET)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    for path in (tmp_path / "checkpoints").iterdir():
        state = from_bytes(path.read_bytes())
        assert set(state["model"]) == set(result.model.state_dict())
        assert not state["stage"] or not state["stage"]["objectives"]


def test_the_student_comes_nearer(tmp_path):
    stage = {**DISTILL, "epochs": 8, "optimizer": {"name": "adam", "lr": 1e-2}}
    teacher = build(toy_recipe(seed=11), registry=REGISTRY)
    history = train(toy_recipe(stage), output=tmp_path, teacher=teacher, **QUIET).history
    assert history[-1]["train"]["loss"] < 0.5 * history[0]["train"]["loss"]


def test_any_function_may_teach():
    teacher = as_teacher(lambda images: {4: images.mean(1, keepdim=True)})
    teacher.follow(Preprocess(size=(32, 32)))
    assert teacher(torch.ones(2, 3, 8, 8), {"colour": None}).features[4].shape == (2, 1, 8, 8)
    output = TeacherOutput(features={}, logits=torch.zeros(1, 3))
    assert as_teacher(lambda images: output)(torch.ones(1, 3, 8, 8), {}) is output
    backbone = ToyBackbone().train()
    assert as_teacher(backbone)(torch.ones(1, 3, 32, 32), {}).features.keys() == {4, 8} and not backbone.training
    with pytest.raises(RecipeError, match="'resnet50'"):
        as_teacher("resnet50")


@pytest.mark.parametrize(
    ("teacher", "objective", "facts"),
    [
        (None, {"name": "distill"}, "teacher"),
        (lambda x: {4: x.new_zeros(len(x), 5, 8, 8)}, {"name": "distill"}, "6 channels.*5"),
        (lambda x: {16: x}, {"name": "distill"}, "4, 8.*16"),
        (lambda x: x @ x.new_zeros(7, 7), {"name": "distill"}, "32x32"),
        (ToyClassifier(classifier=True), {"name": "distill", "logits": {"size": 1.0}}, "2 classes"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(tmp_path, teacher, objective, facts):
    stages = {"epochs": 1, "batch_size": 4}, {**DISTILL, "name": "second", "objectives": [objective]}
    with pytest.raises(PlanError, match=facts):
        train(toy_recipe(*stages), output=tmp_path / "run", teacher=teacher, **QUIET)
    assert not (tmp_path / "run").exists()


def test_a_late_head_has_no_teacher(tmp_path):
    model = train(toy_recipe(heads=ONE), output=tmp_path / "first", **QUIET).model
    with pytest.raises(PlanError, match="joint.*distill.*teacher"):
        train_late_head(model, toy_recipe(DISTILL), "size", output=tmp_path / "late", **QUIET)
    with pytest.raises(RecipeError, match="teacher"):
        recipe = toy_recipe(DISTILL, teacher={"backbone": "toy"})
        train_late_head(model, recipe, "size", output=tmp_path / "late", **QUIET)


def test_a_run_is_resumed_with_the_same_teacher_wherever_it_lies(tmp_path, bundle):
    stage = {**DISTILL, "train": ["all"], "objectives": [{"name": "distill", "weight": 1e-3}, "uncertainty", "surgery"]}

    def recipe(path):
        return toy_recipe({**stage, "epochs": 2}, teacher={"bundle": path})

    def stop(line):
        if line["event"] == "step" and line["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    whole = train(recipe(bundle), output=tmp_path / "whole", **QUIET).model
    with pytest.raises(TrainingInterrupted):
        train(recipe(bundle), output=tmp_path / "cut", log_every=1, on_event=stop, **QUIET)
    with pytest.raises(TrainingError, match="another teacher"):
        other = build(toy_recipe(seed=12), registry=REGISTRY)
        train(recipe(bundle), output=tmp_path / "cut", resume=True, teacher=other, **QUIET)
    moved = shutil.move(bundle, tmp_path / "elsewhere")
    resumed = train(recipe(str(moved)), output=tmp_path / "cut", resume=True, **QUIET)
    assert resumed.resumed_from == 3
    for one, other in zip(whole.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_learned_weights_of_the_heads_are_in_the_checkpoints(tmp_path):
    stage = {"epochs": 1, "batch_size": 4, "objectives": ["uncertainty"], "optimizer": {"name": "sgd", "lr": 0.1}}
    train(toy_recipe(stage), output=tmp_path, checkpoint_steps=2, **QUIET)
    states = [from_bytes(path.read_bytes())["stage"] for path in sorted((tmp_path / "checkpoints").iterdir())]
    learned = [state["objectives"] for state in states if state is not None]
    assert learned and all(float(s) != 0 for state in learned for s in state.values()) and len(learned[0]) == 2


@pytest.mark.parametrize("stage", [{}, {"freeze": ["encoder"]}, {"train": ["heads"]}])
def test_an_objective_sees_the_latent_and_what_is_shared(tmp_path, stage):
    context = shown(tmp_path, stage=stage)
    assert context.latent.shape == (10, 4, 4, 4) and context.latent.requires_grad is (stage == {})
    model = build(toy_recipe(), registry=REGISTRY)
    wanted = 0 if "train" in stage else sum(
        len(list(part.parameters())) for name, part in model.parts().items()
        if not name.startswith("heads.") and not (stage and name == "encoder")
    )  # fmt: skip
    assert len(context.shared) == wanted
    assert not model.bottleneck.encoder._forward_hooks


def test_features_are_apart_so_that_a_heads_gradient_is_its_own(tmp_path):
    model = build(toy_recipe(), registry=REGISTRY)
    output = model(torch.randn(2, 3, 32, 32))
    four, eight = torch.autograd.grad(
        output.outputs["colour"].sum(), [output.features[4], output.features[8]], allow_unused=True
    )
    assert four is None and eight.abs().sum() > 0  # the head reads stride 8 alone, although that is made of stride 4


def test_recipes_name_a_bundle_or_a_backbone():
    table = {"backbone": "toy", "heads": ["toy"]}
    for teacher in ({"bundle": "a/b", "start": ["body"]}, {"backbone": "resnet50", "pretrained": True}):
        recipe = Recipe.from_mapping({**table, "teacher": teacher})
        assert recipe.to_mapping()["teacher"] == teacher and Recipe.from_mapping(recipe.to_mapping()) == recipe
    assert Recipe.from_mapping(table, ["teacher.bundle=a/b"]).teacher == TeacherPart(bundle="a/b")
    assert TeacherPart(bundle="a/b").portable() == TeacherPart(bundle="b")
    weights = TeacherPart.parse({"backbone": "resnet50", "pretrained": "/d/w.pth", "norm": True}, "")
    assert weights.portable().to_mapping() == {"backbone": "resnet50", "pretrained": "w.pth", "norm": True}
    for wrong in ("resnet50", {}, {"bundle": "a", "backbone": "b"}, {"bundle": "a", "pretrained": True}, {"bundle": 3}):
        with pytest.raises(RecipeError, match="teacher"):
            Recipe.from_mapping({**table, "teacher": wrong})


def test_a_backbones_options_are_checked():
    with pytest.raises(RecipeError, match=r"'shfit'.*'toy-classifier'.*'shift'"):
        open_teacher(TeacherPart.parse({"backbone": "toy-classifier", "shfit": 1}, ""), (32, 32), REGISTRY)
    with pytest.raises(RecipeError, match="toy-classifier"):
        open_teacher(TeacherPart.parse({"backbone": "toy-classifier", "shift": "a"}, ""), (32, 32), REGISTRY)
