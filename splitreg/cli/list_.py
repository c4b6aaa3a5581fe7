"""``splitreg list``: what is installed (names and specs; never imports torch unless ``--all`` asks the families)."""

from __future__ import annotations

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

    \b
    splitreg list
    splitreg list head --json
    """
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
