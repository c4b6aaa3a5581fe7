"""``splitreg new``: scaffolds."""

from __future__ import annotations

import click

#: literal, so that --help imports nothing
_KINDS = ("backbone", "bottleneck", "codec", "head", "dataset", "objective", "target", "prediction")


@click.group("new")
def command() -> None:
    """Create a plugin package that works as it is.

    \b
    splitreg new plugin my-head
    splitreg new plugin my-codec --kind codec
    """


@command.command("plugin")
@click.argument("name")
@click.option("--kind", default="head", show_default=True, metavar="KIND", help=f"Kind of plugin: {', '.join(_KINDS)}.")
@click.option("-o", "--output", metavar="DIR", type=click.Path(), help="Folder.  [default: splitreg-plugin-NAME]")
def plugin(name: str, kind: str, output: str | None) -> None:
    """Create a package with a plugin, tests, types and README.

    The package passes splitreg check, pytest, ruff and mypy as it is: change it step by step, and run them again.
    Kind "prediction" is a task of its own: prediction, target, head, metric and dataset. NAME is the name in recipes.
    Nothing is overwritten.

    \b
    splitreg new plugin my-head
    splitreg new plugin gauge --kind prediction -o gauge
    """
    from splitreg.scaffold import new_plugin

    files = new_plugin(name, kind, folder=output)
    place = files[0].parent
    for path in files:
        click.echo(str(path))
    click.echo(f"next: pip install -e '{place}[test]' && splitreg check splitreg-plugin-{name}", err=True)
