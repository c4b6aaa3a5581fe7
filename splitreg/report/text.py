"""A report as Markdown, with its charts and images as files beside it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from splitreg.report.blocks import Bars, Block, Chart, Gallery, ReportSection, Table, Text
from splitreg.report.page import bar_number


def markdown_page(title: str, sections: Sequence[ReportSection], stem: str) -> tuple[str, dict[str, bytes]]:
    """Return the text, and name -> content of the files that it shows.

    Args:
        title: heading.
        sections: the content.
        stem: beginning of the names of the files.
    """
    files: dict[str, bytes] = {}
    parts = [f"# {title}"]
    for section in sections:
        if section.title:
            parts.append(f"## {section.title}")
        for block in section.blocks:
            parts += _block(block, stem, files)
    return "\n\n".join(parts) + "\n", files


def _block(block: Block, stem: str, files: dict[str, bytes]) -> Iterator[str]:
    match block:
        case Text():
            yield block.text
        case Table():
            if block.caption:
                yield f"{block.caption}:"
            yield _table(block.header, block.rows)
        case Bars():
            if block.caption:
                yield f"{block.caption}:"
            several = len(block.parts) > 1
            header = ["", *(f"{part}, {block.unit}" for part in block.parts), *([f"sum, {block.unit}"] * several)]
            rows = [
                [name, *map(bar_number, values), *([bar_number(sum(values))] * several)] for name, values in block.rows
            ]
            yield _table(header, rows)
        case Chart():
            name = _free(f"{stem}-{block.stem}", ".svg", files)
            files[name] = block.svg.encode()
            yield f"![{block.caption}]({name})"
        case Gallery():
            for number, picture in enumerate(block.pictures):
                suffix = ".jpg" if picture.suffix == "jpeg" else f".{picture.suffix}"
                name = _free(f"{stem}-{block.stem}-{number}", suffix, files)
                files[name] = picture.data
                yield f"![{picture.caption}]({name})"
                yield picture.caption


def _free(name: str, suffix: str, files: Mapping[str, bytes]) -> str:
    """Return a file name that no other chart or image of the page has."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(f"{one}{suffix}" for one in names if f"{one}{suffix}" not in files)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(map(_cell, header)) + " |"]
    lines.append("| --- |" + " ---: |" * (len(header) - 1))
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
