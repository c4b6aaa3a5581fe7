"""``splitreg infer``: packets to predictions, with the server half alone."""

from __future__ import annotations

import glob
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click
import numpy as np

from splitreg.cli.writing import write_whole
from splitreg.recipe import PRECISIONS

if TYPE_CHECKING:
    from splitreg.tasks import Prediction


@click.command("infer")
@click.argument("bundle", type=click.Path())
@click.argument("packets", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option("--heads", metavar="NAME,...", help="Run only these heads.  [default: all]")
@click.option("--draw", type=click.Path(file_okay=False), help="Write a picture of every prediction into this folder.")
@click.option("--over", type=click.Path(file_okay=False), help="Draw over the original pictures of this folder.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1.")
@click.option("--precision", type=click.Choice(PRECISIONS), default=PRECISIONS[0], show_default=True,
              help="Mixed: layers that bear it in 16 bits.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object an image, a line each.")
def command(
    bundle: str, packets: tuple[str, ...], heads: str | None, draw: str | None, over: str | None, device: str,
    precision: str, as_json: bool,
) -> None:  # fmt: skip
    """Turn packets into predictions; loads only the server half of BUNDLE.

    PACKET "-" reads a stream from stdin: each packet after its length (4 bytes, little-endian); answers come as they
    are ready. A packet of several images gives one answer an image, in order.

    \b
    splitreg infer my-bundle packets/photo.splitreg --json
    splitreg infer my-bundle packets/*.splitreg --heads seg --draw pictures
    """
    from splitreg.assembly import ServerModel
    from splitreg.coding import Packet

    names = None if heads is None else heads.split(",")
    server = ServerModel.load(bundle, names).place(device, precision)
    for name, data in _read(packets):
        results, sizes = server.infer(data), Packet.parse(data).originals
        for i, (predictions, size) in enumerate(zip(results, sizes, strict=True)):
            line = {"packet": name, "bytes": len(data), "predictions": {k: p.to_json() for k, p in predictions.items()}}
            label = name if len(results) == 1 else f"{name}#{i}"
            if as_json:
                click.echo(json.dumps(line if len(results) == 1 else {**line, "image": i}))
            else:
                for head, prediction in predictions.items():
                    click.echo(f"{label}\t{head}\t{_brief(prediction)}")
            if draw is not None:
                stem = Path(name).stem + ("" if len(results) == 1 else f"-{i:03d}")
                _draw(Path(draw), stem, size, predictions, None if over is None else Path(over))
        sys.stdout.flush()


def _read(names: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    from splitreg.coding import MAX_PACKET_BYTES
    from splitreg.errors import CorruptPacket

    for name in names:
        if name == "-":
            yield from read_stream(sys.stdin.buffer)
            continue
        path = Path(name)
        if not path.is_file():
            raise CorruptPacket(f"no packet at {name}; splitreg encode writes them")
        if path.stat().st_size > MAX_PACKET_BYTES:
            raise CorruptPacket(f"{name} is beyond the limit of {MAX_PACKET_BYTES} bytes for a packet")
        yield name, path.read_bytes()


def read_stream(stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield (number, packet) from a stream of packets, each after its length (4 bytes, little-endian).

    Raises:
        CorruptPacket: the stream ends inside a packet, or claims one beyond the limit.
    """
    from splitreg.coding import MAX_PACKET_BYTES
    from splitreg.errors import CorruptPacket

    number = 0
    while head := stream.read(4):
        length = int.from_bytes(head, "little")
        if len(head) < 4 or length > MAX_PACKET_BYTES:
            raise CorruptPacket("the stream of packets ends inside a length, or claims a packet beyond the limit")
        data = stream.read(length)
        if len(data) < length:
            raise CorruptPacket(f"the stream ends inside a packet: {len(data)} of {length} bytes")
        yield f"{number:06d}", data
        number += 1


def _brief(prediction: Prediction) -> str:
    text = json.dumps(prediction.to_json())
    return text if len(text) <= 160 else text[:157] + "..."


def _draw(
    folder: Path, stem: str, size: tuple[int, int], predictions: dict[str, Prediction], over: Path | None
) -> None:
    from splitreg import imaging
    from splitreg.evaluation.examples import png

    height, width = size
    canvas = np.full((height, width, 3), imaging.FILL, np.uint8)
    if over is not None:
        matches = sorted(p for p in over.glob(f"{glob.escape(stem)}.*") if p.is_file())
        if not matches:
            raise click.UsageError(f"no picture {stem}.* in {over}")
        canvas = imaging.read(matches[0])
        if canvas.shape[:2] != (height, width):
            raise click.UsageError(
                f"{matches[0]} has {canvas.shape[1]}x{canvas.shape[0]} pixels, the packet's original {width}x{height}"
            )
    for head, prediction in predictions.items():
        write_whole(folder / f"{stem}-{head}.png", png(prediction.draw(canvas)))
