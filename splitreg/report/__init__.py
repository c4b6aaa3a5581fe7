"""Reports: one HTML file, or Markdown, from the JSON files that commands write."""

from splitreg.report.blocks import Bars, Chart, Gallery, Picture, ReportSection, Table, Text
from splitreg.report.build import ReportDocument, make_report
from splitreg.report.page import html_page
from splitreg.report.text import markdown_page

__all__ = [
    "Bars", "Chart", "Gallery", "Picture", "ReportDocument", "ReportSection", "Table", "Text", "html_page",
    "make_report", "markdown_page",
]  # fmt: skip
