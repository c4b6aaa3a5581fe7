"""``splitreg edge``: what a device does, with numpy and an ONNX runtime; never torch."""

from __future__ import annotations

import json

import click

from splitreg.cli.encode_ import packet_options, write_packets
from splitreg.cli.tables import print_json

_RUNTIMES, _PRECISIONS = ("onnxruntime", "openvino"), ("fp32", "int8")  # spelt out: --help imports no numpy


@click.group("edge")
def command() -> None:
    """Run the edge half of a bundle on a device, where torch is not installed.

    \b
    pip install 'splitreg[edge]'
    splitreg edge encode my-bundle photo.jpg -o packets
    """


@command.command("encode")
@click.argument("bundle", type=click.Path())
@click.argument("images", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder for the packets.")
@click.option("--runtime", type=click.Choice(_RUNTIMES), default="onnxruntime", show_default=True, help="What runs it.")
@click.option("--precision", type=click.Choice(_PRECISIONS), default="fp32", show_default=True, help="Which graph.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads for an image.")
@click.option("--size", type=(click.IntRange(1), click.IntRange(1)), metavar="H W", help="Another input size.")
@packet_options
def encode(
    bundle: str, images: tuple[str, ...], output: str, runtime: str, precision: str, threads: int,
    size: tuple[int, int] | None, batch: bool, rate: float | None, budget: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Turn pictures into packets by BUNDLE's edge.onnx; writes what splitreg encode writes.

    \b
    splitreg edge encode my-bundle photo.jpg -o packets
    splitreg edge encode my-bundle *.jpg -o packets --runtime openvino --precision int8
    """
    from splitreg.edge import EdgeEncoder

    encoder = EdgeEncoder.open(bundle, runtime=runtime, precision=precision, threads=threads, size=size)
    write_packets(encoder, images, output, batch=batch, rate=rate, budget=budget, as_json=as_json)


@command.command("info")
@click.argument("bundle", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(bundle: str, as_json: bool) -> None:
    """Say what BUNDLE asks of a device: input, codec, the graphs that it has and their sizes.

    \b
    splitreg edge info my-bundle
    """
    from splitreg.edge import describe

    found = describe(bundle)
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        click.echo(f"{key}\t{value if isinstance(value, str) else json.dumps(value)}")
