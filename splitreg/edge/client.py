"""Client of ``splitreg serve``: images to predictions, over a link that may be slow or down."""

from __future__ import annotations

import math
import random
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from splitreg.coding.packet import Packet
from splitreg.edge.answer import Answer, DrainReport
from splitreg.edge.answer_reading import AnswerReader
from splitreg.edge.encoder import EdgeEncoder
from splitreg.edge.half import EdgeHalf
from splitreg.edge.latency import LatencyEstimate
from splitreg.edge.link import LinkEstimate
from splitreg.edge.options import ClientOptions
from splitreg.edge.outbox import Outbox, QueuedPacket, StoredAnswer
from splitreg.edge.transport import Reply, Transport
from splitreg.errors import (
    DeadlinePassed,
    OverBudget,
    RecipeError,
    ServiceError,
    SplitregError,
    Unreachable,
)
from splitreg.files import parse_json
from splitreg.wire.answers import pack, unpack
from splitreg.wire.protocol import (
    COMPUTE_MS,
    DEADLINE,
    HEALTHZ,
    IDEMPOTENCY,
    INFER,
    PACKET,
    QUEUE_MS,
    RETRIABLE_WITH_KEY,
    error_body,
    error_from,
)

if TYPE_CHECKING:
    from typing import Self

    from splitreg.imaging import ImageLike

#: Seconds: pauses are random below a bound that starts here and doubles up to the maximum.
_INITIAL_PAUSE_S, _MAX_PAUSE_S = 0.25, 15.0
#: Each attempt may take twice as long as the one before, up to this: a slow link must get through.
_MAX_ATTEMPT_S = 120.0
#: Status codes that are retried. 502 comes from a gateway while the server behind it restarts.
_RETRIABLE = RETRIABLE_WITH_KEY | {502}
#: Status codes that are about this packet, so that the next one of a queue may succeed.
_PACKET_REFUSED = frozenset({400, 409, 413, 422, 500})


class Client:
    """Sends images to a service and returns its predictions; use one client per thread.

    ::

        with Client("https://server:8080", "my-bundle", heads=["det"]) as client:
            answer = client.send("photo.jpg")
            print(answer.predictions["det"].to_json(), answer.times)

    Every packet has an idempotency key, so that a retry is not computed twice. Only temporary
    failures are retried (no connection, a broken one, a timeout, 408, 429, 502, 503, 504), after a
    random pause whose bound doubles, and not before the server's Retry-After.

    Args:
        url: ``https://host:port``, or ``http://``.
        bundle: folder of a bundle, ``zoo:NAME``, or an open edge half; None for a client that only
            drains its outbox.
        heads: names of the heads to compute; None: all.
        token: the server's token; None: the variable SPLITREG_TOKEN, if set.
        outbox: file of the queue, or an ``Outbox``; required by ``submit`` and ``drain``.
        options: deadlines, TLS and more.

    Raises:
        RecipeError: an invalid URL, head or token, or the token would be sent unencrypted.
        SplitregError: as ``EdgeEncoder.open`` and ``Outbox``.
    """

    def __init__(
        self,
        url: str,
        bundle: str | Path | EdgeHalf | None = None,
        *,
        heads: Iterable[str] | str | None = None,
        token: str | None = None,
        outbox: str | Path | Outbox | None = None,
        options: ClientOptions | None = None,
    ) -> None:
        self.options = options or ClientOptions()
        self.transport = Transport(url, token=token, ca=self.options.ca, insecure=self.options.insecure)
        self.heads = None if heads is None else tuple([heads] if isinstance(heads, str) else heads)
        if self.heads is not None and not all(self.heads):
            raise RecipeError(f"heads must be names, got {list(self.heads)}; leave heads out to compute all")
        self.encoder = EdgeEncoder.open(bundle) if isinstance(bundle, str | Path) else bundle
        self.outbox = Outbox(outbox) if isinstance(outbox, str | Path) else outbox
        self.latency = LatencyEstimate(LinkEstimate() if self.options.link is None else self.options.link)
        self._token = token
        self._answers = AnswerReader(
            self.heads,
            min_score=self.options.min_score,
            compact=self.options.compact,
            resolution=self.options.resolution,
        )
        self._random = random.Random(self.options.seed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and the outbox."""
        self.transport.close()
        if self.outbox is not None:
            self.outbox.close()

    @property
    def link(self) -> LinkEstimate:
        """Estimate of the link, from this client's transfers."""
        return self.latency.link

    def drainer(self) -> Client:
        """Return a client for another thread that drains the same outbox over its own connection."""
        return Client(
            self.transport.url, heads=self.heads, token=self._token, outbox=self._outbox().reopen(),
            options=replace(self.options, link=self.link),
        )  # fmt: skip

    def send(
        self,
        image: ImageLike,
        *,
        name: str = "",
        rate: float | None = None,
        budget_bytes: int | None = None,
        budget_ms: float | None = None,
    ) -> Answer:
        """Encode an image, send it and wait for the answer.

        Args:
            image: path, bytes of an image file, PIL image or (H, W, 3) uint8 array.
            name: name of the image, for ``answer.name``.
            rate: 0 (fewest bytes) to 1 (most), if the bundle has several rates.
            budget_bytes: instead of a rate, the largest size of the packet.
            budget_ms: instead of a rate, milliseconds from image to predictions: the largest rate
                that usually meets them, estimated from earlier transfers. The first image is sent
                at the lowest rate, and so is an image for which no rate meets the budget: check
                ``answer.times.total_ms``.

        Raises:
            DeadlinePassed: no answer in time; the message has the error of the last attempt.
            ServiceError: the server refused, for instance ``Unauthorized``.
            CodingError: the server refused the packet, for instance ``ForeignPacket``; or no packet
                of the image meets ``budget_bytes``.
            RecipeError: no such head, or an invalid option.
            ImageError: the image cannot be read.
            CorruptAnswer: the server's answer is damaged.
        """
        began = time.monotonic()
        deadline = began + self.options.deadline_s
        packet = self._encode(image, rate, budget_bytes, budget_ms)
        encode_s = time.monotonic() - began
        self.latency.add_encode(encode_s)
        key = secrets.token_urlsafe(12)
        reply, attempts = self._post(packet, key, self._answers.query(), deadline)
        if reply.status != 200:
            raise _error(reply)
        predictions = self._answers.read(reply.body, Packet.parse(packet).original)
        facts = {**self._measure(reply, len(packet), attempts), "encode_s": encode_s}
        return Answer.of(name, key, {**facts, "total_s": time.monotonic() - began}, predictions)

    def submit(
        self,
        image: ImageLike,
        *,
        name: str = "",
        rate: float | None = None,
        budget_bytes: int | None = None,
        budget_ms: float | None = None,
        expires_s: float | None = None,
    ) -> str:
        """Encode an image and put its packet into the outbox; it is on disk when this returns.

        Args:
            image: see ``send``.
            name: see ``send``.
            rate: see ``send``.
            budget_bytes: see ``send``.
            budget_ms: see ``send``; uses the present estimate and sends nothing.
            expires_s: seconds after which the answer is not needed any more.

        Returns:
            The packet's idempotency key; its answer has the same.

        Raises:
            OutboxFull: there is no room.
            SplitregError: as ``send`` for the image; as ``Outbox``.
        """
        outbox = self._outbox()
        began = time.monotonic()
        packet = self._encode(image, rate, budget_bytes, budget_ms, probe=False)
        self.latency.add_encode(time.monotonic() - began)
        expires = None if expires_s is None else time.time() + expires_s
        return outbox.put(packet, name=name, query=self._answers.query(later=True), expires=expires).key

    def drain(
        self, on_answer: Callable[[Answer], None], *, patience_s: float | None = None
    ) -> DrainReport:  # fmt: skip
        """Send the packets of the outbox in order and deliver every answer.

        An answer is stored in the transaction that removes its packet, delivered, then deleted. If
        the program dies in between, the next ``drain`` delivers it first: a packet is answered once,
        an answer is delivered at least once. A packet that the server refuses is delivered with
        ``answer.error``, and so is one that has expired.

        Args:
            on_answer: called with every answer, oldest first.
            patience_s: return if the oldest packet is not answered for so long; None: never.

        Raises:
            OutboxError: another process drains this outbox, or it is damaged.
            ServiceError: the server refuses the client, for instance ``Unauthorized``; all packets
                stay.
        """
        outbox, answered, refused = self._outbox(), 0, 0
        with outbox.draining():
            while True:
                while (stored := outbox.answered()) is not None:
                    answer = _restore(stored)
                    on_answer(answer)
                    outbox.forget(stored)
                    if answer.error is None:
                        answered += 1
                    else:
                        refused += 1
                packet = outbox.first()
                if packet is None or not self._settle(outbox, packet, patience_s):
                    return DrainReport(answered=answered, refused=refused, left=len(outbox))

    def _settle(self, outbox: Outbox, queued: QueuedPacket, patience_s: float | None) -> bool:
        """Send one packet of the outbox and store its answer; return False if patience ran out."""
        began = time.monotonic()
        deadline = math.inf if patience_s is None else began + patience_s
        if queued.expires is not None:
            deadline = min(deadline, began + queued.expires - time.time())
        try:
            reply, attempts = self._post(queued.packet, queued.key, queued.query, deadline)
        except DeadlinePassed as error:
            if not queued.expired:
                return False
            outbox.record(queued, {**error_body(error), "status": 504}, None)
            return True
        if reply.status in _PACKET_REFUSED:
            outbox.record(queued, {**error_body(_error(reply)), "status": reply.status}, None)
            return True
        if reply.status != 200:
            raise _error(reply)
        predictions = self._answers.read(reply.body, Packet.parse(queued.packet).original)
        facts = self._measure(reply, len(queued.packet), attempts)
        outbox.record(queued, {**facts, "total_s": time.monotonic() - began}, pack([predictions]))
        return True

    def _post(self, packet: bytes, key: str, query: str, deadline: float) -> tuple[Reply, int]:
        """Send a packet, with retries; return the final reply and the number of attempts."""
        path = f"{INFER}?{query}" if query else INFER
        began, attempt = time.monotonic(), 0
        options = self.options
        attempt_s = options.deadline_s / 2 if options.attempt_s is None else options.attempt_s
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeadlinePassed(f"{time.monotonic() - began:.3g} s were over before the packet was sent")
            headers = {
                "Content-Type": PACKET, "Accept": self._answers.media, IDEMPOTENCY: key,
                DEADLINE: str(max(1, int(1000 * min(left, options.deadline_s)))),
            }  # fmt: skip
            attempt += 1
            error: SplitregError
            retry_after = None
            try:
                reply = self.transport.request("POST", path, packet, headers, timeout_s=min(left, attempt_s))
            except Unreachable as unreachable:
                error = unreachable
                attempt_s = max(attempt_s, min(2 * attempt_s, _MAX_ATTEMPT_S))
            else:
                if reply.status not in _RETRIABLE:
                    return reply, attempt
                error = _error(reply)
                retry_after = error.retry_after_s if isinstance(error, ServiceError) else None
            bound = min(_MAX_PAUSE_S, _INITIAL_PAUSE_S * 2 ** min(attempt - 1, 16))
            pause = self._random.uniform(0, bound) + (retry_after or 0.0)
            if time.monotonic() + pause >= deadline:
                attempts = f"{attempt} attempt{'s' * (attempt > 1)}"
                raise DeadlinePassed(f"no answer in time after {attempts}; the last error: {error}") from error
            time.sleep(pause)

    def _encode(
        self, image: ImageLike, rate: float | None, budget: int | None, budget_ms: float | None, *, probe: bool = True
    ) -> bytes:
        if self.encoder is None:
            raise RecipeError("this client has no bundle to encode with; pass one: Client(url, bundle)")
        if budget_ms is None:
            return self.encoder.encode(image, rate=rate, budget_bytes=budget)[0]
        if rate is not None or budget is not None:
            raise RecipeError("rate, budget_bytes and budget_ms exclude each other; give one of them")
        if not 0 < budget_ms < math.inf:
            raise RecipeError(f"budget_ms must be a number above 0, got {budget_ms}")
        if probe and self.link.rtt_s is None:
            self._probe()
        size = self.latency.packet_bytes(budget_ms / 1000)
        if size is not None:
            try:
                return self.encoder.encode(image, budget_bytes=size)[0]
            except OverBudget:
                pass  # send the smallest packet
        return self.encoder.encode(image, rate=0.0)[0]

    def _probe(self) -> None:
        """Measure the round trip with requests without a packet; the first opens the connection."""
        timeout_s = self.options.attempt_s or self.options.deadline_s / 2
        try:
            for _ in range(3):
                self.latency.add_probe(self.transport.request("GET", HEALTHZ, timeout_s=timeout_s))
        except Unreachable:
            pass  # the request that follows is retried and reports it

    def _measure(self, reply: Reply, packet_bytes: int, attempts: int) -> dict[str, float]:
        """Update the estimates from an answer and return its counts and seconds."""
        queue_s, compute_s = (_seconds(reply.headers.get(name.lower())) for name in (QUEUE_MS, COMPUTE_MS))
        server_s = min(queue_s + compute_s, reply.seconds)
        self.latency.add_reply(reply, packet_bytes, server_s)
        return {
            "packet_bytes": packet_bytes, "sent_bytes": reply.sent_bytes, "received_bytes": reply.received_bytes,
            "attempts": attempts, "link_s": reply.seconds - server_s, "queue_s": queue_s, "compute_s": compute_s,
        }  # fmt: skip

    def _outbox(self) -> Outbox:
        if self.outbox is None:
            raise RecipeError("this client has no outbox; pass a file: Client(..., outbox='outbox.db')")
        return self.outbox


def _error(reply: Reply) -> SplitregError:
    """Return the error that a reply reports."""
    try:
        body = parse_json(reply.body)
    except ValueError:
        body = None  # for instance the HTML page of a proxy
    return error_from(reply.status, body, reply.headers.get("retry-after"))


def _restore(stored: StoredAnswer) -> Answer:
    """Return the answer that an outbox has stored."""
    if stored.blob is None:
        error = error_from(int(stored.facts.get("status", 500)), stored.facts)
        return Answer.of(stored.name, stored.key, stored.facts, {}, error)
    return Answer.of(stored.name, stored.key, stored.facts, unpack(stored.blob)[0])


def _seconds(milliseconds: str | None) -> float:
    """Read a header in milliseconds; 0 for anything that is not a duration."""
    try:
        seconds = float(milliseconds or 0.0) / 1000
    except ValueError:
        return 0.0
    return seconds if 0 <= seconds < math.inf else 0.0
