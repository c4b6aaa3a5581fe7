"""Sweeps with real processes: what is finished stays, what is killed goes on, what fails stops nobody."""

import dataclasses
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from splitreg.assembly import load
from splitreg.errors import RecipeError, TrainingError
from splitreg.recipe import Recipe
from splitreg.sweep import Outcome, SweepOptions, finished, run
from splitreg.sweep.point import Collapsed, CollapseDetector, PointJob, train_point
from splitreg.sweep.run import _folder_name, _has_ended
from splitreg.training import TrainOptions

pytestmark = pytest.mark.integration

KEYS = {
    "backbone": "mobilenetv3_small_050", "heads": ["cls"], "input": {"size": [32, 32]},
    "bottleneck": {"name": "fp", "encoder": "light", "channels": 2, "blocks": 1},
    "data": {"name": "scenes", "size": 32, "count": 16},
    "stages": [{"epochs": 2, "batch_size": 4, "rate_lambda": 0.1}],
}  # fmt: skip
TRAIN = TrainOptions(resume=True, device="cpu", tensorboard=False, progress=False, validate_every=0)


def options(**keys):
    return SweepOptions(train=TRAIN, **keys)


def recipe(epochs=2, **keys):
    return Recipe.from_mapping({**KEYS, **keys}, [f"stages.0.epochs={epochs}"])


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLITREG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def weights(folder):
    return load(folder).state_dict()


def kill_when_there_is_a_checkpoint(folder):
    """Kill -9 the process that trains in a folder, once."""

    def watch():
        while not list((folder / "run" / "checkpoints").glob("step-*")):
            time.sleep(0.01)
        os.kill(int((folder / ".lock").read_text()), signal.SIGKILL)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_a_killed_worker_goes_on_and_a_failing_point_stops_nobody(tmp_path):
    """One sweep of two points: the first is killed in the middle, the second cannot be built."""
    swept = recipe(epochs=6, sweep={"bottleneck.channels": [2, -1]})
    folder = tmp_path / "sweep"
    thread = kill_when_there_is_a_checkpoint(folder / "bottleneck.channels=2")
    events = []
    good, bad = run(swept, folder, options(jobs=2, on_event=lambda e: events.append((e["event"], e["point"]))))
    thread.join(timeout=0)
    assert not thread.is_alive()
    assert [event for event, point in events if point == good.label] == ["start", "retry", "end"]
    assert (good.outcome.status, bad.outcome.status) == ("done", "failed")
    assert "channels" in bad.outcome.message and "\n" not in bad.outcome.message and bad.bundle is None
    assert (
        finished(folder) == [good.bundle] and json.loads((folder / "sweep.json").read_text())["outcomes"][1]["message"]
    )
    log = [json.loads(line) for line in (good.folder / "run" / "log.jsonl").read_text().splitlines()]
    assert "resume" in [line["event"] for line in log]
    # bit for bit what a point that nobody killed gives
    apart = tmp_path / "apart"
    shutil.copytree(good.folder, apart, ignore=shutil.ignore_patterns("run", "bundle", "outcome.json"))
    assert train_point(apart).status == "done"
    before, after = weights(apart / "bundle"), weights(good.bundle)
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    # once more: nothing is done again
    stamp = (good.bundle / "config.json").stat().st_mtime_ns
    assert not _has_ended(bad.folder, PointJob.read(bad.folder))  # what failed would be
    dataclasses.replace(bad.outcome, status="collapsed").write(bad.folder)
    events.clear()
    again = run(swept, folder, options(on_event=lambda e: events.append((e["event"], e["point"]))))
    assert all(p.known for p in again) and {event for event, _ in events} == {"known"}
    assert (good.bundle / "config.json").stat().st_mtime_ns == stamp
    with pytest.raises(RecipeError, match=r"stages\.0\.epochs: \D*6\D*3"):
        run(recipe(epochs=3, sweep={"bottleneck.channels": [2, -1]}), folder)


def run_in_child(folder, stderr):
    """A sweep in a forked process, which need not import torch again."""
    sys.stderr = stderr.open("w")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run(recipe(epochs=400), folder, options())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_sweep_leaves_no_worker(number, tmp_path):
    folder = tmp_path / "sweep"
    sweep = multiprocessing.get_context("fork").Process(target=run_in_child, args=(folder, tmp_path / "stderr"))
    sweep.start()
    point = folder / "point"
    while not list((point / "run" / "checkpoints").glob("step-*")):
        assert sweep.is_alive(), (tmp_path / "stderr").read_text()
        time.sleep(0.05)
    worker = int((point / ".lock").read_text())
    os.kill(sweep.pid, number)  # killed, it has not even the chance to tell its worker
    sweep.join(timeout=60)
    printed = (tmp_path / "stderr").read_text()
    assert number == signal.SIGKILL or ("TrainingInterrupted" in printed and "SIGINT" in printed)
    with (point / ".lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # given free as the worker ends
    assert Outcome.read(point) is None and not _alive(worker)
    assert (
        '"end"' not in (point / "run" / "log.jsonl").read_text()
        and "Traceback" not in (point / "worker.log").read_text()
    )
    steps = [json.loads(line) for line in (point / "run" / "log.jsonl").read_text().splitlines()]
    newest = max(int(p.stem.split("-")[1]) for p in (point / "run" / "checkpoints").glob("step-*"))
    assert newest >= max(line.get("step", 0) for line in steps)  # it was told, and wrote down where it was


def _alive(pid):
    for _ in range(1200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z":
                return False
        except OSError:
            return False
        time.sleep(0.05)
    return True


def test_two_sweeps_do_not_share_a_folder(tmp_path):
    with (tmp_path / ".lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("4711")
        file.flush()
        with pytest.raises(TrainingError, match="4711"):
            run(recipe(), tmp_path)


def test_a_point_whose_rate_collapses_is_given_up_early(tmp_path):
    table = {**KEYS, "bottleneck": {"name": "fp", "encoder": "light", "channels": 1, "blocks": 1}, "stages": [
        {"epochs": 60, "batch_size": 4, "rate_lambda": 100_000.0, "optimizer": {"lr": 0.01}, "schedule": "constant"}
    ]}  # fmt: skip
    PointJob(
        recipe=Recipe.from_mapping(table),
        bundle=tmp_path / "bundle",
        train=dataclasses.replace(TRAIN, validate_every=1),
    ).write(tmp_path)
    outcome = train_point(tmp_path)
    assert outcome.status == "collapsed" and "rate" in outcome.message
    assert outcome.steps < 60 * 4 and outcome.validation["bits"] < 16
    assert not (tmp_path / "bundle").exists() and Outcome.read(tmp_path) == outcome


def test_loggers_of_points_are_names(tmp_path):
    def write(*loggers):
        train = TrainOptions(loggers=loggers, pictures=2)
        PointJob(recipe=Recipe.from_mapping(KEYS), bundle=tmp_path / "bundle", train=train).write(tmp_path)

    write("wandb")
    again = PointJob.read(tmp_path).train
    assert again.loggers == ("wandb",) and again.pictures == 2
    with pytest.raises(RecipeError, match="object"):
        write(object())


def test_one_empty_validation_is_no_collapse():
    stages = recipe().stages
    detector = CollapseDetector(stages)

    def line(bits):
        return {"event": "epoch", "step": 1, "stage": stages[0].name, "val": {"bits": bits}}

    for bits in (3.0, 300.0, 3.0):
        detector(line(bits))
    with pytest.raises(Collapsed):
        detector(line(3.0))
    free = CollapseDetector((dataclasses.replace(stages[0], rate_lambda=0.0),))
    for _ in range(5):
        free(line(0.0))


def test_labels_become_folders_that_stay_apart():
    assert _folder_name("rate_lambda=0.5,bottleneck.channels=8") == "rate_lambda=0.5,bottleneck.channels=8"
    odd = [_folder_name(label) for label in ("x=a/b", "x=a b", "x=" + "y" * 300, "x=" + "y" * 301)]
    assert len(set(odd)) == 4 and all("/" not in name and len(name) <= 120 for name in odd)


@pytest.mark.parametrize(("keys", "facts"), [({"on": "rya"}, "'rya'.*'ray'"), ({"jobs": 0}, "jobs.*0")])
def test_wrong_requests(keys, facts):
    with pytest.raises(RecipeError, match=facts):
        SweepOptions(**keys)


def test_what_holds_no_sweep_has_no_finished_points(tmp_path):
    assert finished(tmp_path) == [] and finished("zoo:camvid-small") == []
    (tmp_path / "sweep.json").write_text("[]")
    assert finished(tmp_path) == []


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    from splitreg.errors import MissingExtra

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"splitreg\[ray\]"):
        run(recipe(), tmp_path, options(on="ray"))


def test_ray_trains_the_points_and_survives_a_killed_worker(tmp_path):
    pytest.importorskip("ray")
    thread = kill_when_there_is_a_checkpoint(tmp_path / "seed=1")
    points = run(recipe(epochs=6, sweep={"seed": [1, 2]}), tmp_path, options(on="ray", jobs=2))
    thread.join(timeout=0)
    assert not thread.is_alive() and [p.outcome.status for p in points] == ["done", "done"]
    assert '"resume"' in (tmp_path / "seed=1" / "run" / "log.jsonl").read_text()
