"""Write ``docs/cli.md`` from the command line's own help: ``python scripts/make_cli_docs.py`` (``--check``: only compare).

The text is made from click's parameters, not from its rendered help, which differs from version to version.
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

Made by `scripts/make_cli_docs.py` from the commands themselves. stdout is the result, stderr is talk. Exit status 0
is done, 1 is failure, 2 is misuse, 128 + n is a run stopped by signal n. An expected error is one line;
`SPLITREG_TRACEBACK=1` shows where an unexpected one came from.
"""


def page() -> str:
    """Return the whole page."""
    context = click.Context(cli, info_name="splitreg")
    commands = [(name, cli.get_command(context, name)) for name in COMMANDS]
    parts = [HEAD, *(section(*found) for name, command in commands if command for found in flat(name, command))]
    return "\n".join(parts)


def flat(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and, of a group, its own commands."""
    yield name, command
    for below, found in command.commands.items() if isinstance(command, click.Group) else ():
        yield from flat(f"{name} {below}", found)


def section(name: str, command: click.Command) -> str:
    """Return one command: its usage, what it does, its options, its examples."""
    context = click.Context(command, info_name=f"splitreg {name}")
    usage = " ".join([f"splitreg {name}", *command.collect_usage_pieces(context)])
    text, _, examples = inspect.cleandoc(command.help or "").partition("\b\n")
    lines = [f"## splitreg {name}", "", f"`{usage}`", "", text.strip(), ""]
    options = [
        parameter for parameter in command.params if isinstance(parameter, click.Option) and not parameter.hidden
    ]
    if options:
        lines += ["| option | | default |", "| --- | --- | --- |", *map(row, options), ""]
    if examples.strip():
        lines += ["```sh", *(line.strip() for line in examples.strip().splitlines()), "```", ""]
    return "\n".join(lines)


def row(option: click.Option) -> str:
    """Return the table row of an option."""
    value = "" if option.is_flag else f" {option.metavar or (option.type.name or '').upper()}"
    help_, _, default = (option.help or "").partition("[default:")
    default = default.rstrip(" ]") if default else str(option.default) if option.show_default else ""
    if option.required:
        default = "required"
    cells = (f"`{', '.join(option.opts)}{value}`", help_.strip(), default.strip())
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> None:
    """Write or compare."""
    fresh = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != fresh:
            sys.exit(f"{PAGE.name} is not up to date; run python scripts/make_cli_docs.py")
        return
    PAGE.write_text(fresh, encoding="utf-8")


if __name__ == "__main__":
    main()
