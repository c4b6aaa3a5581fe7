"""``make_report``: read files that commands wrote, and return what a report shows of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitreg.errors import ReportError
from splitreg.files import parse_json, value_errors
from splitreg.report import figures
from splitreg.report.blocks import Gallery, Picture, ReportSection
from splitreg.report.page import html_page
from splitreg.report.text import markdown_page

#: Largest file that is read.
MAX_BYTES = 200_000_000
_Reader = Callable[[Any, str], list[ReportSection]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportDocument:
    """A report.

    Args:
        title: heading.
        sections: the content.
    """

    title: str
    sections: Sequence[ReportSection]

    def html(self) -> str:
        """Return one HTML file that loads nothing.

        Raises:
            ReportError: a value that is to be drawn is no number.
        """
        with _damaged("a file"):
            return html_page(self.title, self.sections)

    def markdown(self, stem: str = "report") -> tuple[str, dict[str, bytes]]:
        """Return Markdown, and the charts and images beside it: name -> content; ``stem`` begins the names.

        Raises:
            ReportError: as ``html``.
        """
        with _damaged("a file"):
            return markdown_page(self.title, self.sections, stem)


def _damaged(what: str) -> AbstractContextManager[None]:
    return value_errors(
        lambda cause: ReportError(
            f"{what} looks like a result of splitreg, but {type(cause).__name__} {str(cause)[:200]}; write it again with "
            "this version"
        )
    )


def make_report(files: Sequence[str | Path], *, title: str = "") -> ReportDocument:
    """Make a report from files, each of which may be of another command.

    Args:
        files: ``bench.json``, the JSON of ``bench compare``, ``eval``, ``sweep``, ``data check`` or any
            other command, ``log.jsonl`` of a training; a folder that has one of these; a bundle.
        title: heading; by default the names of the files.

    Raises:
        ReportError: a file cannot be read, or is not JSON of splitreg.
    """
    if not files:
        raise ReportError("a report needs at least one file")
    sections = [section for file in files for section in _sections(Path(file))]
    names = ", ".join(dict.fromkeys(_title_of(Path(file)) for file in files))
    return ReportDocument(title=title or f"splitreg report: {names}", sections=sections)


def _title_of(path: Path) -> str:
    return path.resolve().parent.name if path.name in _NAMES.values() else path.name


#: Files that folders are read from, in this order.
_NAMES = {"benchmark": "bench.json", "sweep": "sweep.json", "bundle": "metrics.json", "training": "log.jsonl"}


def _sections(path: Path) -> list[ReportSection]:
    if path.is_dir():
        inside = [path / name for name in _NAMES.values() if (path / name).is_file()]
        if not inside:
            raise ReportError(
                f"{path} has no file that a report can be made from; a folder has one of {', '.join(_NAMES.values())}"
            )
        return [*_sections(inside[0]), *_examples(path)]
    value = _read(path)
    reader = next((read for fits, read in _READERS if fits(value)), figures.anything)
    with _damaged(str(path)):
        return reader(value, _title_of(path))


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ReportError(f"{path} has more than {MAX_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8")
    except OSError as cause:
        raise ReportError(f"{path} cannot be read: {cause.strerror or cause}") from cause
    except UnicodeDecodeError as cause:
        raise ReportError(f"{path} is not JSON: it is not UTF-8") from cause
    try:
        return parse_json(text)
    except ValueError as whole:
        try:
            rows = [line for line in text.split("\n") if line.strip()]
            if len(rows) > 1 and not text.endswith("\n"):  # a run that goes on, or was killed, while it wrote
                rows = [*rows[:-1], *filter(_is_json, rows[-1:])]
            lines = [parse_json(line) for line in rows]
        except ValueError:
            raise ReportError(f"{path} is not JSON: {whole}") from whole
        if not lines:
            raise ReportError(f"{path} is empty") from whole
        return lines


def _is_json(line: str) -> bool:
    try:
        parse_json(line)
    except ValueError:
        return False
    return True


def _examples(folder: Path) -> list[ReportSection]:
    """Return the example images that a bundle has."""
    file = folder / "examples.jpg"
    if not file.is_file():
        return []
    caption = "Input with the bytes sent, prediction and truth of each head"
    picture = Picture(data=file.read_bytes(), suffix="jpeg", caption=caption)
    return [
        ReportSection(
            title=f"Examples of {folder.resolve().name}", blocks=[Gallery(pictures=[picture], stem="examples")]
        )
    ]


def _has(*keys: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Mapping) and all(key in value for key in keys)


def _rows_with(*keys: str) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(_has(*keys)(row) for row in value)

    return fits


#: What a value must have, and who reads it.
_READERS: tuple[tuple[Callable[[Any], bool], _Reader], ...] = (
    (_has("series", "comparisons", "dataset"), figures.benchmark),
    (_has("passed", "changes"), figures.comparison),
    (_has("points", "outcomes"), figures.sweep),
    (_has("splits", "duplicates", "warnings"), figures.data_check),
    (_has("sent", "bytes", "metrics"), lambda value, name: figures.evaluations([value], name)),
    (_rows_with("sent", "bytes", "metrics"), figures.evaluations),
    (_rows_with("event"), figures.training_log),
    (_has("evaluations"), lambda value, name: figures.bundle_metrics(value, name)),
)
