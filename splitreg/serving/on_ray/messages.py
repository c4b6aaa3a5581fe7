"""What a head's replica returns to the ingress (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadAnswer:
    """One head's part of the answer to one request.

    Args:
        blobs: as returned by ``AnswerFormat.write_head``; empty if there is an error.
        error: body of the error, see ``splitreg.wire.error_body``; None if there is none.
    """

    blobs: tuple[bytes, ...] = ()
    error: Mapping[str, Any] | None = None
