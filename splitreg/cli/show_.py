"""``splitreg show``: one plugin and its options."""

from __future__ import annotations

import click

from splitreg.cli.tables import print_json, table
from splitreg.registry import discover


@click.command("show")
@click.argument("key", metavar="KIND:NAME")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(key: str, as_json: bool) -> None:
    """Describe a plugin and its options.

    \b
    splitreg show head:det
    splitreg show backbone:resnet50
    """
    if not key.partition(":")[2]:
        raise click.UsageError(f"expected KIND:NAME, such as head:det; got {key!r}")
    plugin = discover().describe(key)
    if as_json:
        print_json(plugin)
        return
    click.echo(f"{plugin['key']}: {plugin['summary']}")
    click.echo(f"package {plugin['package']}, class {plugin['target']}, api {plugin['api']}")
    if plugin["source"]:
        click.echo(f"source: {plugin['source']}")
    if plugin["options"]:
        click.echo("\n" + table(("option", "default"), list(plugin["options"].items())))
    click.echo("\n" + plugin["doc"])
