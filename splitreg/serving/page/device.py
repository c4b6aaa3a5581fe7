"""The device's half in the server: one thread, the runtime without torch, a short queue."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from splitreg import imaging
from splitreg.bundle import Bundle
from splitreg.edge import EdgeEncoder
from splitreg.errors import BadRequest, DeadlinePassed, ImageError, SplitregError, TooLarge, Unavailable
from splitreg.serving.logs import log
from splitreg.serving.page.comparison import compare
from splitreg.serving.service import Service
from splitreg.wire import error_body

#: Pictures that wait or are encoded; more are refused.
WAITING = 8
#: What a browser's pictures begin with. Nothing else is given to the imaging library, which reads far more kinds of file.
_JPEG, _PNG, _WEBP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", (b"RIFF", b"WEBP")


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A packet, the milliseconds from pixels to packet, and what ``compare`` says of files (None: not asked for)."""

    packet: bytes
    milliseconds: float
    files: dict[str, Any] | None


class Device:
    """Encodes for browsers with the edge halves of a service's bundles, each loaded when it is first asked for.

    Args:
        service: whose models.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._waiting = 0
        self._encoders: dict[str, EdgeEncoder] = {}
        self._models: Any = None

    async def encode(
        self, picture: bytes, *, model: str | None, rate: float | None, files: bool, deadline: float
    ) -> Encoded:
        """Encode a picture.

        Args:
            picture: a JPEG, PNG or WebP file.
            model: its id; None for the only one.
            rate: 0 to 1; None for the model's own.
            files: compare with files of other formats.
            deadline: of the loop's clock.

        Raises:
            SplitregError: no such model, none of its edge half here, no picture, or too many wait.
        """
        models = self._service.models
        number = next(iter(models)) if model is None and len(models) == 1 else model
        if number is None or number not in models:
            raise BadRequest(f"model is one of {', '.join(models)}, got {str(number)[:40]!r}")
        if self._waiting >= WAITING:
            raise Unavailable("too many pictures wait to be encoded here; come back", retry_after_s=1.0)
        if models is not self._models:  # the bundles were loaded anew
            self._models, self._encoders = models, {}
        encoders = self._encoders
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._thread, lambda: self._encode(encoders, number, picture, rate, files))
        self._waiting += 1
        work.add_done_callback(self._done)
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(work)  # whoever asked may be gone: it counts until it is done
        except TimeoutError as cause:
            raise DeadlinePassed("the deadline passed before the picture was encoded") from cause

    def _done(self, work: asyncio.Future[Encoded]) -> None:
        self._waiting -= 1
        if not work.cancelled():
            work.exception()  # seen, even where nobody waits for it any more

    def _encode(
        self, encoders: dict[str, EdgeEncoder], number: str, picture: bytes, rate: float | None, files: bool
    ) -> Encoded:
        if number not in encoders:
            encoders[number] = self._open(number)
        encoder = encoders[number]
        pixels = read_picture(picture, self._service.config.request_pixels)
        begun = time.perf_counter()
        packet = encoder.encode(pixels, rate=rate)[0]
        milliseconds = 1000 * (time.perf_counter() - begun)
        return Encoded(
            packet=packet,
            milliseconds=milliseconds,
            files=compare(pixels, encoder.coding.preprocess, len(packet)) if files else None,
        )

    def _open(self, number: str) -> EdgeEncoder:
        try:
            for bundle in self._service.config.bundles:
                if Bundle.open(bundle).config.id == number:
                    encoder = EdgeEncoder.open(bundle, threads=1)
                    encoder.encode(
                        np.zeros((*encoder.coding.preprocess.size, 3), np.uint8)
                    )  # the first run is the slowest
                    return encoder
        except SplitregError as error:
            log("no edge half", model=number, **error_body(error))
            raise BadRequest(
                f"model {number} cannot be encoded here ({type(error).__name__}; the server's log says why); a bundle "
                "without edge.onnx gets one from splitreg publish BUNDLE -o NEW"
            ) from error
        raise BadRequest(f"the bundle of model {number} is not on the disk any more; the server must be reloaded")


def check_picture(data: bytes) -> bool:
    """Whether bytes begin as one of the formats that browsers send here does."""
    return data.startswith((_JPEG, _PNG)) or (data[:4], data[8:12]) == _WEBP


def read_picture(data: bytes, max_pixels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode a picture to (H, W, 3) uint8.

    Raises:
        ImageError: it is damaged.
        TooLarge: more pixels than that; it is not decoded.
    """
    try:
        return imaging.read(data, max_pixels=max_pixels)
    except ImageError as error:
        if error.__cause__ is None:
            raise TooLarge(str(error)) from error
        # what the library says of it names objects in memory
        raise ImageError(f"the {len(data)} bytes are not a whole picture") from error
