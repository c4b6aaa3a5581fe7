"""Generated packages of every kind, installed by pip, pass splitreg check, their own tests, and mypy as they are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from splitreg.scaffold import NEW_KINDS, new_plugin

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Packages ``gen-KIND``, and ``site``, where they are installed."""
    folder = tmp_path_factory.mktemp("new")
    for kind in NEW_KINDS:
        new_plugin(f"gen-{kind}", kind, folder=folder / kind)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    packages = [folder / kind for kind in NEW_KINDS]
    done = subprocess.run([*command, "--target", folder / "site", *packages], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def run(place, *arguments, **options):
    path = os.pathsep.join(filter(None, [str(place / "site"), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_they_are_listed(place):
    rows = json.loads(run(place, "-m", "splitreg", "list", "--json"))
    listed = {(row["kind"], row["name"]) for row in rows if row["package"].startswith("splitreg-plugin-gen-")}
    own = {("head", "gen-prediction"), ("dataset", "gen-prediction-images")}
    assert listed == {(kind, f"gen-{kind}") for kind in NEW_KINDS if kind != "prediction"} | own
    assert all(row["status"] == "ok" for row in rows)


@pytest.fixture(scope="module")
def checked(place):
    """Kind -> rows of ``splitreg check``; one process, which imports torch once."""
    code = f"""
import contextlib, io, json
from splitreg.cli.main import cli
rows = {{}}
for kind in {NEW_KINDS!r}:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        cli.main(["check", "splitreg-plugin-gen-" + kind, "--json"])
    rows[kind] = json.loads(out.getvalue())
print(json.dumps(rows))
"""
    return json.loads(run(place, "-c", code).splitlines()[-1])


@pytest.mark.parametrize("kind", NEW_KINDS)
def test_they_pass_splitreg_check(checked, kind):
    rows = checked[kind]
    assert rows and all(row["passed"] for row in rows), [row for row in rows if not row["passed"]]
    skipped = {row["check"] for row in rows if row["reason"].startswith("skipped")}
    assert skipped <= {"loss of empty targets", "metric of empty targets"}
    assert not [row for row in rows if row["check"] == "predictions travel" and row["reason"]]


def test_their_own_tests_pass(place):
    folders = [place / kind / "tests" for kind in NEW_KINDS]
    (place / "pytest.ini").write_text("[pytest]\n")
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "--import-mode=importlib"]
    assert " passed" in run(place, "-m", "pytest", *options, *folders, cwd=place)


def test_mypy_accepts_all_of_them(place):
    """One run, with the configuration that every package has; only errors of the packages count."""
    env = {**os.environ, "MYPYPATH": os.pathsep.join([str(ROOT), *(str(place / kind) for kind in NEW_KINDS)])}
    packages = [part for kind in NEW_KINDS for part in ("-p", f"splitreg_gen_{kind}")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", place / "cache", "--follow-imports=silent", *packages],
        cwd=place / "codec", capture_output=True, text=True, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
