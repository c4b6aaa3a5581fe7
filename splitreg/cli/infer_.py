"""``splitreg infer``: packets to predictions, with the server half only."""

from __future__ import annotations

import glob
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click
import numpy as np
from numpy.typing import NDArray

from splitreg.cli.encode_ import SUFFIX
from splitreg.cli.tables import brief
from splitreg.cli.writing import write_drawings
from splitreg.recipe import PRECISIONS

if TYPE_CHECKING:
    from splitreg.predictions import Prediction


@click.command("infer")
@click.argument("bundle", type=click.Path())
@click.argument("packets", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option("--heads", metavar="NAME,...", help="Heads to run.  [default: all]")
@click.option("--draw", type=click.Path(file_okay=False), help="Folder for drawings of the predictions.")
@click.option("--over", type=click.Path(file_okay=False), help="Folder of the original images to draw on.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1.")
@click.option("--precision", type=click.Choice(PRECISIONS), default=PRECISIONS[0], show_default=True,
              help="Precision of the networks.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per image, one per line.")
def command(
    bundle: str, packets: tuple[str, ...], heads: str | None, draw: str | None, over: str | None, device: str,
    precision: str, as_json: bool,
) -> None:  # fmt: skip
    """Run heads on packets.

    Loads only the server half of BUNDLE. PACKET is a file, or a folder of *.splitreg. "-" reads a stream of packets from
    stdin, each after its length (4 bytes, little-endian), and prints each result at once. A packet of several images
    gives one result per image, in order.

    \b
    splitreg infer my-bundle packets/photo.splitreg --json
    splitreg infer my-bundle packets/*.splitreg --heads seg --draw drawings
    """
    from splitreg.assembly import ServerModel
    from splitreg.coding import Packet

    server = ServerModel.load(bundle, None if heads is None else heads.split(",")).place(device, precision)
    for name, data in _read(packets):
        results, sizes = server.infer(data), Packet.parse(data).originals
        for i, (predictions, size) in enumerate(zip(results, sizes, strict=True)):
            number = None if len(results) == 1 else i
            if as_json:
                click.echo(json.dumps(_row(name, number, len(data), predictions)))
            else:
                label = name if number is None else f"{name}#{number}"
                for head, prediction in predictions.items():
                    click.echo(f"{label}\t{head}\t{brief(prediction)}")
            if draw is not None:
                stem = Path(name).stem + ("" if number is None else f"-{number:03d}")
                canvas = _canvas(stem, size, None if over is None else Path(over))
                list(write_drawings(Path(draw), stem, canvas, predictions))
        sys.stdout.flush()


def _row(name: str, number: int | None, size: int, predictions: Mapping[str, Prediction]) -> dict[str, object]:
    table = {head: prediction.to_json() for head, prediction in predictions.items()}
    return {"packet": name, "bytes": size, "predictions": table, **({} if number is None else {"image": number})}


def _read(names: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    from splitreg.coding import MAX_PACKET_BYTES
    from splitreg.errors import CorruptPacket

    for name in names:
        if name == "-":
            yield from read_stream(sys.stdin.buffer)
            continue
        folder = Path(name).is_dir()
        paths = sorted(Path(name).glob(f"*{SUFFIX}")) if folder else [Path(name)]
        if not paths or not paths[0].is_file():
            raise CorruptPacket(f"no packet {'in' if folder else 'at'} {name}; write one with: splitreg encode")
        for path in paths:
            if path.stat().st_size > MAX_PACKET_BYTES:
                size = path.stat().st_size
                raise CorruptPacket(f"{path} has {size} bytes, the limit for a packet is {MAX_PACKET_BYTES}")
            yield str(path) if folder else name, path.read_bytes()


def read_stream(stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield (number, packet) of a stream of packets, each after its length (4 bytes, little-endian).

    Raises:
        CorruptPacket: the stream ends inside a packet, or a length exceeds the limit.
    """
    from splitreg.coding import MAX_PACKET_BYTES
    from splitreg.errors import CorruptPacket

    number = 0
    while head := stream.read(4):
        length = int.from_bytes(head, "little")
        if len(head) < 4:
            raise CorruptPacket(f"the stream ends inside the length of packet {number}")
        if length > MAX_PACKET_BYTES:
            raise CorruptPacket(f"packet {number} of the stream has {length} bytes, the limit is {MAX_PACKET_BYTES}")
        data = stream.read(length)
        if len(data) < length:
            raise CorruptPacket(f"the stream ends inside packet {number}: {len(data)} of {length} bytes")
        yield f"{number:06d}", data
        number += 1


def _canvas(stem: str, size: tuple[int, int], over: Path | None) -> NDArray[np.uint8]:
    """Return the original image of a packet, or a grey one of its size."""
    from splitreg import imaging

    height, width = size
    if over is None:
        return np.full((height, width, 3), imaging.FILL, np.uint8)
    matches = sorted(path for path in over.glob(f"{glob.escape(stem)}.*") if path.is_file())
    if not matches:
        raise click.UsageError(f"no image {stem}.* in {over}")
    canvas = imaging.read(matches[0])
    if canvas.shape[:2] != (height, width):
        raise click.UsageError(
            f"{matches[0]} has {canvas.shape[1]}x{canvas.shape[0]} pixels, the packet's original has {width}x{height}"
        )
    return canvas
