"""Sweeps with real processes: what is finished stays, what is killed goes on, what fails stops nobody."""

import dataclasses
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from splitreg.assembly import load
from splitreg.errors import RecipeError, TrainingError
from splitreg.recipe import Recipe
from splitreg.sweep import finished, run
from splitreg.sweep.point import Collapsed, Outcome, Watch, prepare, train_point
from splitreg.sweep.run import _ended, _folder

KEYS = {
    "backbone": "mobilenetv3_small_050", "heads": ["cls"], "input": {"size": [32, 32]},
    "bottleneck": {"name": "fp", "encoder": "light", "channels": 2, "blocks": 1},
    "data": {"name": "scenes", "size": 32, "count": 16},
    "stages": [{"epochs": 2, "batch_size": 4, "rate_lambda": 0.1}],
}  # fmt: skip
SETTINGS = {"device": "cpu", "tensorboard": False, "validate_every": 0}


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
    swept = recipe(epochs=12, sweep={"bottleneck.channels": [2, -1]})
    folder = tmp_path / "sweep"
    thread = kill_when_there_is_a_checkpoint(folder / "bottleneck.channels=2")
    events = []
    good, bad = run(swept, folder, jobs=2, device="cpu", on_event=lambda e: events.append((e["event"], e["point"])))
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
    assert not _ended(bad.folder)  # what failed would be
    dataclasses.replace(bad.outcome, status="collapsed").write(bad.folder)
    events.clear()
    again = run(swept, folder, device="cpu", on_event=lambda e: events.append((e["event"], e["point"])))
    assert all(p.known for p in again) and {event for event, _ in events} == {"known"}
    assert (good.bundle / "config.json").stat().st_mtime_ns == stamp
    with pytest.raises(RecipeError, match=r"recipe has changed .*stages\.0\.epochs: 12 then, 3 now"):
        run(recipe(epochs=3, sweep={"bottleneck.channels": [2, -1]}), folder)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_sweep_leaves_no_worker(number, tmp_path):
    path, folder = tmp_path / "r.json", tmp_path / "sweep"
    path.write_text(json.dumps(recipe(epochs=400).to_mapping()))
    code = (
        "import json, sys; from splitreg.recipe import Recipe; from splitreg.sweep import run; "
        "run(Recipe.from_mapping(json.load(open(sys.argv[1]))), sys.argv[2], device='cpu')"
    )
    sweep = subprocess.Popen([sys.executable, "-c", code, path, folder], stderr=subprocess.PIPE)
    point = folder / "point"
    while not list((point / "run" / "checkpoints").glob("step-*")):
        assert sweep.poll() is None, sweep.stderr.read().decode()
        time.sleep(0.05)
    worker = int((point / ".lock").read_text())
    sweep.send_signal(number)  # killed, it has not even the chance to tell its worker
    said = sweep.communicate(timeout=60)[1].decode()
    assert number == signal.SIGKILL or "TrainingInterrupted: stopped by SIGINT" in said
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
    for _ in range(100):
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
        with pytest.raises(TrainingError, match="process 4711 works in"):
            run(recipe(), tmp_path)


def test_a_point_whose_rate_collapses_is_given_up_early(tmp_path):
    table = {**KEYS, "bottleneck": {"name": "fp", "encoder": "light", "channels": 1, "blocks": 1}, "stages": [
        {"epochs": 60, "batch_size": 4, "rate_lambda": 100_000.0, "optimizer": {"lr": 0.01}, "schedule": "constant"}
    ]}  # fmt: skip
    prepare(tmp_path, Recipe.from_mapping(table), {**SETTINGS, "validate_every": 1, "progress": False})
    outcome = train_point(tmp_path)
    assert outcome.status == "collapsed" and "rate has collapsed" in outcome.message
    assert outcome.steps < 60 * 4 and outcome.validation["bits"] < 16
    assert not (tmp_path / "bundle").exists() and Outcome.read(tmp_path) == outcome


def test_one_empty_validation_is_no_collapse():
    stages = recipe().stages
    watch = Watch(stages)

    def line(bits):
        return {"event": "epoch", "step": 1, "stage": stages[0].name, "val": {"bits": bits}}

    for bits in (3.0, 300.0, 3.0):
        watch(line(bits))
    with pytest.raises(Collapsed):
        watch(line(3.0))
    free = Watch((dataclasses.replace(stages[0], rate_lambda=0.0),))
    for _ in range(5):
        free(line(0.0))


def test_labels_become_folders_that_stay_apart():
    assert _folder("rate_lambda=0.5,bottleneck.channels=8") == "rate_lambda=0.5,bottleneck.channels=8"
    odd = [_folder(label) for label in ("x=a/b", "x=a b", "x=" + "y" * 300, "x=" + "y" * 301)]
    assert len(set(odd)) == 4 and all("/" not in name and len(name) <= 120 for name in odd)


@pytest.mark.parametrize(("options", "word"), [({"on": "rya"}, "Did you mean 'ray'"), ({"jobs": 0}, "at least 1")])
def test_wrong_requests(options, word, tmp_path):
    with pytest.raises(RecipeError, match=word):
        run(recipe(), tmp_path, **options)


def test_what_holds_no_sweep_has_no_finished_points(tmp_path):
    assert finished(tmp_path) == [] and finished("zoo:camvid-small") == []
    (tmp_path / "sweep.json").write_text("[]")
    assert finished(tmp_path) == []


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    from splitreg.errors import MissingExtra

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"splitreg\[ray\]"):
        run(recipe(), tmp_path, on="ray")


def test_ray_trains_the_points_and_survives_a_killed_worker(tmp_path):
    pytest.importorskip("ray")
    thread = kill_when_there_is_a_checkpoint(tmp_path / "seed=1")
    points = run(recipe(epochs=12, sweep={"seed": [1, 2]}), tmp_path, on="ray", jobs=2, device="cpu")
    thread.join(timeout=0)
    assert not thread.is_alive() and [p.outcome.status for p in points] == ["done", "done"]
    assert '"resume"' in (tmp_path / "seed=1" / "run" / "log.jsonl").read_text()
