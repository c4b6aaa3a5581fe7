"""The help of every command."""

import click
import pytest

from splitreg.cli.main import COMMANDS, cli


def commands():
    """Yield the name of every command and subcommand, and the command."""
    context = click.Context(cli, info_name="splitreg")
    for name in COMMANDS:
        command = cli.get_command(context, name)
        yield name, command
        if isinstance(command, click.Group):
            for subname, subcommand in command.commands.items():
                yield f"{name} {subname}", subcommand


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda item: item if isinstance(item, str) else "")
def test_the_first_sentence_is_not_cut(name, command):
    first = command.help.partition("\n\n")[0]
    assert "." in first and len(first.partition(". ")[0]) <= 60, f"splitreg {name}: {first!r}"
    assert not command.get_short_help_str(60).endswith("..."), f"splitreg {name}"


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda item: item if isinstance(item, str) else "")
def test_every_option_has_a_help_text(name, command):
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name != "help":
            assert parameter.help, f"splitreg {name} {parameter.opts[0]}"


def test_the_overview_fits_80_columns():
    text = cli.get_help(click.Context(cli, info_name="splitreg", terminal_width=80))
    for name, command in commands():
        if " " not in name:
            assert command.get_short_help_str(60) in " ".join(text.split()), f"splitreg {name}"
