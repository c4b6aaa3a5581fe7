"""Messages between the server process and its workers, over a socket pair.

A frame is the length of its JSON table (4 bytes, little-endian), the table, and binary blobs whose
lengths the table lists. Workers read with blocking sockets, the server process with asyncio.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from splitreg.serving.inference import InferenceRequest
from splitreg.wire import AnswerFormat

_LENGTH = struct.Struct("<I")
_SIZES = "sizes"
#: A worker sends a frame with this operation every so many seconds.
ALIVE, BEAT_SECONDS = "alive", 0.5

Frame = tuple[dict[str, Any], list[bytes]]


def write(table: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """Return the bytes of a frame."""
    head = json.dumps({**table, _SIZES: list(map(len, blobs))}).encode()
    return b"".join((_LENGTH.pack(len(head)), head, *blobs))


async def read(stream: asyncio.StreamReader) -> Frame:
    """Read a frame in the server process.

    Raises:
        IncompleteReadError: the other side closed the connection.
    """
    (length,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
    table = json.loads(await stream.readexactly(length))
    return table, [await stream.readexactly(size) for size in table.pop(_SIZES)]


def receive(sock: socket.socket) -> Frame:
    """Read a frame in a worker.

    Raises:
        EOFError: the other side closed the connection.
    """
    (length,) = _LENGTH.unpack(_receive_exactly(sock, _LENGTH.size))
    table = json.loads(_receive_exactly(sock, length))
    return table, [_receive_exactly(sock, size) for size in table.pop(_SIZES)]


def write_batch(model: str, heads: Sequence[str], requests: Sequence[InferenceRequest]) -> bytes:
    """Return the frame that asks a worker for the answers to requests of one model."""
    jobs = [
        {"packets": len(request.packets), "images": request.images, "format": asdict(request.answer_format)}
        for request in requests
    ]
    packets = [packet for request in requests for packet in request.packets]
    return write({"op": "infer", "model": model, "heads": heads, "jobs": jobs}, packets)


def read_batch(table: dict[str, Any], packets: Sequence[bytes]) -> list[InferenceRequest]:
    """Return the requests in a frame from ``write_batch``."""
    requests, start = [], 0
    for job in table["jobs"]:
        stop = start + job["packets"]
        requests.append(
            InferenceRequest(
                images=job["images"], answer_format=AnswerFormat(**job["format"]), packets=tuple(packets[start:stop])
            )
        )
        start = stop
    return requests


def _receive_exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view, received = memoryview(data), 0
    while received < size:
        count = sock.recv_into(view[received:])
        if count == 0:
            raise EOFError("the connection was closed")
        received += count
    return bytes(data)
