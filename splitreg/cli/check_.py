"""``splitreg check``: run the conformance suite of a plugin, or of all plugins of a package."""

from __future__ import annotations

import os
import sys
import traceback

import click

from splitreg.cli.tables import print_json, table


@click.command("check")
@click.argument("what", metavar="KIND:NAME | PACKAGE")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="Option of the plugin, e.g. channels=4.")
@click.option(
    "--root", type=click.Path(exists=True), help="Folder of the dataset, or of one with targets of a head's new task."
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def command(what: str, options: tuple[str, ...], root: str | None, as_json: bool) -> None:
    """Run the conformance suite of a plugin.

    Builds each plugin, small and with random weights, and prints one line per check of its interface.
    A check that does not apply is skipped. The exit status is 1 if a check fails. Options of a
    dataset may include split; it is train otherwise.

    \b
    splitreg check codec:zstd
    splitreg check dataset:yolo --root my-images --set split=val
    splitreg check splitreg-plugin-keypoints
    """
    from splitreg.errors import SplitregError, UnknownComponent, suggest
    from splitreg.overrides import parse_overrides
    from splitreg.registry import discover
    from splitreg.testing import run

    registry = discover()
    kind, _, name = what.partition(":")
    if name:
        keys = [(kind, name)]
    else:
        packages = {entry.package for names in registry.values() for entry in names.values()}
        keys = [(k, e.name) for k, names in registry.items() for e in names.values() if e.package == what]
        if not keys:
            raise UnknownComponent(
                f"no package {what!r} has plugins.{suggest(what, packages)} There are: {', '.join(sorted(packages))}"
            )
    rows, debug = [], bool(os.environ.get("SPLITREG_TRACEBACK"))
    for kind, name in keys:
        try:
            results = run(kind, name, registry=registry, options=parse_overrides(options), root=root)
            rows += [(f"{kind}:{name}", r.name, r.passed, r.reason) for r in results]
            for result in results:
                if debug and result.traceback:
                    click.echo(f"{kind}:{name}, {result.name}:\n{result.traceback}", err=True)
        except SplitregError as error:
            if debug:
                traceback.print_exception(error)
            rows.append((f"{kind}:{name}", "load", False, str(error)))
    if as_json:
        print_json([dict(zip(("plugin", "check", "passed", "reason"), row, strict=True)) for row in rows])
    else:
        click.echo(
            table(
                ("plugin", "check", "result", "reason"),
                [(a, b, _result(c, d), d.removeprefix("skipped: ")) for a, b, c, d in rows],
            )
        )
    sys.exit(0 if all(row[2] for row in rows) else 1)


def _result(passed: bool, reason: str) -> str:
    """Return the word for the result of a check."""
    if not passed:
        return "FAILED"
    return "skipped" if reason.startswith("skipped") else "ok"
