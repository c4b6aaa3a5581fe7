"""Where a run is, if the command does not say it."""

import os
from pathlib import Path

import pytest

from splitreg.cli.resuming import RunCommand, run_folder
from splitreg.errors import TrainingError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def start(recipe, output=None):
    folder = run_folder(recipe, output, resume=False)
    RunCommand(recipe=Path(recipe).stem, options={"output": output}).write(folder)
    return folder


def test_each_bundle_of_a_recipe_has_a_run_of_its_own():
    assert start("recipes/own.toml") == Path("runs/own")
    assert start("recipes/own.toml", "models/first") == Path("runs/first")
    assert start("recipes/own.toml", "second") == Path("runs/second")


def test_the_bundle_and_the_run_are_never_one_folder():
    assert run_folder("own.toml", "runs/first", resume=False) == Path("runs/runs-first")
    assert run_folder("own.toml", ".", resume=False) == Path("runs") / Path.cwd().name


def test_bundles_of_the_same_name_have_runs_of_their_own():
    assert start("own.toml", "first/bundle") == Path("runs/bundle")
    assert start("own.toml", "second/bundle") == Path("runs/second-bundle")
    for resume in (False, True):
        assert run_folder("own.toml", "first/bundle", resume=resume) == Path("runs/bundle")
        assert run_folder("own.toml", str(Path("second/bundle").resolve()), resume=resume) == Path("runs/second-bundle")


def test_a_run_is_found_without_its_bundle():
    assert run_folder("own.toml", None, resume=True) == Path("runs/own")  # none yet
    start("other.toml", "unrelated")
    first = start("own.toml", "first")
    assert run_folder("folder/own.toml", None, resume=True) == first
    assert run_folder("own.toml", "elsewhere", resume=True) == first
    second = start("own.toml", "second")
    assert run_folder("own.toml", "second", resume=True) == second
    for output in (None, "elsewhere"):
        with pytest.raises(TrainingError, match="runs/first, runs/second.*--run"):
            run_folder("own.toml", output, resume=True)
    start("own.toml")
    assert run_folder("own.toml", None, resume=True) == Path("runs/own")


def test_a_run_that_is_not_finished_comes_first():
    first = start("own.toml", "first")
    start("own.toml", "second")
    Path("second").mkdir()
    Path("second/config.json").write_text("{}")
    assert run_folder("own.toml", None, resume=True) == first
    os.utime("second/config.json", (0, 0))  # a bundle from before the run
    with pytest.raises(TrainingError, match="several runs"):
        run_folder("own.toml", None, resume=True)
    for name in ("first", "second"):
        Path(name).mkdir(exist_ok=True)
        Path(name, "config.json").write_text("{}")
    with pytest.raises(TrainingError, match="several runs"):
        run_folder("own.toml", None, resume=True)


def test_a_damaged_run_is_not_a_candidate():
    folder = start("own.toml", "first")
    (folder / "command.json").write_text("{")
    assert run_folder("own.toml", None, resume=True) == Path("runs/own")
    with pytest.raises(TrainingError, match=r"command\.json"):
        RunCommand.read(folder)


def test_a_command_of_before_has_no_recipe():
    Path("runs/old").mkdir(parents=True)
    Path("runs/old/command.json").write_text('{"overrides": ["seed=1"], "options": {}}')
    assert RunCommand.read(Path("runs/old")) == RunCommand(overrides=("seed=1",))
