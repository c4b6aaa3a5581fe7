"""``splitreg encode``: pictures to packets, with the edge half alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitreg.cli.tables import print_json
from splitreg.cli.writing import write_output

if TYPE_CHECKING:
    from splitreg.edge import EdgeHalf

SUFFIX = ".splitreg"

_Encode = Callable[..., list[bytes]]


def packet_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of ``write_packets`` that every command which encodes has."""
    for option in (  # the last comes first on the page
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option(
            "--budget", type=click.IntRange(min=1), metavar="BYTES", help="The largest rate that fits, for each image."
        ),
        click.option(
            "--rate", type=float, help="0 (fewest bytes) to 1 (most), where BUNDLE has several.  [default: middle]"
        ),
        click.option(
            "--batch",
            is_flag=True,
            help="Put all images into one packet, batch.splitreg, or as few as its limits allow.",
        ),
    ):
        command = option(command)
    return command


@click.command("encode")
@click.argument("bundle", type=click.Path())
@click.argument("images", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder for the packets.")
@packet_options
def command(
    bundle: str,
    images: tuple[str, ...],
    output: str,
    batch: bool,
    rate: float | None,
    budget: int | None,
    as_json: bool,
) -> None:
    """Turn pictures into packets; loads only the edge half of BUNDLE.

    \b
    splitreg encode my-bundle photo.jpg -o packets
    splitreg encode my-bundle photo.jpg -o packets --rate 0.3
    splitreg infer my-bundle packets/photo.splitreg --json
    """
    from splitreg.assembly import EdgeModel

    write_packets(EdgeModel.load(bundle), images, output, batch=batch, rate=rate, budget=budget, as_json=as_json)


def write_packets(
    edge: EdgeHalf,
    images: Sequence[str],
    output: str,
    *,
    batch: bool = False,
    rate: float | None = None,
    budget: int | None = None,
    as_json: bool,
) -> None:
    """Encode pictures into a folder, a packet each or all in one, and print what was written; see ``EdgeHalf.encode``.

    Raises:
        click.UsageError: two pictures would have the same packet.
        SplitregError: as ``EdgeHalf.encode``, or the disk refuses.
    """
    from splitreg.coding import Packet

    rows = []
    encode = partial(edge.encode, batch=batch, rate=rate, budget_bytes=budget)
    for name, row, packet in _batches(encode, images) if batch else _singles(encode, images):
        path = Path(output) / name
        write_output(path, packet)
        header = Packet.parse(packet).header_bytes
        rows.append({**row, "packet": str(path), "bytes": len(packet), "header": header})
        if not as_json:
            click.echo(f"{path}\t{len(packet)} bytes")
    if as_json:
        print_json(rows)


def _singles(encode: _Encode, images: Sequence[str]) -> Iterator[tuple[str, dict[str, Any], bytes]]:
    names = [Path(image).stem + SUFFIX for image in images]
    for name in names:
        if names.count(name) > 1:
            raise click.UsageError(f"two images would be written to {name}; encode them into two folders")
    for image, name in zip(images, names, strict=True):
        yield name, {"image": image}, encode(image)[0]


def _batches(encode: _Encode, images: Sequence[str]) -> Iterator[tuple[str, dict[str, Any], bytes]]:
    from splitreg.coding import Packet

    packets, first = encode(images), 0
    for i, packet in enumerate(packets):
        count = len(Packet.parse(packet).originals)
        name = "batch" if len(packets) == 1 else f"batch-{i}"
        yield name + SUFFIX, {"images": list(images[first : first + count])}, packet
        first += count
