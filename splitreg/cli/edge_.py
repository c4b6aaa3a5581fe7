"""``splitreg edge``: commands for devices, with numpy and an ONNX runtime; never torch."""

from __future__ import annotations

import json
from functools import partial

import click

from splitreg.cli.encode_ import context_option, packet_options, write_packets
from splitreg.cli.tables import print_json

_RUNTIMES, _PRECISIONS = ("onnxruntime", "openvino"), ("fp32", "int8")  # literal: --help imports no numpy


@click.group("edge")
def command() -> None:
    """Run the edge half on a device without torch.

    \b
    pip install 'splitreg[edge]'
    splitreg edge encode my-bundle photo.jpg -o packets
    """


@command.command("encode")
@click.argument("bundle", type=click.Path())
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder for the packets.")
@click.option("--runtime", type=click.Choice(_RUNTIMES), default="onnxruntime", show_default=True, help="ONNX runtime.")
@click.option("--precision", type=click.Choice(_PRECISIONS), default="fp32", show_default=True, help="Graph to run.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads per image.")
@click.option("--size", type=(click.IntRange(1), click.IntRange(1)), metavar="H W", help="Input size.")
@context_option
@packet_options
def encode(
    bundle: str, images: tuple[str, ...], output: str, runtime: str, precision: str, threads: int,
    size: tuple[int, int] | None, context: bool, batch: bool, rate: float | None, budget: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Encode images with the ONNX graph of a bundle.

    Writes the same packets as splitreg encode, up to the rounding of the runtime.

    \b
    splitreg edge encode my-bundle photo.jpg -o packets
    splitreg edge encode my-bundle *.jpg -o packets --runtime openvino --precision int8
    """
    from splitreg.edge import EdgeEncoder

    encoder = EdgeEncoder.open(
        bundle, runtime=runtime, precision=precision, threads=threads, size=size, context=context
    )
    encode_images = partial(encoder.encode, batch=batch, rate=rate, budget_bytes=budget)
    write_packets(encode_images, images, output, batch=batch, as_json=as_json)


@command.command("info")
@click.argument("bundle", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(bundle: str, as_json: bool) -> None:
    """Describe the edge half of a bundle.

    Prints its input, its codec, and the sizes of its graphs; and of this machine the kernel, the runtimes, the vector
    instructions and the milliseconds per image.

    \b
    splitreg edge info my-bundle
    """
    from splitreg.edge import describe, describe_machine

    properties = {**describe(bundle), **describe_machine(bundle)}
    if as_json:
        print_json(properties)
        return
    for key, value in properties.items():
        click.echo(f"{key}\t{value if isinstance(value, str) else json.dumps(value)}")
