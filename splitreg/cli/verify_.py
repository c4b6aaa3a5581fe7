"""``splitreg verify``: check a bundle on this machine."""

from __future__ import annotations

import sys

import click

from splitreg.cli.tables import print_json, table


@click.command("verify")
@click.argument("bundle", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(bundle: str, as_json: bool) -> None:
    """Check the files and test vectors of a bundle.

    The test vectors are encoded and decoded on this machine and compared with the recorded results. Exit status 1 if a
    check fails.

    \b
    splitreg verify my-bundle
    splitreg verify my-bundle --json
    """
    from splitreg.publishing import verify

    checks = verify(bundle)
    if as_json:
        print_json([{"name": c.name, "passed": c.passed, "detail": c.detail} for c in checks])
    else:
        click.echo(table(("check", "", "detail"), [(c.name, "ok" if c.passed else "FAILED", c.detail) for c in checks]))
    sys.exit(0 if all(check.passed for check in checks) else 1)
