"""The process that decodes and encodes the images of browsers, with limits of time and memory.

``python -m splitreg.serving.page.encoding FD`` reads images from its socket until it is closed. A
hostile image can occupy or end this process, but not the server: a decoder that takes too much CPU
time is ended by SIGPROF, one that takes too much memory gets no more.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from splitreg import imaging
from splitreg.bundle import Bundle
from splitreg.edge import EdgeEncoder
from splitreg.errors import BadRequest, ImageError, ServiceError, SplitregError, TooLarge
from splitreg.serving import frames
from splitreg.serving.page.comparison import compare_files
from splitreg.wire import error_body

#: Scans of a JPEG file, and pixels times scans: a decoder passes over the whole image for each.
#: Cameras and image editors write about ten.
MAX_SCANS, MAX_SCAN_PIXELS = 100, 600_000_000
_JPEG, _SCAN = b"\xff\xd8\xff", b"\xff\xda"
#: Priority below that of the workers.
_NICENESS = 19


def main() -> None:
    """Answer the images that arrive on the socket, until it is closed."""
    front = socket.socket(fileno=int(sys.argv[1]))
    os.nice(_NICENESS)
    encoders: dict[str, EdgeEncoder] = {}
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            table, blobs = frames.receive(front)
            try:
                reply, packets = _answer(encoders, table, blobs[0])
            except SplitregError as error:
                reply, packets = error_body(error), []
            except MemoryError:
                reply, packets = error_body(_too_much_memory(table)), []
            except Exception as error:
                reply, packets = error_body(ServiceError(f"the image failed with {type(error).__name__}")), []
            front.sendall(frames.write({**reply, "opened": table["model"] in encoders}, packets))


def _answer(
    encoders: dict[str, EdgeEncoder], table: Mapping[str, Any], data: bytes
) -> tuple[dict[str, Any], list[bytes]]:
    encoder = encoders.get(table["model"])
    if encoder is None:
        _limit_memory(None)
        _limit_cpu(None)
        encoder = encoders[table["model"]] = open_encoder(table["bundles"], table["model"])
    _limit_memory(table["max_bytes"])
    _limit_cpu(table["seconds"])
    try:
        pixels = read_image(data, table["max_pixels"])
    except ImageError as error:
        if isinstance(error.__cause__, MemoryError):
            raise _too_much_memory(table) from error
        # the library's own message may contain addresses of objects in memory
        raise ImageError(f"the body of {len(data)} bytes is a damaged or truncated image file") from error
    start = time.perf_counter()
    packet = encoder.encode(pixels, rate=table["rate"])[0]
    milliseconds = 1000 * (time.perf_counter() - start)
    files = compare_files(pixels, encoder.coding.preprocess, len(packet)) if table["files"] else None
    return {"milliseconds": milliseconds, "files": files}, [packet]


def open_encoder(places: Sequence[str], model_id: str) -> EdgeEncoder:
    """Open the edge half of the bundle with this model id.

    Raises:
        BadRequest: none of the bundles has this id any more.
        SplitregError: its bundle has no edge half that runs here.
    """
    for place in places:
        if Bundle.open(place).config.id == model_id:
            encoder = EdgeEncoder.open(place, threads=1)
            encoder.encode(np.zeros((*encoder.coding.preprocess.size, 3), np.uint8))  # warm-up
            return encoder
    raise BadRequest(f"the bundle of model {model_id} was replaced on disk; reload the server")


def read_image(data: bytes, max_pixels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode an image file to (H, W, 3) uint8.

    Raises:
        ImageError: the file is damaged.
        TooLarge: it has more than ``max_pixels``, or too many scans; it is not decoded.
    """
    try:
        with imaging.open_image(data, max_pixels=max_pixels) as image:
            pixels = image.width * image.height
    except ImageError as error:
        if error.__cause__ is None:
            raise TooLarge(str(error)) from error
        raise
    scans = data.count(_SCAN) if data.startswith(_JPEG) else 0
    max_scans = min(MAX_SCANS, MAX_SCAN_PIXELS // max(1, pixels))
    if scans > max_scans:
        raise TooLarge(
            f"a JPEG file of {pixels} pixels may have at most {max_scans} scans, got {scans}; save it again as a "
            "baseline (not progressive) JPEG"
        )
    return imaging.read(data, max_pixels=max_pixels)


def _too_much_memory(table: Mapping[str, Any]) -> TooLarge:
    return TooLarge(f"the image needs more than the {table['max_bytes']} bytes of memory that decoding may use")


def _limit_memory(count: int | None) -> None:
    """Allow this many bytes more than now; None removes the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = hard
    if count is not None:
        with contextlib.suppress(OSError):  # not Linux
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            soft = pages * resource.getpagesize() + count
    if hard == resource.RLIM_INFINITY or soft <= hard:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _limit_cpu(seconds: float | None) -> None:
    """Allow this many seconds of CPU time more than now, then SIGPROF ends the process; None removes the limit.

    RLIMIT_CPU counts whole seconds only.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds or 0)


if __name__ == "__main__":
    main()
