"""Griffe extension: turn the reStructuredText in docstrings (literal blocks, doctests) into Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"^(?P<indent> *)>>> (?:.+\n?)+", re.MULTILINE)  # up to the next empty line
LITERAL = re.compile(r"^( *)::$|::$", re.MULTILINE)


def fenced(match: re.Match[str]) -> str:
    """Return a doctest as a fenced code block."""
    return f"{match['indent']}```pycon\n{match[0].rstrip()}\n{match['indent']}```\n"


class Markdown(griffe.Extension):
    """Converts every docstring when its object is collected, before mkdocstrings parses it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring:
            text = LITERAL.sub(lambda match: "" if match[1] is not None else ":", obj.docstring.value)
            obj.docstring.value = DOCTEST.sub(fenced, text)
