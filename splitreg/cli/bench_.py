"""``splitreg bench``: rate-accuracy curves of bundles and baselines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from splitreg.cli.tables import print_json

if TYPE_CHECKING:
    from splitreg.bench import Point, Sent


@click.command("bench")
@click.argument("bundles", nargs=-1, metavar="BUNDLE...", type=click.Path())
@click.option(
    "--series", "joined", multiple=True, metavar="NAME=BUNDLE,...", help="Bundles, or a sweep's folder, as one series."
)
@click.option(
    "--unsplit", metavar="BUNDLE", type=click.Path(), help="Network that --images and --raw feed.  [default: the first]"
)
@click.option("--images", metavar="CODEC:QUALITY,...", help="Pictures as series, e.g. png,webp:80,webp:20.")
@click.option("--rates", metavar="RATE,...", help="Packets at these rates, 0 to 1, of every BUNDLE that has several.")
@click.option("--raw", is_flag=True, help="The packets of --unsplit as a series: its feature as it is.")
@click.option(
    "--local", metavar="BUNDLE", type=click.Path(), help="This bundle as a whole on the device: nothing is sent."
)
@click.option("--data", required=True, metavar="NAME", help="Dataset.")
@click.option("--root", metavar="DIR", help="Folder of the dataset.")
@click.option("--split", default="val", show_default=True, help="Split of the dataset.")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="Option of the dataset.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many images, spread evenly.")
@click.option("--anchor", metavar="NAME", help="Series to compare with.  [default: the first one of several points]")
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder for results and charts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="No talk on stderr.")
def command(
    bundles: tuple[str, ...], joined: tuple[str, ...], unsplit: str | None, images: str | None, raw: bool,
    local: str | None, data: str, root: str | None, split: str, options: tuple[str, ...], limit: int | None,
    anchor: str | None, output: str, as_json: bool, quiet: bool, rates: str | None,
) -> None:  # fmt: skip
    """Measure bundles and baselines on a dataset: bytes an image against each head's metric, as tables and charts.

    Every BUNDLE is a series of one point, a sweep's folder one of many. Pictures go around the bottleneck of --unsplit
    where it has a way around. A point that DIR holds already is not measured again.

    \b
    splitreg bench zoo:camvid-small --data camvid --root camvid --images webp:80,webp:20,webp:5 -o bench
    splitreg bench --series fp=runs/sweep --unsplit camvid-unsplit --raw --images png --data camvid --root camvid -o bench
    """
    from splitreg.bench import Sent, packets, pictures, run
    from splitreg.bench.points import bundle_name
    from splitreg.overrides import parse_overrides
    from splitreg.recipe import DataPart
    from splitreg.sweep import finished
    from splitreg.zoo import find_bundle

    wanted = read_rates(rates)
    series: dict[str, tuple[Sent, ...]] = {}

    def add(name: str, sent: tuple[Sent, ...]) -> None:
        if name in series:
            raise click.UsageError(f"two series are named {name!r}; name one by --series NAME=BUNDLE")
        series[name] = sent

    def points(places: list[str]) -> tuple[Sent, ...]:
        found = [path for place in places for path in finished(place) or [find_bundle(place)]]
        return tuple(point for path in found for point in packets(path, wanted))

    for place in bundles:
        add(bundle_name(find_bundle(place)), points([place]))
    for item in joined:
        name, equals, places = item.partition("=")
        if not (name and equals and places):
            raise click.UsageError(f"--series reads NAME=BUNDLE,BUNDLE, as in fp=runs/low,runs/high; got {item!r}")
        add(name, points(places.split(",")))
    fed = find_bundle(unsplit) if unsplit else next((sent[0].bundle for sent in series.values()), None)
    if fed is None and (raw or images):
        raise click.UsageError("--images and --raw feed the network of --unsplit BUNDLE; name one")
    if images and fed is not None:
        for codec, sent in pictures(fed, images.split(",")).items():
            add(codec, sent)
    if raw and fed is not None:
        if not unsplit:
            raise click.UsageError("--raw sends the feature of --unsplit BUNDLE; name one")
        add("raw feature", (Sent(bundle=fed),))
    if local:
        add("local", (Sent(bundle=find_bundle(local), how="local"),))
    if not series:
        raise click.UsageError("name a BUNDLE, or --series NAME=BUNDLE,...")

    def say(name: str, point: Point) -> None:
        known = " (known)" if point.cached else ""
        click.echo(f"{name}\t{point.label}\t{point.bytes:,.0f} bytes{known}", err=True)

    part = DataPart(name=data, root=root, val=split, options=parse_overrides(options))
    found = run(
        series, Path(output), data=part, limit=limit, anchor=anchor, progress=not quiet, on_point=None if quiet else say
    )
    if as_json:
        print_json(found.to_json())
    else:
        click.echo(str(found))


def read_rates(text: str | None) -> list[float]:
    """Read ``"0,0.5,1"``."""
    try:
        return [float(item) for item in text.split(",")] if text else []
    except ValueError:
        raise click.UsageError(f"--rates reads numbers from 0 to 1, as in 0,0.5,1; got {text!r}") from None
