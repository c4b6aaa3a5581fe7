"""Encoding for browsers, which cannot run the edge half: one thread, no torch, a short queue."""

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
from splitreg.serving.page.comparison import compare_files
from splitreg.serving.service import Service
from splitreg.wire import error_body

#: Images that wait or are being encoded; further ones are refused.
MAX_WAITING = 8
#: First bytes of the formats that browsers send. Nothing else reaches the imaging library, which
#: reads many more formats.
_JPEG, _PNG, _WEBP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", (b"RIFF", b"WEBP")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """What ``POST /v1/encode`` asks for.

    Args:
        model: model id; None for the only model.
        rate: 0 to 1; None for the model's default.
        files: also compress the image as JPEG and WebP files.
    """

    model: str | None = None
    rate: float | None = None
    files: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedImage:
    """A packet, the milliseconds to encode it, and the result of ``compare_files`` or None."""

    packet: bytes
    milliseconds: float
    files: dict[str, Any] | None


class BrowserEncoder:
    """Encodes images with the edge halves of a service's bundles, opened when first needed.

    Args:
        service: whose bundles.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._waiting = 0
        self._encoders: dict[str, EdgeEncoder] = {}
        self._models: Any = None

    async def encode(self, data: bytes, options: EncodeOptions, deadline: float) -> EncodedImage:
        """Encode an image.

        Args:
            data: a JPEG, PNG or WebP file.
            options: model, rate and comparison.
            deadline: in seconds of the event loop's clock.

        Raises:
            SplitregError: the image or an option is invalid, the model has no edge half on this
                server, or too many images wait.
        """
        models, model = self._service.models, options.model
        model_id = next(iter(models)) if model is None and len(models) == 1 else model
        if model_id is None or model_id not in models:
            raise BadRequest(f"model must be one of {', '.join(models)}, got {str(model_id)[:40]!r}")
        if self._waiting >= MAX_WAITING:
            raise Unavailable(f"{self._waiting} images wait to be encoded already; retry later", retry_after_s=1.0)
        if models is not self._models:  # the bundles were reloaded
            self._models, self._encoders = models, {}
        encoders = self._encoders
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._thread, lambda: self._encode(encoders, model_id, data, options))
        self._waiting += 1
        work.add_done_callback(self._on_done)
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(work)  # counts as waiting until it is done
        except TimeoutError as cause:
            raise DeadlinePassed("the deadline passed before the image was encoded") from cause

    def _on_done(self, work: asyncio.Future[EncodedImage]) -> None:
        self._waiting -= 1
        if not work.cancelled():
            work.exception()  # keeps asyncio from logging it if the client has disconnected

    def _encode(
        self, encoders: dict[str, EdgeEncoder], model_id: str, data: bytes, options: EncodeOptions
    ) -> EncodedImage:
        if model_id not in encoders:
            encoders[model_id] = self._open(model_id)
        encoder = encoders[model_id]
        pixels = read_image(data, self._service.config.max_request_pixels)
        start = time.perf_counter()
        packet = encoder.encode(pixels, rate=options.rate)[0]
        milliseconds = 1000 * (time.perf_counter() - start)
        files = compare_files(pixels, encoder.coding.preprocess, len(packet)) if options.files else None
        return EncodedImage(packet=packet, milliseconds=milliseconds, files=files)

    def _open(self, number: str) -> EdgeEncoder:
        try:
            for bundle in self._service.config.bundles:
                if Bundle.open(bundle).config.id == number:
                    encoder = EdgeEncoder.open(bundle, threads=1)
                    encoder.encode(np.zeros((*encoder.coding.preprocess.size, 3), np.uint8))  # warm-up
                    return encoder
        except SplitregError as error:
            log("edge half not available", model=number, **error_body(error))
            raise BadRequest(
                f"model {number} cannot be encoded here ({type(error).__name__}, see the server's log); if its bundle "
                "has no edge.onnx, create it with: splitreg publish BUNDLE -o NEW"
            ) from error
        raise BadRequest(f"the bundle of model {number} was replaced on disk; reload the server")


def is_image(data: bytes) -> bool:
    """Return whether bytes start like a JPEG, PNG or WebP file."""
    return data.startswith((_JPEG, _PNG)) or (data[:4], data[8:12]) == _WEBP


def read_image(data: bytes, max_pixels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode an image file to (H, W, 3) uint8.

    Raises:
        ImageError: the file is damaged.
        TooLarge: it has more than ``max_pixels``; it is not decoded.
    """
    try:
        return imaging.read(data, max_pixels=max_pixels)
    except ImageError as error:
        if error.__cause__ is None:
            raise TooLarge(str(error)) from error
        # the library's own message may contain addresses of objects in memory
        raise ImageError(f"the body of {len(data)} bytes is a damaged or truncated image file") from error
