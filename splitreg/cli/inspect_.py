"""``splitreg inspect``: what is in a packet, byte by byte; without torch, unless a bundle shall decode it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitreg.cli.tables import print_json, table

if TYPE_CHECKING:
    from splitreg.assembly import ServerModel
    from splitreg.coding import Packet
    from splitreg.coding.inspection import PacketBreakdown

#: The channels that cost most, in the printed text; the JSON has all.
_CHANNELS = 8


@click.command("inspect")
@click.argument("packets", nargs=-1, required=True, type=click.Path())
@click.option("--bundle", metavar="BUNDLE", type=click.Path(), help="Decode the packets with this bundle too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(packets: tuple[str, ...], bundle: str | None, as_json: bool) -> None:
    """Show the fields of packets; exit status 1 if one is damaged, or not of BUNDLE.

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
    from splitreg.coding.inspection import dissect

    try:
        with Path(name).open("rb") as file:
            data = file.read(MAX_PACKET_BYTES + 1)
    except OSError as error:
        return {"packet": name, "ok": False, "problem": f"cannot be read: {error.strerror or error}"}
    report = {"packet": name, **_describe(dissect(data), len(data))}
    if server is not None and report["ok"]:
        report |= _decode(data, server)
    return report


def _describe(anatomy: PacketBreakdown, size: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "ok": anatomy.packet is not None, "problem": anatomy.problem or None, "bytes": size, "crc_fits": anatomy.crc_fits,
    }  # fmt: skip
    if anatomy.packet is not None:
        packet = anatomy.packet
        found |= {
            "model_id": f"{packet.model_id:08x}", "header_bytes": packet.header_bytes, "payload_bytes": packet.payload_bytes,
            "coded": list(packet.coded),
            "images": [
                {"original": list(image.original), "streams": [len(stream) for stream in image.streams]}
                for image in packet.images
            ],
        }  # fmt: skip
    fields = [{"offset": f.offset, "size": f.size, "name": f.name, "value": f.value} for f in anatomy.fields]
    return {**found, "fields": fields}


def _decode(data: bytes, server: ServerModel) -> dict[str, Any]:
    from splitreg.coding import Packet
    from splitreg.errors import SplitregError

    try:
        return {"decoded": [_measure(image, server) for image in Packet.parse(data).images]}
    except SplitregError as error:
        return {"ok": False, "problem": f"the bundle does not decode it: {error}"}


def _measure(image: Packet, server: ServerModel) -> dict[str, Any]:
    from splitreg.coding import VariableModel
    from splitreg.coding.inspection import measure

    latent = server.decode(image)  # checks sizes and the model before anything is measured
    channels, height, width = latent.shape
    model = server.coding.frozen
    assert model is not None
    found = measure(image.streams, (channels, height, width), model, server.coding.codec)
    return {
        "latent": [channels, height, width],
        **({"rate": round(model.rate_of(image.streams), 4)} if isinstance(model, VariableModel) else {}),
        "bits": 8 * image.payload_bytes,
        "ideal_bits": round(sum(found.stream_bits), 1) if found.stream_bits else None,
        "channel_bits": [round(bits, 1) for bits in found.channel_bits],
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
        lines.append(f"{report['bytes']} bytes, CRC {'ok' if report['crc_fits'] else 'does not fit'}")
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
    most = sorted(enumerate(image["channel_bits"]), key=lambda item: -item[1])[:_CHANNELS]
    costly = ", ".join(f"{channel}: {bits}" for channel, bits in most)
    return (
        f"image {number}: latent {shape}, {image['bits']} bits, {image['ideal_bits']} by the tables; "
        f"bits of the costliest channels {costly}"
    )
