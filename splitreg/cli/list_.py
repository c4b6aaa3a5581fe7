"""``splitreg list``: installed plugins, and the model zoo; torch is imported for ``--all`` only."""

from __future__ import annotations

from typing import Any

import click

from splitreg.cli.tables import print_json, table
from splitreg.registry import discover
from splitreg.specs import KINDS


@click.command("list")
@click.argument("kind", required=False)
@click.option("--all", "everything", is_flag=True, help="Also list members of families, e.g. all timm models.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(kind: str | None, everything: bool, as_json: bool) -> None:
    """List installed plugins, or the model zoo.

    KIND is backbone, bottleneck, codec, head, dataset, objective or target; all kinds by default. KIND "zoo" lists the
    bundles and recipes that every command accepts by name.

    \b
    splitreg list
    splitreg list head --json
    splitreg list zoo
    """
    if kind == "zoo":
        _list_zoo(as_json)
        return
    if kind is not None and kind not in KINDS and kind.removesuffix("s") in KINDS:
        kind = kind.removesuffix("s")
    rows = discover().catalogue(kind or None, members=everything)
    if as_json:
        print_json(rows)
        return
    header = ("kind", "name", "package", "summary")
    click.echo(table(header, [[row[key] for key in header] for row in rows]))


def _list_zoo(as_json: bool) -> None:
    from splitreg.zoo import catalogue

    rows = catalogue()
    if as_json:
        print_json(rows)
        return
    bundles = [row for row in rows if row["kind"] == "bundle"]
    header = ("bundle", "heads", "data", "bytes per image", "metrics", "size")
    click.echo(table(header, map(_bundle_cells, bundles)))
    recipes = [(row["name"], row["summary"]) for row in rows if row["kind"] == "recipe"]
    click.echo("\n" + table(("recipe", "summary"), recipes))


def _bundle_cells(row: dict[str, Any]) -> tuple[str, ...]:
    metrics = []
    for head, values in row["metrics"].items():
        name = next(iter(values), None)
        if name is not None:
            metrics.append(f"{head} {name} {values[name]:.3f}")
    size = row["packet_bytes"]
    return (
        row["name"], ",".join(row["heads"]), ",".join(row["data"]), "-" if size is None else f"{size:,.0f}",
        ", ".join(metrics) or "-", f"{row['disk_bytes'] / 1e6:.1f} MB",
    )  # fmt: skip
