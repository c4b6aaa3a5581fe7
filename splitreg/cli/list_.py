"""``splitreg list``: what is installed (names and specs; never imports torch unless ``--all`` asks the families)."""

from __future__ import annotations

from typing import Any

import click

from splitreg.cli.tables import print_json, table
from splitreg.errors import RegistryError
from splitreg.registry import discover
from splitreg.specs import KINDS


@click.command("list")
@click.argument("kind", required=False)
@click.option("--all", "everything", is_flag=True, help="Name every member of the families, e.g. all timm models.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(kind: str | None, everything: bool, as_json: bool) -> None:
    """List the installed plugins, of one KIND or of all: backbone, bottleneck, codec, head, dataset, objective.

    KIND "zoo" lists the bundles and recipes that every command takes by name.

    \b
    splitreg list
    splitreg list head --json
    splitreg list zoo
    """
    if kind == "zoo":
        _list_zoo(as_json)
        return
    registry = discover()
    if kind is not None and kind not in KINDS and kind.removesuffix("s") in KINDS:
        kind = kind.removesuffix("s")
    rows = []
    for name in [kind] if kind else KINDS:
        for entry in registry[name].values():
            row = {"kind": name, "name": entry.name, "package": entry.package, "summary": "", "status": "ok"}
            try:
                spec = registry.spec(name, entry.name)
                row["summary"] = spec.summary
                if spec.family and everything:
                    rows += [
                        {**row, "name": member, "summary": f"from {spec.name}"}
                        for member in registry.members(name, spec.name)
                    ]
            except RegistryError as error:
                row.update(status="broken", summary=str(error))
            rows.append(row)
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
    header = ("bundle", "heads", "data", "bytes an image", "metrics", "size")
    click.echo(table(header, map(_bundle_cells, bundles)))
    recipes = [(row["name"], row["summary"]) for row in rows if row["kind"] == "recipe"]
    click.echo("\n" + table(("recipe", "summary"), recipes))


def _bundle_cells(row: dict[str, Any]) -> tuple[str, ...]:
    firsts = [
        f"{head} {name} {value:.3f}" for head, found in row["metrics"].items() for name, value in [*found.items()][:1]
    ]
    size = row["packet_bytes"]
    return (
        row["name"], ",".join(row["heads"]), ",".join(row["data"]), "-" if size is None else f"{size:,.0f}",
        ", ".join(firsts) or "-", f"{row['disk_bytes'] / 1e6:.1f} MB",
    )  # fmt: skip
