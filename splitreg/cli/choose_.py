"""``splitreg choose``: local, offload or split, for a device and a link."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from splitreg.cli.tables import print_json, table

if TYPE_CHECKING:
    from splitreg.choosing import Choice, DeploymentPlan


@click.command("choose")
@click.option("--bench", "result", required=True, type=click.Path(exists=True),
              help="Result of splitreg bench --times, or its folder.")  # fmt: skip
@click.option("--device", default="here", show_default=True, metavar="NAME",
              help="Device profile, a TOML file, or here: the machine of the benchmark.")  # fmt: skip
@click.option("--link", metavar="NAME", help="Link profile, or a TOML file.")
@click.option("--budget-ms", type=click.FloatRange(min=0, min_open=True), help="Longest time per image.")
@click.option("--budget-joules", type=click.FloatRange(min=0, min_open=True), help="Largest energy per image.")
@click.option("--min", "minimum", multiple=True, metavar="HEAD.METRIC=VALUE",
              help="Smallest value of a metric; of an error, its largest.")  # fmt: skip
@click.option("--prefer", default="time", show_default=True, metavar="time|energy|bytes|accuracy",
              help="What the best of the feasible plans is best in.")  # fmt: skip
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="CPU threads of the device.")
@click.option("--runtime", metavar="NAME", help="Runtime of the edge half.  [default: the first that was measured]")
@click.option("--server-speed", default=1.0, show_default=True,
              help="How many times as fast as the benchmark's machine the server is.")  # fmt: skip
@click.option("--service-ms", type=click.FloatRange(min=0), metavar="MS",
              help="Time of a request in client and service beside the networks.  [default: 4]")  # fmt: skip
@click.option("--clock", default="wall", show_default=True, metavar="wall|cpu",
              help="Times of the benchmark to use; cpu if other programs ran on its machine.")  # fmt: skip
@click.option("--plot", type=click.Path(dir_okay=False), metavar="SVG", help="Draw time against bandwidth.")
@click.option("--profiles", is_flag=True, help="List devices and links with their figures and sources, and exit.",
              is_eager=True, callback=lambda context, _, value: _list_profiles(context) if value else None,
              expose_value=False)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    result: str, device: str, link: str | None, budget_ms: float | None, budget_joules: float | None,
    minimum: tuple[str, ...], prefer: str, threads: int, runtime: str | None, server_speed: float,
    service_ms: float | None, clock: str, plot: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Choose local, offload or split for a device and link.

    Predicts time and energy of every point of a benchmark from its times and two profiles, and prints the best one that
    meets the requirements. The exit status is 1 if none does.

    \b
    splitreg choose --bench bench --device raspberry-pi-4 --link lora --min seg.mIoU=.55
    splitreg choose --profiles
    """
    from splitreg.choosing import SERVICE_MS, ChooseOptions, choose
    from splitreg.files import write_atomic

    if link is None:
        raise click.UsageError("name a link with --link NAME; --profiles lists them")
    options = ChooseOptions(
        budget_ms=budget_ms, budget_joules=budget_joules, minimum=dict(map(_bound, minimum)), prefer=prefer,
        threads=threads, runtime=runtime, server_speed=server_speed, clock=clock,
        service_ms=SERVICE_MS if service_ms is None else service_ms,
    )  # fmt: skip
    choice = choose(result, device=device, link=link, options=options)
    if plot is not None:
        write_atomic(Path(plot), choice.svg().encode())
    if as_json:
        print_json(choice.to_json())
    else:
        click.echo(_text(choice))
    if choice.best is None:
        raise SystemExit(1)


def _text(choice: Choice) -> str:
    header = ("plan", "point", "ms", "device", "link", "server", "J", "bytes", "metrics", "")
    lines = [table(header, map(_row, choice.plans))]
    lines += [
        f"{c.faster_below} is faster below {_rate(c.up_bps)} up, {c.faster_above} above" for c in choice.crossovers
    ]
    best = choice.best
    if best is None:
        lines.append("no plan meets the requirements")
    else:
        lines.append(f"best: {best.kind}, {best.label}; {best.use()}")
    return "\n\n".join([lines[0], "\n".join(lines[1:])])


def _row(plan: DeploymentPlan) -> tuple[str, ...]:
    costs = plan.costs
    metrics = [f"{head} {next(iter(values.values())):.3f}" for head, values in plan.metrics.items() if values]
    return (
        plan.kind, plan.label, f"{costs.total_ms:,.0f}", f"{costs.device_ms:,.0f}", f"{costs.link_ms:,.0f}",
        f"{costs.server_ms:,.0f}", "-" if costs.joules is None else f"{costs.joules:.3g}", f"{costs.up_bytes:,.0f}",
        ", ".join(metrics), "; ".join(plan.problems),
    )  # fmt: skip


def _rate(bps: float) -> str:
    for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if bps >= size:
            return f"{bps / size:.3g} {unit}"
    return f"{bps:.3g} bit/s"


def _bound(text: str) -> tuple[str, float]:
    key, equals, value = text.partition("=")
    try:
        if equals and "." in key:
            return key, float(value)
    except ValueError:
        pass
    raise click.UsageError(f"--min must be HEAD.METRIC=VALUE, e.g. seg.mIoU=.55; got {text!r}")


def _list_profiles(context: click.Context) -> None:
    from splitreg.profiles import devices, links, read_device, read_link

    for kind, profiles in (
        ("device", [read_device(name) for name in devices()]),
        ("link", [read_link(name) for name in links()]),
    ):
        for profile in profiles:
            click.echo(f"{kind} {profile.name}: {profile.summary}")
            rows = [(f"  {name}", f"{figure.value:.4g}", figure.source) for name, figure in profile.figures.items()]
            click.echo(table(("  figure", "value", "source"), rows) + "\n")
    context.exit()
