"""``splitreg show``: one plugin and its options."""

from __future__ import annotations

import textwrap

import click

from splitreg.cli.tables import print_json, table
from splitreg.errors import DataError
from splitreg.registry import discover
from splitreg.specs import KINDS


@click.command("show")
@click.argument("key", metavar="KIND:NAME")
@click.option("--root", type=click.Path(exists=True), help="Say what a dataset finds in this folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(key: str, root: str | None, as_json: bool) -> None:
    """Describe a plugin and its options, or a dataset's folder.

    \b
    splitreg show head:det
    splitreg show dataset:yolo --root my-images
    """
    kind, _, name = key.partition(":")
    if not name:
        same = [row["kind"] for row in discover().catalogue(None) if row["name"] == key]
        if len(same) != 1:
            near = f": {' or '.join(f'{each}:{key}' for each in same)}" if same else ", such as head:det"
            raise click.UsageError(f"expected KIND:NAME{near}; got {key!r}")
        kind, name = same[0], key
    kind = kind if kind in KINDS else kind.removesuffix("s")
    key = f"{kind}:{name}"
    if root is not None:
        _show_folder(kind, name, root, as_json)
        return
    plugin = discover().describe(key)
    if as_json:
        print_json(plugin)
        return
    click.echo(f"{plugin['key']}: {plugin['summary']}")
    click.echo(f"package {plugin['package']}, class {plugin['target']}, api {plugin['api']}")
    if plugin["source"]:
        click.echo(f"source: {plugin['source']}")
    if plugin["options"]:
        click.echo("\n" + table(("option", "default", "meaning"), _rows(plugin["options"], plugin["meanings"])))
    click.echo("\n" + _without_arguments(plugin["doc"]))


def _rows(options: dict[str, str], meanings: dict[str, str]) -> list[tuple[str, str, str]]:
    """Return the rows of the table; a long meaning takes several."""
    rows = []
    for name, default in options.items():
        first, *more = textwrap.wrap(meanings[name], 72) or [""]
        rows += [(name, default, first), *(("", "", line) for line in more)]
    return rows


def _without_arguments(doc: str) -> str:
    """Return a docstring without the section whose lines are in the table."""
    paragraphs = doc.split("\n\n")
    return "\n\n".join(paragraph for paragraph in paragraphs if not paragraph.startswith("Args:"))


def _show_folder(kind: str, name: str, root: str, as_json: bool) -> None:
    from splitreg.data.recognition import describe_folder, hint

    if kind != "dataset":
        raise click.UsageError(f"--root is the folder of a dataset, {kind}:{name} is not one")
    line = describe_folder(name, root)
    if line is None:
        raise DataError(f"{root} does not have the layout of the dataset {name!r}.{hint(root, name)}")
    if as_json:
        print_json({"key": f"dataset:{name}", "root": root, "content": line})
    else:
        click.echo(line)
