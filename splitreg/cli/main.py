"""The command ``splitreg``: one module per subcommand, imported on use.

Results go to stdout, progress and messages to stderr. Exit status: 0 for success, 1 for failure, 2 for
invalid usage. An expected error is one line.
"""

from __future__ import annotations

import importlib
import io
import math
import os
import sys
import traceback
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from splitreg.registry import PluginOrigin

COMMANDS = (
    "list", "show", "data", "init", "new", "build", "train", "sweep", "search", "eval", "bench", "report", "choose", "escalate",
    "audit", "predict", "encode", "edge", "infer", "serve", "send", "watch", "inspect", "import", "publish", "verify", "check",
    "demo", "bridge", "fit-context",
)  # fmt: skip


class LazyGroup(click.Group):
    """Imports the module of a subcommand on use, so that other commands start fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the subcommands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the subcommand."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"splitreg.cli.{cmd_name.replace('-', '_')}_").command
        _refuse_nan(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest near names for an unknown subcommand."""
        from splitreg.errors import suggest

        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            hint = suggest(args[0], COMMANDS) if args else ""
            raise click.UsageError(error.message + hint, ctx) from error


def _refuse_nan(command: click.Command) -> None:
    """Let no option of a command be NaN: it passes every range, and compares as neither too large nor too small."""
    for part in command.commands.values() if isinstance(command, click.Group) else ():
        _refuse_nan(part)
    for param in command.params:
        if isinstance(param.type, click.types.FloatParamType) and param.callback is None:
            param.callback = _not_nan


def _not_nan(context: click.Context, param: click.Parameter, value: Any) -> Any:
    if any(isinstance(item, float) and math.isnan(item) for item in (value if isinstance(value, tuple) else (value,))):
        raise click.BadParameter("NaN is no number", context, param)
    return value


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="splitreg")
def cli() -> None:
    """Assemble, train, publish and run split models.

    \b
    splitreg demo
    splitreg build --backbone resnet50 --heads det,seg --dry-run
    """


def main() -> None:
    """Run the command; an expected error is one line on stderr."""
    from splitreg.errors import SplitregError, TrainingInterrupted

    if not sys.warnoptions:  # users cannot act on warnings of libraries about each other
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # without the line of the source
    debug = bool(os.environ.get("SPLITREG_TRACEBACK"))
    _escape_output()
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except TrainingInterrupted as error:
        click.echo(str(error), err=True)
        sys.exit(128 + error.signal)
    except SplitregError as error:
        if debug:
            traceback.print_exception(error)
        _fail(f"{error}{_third_party(error)}")
    except BrokenPipeError:  # splitreg list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ModuleNotFoundError as error:
        if debug or (error.name or "").split(".")[0] in ("splitreg", ""):
            raise
        _fail(f"{error.name} is not installed; pip install 'splitreg[full]'{_third_party(error)}")
    except OSError as error:  # a full disk, a folder without permission
        if debug:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or error}")
    except Exception as error:
        if debug:
            raise
        origin = _origin(error)
        place, owner = ("unexpected", "") if origin is None else (f"in {origin}", f" to {origin.package}")
        hint = f"{place}; SPLITREG_TRACEBACK=1 shows the traceback, please report it{owner}"
        _fail(f"{type(error).__name__}: {error} ({hint})")


def _origin(error: BaseException) -> PluginOrigin | None:
    """Return the plugin whose code an error came from; a failing look-up must not hide the error."""
    from splitreg.registry import discover

    try:
        return discover().origin(error)
    except Exception:
        return None


def _third_party(error: BaseException) -> str:
    """Return where an expected error of a third-party plugin came from."""
    origin = _origin(error)
    return "" if origin is None or origin.package == "splitreg" else f" ({origin})"


def _escape_output() -> None:
    """Escape characters that the terminal's encoding lacks, such as names of files on a cp1252 terminal."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    sys.exit(1)
