"""A report as one HTML file that loads nothing: styles, charts and images are inside."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from html import escape

from splitreg.report.blocks import Bars, Block, Chart, Gallery, Picture, ReportSection, Table, Text

#: Text and background, of which a test checks the contrast: role -> colour.
COLOURS = {
    "text": "#1c1e21", "muted": "#4d5358", "link": "#0b57a4", "page": "#ffffff", "panel": "#f4f5f6", "line": "#75797d",
}  # fmt: skip
#: Parts of bars; distinguishable without colour, too: each has its number in the table.
BAR_COLOURS = ("#0072b2", "#b34700", "#00735a", "#99487a", "#8a6100", "#35789f", "#3d3d3d")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 72rem; padding: 0 1rem;
  color: TEXT; background: PAGE; overflow-wrap: anywhere; }
h1, h2 { line-height: 1.2; } h2 { margin: 2rem 0 .6rem; }
a { color: LINK; } .lead { font-size: 1.2rem; } nav ul { padding-left: 1.2rem; }
.wide { overflow-x: auto; margin: .6rem 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; color: MUTED; padding: .2rem 0; }
th, td { padding: .25rem .7rem; text-align: right; vertical-align: top; white-space: nowrap; }
th { border-bottom: 2px solid LINE; } td, tbody th { border-bottom: 1px solid #d5d8da; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; min-width: 7rem; }
tbody th { font-weight: normal; }
td.bar { text-align: left; min-width: 12rem; width: 45%; }
td.bar span, .key span { display: inline-block; height: .9rem; vertical-align: middle; }
.key { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .4rem 0; }
.key span { width: .9rem; margin-right: .4rem; }
figure { margin: 0 0 1rem; } figcaption { font-size: .875rem; color: MUTED; }
.chart svg { display: block; width: 100%; height: auto; max-width: 820px; min-width: 640px; }
.row { display: flex; flex-wrap: wrap; gap: .8rem; margin: 0 0 1rem; padding: .8rem; background: PANEL; border-radius: 6px; }
.row figure { margin: 0; flex: 0 1 auto; max-width: 100%; } .row img { max-width: 100%; width: 11rem; display: block; }
.row.single img { width: auto; }
@media print {
  body { margin: 0; max-width: none; font-size: 10pt; } nav { display: none; }
  .wide { overflow: visible; } .chart svg { min-width: 0; }
  th, td { white-space: normal; padding: .15rem .4rem; }
  figure, tr, .row { break-inside: avoid; } h2 { break-after: avoid; }
  td.bar span, .key span { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""


def html_page(title: str, sections: Sequence[ReportSection]) -> str:
    """Return the file.

    Args:
        title: heading.
        sections: the content; a section without a title has no heading.
    """
    style = _STYLE
    for role, colour in COLOURS.items():
        style = style.replace(role.upper(), colour)
    titled = [(f"s{number}", section) for number, section in enumerate(sections)]
    named = [(key, section.title) for key, section in titled if section.title]
    links = "".join(f'<li><a href="#{key}">{escape(name)}</a></li>' for key, name in named)
    body = [f"<h1>{escape(title)}</h1>"]
    if len(named) > 3:
        body.append(f'<nav aria-label="Contents"><ul>{links}</ul></nav>')
    for key, section in titled:
        heading = f"<h2>{escape(section.title)}</h2>" if section.title else ""
        body.append(f'<section id="{key}">{heading}' + "\n".join(map(_block, section.blocks)) + "</section>")
    content = "\n".join(body)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>\n{content}\n</main></body></html>\n"
    )


def _block(block: Block) -> str:
    match block:
        case Text():
            lead = ' class="lead"' if block.lead else ""
            return f"<p{lead}>{escape(block.text)}</p>"
        case Table():
            rows = "".join(_row(row) for row in block.rows)
            return _table(block.header, rows, block.caption)
        case Bars():
            return _bars(block)
        case Chart():
            return (
                f'<figure class="chart"><div class="wide" tabindex="0" role="img" aria-label="{escape(block.caption)}">'
                f"{block.svg}</div></figure>"
            )
        case Gallery():
            single = " single" if len(block.pictures) == 1 else ""
            return f'<div class="row{single}">{"".join(map(_picture, block.pictures))}</div>'


def _table(header: Sequence[str], rows: str, caption: str) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    head = f"<thead><tr>{head}</tr></thead>" if any(header) else ""
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    label = escape(caption or " ".join(header)) or "table"
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}">'
        f"<table>{title}{head}<tbody>{rows}</tbody></table></div>"
    )


def _row(cells: Sequence[str], more: str = "") -> str:
    first, *others = cells
    return (
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(c)}</td>" for c in others) + f"{more}</tr>"
    )


def _bars(block: Bars) -> str:
    largest = max((sum(values) for _, values in block.rows), default=0.0) or 1.0
    colours = list(itertools.islice(itertools.cycle(BAR_COLOURS), len(block.parts)))
    rows = []
    for name, values in block.rows:
        spans = "".join(
            f'<span style="width:{100 * value / largest:.3f}%;background:{colour}"></span>'
            for value, colour in zip(values, colours, strict=True)
            if value > 0
        )
        cells = [name, *(bar_number(value) for value in values)]
        if len(values) > 1:
            cells.append(bar_number(sum(values)))
        rows.append(_row(cells, f'<td class="bar" aria-hidden="true">{spans}</td>'))
    several = len(block.parts) > 1
    header = ["", *(f"{part}, {block.unit}" if not several else part for part in block.parts)]
    if several:
        header.append(f"sum, {block.unit}")
    key = "".join(
        f'<li><span style="background:{colour}"></span>{escape(part)}</li>'
        for part, colour in zip(block.parts, colours, strict=True)
    )
    return (f'<ul class="key">{key}</ul>' if several else "") + _table([*header, ""], "".join(rows), block.caption)


def bar_number(value: float) -> str:
    """Return the number beside a bar: three digits or whole.

    >>> bar_number(0.1234), bar_number(12.3456), bar_number(12345.6)
    ('0.12', '12.3', '12,346')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _picture(picture: Picture) -> str:
    source = f"data:image/{picture.suffix};base64,{base64.b64encode(picture.data).decode()}"
    text = escape(picture.caption)
    return f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'
