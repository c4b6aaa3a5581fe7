"""Options that are numbers: NaN passes every range."""

import click
import pytest
from click.testing import CliRunner

from splitreg.cli.main import COMMANDS, cli


def float_options(command, path):
    for name, inner in command.commands.items() if isinstance(command, click.Group) else ():
        yield from float_options(inner, (*path, name))
    for param in command.params:
        if isinstance(param, click.Option) and isinstance(param.type, click.types.FloatParamType):
            yield (*path, param.opts[-1])


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_is_nan(name):
    command = cli.get_command(click.Context(cli), name)
    for *path, option in float_options(command, ()):
        result = CliRunner().invoke(cli, [name, *path, option, "nan"])
        assert result.exit_code == 2, option
        assert option in result.output and "NaN" in result.output
