"""What front and workers say to each other: a table and some bytes, over a socket pair.

A frame is the length of its JSON (4 bytes, little-endian), the JSON, and blobs whose lengths the JSON lists.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

_LENGTH = struct.Struct("<I")
_SIZES = "sizes"

Frame = tuple[dict[str, Any], list[bytes]]


def write(table: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """Return a frame's bytes."""
    head = json.dumps({**table, _SIZES: list(map(len, blobs))}).encode()
    return b"".join((_LENGTH.pack(len(head)), head, *blobs))


async def read(stream: asyncio.StreamReader) -> Frame:
    """Read a frame in the front.

    Raises:
        IncompleteReadError: the other side is gone.
    """
    (length,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
    table = json.loads(await stream.readexactly(length))
    return table, [await stream.readexactly(size) for size in table.pop(_SIZES)]


def receive(sock: socket.socket) -> Frame | None:
    """Read a frame in a worker; None when the front is gone."""
    head = _exactly(sock, _LENGTH.size)
    if head is None:
        return None
    body = _exactly(sock, _LENGTH.unpack(head)[0])
    if body is None:
        return None
    table = json.loads(body)
    blobs = []
    for size in table.pop(_SIZES):
        blob = _exactly(sock, size)
        if blob is None:
            return None
        blobs.append(blob)
    return table, blobs


def _exactly(sock: socket.socket, size: int) -> bytes | None:
    data = bytearray(size)
    view, there = memoryview(data), 0
    while there < size:
        count = sock.recv_into(view[there:])
        if count == 0:
            return None
        there += count
    return bytes(data)
