"""Callbacks, and own optimisers, schedules and augmentations."""

import functools
from dataclasses import replace

import pytest
import torch
from support import third_party
from support.training_toys import REGISTRY, toy_recipe

from splitreg.errors import BrokenComponent, RecipeError, TrainingError
from splitreg.registry import discover, extensions
from splitreg.training import Callback, Hooks, TrainOptions, train

pytestmark = pytest.mark.integration

RECIPE = toy_recipe({"epochs": 2, "batch_size": 8, "name": "one"}, {"epochs": 1, "batch_size": 8, "name": "two"})


def run(folder, *, resume=False, recipe=RECIPE, **hooks):
    options = TrainOptions(
        hooks=Hooks(**hooks), device="cpu", tensorboard=False, progress=False, resume=resume, checkpoint_steps=1
    )
    return train(recipe, folder, registry=REGISTRY, options=options)


class Diary(Callback):
    def __init__(self, fail_at=None):
        self.lines, self.fail_at = [], fail_at

    def on_start(self, state):
        self.lines.append(("start", state.stage, state.epoch, state.step))

    def on_step(self, state, losses):
        assert {"loss", "bits"} <= losses.keys() and not losses["loss"].requires_grad and state.lr > 0
        self.lines.append(("step", state.stage, state.epoch, state.step))
        if state.step == self.fail_at:
            raise TrainingError("enough")

    def on_epoch(self, state, line):
        assert line["epoch"] == state.epoch and "train" in line and "val" in line
        self.lines.append(("epoch", state.stage, state.epoch, state.step))

    def on_end(self, state, error):
        self.lines.append(("end", state.stage, type(error).__name__, state.step))


def test_callbacks_are_called_in_order_and_change_nothing(tmp_path):
    diary = Diary()
    result = run(tmp_path / "a", callbacks=(diary,))
    plain = run(tmp_path / "b")
    weights = plain.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in result.model.state_dict().items())
    steps = result.steps // 3
    kinds = [line[0] for line in diary.lines]
    assert kinds == ["start", *(["step"] * steps + ["epoch"]) * 3, "end"]
    assert diary.lines[0] == ("start", "one", 0, 0) and diary.lines[-1] == ("end", "", "NoneType", result.steps)
    assert ("epoch", "two", 0, result.steps) in diary.lines


def test_an_error_of_a_callback_ends_the_run_and_can_be_resumed(tmp_path):
    diary, again = Diary(fail_at=3), Diary()
    with pytest.raises(TrainingError, match="enough"):
        run(tmp_path, callbacks=(diary,))
    assert diary.lines[-1][0::2] == ("end", "TrainingError")
    run(tmp_path, resume=True, callbacks=(again,))
    assert again.lines[0][0] == "start" and 0 < again.lines[0][3] <= 3


def test_optimizer_schedule_and_augmentation_of_ones_own(tmp_path):
    seen = []

    def schedule(step, steps, per_epoch):
        seen.append((step, steps, per_epoch))
        return 0.5

    def augment(sample):
        seen.append("augment")
        return replace(sample, image=sample.image.clone())

    rates = []

    class Rates(Callback):
        def on_step(self, state, losses):
            rates.append(state.lr)

    optimizer = functools.partial(torch.optim.NAdam, lr=0.02)
    result = run(tmp_path, optimizer=optimizer, schedule=schedule, augment=augment, callbacks=(Rates(),))
    assert set(rates) == {0.01} and "augment" in seen
    assert (0, 2 * result.steps // 3, result.steps // 3) in seen


def test_a_run_is_resumed_with_the_same_hooks(tmp_path):
    with pytest.raises(TrainingError, match="enough"):
        run(tmp_path, optimizer=functools.partial(torch.optim.NAdam, lr=0.02), callbacks=(Diary(fail_at=2),))
    for other in ({}, {"optimizer": functools.partial(torch.optim.NAdam, lr=0.03)}):
        with pytest.raises(TrainingError, match="optimizer"):
            run(tmp_path, resume=True, **other)


@pytest.fixture
def package(tmp_path, monkeypatch):
    source = (
        "import torch\n\ndef nadam(parameters):\n    return torch.optim.NAdam(parameters, lr=0.02)\n\nconstant = 3\n"
    )
    third_party.write_package(tmp_path / "site", {"optim": source}, {"optimizer": {"acme-nadam": "optim:nadam"}})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for cache in (discover, extensions):
        cache.cache_clear()
    yield
    for cache in (discover, extensions):
        cache.cache_clear()
    third_party.forget()


def test_entry_points_and_import_paths(tmp_path, package):
    results = [
        run(tmp_path / value.partition(":")[0], optimizer=value) for value in ("acme-nadam", "acme_split.optim:nadam")
    ]
    one, other = (result.model.state_dict() for result in results)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize(
    ("value", "error", "facts"),
    [
        ("acme-nadm", RecipeError, "acme-nadm.*'acme-nadam'"),
        ("acme_split.optim:constant", RecipeError, "acme_split.optim:constant"),
        ("acme_split.optim:nothing", BrokenComponent, "acme_split.optim:nothing"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path, package, value, error, facts):
    with pytest.raises(error, match=facts):
        run(tmp_path / "run", optimizer=value)
