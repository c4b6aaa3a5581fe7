"""The bytes of a response's head."""

from __future__ import annotations

import http
import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache

_PHRASES = {status.value: status.phrase.encode() for status in http.HTTPStatus}


def response_head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return status line and headers, with ``Date``."""
    lines = [b"HTTP/1.1 %d %s" % (status, _PHRASES.get(status, b"")), b"date: " + _date(int(time.time()))]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join([*lines, b"", b""])


@lru_cache(1)
def _date(seconds: int) -> bytes:
    return formatdate(seconds, usegmt=True).encode()
