"""What HTTP and streams share: options, checks, the bytes that are held, asking, reloading, draining."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

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
from splitreg.serving.config import ServeConfig
from splitreg.serving.engine import Answer, Job
from splitreg.serving.logs import log
from splitreg.serving.memory import Memory
from splitreg.serving.metrics import Metrics
from splitreg.serving.pool import Fleet
from splitreg.serving.security import RateLimit
from splitreg.wire import Form, error_body
from splitreg.wire.protocol import ANSWERS, DEADLINE, JSON

MakeFleet = Callable[[ServeConfig, Metrics, Callable[[], None]], Fleet]

#: Seconds between attempts to load the bundles again when the process that held them died.
_RELOAD_PAUSE = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a request wants: heads (None for all), and the form of the answer."""

    heads: tuple[str, ...] | None
    form: Form


def read_options(query: bytes, known: Sequence[str], media: str = JSON) -> Options:
    """Read a query.

    Args:
        query: as it came.
        known: the keys that this route has.
        media: type of the answers, where ``answers`` does not say it.

    Raises:
        BadRequest: a key that is unknown, twice or without a value, or no such masks, score or answers.
    """
    found: dict[str, str] = {}
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=8, errors="strict")
    except ValueError as cause:
        raise BadRequest("the query is not one") from cause
    for key, value in pairs:
        if key not in known or key in found or not value:
            raise BadRequest(f"the query has {key[:40]!r} twice, without a value, or it is unknown; {', '.join(known)}")
        found[key] = value
    answers, score = found.get("answers"), found.get("min_score", "0")
    if answers not in (None, "json", "binary"):
        raise BadRequest(f"answers must be json or binary, got {answers[:40]!r}")
    if answers is not None:
        media = JSON if answers == "json" else ANSWERS
    try:
        least = float(score)
    except ValueError as cause:
        raise BadRequest(f"min_score must be 0 to 1, got {score[:40]!r}") from cause
    form = Form(media=media, masks=found.get("masks", "rle"), min_score=least)
    return Options(heads=tuple(found["heads"].split(",")) if "heads" in found else None, form=form)


class Service:
    """One server, whatever it is spoken to with.

    Args:
        config: bundles and limits.
        make_fleet: what computes.
    """

    def __init__(self, config: ServeConfig, make_fleet: MakeFleet = Fleet) -> None:
        self.config = config
        self._make_fleet = make_fleet
        self.metrics = Metrics()
        self.memory = Memory(config)
        self.rate = RateLimit(config.rate_per_s)
        self.draining = False
        self.active = 0
        self.streams: set[Callable[[], None]] = set()
        self._held = 0
        self._fleet = make_fleet(config, self.metrics, self._lost)
        self._old: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """Model id -> what is said of it; empty until it is loaded."""
        return self._fleet.models

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return bool(self._fleet.ready and self.models and not self.draining)

    async def start(self) -> None:
        """Load the bundles and start the workers.

        Raises:
            SplitregError: that is not possible.
        """
        await self._fleet.start()

    async def reload(self) -> None:
        """Load the bundles anew beside those that serve, and switch when they are ready; what was accepted is answered.

        Raises:
            SplitregError: they cannot be loaded; the old ones serve on.
        """
        async with self._reloading:
            fresh = self._make_fleet(self.config, self.metrics, self._lost)
            try:
                await fresh.start()
            except SplitregError as error:
                self.metrics.reloads.labels("failed").inc()
                log("reload failed", logging.ERROR, **error_body(error))
                raise
            old, self._fleet = self._fleet, fresh
            self.metrics.reloads.labels("done").inc()
            log("reloaded", models=list(fresh.models))
            retiring = asyncio.create_task(self._retire(old))
            self._old.add(retiring)
            retiring.add_done_callback(self._old.discard)

    async def drain(self, seconds: float) -> None:
        """Refuse what comes, answer what was accepted, close streams when they are empty; at most so long."""
        self.draining = True
        for close_when_empty in list(self.streams):
            close_when_empty()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._fleet.drain()
                while self.active or self.streams or self._old:
                    await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """End all workers."""
        for task in list(self._old):
            task.cancel()
        await asyncio.gather(*self._old, return_exceptions=True)
        await self._fleet.stop()

    def refuse_if_draining(self) -> None:
        """Say that the server stops.

        Raises:
            Unavailable: it does.
        """
        if self.draining:
            raise Unavailable("this server stops; ask another one, or later", retry_after_s=self.config.drain_seconds)

    @contextmanager
    def held(self) -> Iterator[Callable[[int], None]]:
        """Give a function that counts bytes that are held until the block ends.

        Raises:
            Unavailable: the function, beyond ``held_bytes``.
        """
        mine = 0

        def hold(more: int) -> None:
            nonlocal mine
            if self._held + more > self.config.held_bytes:
                raise Unavailable("too many bytes wait here already; come back", retry_after_s=1.0)
            mine += more
            self._held += more
            self.metrics.held.set(self._held)

        try:
            yield hold
        finally:
            self._held -= mine
            self.metrics.held.set(self._held)

    def deadline(self, header: str | None, arrived: float) -> float:
        """Return until when a request is to be answered, of the loop's clock.

        Raises:
            BadRequest: the header is not a number of milliseconds.
        """
        seconds = self.config.deadline_seconds
        if header is not None:
            if not (header.isascii() and header.isdigit() and len(header) < 10):
                raise BadRequest(f"{DEADLINE} must be milliseconds, got {header[:40]!r}")
            seconds = min(seconds, int(header) / 1000)
        return arrived + seconds

    async def ask(
        self, packets: Sequence[bytes], options: Options, *, arrived: float, deadline: float, key: str | None = None
    ) -> Answer:
        """Have packets answered.

        Args:
            packets: of one model.
            options: what is wanted of them.
            arrived: of the loop's clock.
            deadline: of the loop's clock.
            key: the request's idempotency key.

        Raises:
            SplitregError: a packet, the options or the server's state; see ``docs/serving.md``.
        """
        self.refuse_if_draining()
        digest = _digest(packets, options) if key is not None else b""
        job = self.memory.find(key, digest) if key is not None else None
        if job is None:
            job = self._job(packets, options, arrived, deadline)
            self._fleet.engine.submit(job)
            if key is not None:
                self.memory.keep(key, digest, job)
        else:
            self.metrics.joined.inc()
        engine = self._fleet.engine
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(job.done)
        except TimeoutError as cause:
            raise DeadlinePassed("the deadline passed before the answer was there") from cause
        except asyncio.CancelledError:
            if key is None:
                engine.forget(job)
            raise

    def _job(self, packets: Sequence[bytes], options: Options, arrived: float, deadline: float) -> Job:
        if not packets:
            raise BadRequest("the request has no packet")
        parsed = [Packet.parse(packet) for packet in packets]
        sizes = [size for packet in parsed for size in packet.originals]
        if len(sizes) > self.config.request_images:
            raise TooLarge(f"a request has at most {self.config.request_images} images here, got {len(sizes)}")
        pixels = sum(height * width for height, width in sizes)
        if pixels > self.config.request_pixels:
            raise TooLarge(
                f"the original images have {pixels} pixels together, at most {self.config.request_pixels} are answered here"
            )
        numbers = {packet.model_id for packet in parsed}
        model = self.models.get(f"{parsed[0].model_id:08x}")
        if not self._fleet.ready and not self.models:
            raise Unavailable("the bundles are not loaded yet; come back", retry_after_s=1.0)
        if model is None or len(numbers) > 1:
            others = ", ".join(f"{number:08x}" for number in numbers)
            raise ForeignPacket(
                f"the packet is for model {others}; a request is of one of {', '.join(self.models)}: load its bundle on the "
                "device, or serve the one that wrote it"
            )
        there = tuple(model["heads"])
        for name in options.heads or ():
            if name not in there:
                raise RecipeError(
                    f"no head {name[:40]!r} here.{suggest(name[:40], there)} There are: {', '.join(there)}"
                )
        heads = there if options.heads is None else tuple(head for head in there if head in options.heads)
        return Job(
            model=model["id"], heads=heads, packets=tuple(packets), images=len(sizes), pixels=pixels,
            form=options.form, arrived=arrived, deadline=deadline,
        )  # fmt: skip

    async def _retire(self, old: Fleet) -> None:
        try:
            await old.drain(self._fleet)
        finally:
            await old.stop()

    def _lost(self) -> None:
        """The process that held the bundles died: load them again, as often as it takes."""

        async def again() -> None:
            while True:
                with suppress(SplitregError):
                    return await self.reload()
                await asyncio.sleep(_RELOAD_PAUSE)

        task = asyncio.create_task(again())
        self._old.add(task)
        task.add_done_callback(self._old.discard)


def _digest(packets: Sequence[bytes], options: Options) -> bytes:
    digest = hashlib.sha256(repr((options, list(map(len, packets)))).encode())
    for packet in packets:
        digest.update(packet)
    return digest.digest()
