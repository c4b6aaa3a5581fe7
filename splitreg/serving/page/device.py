"""Encoding for browsers, which cannot run the edge half: one process that can be killed, no torch."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from splitreg.errors import BadRequest, DeadlinePassed, SplitregError, TooLarge, Unavailable
from splitreg.serving import frames
from splitreg.serving.logs import log
from splitreg.serving.service import Service
from splitreg.wire import error_body, error_from

#: Images that wait or are being encoded, in all and per client; further ones are refused.
MAX_WAITING, MAX_CLIENT_WAITING = 8, 4
#: An image may take this many times its limit of CPU time, on a machine that is busy.
_BUSY_FACTOR = 3.0
#: Clients whose use of the process is remembered.
_MAX_CLIENTS = 1024
#: First bytes of the formats that browsers send. Nothing else reaches the imaging library, which
#: reads many more formats.
_JPEG, _PNG, _WEBP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", (b"RIFF", b"WEBP")
_MODULE = "splitreg.serving.page.encoding"


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
    """Encodes images with the edge halves of a service's bundles, in a process of its own.

    The process starts with the first image, and again after it was killed or the bundles were
    reloaded. Of the clients that wait, the one that has used the process least comes first.

    Args:
        service: whose bundles.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._process: _EncodingProcess | None = None
        self._models: Any = None
        self._clients: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}
        self._turns: list[tuple[str, asyncio.Future[None]]] = []
        self._busy = False
        self._ending: set[asyncio.Task[None]] = set()
        service.on_stop.append(self._stop)

    async def encode(self, data: bytes, options: EncodeOptions, deadline: float, client: str = "") -> EncodedImage:
        """Encode an image.

        Args:
            data: a JPEG, PNG or WebP file.
            options: model, rate and comparison.
            deadline: in seconds of the event loop's clock.
            client: its address.

        Raises:
            SplitregError: the image or an option is invalid, the model has no edge half on this
                server, too many images wait, or this one takes too much time or memory.
        """
        models, model = self._service.models, options.model
        model_id = next(iter(models)) if model is None and len(models) == 1 else model
        if model_id is None or model_id not in models:
            raise BadRequest(f"model must be one of {', '.join(models)}, got {str(model_id)[:40]!r}")
        waiting = self._clients.total()
        if waiting >= MAX_WAITING or self._clients[client] >= MAX_CLIENT_WAITING:
            raise Unavailable(
                f"{waiting} images wait to be encoded already, {self._clients[client]} of them of this client; at most "
                f"{MAX_WAITING} may wait, {MAX_CLIENT_WAITING} per client; retry later",
                retry_after_s=1.0,
            )
        self._clients[client] += 1
        try:
            async with asyncio.timeout_at(deadline), self._turn(client):
                return await self._encode(model_id, data, options)
        except TimeoutError as cause:
            raise DeadlinePassed("the deadline passed before the image was encoded") from cause
        finally:
            self._clients[client] -= 1

    @contextlib.asynccontextmanager
    async def _turn(self, client: str) -> AsyncIterator[None]:
        """Wait for the process to be free; count the seconds for which a client uses it."""
        loop = asyncio.get_running_loop()
        if self._busy:
            turn = client, loop.create_future()
            self._turns.append(turn)
            try:
                await turn[1]
            except asyncio.CancelledError:
                if turn in self._turns:
                    self._turns.remove(turn)
                else:
                    self._next_turn()
                raise
        self._busy = True
        start = loop.time()
        try:
            yield
        finally:
            if client not in self._seconds and len(self._seconds) >= _MAX_CLIENTS:
                self._seconds.clear()
            self._seconds[client] = self._seconds.get(client, 0.0) + loop.time() - start
            self._next_turn()

    def _next_turn(self) -> None:
        self._busy = bool(self._turns)
        if self._turns:
            turn = min(self._turns, key=lambda turn: self._seconds.get(turn[0], 0.0))
            self._turns.remove(turn)
            turn[1].set_result(None)

    async def _encode(self, model_id: str, data: bytes, options: EncodeOptions) -> EncodedImage:
        config = self._service.config
        if self._service.models is not self._models:  # the bundles were reloaded
            self._kill()
            self._models = self._service.models
        if self._process is None:
            self._process = await self._start()
        seconds, process = config.encode_seconds, self._process
        request = {
            "model": model_id, "bundles": config.bundles, "rate": options.rate, "files": options.files,
            "max_pixels": config.max_request_pixels, "max_bytes": config.max_encode_bytes, "seconds": seconds,
        }  # fmt: skip
        try:
            async with asyncio.timeout(_BUSY_FACTOR * seconds + process.start_seconds) as limit:
                reply, packets = await process.run(request, data)
        except BaseException as error:  # also when the request is cancelled
            self._kill()
            too_slow = isinstance(error, TimeoutError) and limit.expired()
            if too_slow or isinstance(error, OSError | EOFError):
                self._service.metrics.encoder_kills.inc()
                log("encoder was killed", bytes=len(data), reason=type(error).__name__)
                raise TooLarge(
                    f"decoding and encoding the image takes more than {seconds:g} s of CPU time, or more memory than it "
                    "may use"
                ) from error
            raise
        if "error" in reply:
            problem = error_from(None, reply)
            raise problem if reply["opened"] else self._not_opened(model_id, problem)
        process.start_seconds = 0.0
        return EncodedImage(packet=packets[0], milliseconds=reply["milliseconds"], files=reply["files"])

    def _not_opened(self, model_id: str, error: SplitregError) -> BadRequest:
        """Return what a client may see of an error with a bundle."""
        if isinstance(error, BadRequest):
            return error
        log("edge half not available", model=model_id, **error_body(error))
        return BadRequest(
            f"model {model_id} cannot be encoded here ({type(error).__name__}, see the server's log); if its bundle "
            "has no edge.onnx, create it with: splitreg publish BUNDLE -o NEW"
        )

    async def _start(self) -> _EncodingProcess:
        return await _EncodingProcess.start(self._service.config.load_timeout_seconds)

    def _kill(self) -> None:
        if self._process is not None:
            task = asyncio.create_task(self._process.kill())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            self._process = None

    async def _stop(self) -> None:
        self._kill()
        await asyncio.gather(*self._ending)


class _EncodingProcess:
    """The server's end of the connection to the process that encodes.

    Attributes:
        start_seconds: that the next image may take because a model must be loaded for it.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
        start_seconds: float,
    ) -> None:  # fmt: skip
        self._process, self._reader, self._writer = process, reader, writer
        self.start_seconds = start_seconds

    @classmethod
    async def start(cls, start_seconds: float) -> _EncodingProcess:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", _MODULE, str(theirs.fileno()), pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
            )  # fmt: skip
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(process, reader, writer, start_seconds)

    async def run(self, request: dict[str, Any], data: bytes) -> frames.Frame:
        """Send an image, return the reply."""
        self._writer.write(frames.write(request, [data]))
        await self._writer.drain()
        return await frames.read(self._reader)

    async def kill(self) -> None:
        """End the process."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        await self._process.wait()


def is_image(data: bytes) -> bool:
    """Return whether bytes start like a JPEG, PNG or WebP file."""
    return data.startswith((_JPEG, _PNG)) or (data[:4], data[8:12]) == _WEBP
