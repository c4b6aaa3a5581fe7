import json
import math
import subprocess
import sys

import pytest
import torch
from support.training import train
from support.training_toys import REGISTRY, ToyDataset, ToyHead, toy_recipe

from splitreg.assembly import build
from splitreg.errors import RecipeError, TrainingError
from splitreg.training import Datasets
from splitreg.training.collapse import head_collapse, rate_collapse
from splitreg.training.parts import select

pytestmark = pytest.mark.integration


def run(recipe, folder, **options):
    options = {"registry": REGISTRY, "tensorboard": False, "progress": False, "device": "cpu", **options}
    return train(recipe, output=folder, **options)


def changed(model, before):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def copied(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_it_learns_and_gives_a_model_that_codes(tmp_path):
    recipe = toy_recipe({"epochs": 6, "batch_size": 4, "optimizer": {"name": "adamw", "lr": 1e-2}})
    result = run(recipe, tmp_path)
    assert result.history[-1]["val"]["colour"]["top1"] > 0.9
    assert result.history[-1]["train"]["loss"] < 0.9 * result.history[0]["train"]["loss"]
    assert result.model.trained and not result.model.training
    packets = result.model.edge.encode(ToyDataset(None, "val")[1].array())
    assert result.model.server.infer(packets)[0]["colour"].index == 1
    assert all(parameter.requires_grad for parameter in result.model.parameters())
    assert json.loads((tmp_path / "recipe.json").read_text()) == json.loads(
        json.dumps(result.model.recipe.to_mapping())
    )


@pytest.mark.parametrize(
    ("stage", "moves", "stays"),
    [
        ({"freeze": ["edge"]}, {"bottleneck.decoder", "bottleneck.prior", "body", "branches"}, {"bottleneck.encoder"}),
        ({"train": ["encoder", "prior"]}, {"bottleneck.encoder", "bottleneck.prior"}, {"bottleneck.decoder", "body", "branches"}),
        ({"train": ["heads.size"]}, {"branches.size"}, {"bottleneck", "body", "branches.colour"}),
        ({"train": ["heads"], "freeze": ["heads.size"]}, {"branches.colour"}, {"bottleneck", "body", "branches.size"}),
    ],
)  # fmt: skip
def test_frozen_parts_do_not_move_not_even_their_statistics(tmp_path, stage, moves, stays):
    recipe = toy_recipe({"epochs": 1, "batch_size": 4, **stage})
    model = build(recipe, registry=REGISTRY)
    before = copied(model)
    moved = changed(run(recipe, tmp_path, model=model, validate_every=1).model, before)
    for part in moves:
        assert any(name.startswith(part) for name in moved), f"{part} did not learn"
    for part in stays:
        assert not any(name.startswith(part) for name in moved), f"{part} was frozen, and {moved} moved"


def test_the_prior_has_an_optimiser_of_its_own(tmp_path):
    recipe = toy_recipe({"epochs": 1, "batch_size": 4, "optimizer": {"name": "sgd", "lr": 0.0}})
    model = build(recipe, registry=REGISTRY)
    before = copied(model)
    moved = changed(run(recipe, tmp_path, model=model).model, before)
    assert {n for n in moved if "running" not in n and "num_batches" not in n} == {"bottleneck.prior.quantiles"}


def test_the_rate_term_counts_bits_per_pixel_and_is_ramped(tmp_path):
    stage = {
        "epochs": 1,
        "batch_size": 4,
        "rate_lambda": 3.0,
        "rate_warmup": 2.0,
        "optimizer": {"name": "sgd", "lr": 0.0},
    }
    seen = []
    run(toy_recipe(stage), tmp_path, on_event=lambda e: seen.append(e) if e["event"] == "step" else None, log_every=1)
    assert len(seen) == 5
    for step, line in enumerate(seen):
        parts = line["train"]
        rate = 3.0 * min(1, step / 5 / 2) * parts["bits"] / (32 * 32)
        assert parts["loss"] == pytest.approx(parts["colour.ce"] + parts.get("size.ce", 0) + rate, rel=1e-5)


def test_clipping_bounds_the_step(tmp_path):
    def movement(clip, folder):
        stage = {"epochs": 1, "batch_size": 20, "clip": clip, "schedule": "constant"}
        stage["optimizer"] = {"name": "sgd", "lr": 1.0, "momentum": 0.0}
        recipe = toy_recipe(stage)
        model = build(recipe, registry=REGISTRY)
        before = {n: p.detach().clone() for n, p in model.named_parameters() if "quantiles" not in n}
        run(recipe, folder, model=model)
        now = dict(model.named_parameters())
        return math.sqrt(sum(float(((now[n].detach() - p) ** 2).sum()) for n, p in before.items()))

    assert movement(0.0, tmp_path / "free") > 0.1
    assert movement(0.01, tmp_path / "clipped") == pytest.approx(0.01, rel=1e-3)


def test_the_average_replaces_the_weights_at_the_end(tmp_path):
    stage = {"epochs": 2, "batch_size": 4, "optimizer": {"name": "adamw", "lr": 1e-2}}
    plain = run(toy_recipe(stage), tmp_path / "plain").model
    averaged = run(toy_recipe({**stage, "average": 0.999}), tmp_path / "mean").model
    start = build(toy_recipe(stage), registry=REGISTRY)
    ends = [dict(m.named_parameters())["body.last.0.weight"] for m in (start, averaged, plain)]
    assert 0 < (ends[1] - ends[0]).norm() < (ends[2] - ends[0]).norm()


def test_images_without_a_target_teach_nothing(tmp_path):
    class Bare(ToyDataset):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return type(sample)(image=sample.image, targets={}, name=sample.name)

    recipe = toy_recipe({"epochs": 1, "batch_size": 4, "optimizer": {"name": "sgd", "lr": 1.0}})
    model = build(recipe, registry=REGISTRY)
    before = copied(model)
    result = run(recipe, tmp_path, model=model, datasets=Datasets(train=Bare(None, "train")))
    assert not any(name.startswith("branches") for name in changed(model, before))
    assert "val" not in result.history[0] and result.history[0]["train"]["loss"] == 0


def test_a_loss_that_is_not_finite_ends_the_run_and_says_where(tmp_path):
    stage = {"epochs": 3, "batch_size": 4, "schedule": "constant", "rate_lambda": 1.0}
    stage["optimizer"] = {"name": "sgd", "lr": 1e30, "momentum": 0.0}
    with pytest.raises(TrainingError, match=r"not finite.* step \d+.*epoch \d.*checkpoint"):
        run(toy_recipe(stage), tmp_path, checkpoint_steps=1)
    for path in (tmp_path / "checkpoints").glob("*"):
        from splitreg.training.checkpoint import from_bytes

        assert all(bool(tensor.isfinite().all()) for tensor in from_bytes(path.read_bytes())["model"].values())


def test_collapse_is_reported_in_words(tmp_path):
    stage = {"epochs": 1, "batch_size": 4, "rate_lambda": 1e-9, "optimizer": {"name": "sgd", "lr": 0.0}}
    recipe = toy_recipe(stage)
    model = build(recipe, registry=REGISTRY)
    for parameter in model.bottleneck.encoder.parameters():
        parameter.data.zero_()
    result = run(recipe, tmp_path, model=model)
    assert any("rate" in warning and "0.0 bits" in warning for warning in result.warnings)
    assert any("'colour'" in warning and "top1" in warning for warning in result.warnings)
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["message"] for line in logged if line["event"] == "warning"] == result.warnings


def test_one_class_for_every_pixel_and_no_object_are_reported_with_few_images():
    import numpy as np
    from torchvision import tv_tensors

    from splitreg.predictions import Detections, Segmentation
    from splitreg.tasks import MaskTarget
    from splitreg.training.collapse import constant_output

    def masks(last):
        rows = [np.zeros((4, 4), np.uint8) for _ in range(14)]
        rows[-1][0, 0] = last
        return [Segmentation(mask=row, names=("background", "cat")) for row in rows]

    truth = [MaskTarget(mask=tv_tensors.Mask(torch.tensor([[0, 1]]))) for _ in range(14)]
    assert "'background'" in constant_output("seg", masks(0), truth) and "14" in constant_output("seg", masks(0), truth)
    assert constant_output("seg", masks(1), truth) is None

    def boxes(score):
        row = {"boxes": np.zeros((1, 4), np.float32), "labels": np.zeros(1, np.int64), "names": ("cat",)}
        return [Detections(scores=np.array([score], np.float32), **row)] * 14

    assert "0.12" in constant_output("det", boxes(0.12), []) and constant_output("det", boxes(0.9), []) is None


def test_collapse_is_not_seen_where_there_is_none():
    assert rate_collapse(500, 1.0) is None and rate_collapse(0, 0.0) is None
    dataset = ToyDataset(None, "val", count=60)
    targets = sorted((dataset[i].targets["colour"] for i in range(60)), key=lambda t: t.index)  # as folders lie
    head = ToyHead({8: REGISTRY and type("S", (), {"channels": 8})}, ("a", "b", "c"))
    right = head.predict(torch.nn.functional.one_hot(torch.tensor([t.index for t in targets]), 3).float() * 9)
    assert head_collapse("colour", head, right, targets) is None
    assert "'colour'" in head_collapse("colour", head, [right[0]] * 60, targets)
    assert head_collapse("colour", head, right[:4], targets[:4]) is None, "four images prove nothing"


def test_part_names_are_checked():
    parts = build(toy_recipe(), registry=REGISTRY).parts()
    assert select(parts, ["all"], ["heads.size"]) == ("encoder", "decoder", "prior", "body", "heads.colour")
    with pytest.raises(RecipeError, match="'encodr'.*'encoder'"):
        select(parts, ["encodr"])
    with pytest.raises(RecipeError, match="edge.*encoder"):
        select(parts, ["edge"], ["encoder"])


def test_objectives_weigh_heads(tmp_path):
    stage = {"epochs": 1, "batch_size": 4, "objectives": [{"name": "sum", "weights": {"size": 0.0}}]}
    recipe = toy_recipe({**stage, "train": ["heads"]})
    model = build(recipe, registry=REGISTRY)
    before = copied(model)
    stage["optimizer"] = {"name": "sgd", "lr": 1.0}
    moved = changed(run(toy_recipe({**stage, "train": ["heads"]}), tmp_path, model=model).model, before)
    assert any(n.startswith("branches.colour") for n in moved) and not any(n.startswith("branches.size") for n in moved)


def test_the_console_says_a_line_an_epoch_on_stderr_only(tmp_path, capsys):
    run(toy_recipe({"epochs": 2, "batch_size": 4}), tmp_path, progress=True)
    printed = capsys.readouterr()
    assert (
        printed.out == "" and len(printed.err.splitlines()) == 2 and "images/s" in printed.err and "bits" in printed.err
    )


def test_tensorboard_gets_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    run(toy_recipe({"epochs": 1, "batch_size": 4}), tmp_path, tensorboard=True)
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_log_that_cannot_be_written_is_a_typed_error(tmp_path):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(TrainingError, match="No space left"):
        train(toy_recipe(), output=tmp_path, registry=REGISTRY, tensorboard=False, progress=False, device="cpu")


@pytest.mark.parametrize("resume", [False, True])
def test_two_runs_in_one_folder_are_refused(tmp_path, resume):
    code = (
        "import sys, time; from pathlib import Path; from splitreg.training.locking import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(TrainingError, match=f"{other.pid}.*{tmp_path}"):
            run(toy_recipe({"epochs": 1, "batch_size": 4}), tmp_path, resume=resume)
        assert not (tmp_path / "checkpoints").exists()
    finally:
        other.kill()
        other.communicate()
    assert run(toy_recipe({"epochs": 1, "batch_size": 4}), tmp_path, resume=resume).steps


def test_the_best_weights_are_kept_and_training_stops_without_progress(tmp_path):
    stage = {
        "epochs": 20, "batch_size": 4, "optimizer": {"name": "sgd", "lr": 1e-9, "momentum": 0.0}, "schedule": "constant",
        "best": "auto", "patience": 2,
    }  # fmt: skip
    lines = []
    result = run(toy_recipe(stage), tmp_path, on_event=lines.append)
    (best,) = [line for line in lines if line["event"] == "best"]
    assert len(result.history) == best["best_epoch"] + 1 + 2 < 20, "only statistics move: there is soon no progress"
    assert best["metric"] == "auto" and math.isfinite(best["score"])


def test_best_weights_are_those_of_the_best_epoch(tmp_path):
    stage = {"epochs": 5, "batch_size": 4, "optimizer": {"name": "adamw", "lr": 2e-2}, "best": "colour.top1"}
    lines = []
    result = run(toy_recipe(stage), tmp_path, on_event=lines.append)
    (best,) = [line for line in lines if line["event"] == "best"]
    scores = [line["val"]["colour"]["top1"] for line in result.history]
    assert best["score"] == max(scores) and scores.index(max(scores)) == best["best_epoch"]


def test_a_run_can_be_replaced(tmp_path):
    stage = {"epochs": 1, "batch_size": 10}
    first = run(toy_recipe(stage), tmp_path)
    (tmp_path / "predictions").mkdir()
    with pytest.raises(TrainingError, match=r"--resume.*--overwrite"):
        run(toy_recipe({**stage, "epochs": 2}), tmp_path)
    second = run(toy_recipe({**stage, "epochs": 2}), tmp_path, overwrite=True)
    assert second.resumed_from == 0 and second.steps == 2 * first.steps and not (tmp_path / "predictions").exists()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines].count("start") == 1 and lines[0]["event"] == "start"
    again = run(toy_recipe({**stage, "epochs": 2}), tmp_path, overwrite=True, resume=True)
    assert again.resumed_from == second.steps  # with both, nothing is lost


def test_a_complete_run_goes_on_for_more_epochs(tmp_path):
    stages = {"epochs": 1, "batch_size": 10, "name": "first"}, {"epochs": 2, "batch_size": 10, "name": "last"}
    whole = run(toy_recipe(*stages), tmp_path)
    more = toy_recipe(stages[0], {**stages[1], "epochs": 4})
    result = run(more, tmp_path, resume=True)
    assert [(line["stage"], line["epoch"]) for line in result.history] == [
        ("first", 0),
        *(("last", i) for i in range(4)),
    ]
    assert result.resumed_from == whole.steps == 6 and result.steps == 10
    assert json.loads((tmp_path / "recipe.json").read_text())["stages"][1]["epochs"] == 4
    again = run(more, tmp_path, resume=True)
    assert again.steps == 10 and all(
        torch.equal(tensor, result.model.state_dict()[name]) for name, tensor in again.model.state_dict().items()
    )


def test_a_complete_run_keeps_its_best_epoch_in_further_ones(tmp_path, monkeypatch):
    from splitreg.training import best

    scores = iter([0.5, 0.9, 0.6, 0.3, 0.4])
    monkeypatch.setattr(best, "score_of", lambda *_: next(scores))
    stage = {"epochs": 3, "batch_size": 10, "best": "colour.top1"}
    whole, lines = run(toy_recipe(stage), tmp_path), []
    result = run(toy_recipe({**stage, "epochs": 5}), tmp_path, resume=True, on_event=lines.append)
    assert len(result.history) == 5 and not list(scores)
    assert [(line["best_epoch"], line["score"]) for line in lines if line["event"] == "best"] == [(1, 0.9)]
    assert all(
        torch.equal(tensor, result.model.state_dict()[name]) for name, tensor in whole.model.state_dict().items()
    )


def test_an_interrupted_run_may_get_more_epochs_but_not_fewer(tmp_path):
    from splitreg.training import Callback, Hooks

    class Stop(Callback):
        def on_epoch(self, state, line):
            if state.epoch == 1:
                raise TrainingError("enough")

    stage = {"epochs": 3, "batch_size": 10}
    with pytest.raises(TrainingError, match="enough"):
        run(toy_recipe(stage), tmp_path, hooks=Hooks(callbacks=(Stop(),)))
    with pytest.raises(TrainingError, match=r"epochs.*3.*2"):
        run(toy_recipe({**stage, "epochs": 2}), tmp_path, resume=True)
    assert len(run(toy_recipe({**stage, "epochs": 5}), tmp_path, resume=True).history) == 5


@pytest.mark.parametrize("name", ["lion", "adan", "muon"])
def test_the_state_of_timms_optimizers_survives_a_resume(tmp_path, name):
    from splitreg.training import Callback, Hooks

    class Stop(Callback):
        def on_epoch(self, state, line):
            if state.epoch == 1:
                raise TrainingError("enough")

    recipe = toy_recipe({"epochs": 3, "batch_size": 10, "optimizer": name, "schedule": "timm-cosine"})
    whole = run(recipe, tmp_path / "whole").model.state_dict()
    with pytest.raises(TrainingError, match="enough"):
        run(recipe, tmp_path / "cut", hooks=Hooks(callbacks=(Stop(),)))
    resumed = run(recipe, tmp_path / "cut", resume=True).model.state_dict()
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())


def test_a_run_that_exists_names_both_options(tmp_path):
    run(toy_recipe({"epochs": 1, "batch_size": 10}), tmp_path)
    with pytest.raises(TrainingError, match="--resume.*--run"):
        run(toy_recipe({"epochs": 1, "batch_size": 10}), tmp_path)


def test_a_rate_weight_without_effect_is_reported(tmp_path):
    from splitreg.training.collapse import rate_idle

    assert rate_idle(8000, 4000, 0.5) is None and rate_idle(8000, 7990, 0.0) is None
    assert "1,000 bytes" in rate_idle(8000, 7990, 0.5) and "0.5" in rate_idle(8000, 7990, 0.5)
    stage = {"epochs": 3, "batch_size": 10, "rate_lambda": 0.1, "train": ["heads"]}
    (warning,) = [line for line in run(toy_recipe(stage), tmp_path).warnings if "rate_lambda = 0.1" in line]
    assert "bytes per image" in warning


def test_a_stage_that_teaches_no_head_does_not_warn_of_heads(tmp_path):
    restore = {"name": "distill", "compare": "cut", "reduction": "relative"}
    stage = {"epochs": 1, "batch_size": 10, "train": ["encoder", "decoder"], "objectives": [restore]}
    result = run(toy_recipe(stage, bottleneck={"name": "toy", "from": "feature"}), tmp_path)
    assert "val" in result.history[0] and not result.warnings


def test_masks_that_are_mostly_unknown_are_reported():
    from torchvision import tv_tensors

    from splitreg.tasks import IGNORE, MaskTarget
    from splitreg.training.collapse import unknown_pixels

    mask = torch.full((4, 4), IGNORE)
    mask[0] = 1
    assert "75%" in unknown_pixels("seg", [MaskTarget(mask=tv_tensors.Mask(mask))])
    mask[:2] = 1
    assert unknown_pixels("seg", [MaskTarget(mask=tv_tensors.Mask(mask))]) is None
    assert unknown_pixels("det", []) is None


def test_the_backbone_is_frozen_up_to_a_stage():
    from splitreg.recipe import Recipe
    from splitreg.training.parts import Freezer

    table = {"backbone": "test_resnet", "cut": "layer1", "bottleneck": {"name": "quantise"}, "input": {"size": 64}}
    model = build(Recipe.from_mapping({**table, "heads": [{"name": "cls", "labels": 2}]}))
    freezer = Freezer(model)
    freezer.apply(("prefix", "body", "heads.cls"), "layer3")
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning and all("layer4" in name or name.startswith("branches") for name in learning)
    norms = {
        name: module.training for name, module in model.named_modules() if type(module).__name__.startswith("BatchNorm")
    }
    assert {"layer4" in name for name, training in norms.items() if training} == {True}
    freezer.restore()
    assert all(parameter.requires_grad for parameter in model.body.parameters())


def test_a_stage_that_is_not_there_is_an_error(tmp_path):
    stage = {"epochs": 1, "batch_size": 4}
    with pytest.raises(RecipeError, match="'twoo'.*'?two"):
        run(toy_recipe({**stage, "freeze_to": "twoo"}), tmp_path)
    with pytest.raises(RecipeError, match="'two'.*body"):  # the toy's weights have other names
        run(toy_recipe({**stage, "freeze_to": "two"}), tmp_path)


def test_modules_up_to_a_stage():
    from torch import nn

    from splitreg.training.parts import backbone_up_to

    body = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 1)), nn.Linear(1, 1)])})
    prefix = nn.ModuleDict({"stem": nn.Linear(1, 1)})
    parts = {"prefix": prefix, "body": body, "heads.x": nn.Linear(1, 1)}
    assert backbone_up_to(parts, "blocks.1") == [prefix, body["blocks"][0], body["blocks"][1]]
    assert backbone_up_to(parts, "blocks.2") == [prefix, body]
    assert backbone_up_to(parts, "stem") == [prefix]


def test_an_unknown_metric_names_those_that_exist(tmp_path):
    with pytest.raises(RecipeError, match="colour.top1"):
        run(toy_recipe({"epochs": 1, "batch_size": 4, "best": "colour.top11"}), tmp_path)
    assert not list(tmp_path.iterdir()), "it is known before the first step"


@pytest.mark.parametrize(("device", "fact"), [("tpu", "auto, cpu, cuda, mps"), ("cuda", "no device 'cuda'.*cpu")])
def test_a_device_that_is_not_there(tmp_path, monkeypatch, device, fact):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match=fact):
        run(toy_recipe({"epochs": 1, "batch_size": 4}), tmp_path, device=device)


#: Neither noise nor dropout nor statistics of the batch: the loss is a mean over independent images.
PLAIN = {
    "backbone": {"name": "toy", "norm": False},
    "bottleneck": {"name": "toy", "noise": False, "norm": False},
    "heads": [
        {"name": "toy", "as": "colour", "target": "colour", "dropout": 0.0},
        {"name": "toy", "as": "size", "target": "size", "dropout": 0.0},
    ],
    "data": [{"name": "toy", "missing": False}],
    "augment": {"preset": "none"},
}


@pytest.mark.parametrize(
    "optimizer",
    [{"name": "sgd", "lr": 0.1, "momentum": 0.9}, {"name": "adamw", "lr": 0.01}, {"name": "lion", "lr": 0.001}],
)
def test_accumulated_batches_give_the_weights_of_a_larger_batch(tmp_path, optimizer):
    base = {"epochs": 2, "optimizer": optimizer, "schedule": "constant", "clip": 0.5, "rate_lambda": 0.1}
    stages = {"one": {"batch_size": 8}, "two": {"batch_size": 4, "accumulate": 2}, "small": {"batch_size": 4}}
    weights = {}
    for name, stage in stages.items():
        recipe = toy_recipe({**base, **stage}, **PLAIN)
        data = Datasets(train=ToyDataset(None, "train", count=16, missing=False))
        result = run(recipe, tmp_path / name, datasets=data)
        assert result.steps == 2 * 16 // stage["batch_size"]
        weights[name] = torch.cat([value.flatten() for value in result.model.state_dict().values()])
    torch.testing.assert_close(weights["two"], weights["one"], rtol=1e-4, atol=1e-5)
    assert float((weights["small"] - weights["one"]).abs().max()) > 1e-3


def test_the_backbone_learns_with_its_own_rate():
    from torch import nn

    from splitreg.training.optimizers import backbone_factors, scaled_groups

    prefix, body, head = (
        nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])}),
        nn.Linear(1, 1),
        nn.Linear(1, 1),
    )
    factors = backbone_factors([prefix, body], 0.5, 0.1)
    parameters = [p for module in (prefix, body, head) for p in module.parameters()]
    groups = scaled_groups(parameters, factors, 2.0)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates[id(head.weight)] == 2.0 and rates[id(body.weight)] == 1.0
    assert [rates[id(block.weight)] for block in prefix["blocks"]] == pytest.approx([0.01, 0.1])
    assert scaled_groups(parameters, {}, 2.0) == parameters
