"""Tables of ``measure_speed`` for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from splitreg.bench.tables import markdown_table


def speed_tables(speed: Mapping[str, Any]) -> Iterator[str]:
    """Yield blocks of Markdown: device, server, throughput and processes; nothing without times."""
    if not speed:
        return
    machine, bundles = speed["machine"], speed["bundles"]
    load = machine["load_average"]
    yield (
        f"Times on {machine['hardware']}, {speed['threads']} thread{'s' if speed['threads'] > 1 else ''} per network"
        + ("" if load is None else f", load average {load:.1f}")
        + f"; medians of {speed['rounds']} interleaved rounds, in ms per image, with quartiles:"
    )
    device = [
        [f"{name}, {runtime}", _ms(one["edge"]["prepare"]), _ms(times["network"]), _ms(one["edge"]["code"]),
         _ms(times["encode"], spread=True)]
        for name, one in bundles.items()
        for runtime, times in one["edge"]["runtimes"].items()
    ]  # fmt: skip
    yield markdown_table(["device", "prepare", "network", "code", "whole"], device)
    server = [
        [name, _ms(one["server"]["decode"]), _ms(one["server"]["body"]),
         ", ".join(f"{head} {_ms(time)}" for head, time in one["server"]["heads"].items()),
         _ms(one["server"]["infer"], spread=True), _ms(one["local"], spread=True), f"{one['bytes']['answer']:,.0f}"]
        for name, one in bundles.items()
    ]  # fmt: skip
    yield markdown_table(
        ["server", "decode", "body", "heads", "whole", "whole network without packets", "bytes per answer"], server
    )
    if speed["codecs"]:
        rows = [
            [text, _ms(one["encode"], spread=True), _ms(one["decode"], spread=True), f"{one['bytes']:,.0f}"]
            for text, one in speed["codecs"].items()
        ]
        yield markdown_table(["image codec", "encode", "decode", "bytes"], rows)
    sizes = list(next(iter(bundles.values()))["throughput"])
    rows = [[name, *(f"{one['throughput'][size]:.1f}" for size in sizes)] for name, one in bundles.items()]
    yield markdown_table(["images per second of the server, packets at once", *sizes], rows)
    rows = [
        [f"{name}, {kind}", f"{one['start_s']:.2f}", f"{one['cpu_s']:.2f}", f"{one['peak_bytes'] / 2**20:,.0f}"]
        for name, bundle in bundles.items()
        for kind, one in bundle["processes"].items()
    ]
    if rows:
        yield markdown_table(["process, from its start to the first result", "s", "CPU s", "peak MiB"], rows)


def _ms(timing: Mapping[str, float], *, spread: bool = False) -> str:
    quartiles = f" ({timing['low_ms']:.2f} to {timing['high_ms']:.2f})" if spread else ""
    return f"{timing['ms']:.2f}{quartiles}"
