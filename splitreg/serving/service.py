"""What HTTP requests and streams share: validation, limits, inference, reloading and draining."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from splitreg.coding import Packet
from splitreg.errors import (
    BadRequest,
    DeadlinePassed,
    ForeignPacket,
    RecipeError,
    SplitregError,
    TooLarge,
    Unavailable,
    suggest,
)
from splitreg.serving.answer_room import AnswerRoom, AnswerRooms
from splitreg.serving.answer_size import estimate_bytes
from splitreg.serving.backend import CreateBackend
from splitreg.serving.config import ServeConfig
from splitreg.serving.idempotency import IdempotencyCache
from splitreg.serving.jobs import Job, JobResult
from splitreg.serving.logs import log
from splitreg.serving.memory import MemoryBudget
from splitreg.serving.metrics import Metrics
from splitreg.serving.query import RequestOptions
from splitreg.serving.routing_errors import RoutingError
from splitreg.serving.security import RateLimit
from splitreg.serving.tokens import TokenStore
from splitreg.serving.video import VideoStreams
from splitreg.wire import error_body, status_of
from splitreg.wire.protocol import DEADLINE

_POLL_SECONDS = 0.02


class Service:
    """A server, independent of the protocol of its clients.

    Args:
        config: bundles and limits.
        create_backend: creates what computes the answers.

    Attributes:
        backend: computes the answers.
        metrics: of this server.
        idempotency: results by idempotency key.
        rate_limit: per client address.
        draining: whether new requests are refused.
        answer_bytes: bytes of answers that are being sent.
        answer_rooms: estimated bytes of answers per client, from submission until they are sent.
        active_requests: HTTP requests that have no response yet.
        request_bytes: bytes of requests that are being received or wait for an answer.
        streams: of each open stream a function that closes it once it has no packet in flight.
        on_stop: called when the service stops.
        on_reload: called before the bundles are loaded again; reads other files again.
        tokens: that are accepted.
    """

    def __init__(self, config: ServeConfig, create_backend: CreateBackend) -> None:
        self.config = config
        self.metrics = Metrics()
        self.backend = create_backend(config, self.metrics)
        self.idempotency = IdempotencyCache(config)
        self.rate_limit = RateLimit(config.max_requests_per_s)
        self.tokens = TokenStore(config.tokens, config.token_file, time.time)
        self.draining = False
        self.active_requests = 0
        self.answer_bytes = MemoryBudget("answers", config.max_pending_answer_bytes, self.metrics.answers)
        self.answer_rooms = AnswerRooms(config.max_pending_answer_bytes // 2, config.trusted_proxies)
        self.request_bytes = MemoryBudget("pending requests", config.max_pending_bytes, self.metrics.pending)
        self.streams: set[Callable[[], None]] = set()
        self.on_stop: list[Callable[[], Awaitable[None]]] = []
        self.on_reload: list[Callable[[], None]] = [self.tokens.reload]
        self._reloading = asyncio.Lock()
        self._next_reload: asyncio.Task[None] | None = None
        states = MemoryBudget("the states of video streams", config.max_stream_state_bytes, self.metrics.stream_states)
        self.videos = VideoStreams(config.bundles, states, self.metrics)

    @property
    def models(self) -> Mapping[str, dict[str, Any]]:
        """Model id -> its entry in ``/v1/models``; empty until the bundles are loaded."""
        return self.backend.models

    @property
    def ready(self) -> bool:
        """Whether requests are accepted."""
        return bool(self.backend.ready and self.models and not self.draining)

    async def start(self) -> None:
        """Start the backend.

        Raises:
            SplitregError: the bundles cannot be loaded.
        """
        await self.backend.start()

    async def reload(self) -> None:
        """Read the tokens, the certificate and the bundles again, without interruption of requests.

        Reloads that are asked for while one runs become one more.

        Raises:
            SplitregError: one of them is invalid; all previous ones remain in use, except that
                tokens stay reloaded if only the bundles fail.
        """
        if self._next_reload is None:
            self._next_reload = asyncio.create_task(self._reload())
            self._next_reload.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._next_reload)

    async def _reload(self) -> None:
        async with self._reloading:
            self._next_reload = None  # what changes from now on needs another one
            try:
                for read in self.on_reload:
                    read()
            except SplitregError as error:
                self.metrics.reloads.labels("failed").inc()
                log("reload failed", logging.ERROR, **error_body(error))
                raise
            await self.backend.reload()

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, answer accepted ones, close empty streams.

        Args:
            seconds: maximum time to wait.
        """
        self.draining = True
        for close_when_empty in list(self.streams):
            close_when_empty()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.backend.drain()
                while self.active_requests or self.streams:
                    await asyncio.sleep(_POLL_SECONDS)

    async def stop(self) -> None:
        """Close the backend."""
        for stop in self.on_stop:
            await stop()
        await self.backend.close()

    def check_not_draining(self) -> None:
        """Refuse a request while the server drains.

        Raises:
            Unavailable: it drains.
        """
        if self.draining:
            raise Unavailable(
                "this server is shutting down; retry later or at another server",
                retry_after_s=self.config.drain_seconds,
            )

    def error_response(self, error: SplitregError) -> tuple[int, dict[str, Any]]:
        """Count an error and return its HTTP status and its JSON body."""
        self.metrics.refusals.labels(type(error).__name__).inc()
        if isinstance(error, RoutingError):
            return error.status, error_body(BadRequest(str(error)))
        if isinstance(error, ForeignPacket):
            served = [{"id": model["id"], "name": model["name"]} for model in self.models.values()]
            return status_of(error), error_body(error, served=served)
        return status_of(error), error_body(error)

    def parse_deadline(self, header: str | None, arrived: float) -> float:
        """Return the deadline of a request, in seconds of the event loop's clock.

        Args:
            header: value of ``X-Splitreg-Deadline-Ms``; None for the server's own limit.
            arrived: arrival of the request.

        Raises:
            BadRequest: the header is not a number of milliseconds.
        """
        seconds = self.config.deadline_seconds
        if header is not None:
            if not (header.isascii() and header.isdigit() and len(header) < 10):
                raise BadRequest(f"{DEADLINE} must be a number of milliseconds, got {header[:40]!r}")
            seconds = min(seconds, int(header) / 1000)
        return arrived + seconds

    async def infer(
        self,
        packets: Sequence[bytes],
        options: RequestOptions,
        *,
        arrived: float,
        deadline: float,
        room: AnswerRoom,
        key: str | None = None,
    ) -> JobResult:
        """Return the answers to packets.

        Args:
            packets: all for one model.
            options: heads and answer format.
            arrived: in seconds of the event loop's clock.
            deadline: in seconds of the event loop's clock.
            room: where the answer counts until it is sent.
            key: idempotency key.

        Raises:
            SplitregError: a packet or an option is invalid, or the server cannot answer;
                ``docs/serving.md`` lists all errors.
        """
        self.check_not_draining()
        digest = _digest(packets, options) if key is not None else b""
        job = self.idempotency.find(key, digest) if key is not None else None
        if job is None:
            job = self._create_job(packets, options, arrived, deadline)
            await _reserve(room, job.answer_bytes, deadline)
            first = self.idempotency.find(key, digest) if key is not None else None  # while it waited
            if first is None:
                self.check_not_draining()
                self.backend.submit(job)
                if key is not None:
                    self.idempotency.store(key, digest, job)
            job = first or job
        else:
            first = job
            await _reserve(room, job.answer_bytes, deadline)
        self.metrics.joined.inc(first is not None)
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(job.done)
        except TimeoutError as cause:
            raise DeadlinePassed("the deadline passed before the answer was computed") from cause
        except asyncio.CancelledError:
            if key is None:
                self.backend.cancel(job)
            raise

    def _create_job(self, packets: Sequence[bytes], options: RequestOptions, arrived: float, deadline: float) -> Job:
        if not packets:
            raise BadRequest("the request has no packet")
        parsed = [Packet.parse(packet) for packet in packets]
        sizes = [size for packet in parsed for size in packet.originals]
        if len(sizes) > self.config.max_request_images:
            raise TooLarge(f"a request may have at most {self.config.max_request_images} images, got {len(sizes)}")
        pixels = sum(height * width for height, width in sizes)
        if pixels > self.config.max_request_pixels:
            raise TooLarge(
                f"the original images of a request may have at most {self.config.max_request_pixels} pixels, got {pixels}"
            )
        model = self._find_model(sorted({f"{packet.model_id:08x}" for packet in parsed}))
        heads = _select_heads(tuple(model["heads"]), options.heads)
        limit = self.config.max_answer_bytes
        entries = [model["heads"][head] for head in heads]
        size = estimate_bytes(entries, sizes, options.answer_format, self.config.max_mask_pixels)
        if size > limit:
            raise TooLarge(
                f"the answers to a request may have about {limit} bytes, these would have {size}; send fewer images per "
                "request, or ask for fewer heads, masks=none or a higher max_answer_bytes"
            )
        return Job(
            model=model["id"], heads=heads, packets=tuple(packets), images=len(sizes), pixels=pixels, answer_bytes=size,
            answer_format=options.answer_format, arrived=arrived, deadline=deadline,
        )  # fmt: skip

    def _find_model(self, model_ids: Sequence[str]) -> dict[str, Any]:
        models = self.models
        if not models:
            raise Unavailable("the bundles are not loaded yet; retry later", retry_after_s=1.0)
        if len(model_ids) == 1 and model_ids[0] in models:
            return models[model_ids[0]]
        raise ForeignPacket(
            f"packets of model {', '.join(model_ids)}; this server has {', '.join(models)}, and all packets of a "
            "request must be of one model. Use the bundle of this server on the device, or serve the device's bundle"
        )


async def _reserve(room: AnswerRoom, count: int, deadline: float) -> None:
    try:
        async with asyncio.timeout_at(deadline):
            await room.reserve(max(1, count))
    except TimeoutError as cause:
        raise DeadlinePassed("the deadline passed before this client had received its other answers") from cause


def _select_heads(available: tuple[str, ...], wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    for name in wanted or ():
        if name not in available:
            hint = suggest(name[:40], available)
            raise RecipeError(f"the model has no head {name[:40]!r}.{hint} Available heads: {', '.join(available)}")
    return available if wanted is None else tuple(head for head in available if head in wanted)


def _digest(packets: Sequence[bytes], options: RequestOptions) -> bytes:
    digest = hashlib.sha256(repr((options, list(map(len, packets)))).encode())
    for packet in packets:
        digest.update(packet)
    return digest.digest()
