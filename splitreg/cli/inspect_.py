"""``splitreg inspect``: the fields of packets; no torch, unless a bundle decodes them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitreg.cli.tables import print_json, table

if TYPE_CHECKING:
    from splitreg.assembly import ServerModel
    from splitreg.coding import Packet

#: Number of channels in the text, the most expensive first; the JSON has all.
_SHOWN_CHANNELS = 8


@click.command("inspect")
@click.argument("packets", nargs=-1, required=True, type=click.Path())
@click.option("--bundle", metavar="BUNDLE", type=click.Path(), help="Also decode the packets with this bundle.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(packets: tuple[str, ...], bundle: str | None, as_json: bool) -> None:
    """Show the fields of packets.

    Exit status 1 if a packet is damaged, or was not written by BUNDLE.

    \b
    splitreg inspect packets/photo.splitreg
    splitreg inspect packets/photo.splitreg --bundle my-bundle --json
    """
    server = None
    if bundle is not None:
        from splitreg.assembly import ServerModel

        server = ServerModel.load(bundle, ())
    reports = []
    for name in packets:
        report = _report(name, server)
        reports.append(report)
        if not as_json:
            click.echo(("\n" if len(reports) > 1 else "") + _text(report))
    if as_json:
        print_json(reports)
    sys.exit(0 if all(report["ok"] for report in reports) else 1)


def _report(name: str, server: ServerModel | None) -> dict[str, Any]:
    from splitreg.coding import MAX_PACKET_BYTES
    from splitreg.coding.inspection import break_down

    try:
        with Path(name).open("rb") as file:
            data = file.read(MAX_PACKET_BYTES + 1)
    except OSError as error:
        return {"packet": name, "ok": False, "problem": f"cannot read the file: {error.strerror or error}"}
    breakdown = break_down(data)
    report = {"packet": name, **breakdown.to_json()}
    if server is not None and breakdown.packet is not None:
        report |= _decode(breakdown.packet, server)
    return report


def _decode(packet: Packet, server: ServerModel) -> dict[str, Any]:
    from splitreg.errors import SplitregError

    try:
        return {"decoded": [_measure(image, server) for image in packet.images]}
    except SplitregError as error:
        return {"ok": False, "problem": f"the bundle cannot decode it: {error}"}


def _measure(image: Packet, server: ServerModel) -> dict[str, Any]:
    from splitreg.coding import VariableModel
    from splitreg.coding.inspection import measure

    latent = server.decode(image)  # checks sizes and model id before anything is measured
    channels, height, width = latent.shape
    coding = server.coding
    lengths = measure(image.streams, (channels, height, width), coding.tables_for(context=image.context), coding.codec)
    report: dict[str, Any] = {"latent": [channels, height, width]}
    if isinstance(coding.tables, VariableModel):
        report["rate"] = round(coding.tables.rate_of(image.streams), 4)
    return {
        **report,
        "bits": 8 * image.payload_bytes,
        "ideal_bits": round(sum(lengths.stream_bits), 1) if lengths.stream_bits else None,
        "channel_bits": [round(bits, 1) for bits in lengths.channel_bits],
    }


def _text(report: dict[str, Any]) -> str:
    lines = [f"{report['packet']}: {report['problem'] or 'ok'}"]
    if "images" in report:
        count = len(report["images"])
        lines.append(
            f"{report['bytes']} bytes: {report['header_bytes']} header, {report['payload_bytes']} payload; "
            f"{count} image{'s' if count > 1 else ''}, model {report['model_id']}, CRC ok"
        )
    elif "bytes" in report:
        lines.append(f"{report['bytes']} bytes, CRC {'ok' if report['crc_fits'] else 'wrong'}")
    if report.get("fields"):
        rows = [[str(field[key]) for key in ("offset", "size", "name", "value")] for field in report["fields"]]
        lines.append(table(("offset", "size", "field", "value"), rows))
    for i, image in enumerate(report.get("decoded", ())):
        lines.append(_decoded_text(i, image))
    return "\n".join(lines)


def _decoded_text(number: int, image: dict[str, Any]) -> str:
    shape = "x".join(map(str, image["latent"])) + (f", rate {image['rate']}" if "rate" in image else "")
    if image["ideal_bits"] is None:
        return f"image {number}: latent {shape}, {image['bits']} bits; the model has no tables to compare with"
    costliest = sorted(enumerate(image["channel_bits"]), key=lambda item: -item[1])[:_SHOWN_CHANNELS]
    channels = ", ".join(f"{channel}: {bits}" for channel, bits in costliest)
    return (
        f"image {number}: latent {shape}, {image['bits']} bits, ideal {image['ideal_bits']}; "
        f"bits of the most expensive channels {channels}"
    )
