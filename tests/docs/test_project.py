"""Checks files that describe the project: README, navigation, citation, changelog, CI."""

import ast
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import splitreg

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def command_blocks():
    """Return the ``sh`` blocks of the README as lists of commands."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [[shlex.split(line) for line in block.splitlines()] for block in blocks]


def test_the_first_block_of_the_readme_installs_and_runs_the_demo():
    assert command_blocks()[0] == [["pip", "install", ".[full]"], ["splitreg", "demo"]]


def test_the_second_block_of_the_readme_installs_and_runs_the_tests():
    install, test = command_blocks()[1]
    assert install == ["pip", "install", "-e", ".[full,test]"]
    assert test[:3] == ["python", "-m", "pytest"]


def test_ci_runs_the_checks_and_the_second_block_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "scripts/check\n" in script and "README.md" in script
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert {"run": ".ci/run"} in workflow["jobs"]["ci"]["steps"]


def test_the_readme_has_one_image_and_lists_plugins_that_exist():
    from splitreg.registry import discover

    assert README.count("![") == 1
    listing = README.partition("$ splitreg list\n")[2].partition("```")[0]
    rows = [line.split()[:2] for line in listing.splitlines()[2:] if line != "..."]
    assert rows and all(name in discover()[kind] for kind, name in rows)


def test_the_results_of_the_readme_are_those_of_the_results_page():
    table = README.partition("\n## Results\n")[2].partition("\n## ")[0]
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    rows = [line for line in table.splitlines() if re.match(r"\|.*\d", line)]
    for row in rows:
        figures = re.findall(r"(?<=\| )[\d,.]+(?= \|)", row)
        assert any(all(f" {figure} " in line for figure in figures) for line in results.splitlines()), row
    assert len(rows) > 3


def nav_pages(entries):
    for entry in entries:
        for item in entry.values() if isinstance(entry, dict) else [entry]:
            if isinstance(item, list):
                yield from nav_pages(item)
            else:
                yield item


def test_every_page_is_in_the_navigation():
    nav = list(nav_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= set(nav)
    assert len(nav) == len(set(nav))


def test_the_version_has_one_source():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"] and "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "splitreg.__version__"}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == splitreg.__version__


def test_an_older_python_is_refused_with_the_oldest_supported_one(monkeypatch):
    with (ROOT / "pyproject.toml").open("rb") as file:
        oldest = tomllib.load(file)["project"]["requires-python"].removeprefix(">=")
    source = Path(splitreg.__file__).read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 6))  # else a SyntaxError would hide the reason
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    with pytest.raises(ImportError, match=rf"{re.escape(oldest)}.* 3\.9"):
        exec(compile(source, "splitreg", "exec"), {"__name__": "splitreg_old"})


def test_the_changelog_has_the_version_and_its_date():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (.+)$", changelog, re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert titles[:2] == ["[Unreleased]", f"[{splitreg.__version__}] - {citation['date-released']}"]


def environment_variables():
    for folder in ("splitreg", "plugins"):
        for path in (ROOT / folder).rglob("*.py"):
            yield from re.findall(r"SPLITREG_[A-Z_]+", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("variable", sorted(set(environment_variables())))
def test_every_environment_variable_is_documented(variable):
    assert f"`{variable}`" in (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
