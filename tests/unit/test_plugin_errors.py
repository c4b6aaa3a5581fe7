"""An error that comes out of a plugin names package, plugin, file and line."""

import os
import subprocess
import sys

import numpy as np
import pytest
from support import third_party

from splitreg.assembly import plan
from splitreg.components import Component
from splitreg.errors import BrokenComponent, MissingExtra, PlanError, RecipeError
from splitreg.registry import discover
from splitreg.testing import run

CODEC = """
import numpy as np
from splitreg.coding import Codec
from splitreg.errors import RecipeError

class Bad(Codec):
    def __init__(self, *, level=1):
        if level == 2:
            raise RecipeError("level 2 is not a level")
        if level == 3:
            {}["level"]

    def encode(self, symbols, model):
        return self._helper(symbols)

    def _helper(self, symbols):
        return symbols.no_such_attribute

    def decode(self, payload, shape, model):
        return self._helper(payload)
"""
HEAD = """
from splitreg.interfaces import Head

class BadHead(Head):
    task = "classification"

    @classmethod
    def select(cls, available):
        return available[99]

    forward = loss = predict = truth = metric = None
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    third_party.write_package(
        tmp_path,
        {"codec": CODEC, "head": HEAD, "broken": "x = 1\ny = x.z\n", "needy": "\n\nimport surely_not_installed\n"},
        {
            "codec": {"bad": "codec:Bad", "broken": "broken:A", "needy": "needy:A"},
            "head": {"bad": "head:BadHead"},
        },
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    discover.cache_clear()
    yield tmp_path
    discover.cache_clear()
    third_party.forget()


def line_of(source, text):
    return 1 + next(i for i, line in enumerate(source.splitlines()) if text in line)


def test_an_import_that_fails(package):
    with pytest.raises(BrokenComponent, match=r"codec:broken.*acme-split.*'z'.*acme_split/broken\.py:2"):
        discover().component("codec", "broken")
    with pytest.raises(MissingExtra, match=r"codec:needy.*acme-split.*surely_not_installed.*acme_split/needy\.py:3"):
        discover().component("codec", "needy")


def test_a_constructor_that_fails(package):
    place = rf"acme_split/codec\.py:{line_of(CODEC, '{}[')}"
    with pytest.raises(RecipeError, match=f"codec 'bad'.*acme-split.*KeyError.*{place}"):
        discover().create("codec", "bad", options={"level": 3})


def test_the_plan_says_where_and_keeps_the_causes(package):
    with pytest.raises(PlanError) as caught:
        plan(
            backbone="resnet18",
            bottleneck="quantise",
            codec={"name": "bad", "level": 2},
            heads=[{"name": "bad", "labels": 2}],
        )
    codec, head = caught.value.problems
    assert "level 2 is not a level" in codec and "codec:bad" in codec and "acme-split" in codec
    assert f"acme_split/codec.py:{line_of(CODEC, 'level 2')}" in codec
    assert "head:bad" in head and f"acme_split/head.py:{line_of(HEAD, 'available[99]')}" in head
    assert len(caught.value.__cause__.exceptions) == 2


def test_check_says_where_also_out_of_a_child_process(package):
    place = f"acme_split/codec.py:{line_of(CODEC, 'no_such_attribute')}"
    results = {result.name: result for result in run("codec", "bad")}
    for name in ("deterministic bytes", "round trip", "random payloads"):
        assert not results[name].passed
        assert place in results[name].reason and "acme-split" in results[name].reason
        assert "no_such_attribute" in results[name].traceback


@pytest.mark.integration
@pytest.mark.parametrize("debug", [False, True])
def test_the_command_line_shows_tracebacks_on_demand(package, debug):
    environment = {**os.environ, **({"SPLITREG_TRACEBACK": "1"} if debug else {})}
    for arguments in (
        ["build", "--backbone", "resnet18", "--bottleneck", "quantise", "--codec", "bad", "--set", "codec.level=3",
         "--heads", "recon", "--dry-run"],
        ["check", "codec:bad"],
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "splitreg", *arguments], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 1, done.stderr
        assert "acme_split/codec.py:" in done.stdout + done.stderr
        assert ("Traceback" in done.stderr) == debug


def test_an_unexpected_error_is_reported_to_the_package(package, capsys, monkeypatch):
    from splitreg.cli import main as module

    def fail(**_):
        discover().create("codec", "bad", options={}).encode(3, None)

    monkeypatch.delenv("SPLITREG_TRACEBACK", raising=False)
    monkeypatch.setattr(module.cli, "main", fail)
    with pytest.raises(SystemExit):
        module.main()
    message = capsys.readouterr().err
    assert "codec:bad" in message and "report it to acme-split" in message and "acme_split/codec.py" in message


class Annotated:
    """A plugin with options of plain types."""

    def __init__(
        self, count: int, *, share: float = 0.5, name: str | None = None, on: bool = False, sizes: tuple[int, ...] = ()
    ) -> None:
        self.values = count, share, name, on, sizes


@pytest.mark.parametrize(("option", "value", "wanted"), [
    ("count", "3", "int"), ("count", 1.5, "int"), ("count", True, "int"), ("share", "a", "float"), ("share", [1], "float"),
    ("name", 3, "str or None"), ("on", 1, "bool"),
])  # fmt: skip
def test_options_of_a_wrong_type_are_named(option, value, wanted):
    component = Component(kind="codec", name="own", cls=Annotated)
    with pytest.raises(RecipeError, match=rf"codec 'own': {option} must be {wanted}, got"):
        component.create(options={"count": 3, option: value})


def test_options_of_the_right_type_or_of_another_kind_pass():
    component = Component(kind="codec", name="own", cls=Annotated)
    options = {"count": np.int64(3), "share": 1, "name": None, "on": True, "sizes": "the class checks it"}
    assert component.create(options=options).values == (3, 1, None, True, "the class checks it")
