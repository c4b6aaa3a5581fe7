"""``splitreg report``: one HTML file from results."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path())
@click.option(
    "-o", "--output", default="report.html", show_default=True, type=click.Path(dir_okay=False),
    help="HTML file to write; an older one is replaced.",
)  # fmt: skip
@click.option("--title", help="Heading.  [default: the names of the files]")
@click.option("--md", "markdown", is_flag=True, help="Also write Markdown, with charts and images as files beside it.")
def command(files: tuple[str, ...], output: str, title: str | None, markdown: bool) -> None:
    """Write an HTML report from results of other commands.

    FILE is bench.json, the JSON of bench compare, eval, sweep, data check or any other command, log.jsonl of a
    training, a folder that has one of these, or a bundle. The report is one file that loads nothing else: curves,
    time bars, tables and example images are inside.

    \b
    splitreg report bench runs/first -o report.html
    splitreg report zoo:camvid-small --md
    """
    from splitreg.cli.writing import write_output
    from splitreg.report import make_report
    from splitreg.zoo import find_bundle

    document = make_report(
        [find_bundle(file) if file.startswith("zoo:") else file for file in files], title=title or ""
    )
    path = Path(output)
    write_output(path, document.html().encode())
    click.echo(str(path))
    if markdown:
        text, extra = document.markdown(path.stem)
        for name, data in {f"{path.stem}.md": text.encode(), **extra}.items():
            write_output(path.with_name(name), data)
            click.echo(str(path.with_name(name)))
