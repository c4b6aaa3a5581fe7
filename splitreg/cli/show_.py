"""``splitreg show``: one plugin, with its options."""

from __future__ import annotations

import inspect

import click

from splitreg.cli.tables import print_json, table
from splitreg.errors import DataError
from splitreg.registry import discover

_GIVEN = {"backbone": 0, "bottleneck": 2, "codec": 0, "head": 2, "dataset": 2, "objective": 1}


@click.command("show")
@click.argument("key", metavar="KIND:NAME")
@click.option("--root", type=click.Path(exists=True), help="Say what a dataset finds in this folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(key: str, root: str | None, as_json: bool) -> None:
    """Show a plugin: what it is, where it comes from, its options.

    \b
    splitreg show head:det
    splitreg show dataset:yolo --root my-images
    """
    kind, _, name = key.partition(":")
    if not name:
        raise click.UsageError(f"say KIND:NAME, as in head:det; got {key!r}")
    registry = discover()
    if root is not None:
        _show_folder(kind, name, root, as_json)
        return
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


def _show_folder(kind: str, name: str, root: str, as_json: bool) -> None:
    from splitreg.data.recognition import describe_folder, hint

    if kind != "dataset":
        raise click.UsageError(f"--root is the folder of a dataset; {kind}:{name} is none")
    line = describe_folder(name, root)
    if line is None:
        raise DataError(f"{root} is not of the layout of the dataset {name!r}.{hint(root, name)}")
    if as_json:
        print_json({"key": f"dataset:{name}", "root": root, "content": line})
    else:
        click.echo(line)
