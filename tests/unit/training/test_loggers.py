"""Loggers receive every number of a run and its pictures; a resumed run continues them."""

import importlib.util
import json
import sys
import types

import pytest
import torch
from support.training import train
from support.training_toys import REGISTRY, ToyDataset, ToyHead, toy_recipe

from splitreg.errors import MissingExtra, RecipeError, TrainingError
from splitreg.predictions import Classification
from splitreg.training import Callback, Datasets, Hooks
from splitreg.training.loggers import MLflow, TensorBoard, WeightsAndBiases, open_loggers

RECIPE = toy_recipe({"epochs": 2, "batch_size": 10})


def run(folder, recipe=RECIPE, **options):
    options = {"registry": REGISTRY, "tensorboard": False, "progress": False, "device": "cpu", **options}
    return train(recipe, output=folder, **options)


class Diary:
    def __init__(self):
        self.started, self.values, self.images, self.closed = [], [], [], 0

    def start(self, folder, recipe, step):
        self.started.append((folder.name, recipe["seed"], step))

    def scalars(self, values, step):
        self.values.append((step, dict(values)))

    def image(self, name, path, step):
        self.images.append((name, path, step))

    def close(self):
        self.closed += 1


def test_numbers_of_epochs_arrive_with_their_step(tmp_path):
    diary = Diary()
    result = run(tmp_path / "run", loggers=(diary,))
    assert diary.started == [("run", 3, 0)] and diary.closed == 1
    steps = [step for step, values in diary.values if "epoch/val/colour/top1" in values]
    assert steps == [line["step"] for line in result.history]
    last = [values for _, values in diary.values if "epoch/train/loss" in values][-1]
    assert last["epoch/train/loss"] == pytest.approx(result.history[-1]["train"]["loss"])


def test_loggers_are_closed_when_a_run_fails(tmp_path):
    class Failing(Callback):
        def on_step(self, state, losses):
            raise TrainingError("enough")

    diary = Diary()
    with pytest.raises(TrainingError, match="enough"):
        run(tmp_path, loggers=(diary,), hooks=Hooks(callbacks=(Failing(),)))
    assert diary.closed == 1


def test_a_logger_that_cannot_start_is_named(tmp_path):
    class Offline(Diary):
        def start(self, folder, recipe, step):
            raise ConnectionError("no route to host")

    first = Diary()
    with pytest.raises(TrainingError, match="Offline.*no route to host"):
        run(tmp_path, loggers=(first, Offline()))
    assert first.closed == 1


def test_names_and_import_paths(monkeypatch):
    module = types.ModuleType("acme_logging")
    module.Diary = Diary
    monkeypatch.setitem(sys.modules, "acme_logging", module)
    kinds = [type(logger) for logger in open_loggers(("wandb", "mlflow", "tensorboard", "acme_logging:Diary"))]
    assert kinds == [WeightsAndBiases, MLflow, TensorBoard, Diary]
    with pytest.raises(RecipeError, match="'wandbb'.*'?wandb"):
        open_loggers(("wandbb",))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_before_the_first_step(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=f"pip install {name}"):
        run(tmp_path, loggers=(name,))
    assert not (tmp_path / "checkpoints").exists() or not list((tmp_path / "checkpoints").iterdir())


@pytest.fixture
def wandb(monkeypatch):
    calls = []

    class Run:
        def log(self, values, step):
            calls.append(("log", step, values))

        def finish(self):
            calls.append(("finish",))

    module = types.ModuleType("wandb")
    module.init = lambda **options: calls.append(("init", options)) or Run()
    module.Image = lambda path: ("image", path)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return calls


class Stop(Callback):
    def on_epoch(self, state, line):
        if state.epoch == 1:
            raise TrainingError("enough")


def test_wandb_receives_the_recipe_and_a_resumed_run_is_the_same_one(tmp_path, wandb):
    with pytest.raises(TrainingError):
        run(tmp_path / "first", loggers=("wandb",), hooks=Hooks(callbacks=(Stop(),)))
    run(tmp_path / "first", loggers=("wandb",), resume=True)
    first, second = (options for name, *rest in wandb if name == "init" for options in rest)
    assert first["id"] == second["id"] and first["resume"] == "allow"
    assert first["config"]["stages"][0]["epochs"] == 2 and first["project"] == "splitreg" and first["name"] == "first"
    again = [name for name, *_ in wandb].index("init", 1)
    for calls in (wandb[:again], wandb[again:]):
        steps = [step for name, *rest in calls if name == "log" for step in rest[:1]]
        assert steps == sorted(steps) and calls[-1] == ("finish",)


@pytest.fixture
def mlflow(monkeypatch):
    calls = []
    module = types.ModuleType("mlflow")

    def start_run(run_id=None, run_name=None):
        calls.append(("start", run_id, run_name))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))

    module.start_run = start_run
    for name in ("log_params", "log_metrics", "log_artifact", "end_run"):
        setattr(module, name, lambda *values, _name=name, **options: calls.append((_name, *values, options)))
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return calls


def test_mlflow_receives_parameters_and_metrics_and_resumes_its_run(tmp_path, mlflow):
    with pytest.raises(TrainingError):
        run(tmp_path / "first", loggers=("mlflow",), hooks=Hooks(callbacks=(Stop(),)))
    run(tmp_path / "first", loggers=("mlflow",), resume=True)
    assert [call[1:] for call in mlflow if call[0] == "start"] == [(None, "first"), ("abc", None)]
    (parameters,) = [call[1] for call in mlflow if call[0] == "log_params"]
    assert parameters["backbone.name"] == "toy" and parameters["stages.0.batch_size"] == "10"
    assert any("epoch/val/colour/top1" in call[1] for call in mlflow if call[0] == "log_metrics")
    assert mlflow[-1][0] == "end_run"


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflows_own_file_store(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 wants a database
    run(tmp_path / "first", loggers=("mlflow",))
    identity = (tmp_path / "first" / "mlflow-run.txt").read_text().strip()
    data = mlflow.MlflowClient().get_run(identity).data
    assert data.params["backbone.name"] == "toy" and "epoch/val/colour/top1" in data.metrics


@pytest.fixture
def drawable(monkeypatch):
    def truth(self, target):
        return Classification(probabilities=torch.ones(1).numpy(), names=("truth",))

    monkeypatch.setattr(ToyHead, "truth", truth)
    monkeypatch.setattr(Classification, "draw", lambda self, image: image)


def test_predictions_are_drawn_at_each_validation_and_logged(tmp_path, drawable):
    from PIL import Image

    diary = Diary()
    data = Datasets(train=ToyDataset(None, "train"), val=ToyDataset(None, "val"))
    run(tmp_path, loggers=(diary,), pictures=3, datasets=data)
    files = sorted(path.name for path in (tmp_path / "predictions").iterdir())
    assert files == ["joint-0001.jpg", "joint-0002.jpg"]
    assert [(name, path.name) for name, path, _ in diary.images] == [("predictions", name) for name in files]
    with Image.open(tmp_path / "predictions" / files[0]) as image:
        assert min(image.size) > 300


def test_pictures_do_not_change_the_weights(tmp_path, drawable):
    data = Datasets(train=ToyDataset(None, "train"), val=ToyDataset(None, "val"))
    one, other = (
        run(tmp_path / str(count), pictures=count, datasets=data).model.state_dict() for count in (0, 3)
    )  # fmt: skip
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_head_that_cannot_draw_gives_a_warning_and_no_more(tmp_path):
    data = Datasets(train=ToyDataset(None, "train"), val=ToyDataset(None, "val"))
    result = run(tmp_path, pictures=3, datasets=data)
    (line,) = [line for line in result.warnings if "not drawn" in line]
    assert "Error" in line and not (tmp_path / "predictions").exists()


def test_tensorboard_gets_the_pictures(tmp_path, drawable):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = Datasets(train=ToyDataset(None, "train"), val=ToyDataset(None, "val"))
    run(tmp_path, pictures=2, datasets=data, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert len(events.Images("predictions")) == 2 and "epoch/val/colour/top1" in events.Tags()["scalars"]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["event"] == "end"
