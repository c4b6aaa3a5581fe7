"""New plugin packages: names, what is refused, and that nothing is written then."""

import ast
import subprocess
import sys
import tomllib

import pytest
from click.testing import CliRunner

from splitreg.cli.main import cli
from splitreg.errors import ScaffoldError
from splitreg.scaffold import NEW_KINDS, new_plugin
from splitreg.scaffold.plugin import MAX_NAME
from splitreg.specs import KINDS

LONGEST = "abcdefgh-jklmnopqrstuvwx"


def test_there_is_a_template_for_every_kind():
    assert set(KINDS) <= set(NEW_KINDS) and len(LONGEST) == MAX_NAME


@pytest.mark.parametrize("kind", NEW_KINDS)
@pytest.mark.parametrize("name", ["q", LONGEST, "x2-y3"])
def test_files_are_valid_and_formatted(tmp_path, kind, name):
    files = new_plugin(name, kind, folder=tmp_path / "new")
    assert all(path.is_file() for path in files)
    project = tomllib.loads((tmp_path / "new" / "pyproject.toml").read_text())
    assert project["project"]["name"] == f"splitreg-plugin-{name}"
    groups = project["project"]["entry-points"]
    assert name in groups[f"splitreg.{kind}"]
    package = project["tool"]["setuptools"]["packages"][0]
    for points in groups.values():
        for point in points.values():
            module, _, attribute = point.partition(":")
            tree = ast.parse((tmp_path / "new" / f"{module.replace('.', '/')}.py").read_text())
            defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
            defined |= {t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets}
            assert attribute in defined
    assert (tmp_path / "new" / package / "py.typed").is_file()
    for command in (("check",), ("format", "--check")):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "."],
            cwd=tmp_path / "new", capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "name", ["", "My", "a_b", "a--b", "-a", "a-", "3d", "a b", "a/b", "../a", "ä", LONGEST + "y", "a\n"]
)
def test_a_name_that_is_not_valid_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScaffoldError, match=str(MAX_NAME)):
        new_plugin(name, "codec")
    assert not list(tmp_path.iterdir())


def test_an_unknown_kind_gets_a_near_name(tmp_path):
    with pytest.raises(ScaffoldError, match="'codec'"):
        new_plugin("mine", "codecs", folder=tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "kind", "owner"), [("rans", "codec", "splitreg"), ("timm", "head", "splitreg_timm")])
def test_names_that_are_taken_are_refused(tmp_path, name, kind, owner):
    with pytest.raises(ScaffoldError, match=owner):
        new_plugin(name, kind, folder=tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", ["file", "folder", "link"])
def test_nothing_is_overwritten(tmp_path, make):
    place = tmp_path / "new"
    if make == "file":
        place.write_text("mine")
    elif make == "folder":
        place.mkdir()
    else:
        place.symlink_to(tmp_path / "missing")
    with pytest.raises(ScaffoldError, match="new"):
        new_plugin("mine", folder=place)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert make != "file" or place.read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_a_typed_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ScaffoldError, match="file"):
        new_plugin("mine", folder=tmp_path / "file" / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_command_prints_files_and_what_to_do_next(tmp_path):
    place = tmp_path / "deep" / "er"
    done = CliRunner().invoke(cli, ["new", "plugin", "mine", "--kind", "codec", "-o", str(place)])
    assert done.exit_code == 0, done.output
    assert str(place / "pyproject.toml") in done.stdout.splitlines()
    assert f"pip install -e '{place}[test]'" in done.stderr and "splitreg check splitreg-plugin-mine" in done.stderr


def test_the_commands_kinds_are_those_of_the_function():
    from splitreg.cli.new_ import _KINDS

    assert tuple(_KINDS) == NEW_KINDS
