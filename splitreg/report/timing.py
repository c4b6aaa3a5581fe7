"""Sections of the times that a benchmark measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from splitreg.report.blocks import Bars, Block, ReportSection, Table, Text

_DEVICE = ("prepare", "network", "code")


def speed_sections(speed: Mapping[str, Any]) -> list[ReportSection]:
    """Return bars of device and server times, throughput, and processes; nothing without times."""
    if not speed:
        return []
    machine, bundles = speed["machine"], speed["bundles"]
    device = [
        (f"{name}, {runtime}", [one["edge"]["prepare"]["ms"], times["network"]["ms"], one["edge"]["code"]["ms"]])
        for name, one in bundles.items()
        for runtime, times in one["edge"]["runtimes"].items()
    ]
    heads = list(dict.fromkeys(head for one in bundles.values() for head in one["server"]["heads"]))
    server = [
        (name, [one["server"]["decode"]["ms"], one["server"]["body"]["ms"],
                *(one["server"]["heads"].get(head, {"ms": 0.0})["ms"] for head in heads)])
        for name, one in bundles.items()
    ]  # fmt: skip
    threads = f"CPU threads per network: {speed['threads']}"
    about = f"Medians of {speed['rounds']} interleaved rounds on {machine['hardware']}. {threads}."
    blocks: list[Block] = [
        Text(text=about),
        Bars(rows=device, parts=list(_DEVICE), unit="ms", caption="Device, per image"),
        Bars(rows=server, parts=["decode", "body", *heads], unit="ms", caption="Server, per image"),
    ]
    sizes = list(dict.fromkeys(size for one in bundles.values() for size in one["throughput"]))
    rows = [[name, *(f"{one['throughput'].get(s, 0):,.1f}" for s in sizes)] for name, one in bundles.items()]
    caption = "Images per second of the server, by the number of packets that it runs at once"
    blocks.append(Table(header=["bundle", *sizes], rows=rows, caption=caption))
    processes = [
        [f"{name}, {kind}", f"{p['start_s']:.2f}", f"{p['cpu_s']:.2f}", f"{p['peak_bytes'] / 2**20:,.0f}"]
        for name, one in bundles.items()
        for kind, p in one["processes"].items()
    ]
    if processes:
        header = ["process, from its start to the first result", "s", "CPU s", "peak MiB"]
        blocks.append(Table(header=header, rows=processes))
    return [ReportSection(title="Times", blocks=blocks)]
