"""Report of the demo: one HTML file that contains its images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from splitreg.evaluation.examples import Example, jpeg
from splitreg.report import Bars, Gallery, Picture, ReportSection, Table, Text, html_page
from splitreg.wire import write_png


def page(
    *,
    title: str,
    summary: Sequence[str],
    rates: Sequence[tuple[str, float]],
    metrics: Mapping[str, Mapping[str, float | None]],
    examples: Sequence[Example],
    facts: Mapping[str, str],
) -> str:
    """Return the report as HTML.

    Args:
        title: heading.
        summary: sentences below it.
        rates: (name, bytes per image), the packet first.
        metrics: head -> metric -> value; None: could not be measured.
        examples: images that were sent between the two processes.
        facts: model, images and durations.
    """
    packet = rates[0][1]
    sizes = [(f"{name} ({value / packet:.1f}x)", [value]) for name, value in rates]
    rows = [
        (f"{head} {name}", "-" if value is None else f"{value:.3f}")
        for head, values in metrics.items()
        for name, value in values.items()
    ]
    about = (
        "Each held-out image was encoded in one process, sent as a packet to the server half in another process, and "
        "decoded there."
    )
    sections = [
        ReportSection(title="", blocks=[Text(text=line, lead=True) for line in summary]),
        ReportSection(title="Bytes per image", blocks=[Bars(rows=sizes, parts=["mean"], unit="bytes")]),
        ReportSection(title="Metrics on held-out images", blocks=[Table(header=["metric", "value"], rows=rows)]),
        ReportSection(title="Examples", blocks=[Text(text=about), *(example_gallery(item) for item in examples)]),
        ReportSection(title="Model and run", blocks=[Table(header=["", ""], rows=list(facts.items()))]),
    ]
    return html_page(title, sections)


def example_gallery(item: Example) -> Gallery:
    """Return the input with its bytes, and prediction and truth of each head."""
    return Gallery(pictures=list(_pictures(item)), stem=item.name)


def _pictures(item: Example) -> Iterator[Picture]:
    yield Picture(data=write_png(item.image), suffix="png", caption=f"input; {item.packet_bytes} bytes sent")
    for head, drawn in item.predictions.items():
        yield Picture(data=jpeg(drawn), suffix="jpeg", caption=f"{head}: predicted")
        if head in item.truths:
            yield Picture(data=jpeg(item.truths[head]), suffix="jpeg", caption=f"{head}: truth")
