"""The files in ``deploy/``: they name commands, options and extras that exist."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import click
import pytest
import yaml

from splitreg.cli.main import cli

DEPLOY = Path(__file__).parents[2] / "deploy"
EXTRAS = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def check_arguments(name, arguments):
    command = cli.get_command(click.Context(cli), name)
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {item for item in arguments if item.startswith("--")} <= known


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("Dockerfile.*")), ids=lambda path: path.name)
def test_dockerfiles_name_extras_and_options_that_exist(path):
    text = path.read_text()
    assert set(re.findall(r"/source\[(\w+)\]", text)) <= set(EXTRAS) and "USER splitreg" in text
    name = re.search(r'ENTRYPOINT \["splitreg", "(\w+)"\]', text)[1]
    check_arguments(name, re.findall(r'"(--[\w-]+)"', text))


def test_the_composition_uses_secrets_and_options_that_exist():
    table = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for service in table["services"].values():
        assert (DEPLOY.parent / service["build"]["dockerfile"]).is_file()
        assert set(service["secrets"]) <= set(table["secrets"])
    check_arguments("send", table["services"]["device"]["command"])


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("*.service")), ids=lambda path: path.name)
def test_units_are_valid(path, tmp_path):
    text = path.read_text()
    start = re.search(r"ExecStart=(.*)", text)[1]
    check_arguments(shlex.split(start)[1], shlex.split(start))
    if shutil.which("systemd-analyze"):
        copy = tmp_path / path.name  # the command of the unit is not installed here
        copy.write_text(text.replace(shlex.split(start)[0], "/bin/true"))
        done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
        assert done.returncode == 0 and path.name not in done.stderr, done.stderr
