"""``splitreg encode``: pictures to packets, with the edge half alone."""

from __future__ import annotations

from pathlib import Path

import click

from splitreg.cli.tables import print_json
from splitreg.cli.writing import write_whole

SUFFIX = ".splitreg"


@click.command("encode")
@click.argument("bundle", type=click.Path())
@click.argument("images", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder for the packets.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(bundle: str, images: tuple[str, ...], output: str, as_json: bool) -> None:
    """Turn pictures into packets; loads only the edge half of BUNDLE.

    \b
    splitreg encode my-bundle photo.jpg -o packets
    splitreg infer my-bundle packets/photo.splitreg --json
    """
    from splitreg.assembly import EdgeModel
    from splitreg.coding import Packet

    edge = EdgeModel.load(bundle)
    folder = Path(output)
    rows, used = [], set()
    for image in images:
        packet = edge.encode(image)[0]
        name = Path(image).stem + SUFFIX
        if name in used:
            raise click.UsageError(f"two images would be written to {name}; encode them into two folders")
        used.add(name)
        write_whole(folder / name, packet)
        header = Packet.parse(packet).header_bytes
        rows.append({"image": image, "packet": str(folder / name), "bytes": len(packet), "header": header})
        if not as_json:
            click.echo(f"{folder / name}\t{len(packet)} bytes")
    if as_json:
        print_json(rows)
