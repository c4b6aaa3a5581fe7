"""``splitreg bench``: rate-accuracy curves of bundles and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from splitreg.cli.eval_ import read_rates, unknown_option
from splitreg.cli.tables import print_json

if TYPE_CHECKING:
    from splitreg.bench import Point, Sent


@click.command("bench")
@click.argument("bundles", nargs=-1, metavar="BUNDLE...", type=click.Path())
@click.option(
    "--series",
    "joined",
    multiple=True,
    metavar="NAME=BUNDLE,...",
    help="Bundles, or the folder of a sweep, as a series.",
)
@click.option(
    "--unsplit", metavar="BUNDLE", type=click.Path(), help="Network for --images and --raw.  [default: the first]"
)
@click.option("--images", metavar="CODEC:QUALITY,...", help="Images of ordinary codecs as series, e.g. png,webp:80.")
@click.option("--rates", metavar="RATE,...", help="Rates, 0 to 1, of every BUNDLE that has several.")
@click.option("--raw", is_flag=True, help="Packets of --unsplit as a series: its feature without compression.")
@click.option(
    "--local", metavar="BUNDLE", type=click.Path(), help="A bundle that runs as a whole on the device, as a series."
)
@click.option("--data", metavar="NAME", help="Dataset.  [default: that of the first bundle's training]")
@click.option("--root", metavar="DIR", help="Folder of the dataset.")
@click.option("--split", help="Split of the dataset.  [default: the one that the bundle was validated on, or val]")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="Option of the dataset.")
@unknown_option
@click.option("--limit", type=click.IntRange(min=1), help="Number of images, spread evenly.")
@click.option("--anchor", metavar="NAME", help="Series to compare with.  [default: the first one with several points]")
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder for results and charts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="No progress output.")
def command(
    bundles: tuple[str, ...], joined: tuple[str, ...], unsplit: str | None, images: str | None, raw: bool,
    local: str | None, data: str | None, root: str | None, split: str | None, options: tuple[str, ...], limit: int | None,
    anchor: str | None, output: str, as_json: bool, quiet: bool, rates: str | None, unknown: str | None,
) -> None:  # fmt: skip
    """Compare bundles and baselines: bytes and metrics.

    Measures bytes per image against each head's metric, as tables and charts. Every BUNDLE is a series of one point,
    the folder of a sweep is one series. Images of ordinary codecs run without the bottleneck of --unsplit, if that is
    possible. Points that the output folder holds already are not measured again.

    \b
    splitreg bench zoo:camvid-small --data camvid --root camvid --images webp:80,webp:20,webp:5 -o bench
    splitreg bench --series fp=runs/sweep --unsplit camvid-unsplit --raw --images png --data camvid --root camvid -o bench
    """
    from dataclasses import replace

    from splitreg.bench import BenchOptions, Sent, image_points, run
    from splitreg.bundle import Bundle
    from splitreg.cli.eval_ import data_parts
    from splitreg.recipe import REFUSE, Recipe
    from splitreg.zoo import find_bundle

    series = _bundle_series(bundles, joined, read_rates(rates))
    network = find_bundle(unsplit) if unsplit else next((points[0].bundle for points in series.values()), None)
    if network is None and (raw or images):
        raise click.UsageError("--images and --raw need a network; add --unsplit BUNDLE")
    if images and network is not None:
        for codec, points in image_points(network, images.split(",")).items():
            _add(series, codec, points)
    if raw and network is not None:
        if not unsplit:
            raise click.UsageError("--raw sends the feature of a network; add --unsplit BUNDLE")
        _add(series, "raw feature", (Sent(bundle=network),))
    if local:
        _add(series, "local", (Sent(bundle=find_bundle(local), how="local"),))
    if not series:
        raise click.UsageError("name a BUNDLE, or --series NAME=BUNDLE,...")

    def print_point(name: str, point: Point) -> None:
        known = " (known)" if point.cached else ""
        click.echo(f"{name}\t{point.label}\t{point.bytes:,.0f} bytes{known}", err=True)

    first = next(points[0].bundle for points in series.values())
    part, *more = data_parts(Recipe.from_mapping(Bundle.open(first).config.recipe), data, root, split, options)
    if more:
        raise click.UsageError("the first bundle was trained on several datasets; choose one with --data NAME")
    part = replace(part, unknown_classes=unknown or (part.unknown_classes if data is None else REFUSE))
    wanted = BenchOptions(limit=limit, anchor=anchor, progress=not quiet, on_point=None if quiet else print_point)
    result = run(series, Path(output), data=part, options=wanted)
    if as_json:
        print_json(result.to_json())
    else:
        click.echo(str(result))


def _bundle_series(bundles: Sequence[str], joined: Sequence[str], rates: list[float]) -> dict[str, tuple[Sent, ...]]:
    """Return the series of the arguments BUNDLE and of --series."""
    from splitreg.bench import packet_points
    from splitreg.bench.points import bundle_name
    from splitreg.sweep import finished
    from splitreg.zoo import find_bundle

    def points(places: Sequence[str]) -> tuple[Sent, ...]:
        paths = [path for place in places for path in finished(place) or [find_bundle(place)]]
        return tuple(point for path in paths for point in packet_points(path, rates))

    series: dict[str, tuple[Sent, ...]] = {}
    for place in bundles:
        _add(series, bundle_name(find_bundle(place)), points([place]))
    for item in joined:
        name, equals, places = item.partition("=")
        if not (name and equals and places):
            raise click.UsageError(f"--series must be NAME=BUNDLE,BUNDLE, e.g. fp=runs/low,runs/high; got {item!r}")
        _add(series, name, points(places.split(",")))
    return series


def _add(series: dict[str, tuple[Sent, ...]], name: str, points: tuple[Sent, ...]) -> None:
    if name in series:
        raise click.UsageError(f"two series are named {name!r}; rename one with --series NAME=BUNDLE")
    series[name] = points
