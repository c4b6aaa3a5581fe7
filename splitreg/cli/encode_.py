"""``splitreg encode``: images to packets, with the edge half only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitreg.cli.tables import print_json
from splitreg.cli.writing import check_failures, write_output

if TYPE_CHECKING:
    from splitreg.errors import ImageError

#: Suffix of packet files.
SUFFIX = ".splitreg"

#: Images (or one of them) to packets.
Encode = Callable[[Sequence[str] | str], list[bytes]]


#: The option of commands for devices.
context_option = click.option(
    "--context/--no-context", default=True,
    help="Use the model's context network, if it has one: smaller packets, more time.  [default: yes]",
)  # fmt: skip


def packet_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that all encoding commands have."""
    for option in (  # in reverse order of the help
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--budget", type=click.IntRange(min=1), metavar="BYTES",
                     help="Use the largest rate within this packet size per image."),
        click.option("--rate", type=float,
                     help="0 (fewest bytes) to 1 (most), if BUNDLE has several rates.  [default: middle]"),
        click.option("--batch", is_flag=True,
                     help="Write all images into one packet, batch.splitreg, or as few as its limits allow."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command("encode")
@click.argument("bundle", type=click.Path())
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder for the packets.")
@packet_options
def command(
    bundle: str, images: tuple[str, ...], output: str, batch: bool, rate: float | None, budget: int | None, as_json: bool
) -> None:  # fmt: skip
    """Encode images as packets.

    IMAGE is an image or a folder. Loads only the edge half of BUNDLE, in torch; see splitreg edge encode for devices
    without torch.

    \b
    splitreg encode my-bundle photo.jpg -o packets
    splitreg encode my-bundle photo.jpg -o packets --rate 0.3
    splitreg infer my-bundle packets/photo.splitreg --json
    """
    from splitreg.assembly import EdgeModel

    encode = partial(EdgeModel.load(bundle).encode, batch=batch, rate=rate, budget_bytes=budget)
    write_packets(encode, images, output, batch=batch, as_json=as_json)


def write_packets(encode: Encode, images: Sequence[str], output: str, *, batch: bool, as_json: bool) -> None:
    """Encode images into a folder and print the packets.

    Args:
        encode: ``EdgeHalf.encode`` with its options.
        images: paths of images, and of folders of images.
        output: the folder.
        batch: whether ``encode`` writes all images into one packet.
        as_json: print JSON.

    Raises:
        click.UsageError: two images would be written to one file.
        SplitregError: as ``EdgeHalf.encode``, for images that cannot be read after all others were encoded; or a file
            cannot be written.
    """
    from splitreg.coding import Packet
    from splitreg.errors import ImageError

    rows, images, failures = [], _expanded(images), list[ImageError]()
    for name, row, packet in _batches(encode, images) if batch else _singles(encode, images, failures):
        path = Path(output) / name
        write_output(path, packet)
        rows.append({**row, "packet": str(path), "bytes": len(packet), "header": Packet.parse(packet).header_bytes})
        if not as_json:
            click.echo(f"{path}\t{len(packet)} bytes")
    if as_json:
        print_json(rows)
    check_failures(failures, len(images))


def _expanded(images: Sequence[str]) -> list[str]:
    """Return the images, with those of a folder in its place, in the order of their names."""
    from splitreg.edge import frames

    folders = {image: [str(path) for _, path in frames(image)] for image in images if Path(image).is_dir()}
    return [path for image in images for path in folders.get(image, [image])]


def _singles(
    encode: Encode, images: Sequence[str], failures: list[ImageError]
) -> Iterator[tuple[str, dict[str, Any], bytes]]:
    """Yield name, facts and packet of each image, and add those that cannot be read to ``failures``."""
    from splitreg.errors import ImageError

    names = [Path(image).stem + SUFFIX for image in images]
    for name in names:
        if names.count(name) > 1:
            raise click.UsageError(f"two images would be written to {name}; encode them into two folders")
    for image, name in zip(images, names, strict=True):
        try:
            packet = encode(image)[0]
        except ImageError as error:
            failures.append(error)
            continue
        yield name, {"image": image}, packet


def _batches(encode: Encode, images: Sequence[str]) -> Iterator[tuple[str, dict[str, Any], bytes]]:
    from splitreg.coding import Packet

    packets, start = encode(images), 0
    for i, packet in enumerate(packets):
        count = len(Packet.parse(packet).originals)
        name = "batch" if len(packets) == 1 else f"batch-{i}"
        yield name + SUFFIX, {"images": list(images[start : start + count])}, packet
        start += count
