"""``splitreg show``: one plugin, with its options."""

from __future__ import annotations

import inspect

import click

from splitreg.cli.tables import print_json, table
from splitreg.registry import discover

_GIVEN = {"backbone": 0, "bottleneck": 2, "codec": 0, "head": 2, "dataset": 2, "objective": 1}


@click.command("show")
@click.argument("key", metavar="KIND:NAME")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(key: str, as_json: bool) -> None:
    """Show a plugin: what it is, where it comes from, its options.

    \b
    splitreg show head:det
    splitreg show backbone:resnet50
    """
    kind, _, name = key.partition(":")
    if not name:
        raise click.UsageError(f"say KIND:NAME, as in head:det; got {key!r}")
    registry = discover()
    if name in registry[kind] and registry.spec(kind, name).family:
        spec, member = registry.spec(kind, name), None
        skipped = 1
    else:
        spec, member = registry.resolve(kind, name)
        skipped = _GIVEN[kind] + (member is not None)
    made = registry.load(spec)
    parameters = list(inspect.signature(made).parameters.values())[skipped:]
    options = {
        p.name: None if p.default is inspect.Parameter.empty else p.default
        for p in parameters
        if p.name != "image_size"
    }
    found = {
        "key": spec.key if member is None else f"{spec.key}:{member}", "summary": spec.summary, "source": spec.source,
        "package": registry[kind][spec.name].package, "target": spec.target, "api": spec.api,
        "options": {name: repr(value) for name, value in options.items()},
        "doc": inspect.cleandoc(made.__doc__ or ""),
    }  # fmt: skip
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['key']}: {spec.summary}\npackage {found['package']}, class {spec.target}, api {spec.api}")
    if spec.source:
        click.echo(f"source: {spec.source}")
    if options:
        click.echo("\n" + table(("option", "default"), [(k, repr(v)) for k, v in options.items()]))
    click.echo("\n" + str(found["doc"]))
