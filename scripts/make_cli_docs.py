"""Generate ``docs/cli.md`` from the help of the commands: ``python scripts/make_cli_docs.py``.

With ``--check``, only compare. The text is made from click's parameters and not from its rendered
help, which differs between versions of click.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from splitreg.cli.main import COMMANDS, cli

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
HEAD = """# Command line

This page is generated from the help of the commands by `scripts/make_cli_docs.py`.

- Results go to stdout, progress and messages to stderr.
- Exit status: 0 for success, 1 for failure, 2 for invalid usage, 128 + n if stopped by signal n.
- An expected error is one line. `SPLITREG_TRACEBACK=1` shows its traceback, too.

## Environment variables

| variable | meaning |
| --- | --- |
| `SPLITREG_CACHE` | folder for rendered scenes; `~/.cache/splitreg` by default |
| `SPLITREG_DATA` | folder of datasets; dataset `NAME` is searched in `$SPLITREG_DATA/NAME` |
| `SPLITREG_PLUGINS` | comma-separated packages; only their plugins are loaded |
| `SPLITREG_MQTT_PASSWORD` | password of the MQTT broker for `splitreg send --mqtt` |
| `SPLITREG_TOKEN` | token for `splitreg send` and `splitreg.edge.Client` |
| `SPLITREG_TRACEBACK` | if set, errors are shown with their traceback, also those that a plan or `check` collects |
| `SPLITREG_ZOO` | folder to use in place of the built-in model zoo |
"""


def page() -> str:
    """Return the whole page."""
    context = click.Context(cli, info_name="splitreg")
    commands = [(name, cli.get_command(context, name)) for name in COMMANDS]
    sections = [section(*item) for name, command in commands if command for item in flat(name, command)]
    return "\n".join([HEAD, *sections])


def flat(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and, for a group, its subcommands."""
    yield name, command
    if isinstance(command, click.Group):
        for subname, subcommand in command.commands.items():
            yield from flat(f"{name} {subname}", subcommand)


def section(name: str, command: click.Command) -> str:
    """Return the section of one command: usage, description, options, examples."""
    context = click.Context(command, info_name=f"splitreg {name}")
    usage = " ".join([f"splitreg {name}", *command.collect_usage_pieces(context)])
    text, _, examples = inspect.cleandoc(command.help or "").partition("\b\n")
    lines = [f"## splitreg {name}", "", f"`{usage}`", "", text.strip(), ""]
    options = [
        parameter for parameter in command.params if isinstance(parameter, click.Option) and not parameter.hidden
    ]
    if options:
        lines += ["| option | meaning | default |", "| --- | --- | --- |", *map(row, options), ""]
    if examples.strip():
        lines += ["```sh", *(line.strip() for line in examples.strip().splitlines()), "```", ""]
    return "\n".join(lines)


def row(option: click.Option) -> str:
    """Return the table row of an option."""
    value = "" if option.is_flag else f" {option.metavar or (option.type.name or '').upper()}"
    text, _, default = (option.help or "").partition("[default:")
    default = default.rstrip(" ]") or (str(option.default) if option.show_default else "")
    if option.required:
        default = "required"
    cells = (f"`{', '.join([*option.opts, *option.secondary_opts])}{value}`", text.strip(), default.strip())
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> None:
    """Write the page, or compare it."""
    text = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            sys.exit(f"{PAGE.name} is not up to date; run python scripts/make_cli_docs.py")
        return
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
