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


class BenchGroup(click.Group):
    """A group whose default command measures: ``splitreg bench BUNDLE`` is ``splitreg bench measure BUNDLE``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert the default command if the first argument is no subcommand."""
        if args[:1] not in (["-h"], ["--help"]) and (not args or args[0] not in self.commands):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


_DEFAULT = "measure"
pause_option = click.option(
    "--pause", "pause_s", default=0.0, show_default=True, type=click.FloatRange(min=0), metavar="SECONDS",
    help="Rest before each timed run, as between the requests of a camera.",
)  # fmt: skip


@click.group("bench", cls=BenchGroup)
def command() -> None:
    """Compare bundles and baselines: bytes, metrics, times.

    Without the name of a subcommand, "measure" is meant.

    \b
    splitreg bench zoo:camvid-small --data camvid --root camvid --images webp:80,webp:20,webp:5 -o bench
    splitreg bench compare main/bench.json bench/bench.json
    """


@command.command(_DEFAULT)
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
@click.option("--data", metavar="NAME", help="Dataset.  [default: the bundle's, or the one that recognises the folder]")
@click.option("--root", metavar="DIR", help="Folder of the dataset.")
@click.option("--split", help="Split of the dataset.  [default: the one that the bundle was validated on, or val]")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="Option of the dataset.")
@unknown_option
@click.option("--limit", type=click.IntRange(min=1), help="Number of images, spread evenly.")
@click.option("--anchor", metavar="NAME", help="Series to compare with.  [default: the first one with several points]")
@click.option(
    "--resamples",
    default=200,
    show_default=True,
    type=click.IntRange(min=0),
    help="Bootstrap resamples of the images for 95 % intervals; 0: no intervals.",
)
@click.option("--times", is_flag=True, help="Also measure times, throughput, start and memory on this machine.")
@click.option("--rounds", default=15, show_default=True, type=click.IntRange(min=3), help="Rounds of --times.")
@pause_option
@click.option(
    "--threads", default=1, show_default=True, type=click.IntRange(min=1), help="CPU threads per network for --times."
)
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder for results and charts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="No progress output.")
def measure(
    bundles: tuple[str, ...], joined: tuple[str, ...], unsplit: str | None, images: str | None, raw: bool,
    local: str | None, data: str | None, root: str | None, split: str | None, options: tuple[str, ...], limit: int | None,
    anchor: str | None, output: str, as_json: bool, quiet: bool, rates: str | None, unknown: str | None,
    resamples: int, times: bool, rounds: int, pause_s: float, threads: int,
) -> None:  # fmt: skip
    """Measure bundles and baselines on a dataset.

    Measures bytes per image against each head's metric, as tables and charts. Every BUNDLE is a series of one point,
    the folder of a sweep is one series. Images of ordinary codecs run without the bottleneck of --unsplit, if that is
    possible. Points that the output folder holds already are not measured again.

    \b
    splitreg bench zoo:camvid-small --data camvid --root camvid --images webp:80,webp:20,webp:5 -o bench
    splitreg bench --series fp=runs/sweep --unsplit camvid-unsplit --raw --images png --data camvid --root camvid -o bench
    """
    from dataclasses import replace

    from splitreg.bench import BenchOptions, Sent, SpeedOptions, image_points, run
    from splitreg.bundle import Bundle
    from splitreg.cli.eval_ import data_parts
    from splitreg.recipe import Recipe
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
    part = replace(part, unknown_classes=unknown or part.unknown_classes)
    speed = SpeedOptions(rounds=rounds, pause_s=pause_s, threads=threads, progress=not quiet) if times else None
    wanted = BenchOptions(
        limit=limit, anchor=anchor, progress=not quiet, on_point=None if quiet else print_point, resamples=resamples,
        speed=speed,
    )  # fmt: skip
    result = run(series, Path(output), data=part, options=wanted)
    if as_json:
        print_json(result.to_json())
    else:
        click.echo(str(result))


@command.command("compare")
@click.argument("before", type=click.Path(exists=True))
@click.argument("after", type=click.Path(exists=True))
@click.option("--metric", default=0.005, show_default=True, help="Largest loss of a metric, absolute.")
@click.option("--bytes", "bytes_", default=0.01, show_default=True, help="Largest relative increase of bytes.")
@click.option("--time", "time_", default=0.10, show_default=True, help="Largest relative increase of a time.")
@click.option("--min-ms", default=0.2, show_default=True, help="Times below this are not compared.")
@click.option(
    "--clock",
    default="ratio",
    show_default=True,
    metavar="ratio|cpu|wall",
    help="Processor time relative to the reference task, processor time, or wall time.",
)
@click.option("--no-times", is_flag=True, help="Compare bytes and metrics only.")
@click.option("--all", "everything", is_flag=True, help="Show every number, not only regressions.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(
    before: str, after: str, metric: float, bytes_: float, time_: float, min_ms: float, clock: str, no_times: bool,
    everything: bool, as_json: bool,
) -> None:  # fmt: skip
    """Fail if a result is worse than an earlier one.

    Compares bytes, primary metrics and times of two results of splitreg bench on the same images. The exit status is 1
    if one of them is worse by more than its tolerance.

    \b
    splitreg bench compare main/bench.json bench/bench.json
    splitreg bench compare main branch --time 0.05 --all
    """
    from splitreg.bench import Tolerances, compare_files

    tolerances = Tolerances(
        metric=metric, bytes=bytes_, time=time_, min_ms=min_ms, clock=clock, times=not no_times
    )  # fmt: skip
    result = compare_files(before, after, tolerances)
    if as_json:
        print_json(result.to_json())
    else:
        click.echo(result.markdown(everything=everything))
    if result.regressions:
        raise SystemExit(1)


@command.command("calibrate")
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...")
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="TOML file of the profile.")
@click.option("--runtime", default="onnxruntime", show_default=True, help="Runtime of the edge halves.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="CPU threads.")
@click.option(
    "--rounds", default=15, show_default=True, type=click.IntRange(min=3), help="Rounds; medians are written."
)
@pause_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def calibrate(
    bundles: tuple[str, ...], output: str, runtime: str, threads: int, rounds: int, pause_s: float, as_json: bool
) -> None:
    """Write a device profile of this machine.

    Runs the edge halves and the whole networks of some bundles here, and measures power where the machine has counters
    for it. splitreg choose takes the file as --device.

    \b
    splitreg bench calibrate zoo:camvid-small -o my-device.toml
    splitreg choose --bench bench --device my-device.toml --link lte-m
    """
    from splitreg.bench.calibrate import CalibrationOptions, named
    from splitreg.bench.calibrate import calibrate as run

    options = CalibrationOptions(runtime=runtime, threads=threads, rounds=rounds, pause_s=pause_s)
    result = run(named(bundles), output, options)
    if as_json:
        print_json({
            "figures": {name: {"value": value, "source": source} for name, (value, source) in result["figures"].items()},
            "bundles": result["bundles"],
        })  # fmt: skip
    else:
        for name, (value, source) in result["figures"].items():
            click.echo(f"{name} {value:.4g}  ({source})")


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
