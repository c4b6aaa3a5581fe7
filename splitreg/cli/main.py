"""The command ``splitreg``: one file per subcommand, imported when it is called.

stdout is the result, stderr is talk; exit 0 is done, 1 is failure, 2 is misuse. An expected error is one line.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings

import click

COMMANDS = (
    "list", "show", "build", "train", "sweep", "eval", "bench", "encode", "edge", "infer", "serve", "send",
    "inspect", "import", "publish", "verify", "check", "demo",
)  # fmt: skip


class LazyGroup(click.Group):
    """Imports a subcommand's module when it is asked for, so that listing stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the subcommands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the subcommand."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"splitreg.cli.{cmd_name}_").command
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


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="splitreg")
def cli() -> None:
    """Assemble, train, publish and run models that are cut between a device and a server.

    \b
    splitreg demo
    splitreg build --backbone resnet50 --heads det,seg --dry-run
    """


def main() -> None:
    """Run the command; a ``SplitregError`` becomes one line on stderr."""
    from splitreg.errors import SplitregError, TrainingInterrupted

    if not sys.warnoptions:  # warnings of libraries about each other are not the user's business
        warnings.filterwarnings("ignore", category=FutureWarning)
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
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:  # splitreg list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("splitreg", "") or os.environ.get("SPLITREG_TRACEBACK"):
            raise
        click.echo(f"Error: this needs {error.name}, which is not installed; pip install 'splitreg[full]'", err=True)
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that may not be read
        if os.environ.get("SPLITREG_TRACEBACK"):
            raise
        place = f"{error.filename}: " if error.filename else ""
        click.echo(f"Error: {place}{error.strerror or error}", err=True)
        sys.exit(1)
    except Exception as error:
        if os.environ.get("SPLITREG_TRACEBACK"):
            raise
        click.echo(
            f"Error: {type(error).__name__}: {error} (unexpected; SPLITREG_TRACEBACK=1 shows where, please report it)",
            err=True,
        )
        sys.exit(1)
