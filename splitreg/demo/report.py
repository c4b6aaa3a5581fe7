"""Report of the demo: one HTML file that contains its images."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from splitreg.evaluation.examples import Example, jpeg
from splitreg.wire import write_png

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #222; }
h1, h2 { line-height: 1.2; } figure { margin: 0; } figcaption { font-size: .8rem; color: #555; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .3rem .9rem; text-align: right; }
th { border-bottom: 2px solid #888; } td { border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; } .row { display: flex; flex-wrap: wrap; gap: .6rem; }
.row { margin: 0 0 1.6rem; padding: .6rem; background: #f6f6f4; border-radius: 6px; }
.row img { width: 10.2rem; border-radius: 3px; } .bar { background: #3b6ea5; height: .9rem; display: inline-block; }
.big { font-size: 1.3rem; } code { background: #eee; padding: .1rem .3rem; }
"""


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
    parts = [f"<h1>{html.escape(title)}</h1>", *(f'<p class="big">{html.escape(line)}</p>' for line in summary)]
    parts += ["<h2>Bytes per image</h2>", _rates(rates)]
    rows = [
        (head, name, "-" if value is None else f"{value:.3f}")
        for head, values in metrics.items()
        for name, value in values.items()
    ]
    parts += ["<h2>Metrics on held-out images</h2>", _table(("head", "metric", "value"), rows)]
    parts += ["<h2>Examples</h2>", "<p>Each held-out image was encoded in one process, sent as a packet to the server half in "
              "another process, and decoded there.</p>"]  # fmt: skip
    parts += [_example(item) for item in examples]
    parts += ["<h2>Model and run</h2>", _table(("", ""), list(facts.items()))]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _rates(rates: Sequence[tuple[str, float]]) -> str:
    packet, largest = rates[0][1], max(value for _, value in rates)
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value:,.0f}</td><td>{value / packet:.1f}x</td>"
        f'<td style="text-align:left"><span class="bar" style="width:{24 * value / largest:.2f}rem"></span></td></tr>'
        for name, value in rates
    )
    return f"<table><tr><th>sent</th><th>bytes (mean)</th><th>relative to the packet</th><th></th></tr>{rows}</table>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _example(item: Example) -> str:
    cells = [_figure(item.image, f"input; {item.packet_bytes} bytes sent", exact=True)]
    for head, drawn in item.predictions.items():
        cells.append(_figure(drawn, f"{head}: predicted"))
        if head in item.truths:
            cells.append(_figure(item.truths[head], f"{head}: truth"))
    return f'<div class="row">{"".join(cells)}</div>'


def _figure(image: NDArray[np.uint8], caption: str, exact: bool = False) -> str:
    kind, data = ("png", write_png(image)) if exact else ("jpeg", jpeg(image))
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<figure><img alt="{html.escape(caption)}" src="{source}"><figcaption>{html.escape(caption)}</figcaption></figure>'
