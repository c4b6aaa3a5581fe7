"""The device's side of the service: a picture in, predictions back, over a link that may be bad."""

from __future__ import annotations

import json
import math
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, urlencode

from splitreg.edge.answer import Answer, Drained
from splitreg.edge.encoder import EdgeEncoder
from splitreg.edge.half import EdgeHalf
from splitreg.edge.link import LinkEstimate
from splitreg.edge.outbox import Answered, Outbox, Waiting, expired
from splitreg.edge.transport import Reply, Transport
from splitreg.errors import (
    CorruptAnswer,
    DeadlinePassed,
    OverBudget,
    RecipeError,
    ServiceError,
    SplitregError,
    Unreachable,
)
from splitreg.wire.answers import unpack
from splitreg.wire.protocol import (
    ANSWERS,
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
    from splitreg.imaging import ImageLike
    from splitreg.predictions import Prediction

#: Seconds: the pause before the second attempt is a random one up to the first of these, then twice as long, up to the other.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 15.0
#: An attempt may take twice as long as the one before, up to so many seconds: a slow link shall not begin for ever.
_LONGEST_ATTEMPT_S = 120.0
#: What may be tried again; 502 and not the server's: a gateway in front of it says so while it restarts.
_RETRIABLE = RETRIABLE_WITH_KEY | {502}
#: What is the packet's own doing, so that the next one in a queue may fare better.
_OF_THE_PACKET = frozenset({400, 409, 413, 422, 500})
#: TCP's usual segment: its last byte arrives with its first.
_SEGMENT_BYTES = 1460
#: So many pictures' own times are remembered for a budget in milliseconds.
_REMEMBERED = 9


class Client:
    """Sends pictures to a service and returns its predictions; serves one thread at a time.

    ::

        with Client("https://server:8080", "my-bundle", heads=["det"]) as client:
            answer = client.send("photo.jpg")
            print(answer.predictions["det"].to_json(), answer.times)

    Every packet has an idempotency key, so that what is tried again is not computed, nor answered, twice. Only what may
    pass is tried again (no connection, a broken one, silence, 408, 429, 502, 503, 504), after a random pause that doubles, and
    not before the server's Retry-After.

    Args:
        url: ``https://host:port``, or ``http://``.
        bundle: a bundle's folder, or an edge half that is open; None for a client that only drains its outbox.
        heads: which heads shall answer; None: all.
        min_score: objects that score less stay at the server; 0 fetches all. They are most of an answer's bytes.
        token: what the server asks for; None: the variable SPLITREG_TOKEN, if there is one.
        ca: PEM file of the authorities to trust; the system's by default.
        insecure: allow a token without TLS to another machine, and any certificate.
        deadline_s: seconds from ``send`` to the answer, attempts and pauses included.
        attempt_s: seconds of silence after which the first attempt is given up; half of the deadline by default.
        outbox: file of the queue, or an Outbox; needed for ``submit`` and ``drain``.
        link: what is known of the link; clients may share one.
        seed: of the pauses.

    Raises:
        RecipeError: an option is not one, or the token would cross a network in the clear.
        SplitregError: as ``EdgeEncoder.open`` and ``Outbox``.
    """

    def __init__(
        self,
        url: str,
        bundle: str | Path | EdgeHalf | None = None,
        *,
        heads: Iterable[str] | str | None = None,
        min_score: float = 0.0,
        token: str | None = None,
        ca: str | Path | None = None,
        insecure: bool = False,
        deadline_s: float = 10.0,
        attempt_s: float | None = None,
        outbox: str | Path | Outbox | None = None,
        link: LinkEstimate | None = None,
        seed: int | None = None,
    ) -> None:
        if not 0 < deadline_s < math.inf or not (attempt_s is None or attempt_s > 0):
            raise RecipeError(f"a deadline is a number of seconds above 0, got {deadline_s} (attempt: {attempt_s})")
        self.transport = Transport(url, token=token, ca=ca, insecure=insecure)
        self.encoder = EdgeEncoder.open(bundle) if isinstance(bundle, str | Path) else bundle
        self.heads = None if heads is None else tuple([heads] if isinstance(heads, str) else heads)
        if self.heads is not None and not all(self.heads):
            raise RecipeError("heads are names; leave them out for all of them")
        if not 0 <= min_score <= 1:
            raise RecipeError(f"min_score must be 0 to 1, got {min_score}")
        wanted = {} if self.heads is None else {"heads": ",".join(self.heads)}
        wanted |= {"min_score": str(min_score)} if min_score else {}
        self._query = urlencode(wanted, safe=",", quote_via=quote)
        self.deadline_s = deadline_s
        self.attempt_s = deadline_s / 2 if attempt_s is None else attempt_s
        self.outbox = Outbox(outbox) if isinstance(outbox, str | Path) else outbox
        self.link = LinkEstimate() if link is None else link
        self._random = random.Random(seed)
        self._encoding: deque[float] = deque(maxlen=_REMEMBERED)
        self._serving: deque[float] = deque(maxlen=_REMEMBERED)
        self._receiving: deque[float] = deque(maxlen=_REMEMBERED)
        self._overhead_bytes = 700  # beside the packet, until its answer has come

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

    def send(
        self,
        image: ImageLike,
        *,
        name: str = "",
        rate: float | None = None,
        budget_bytes: int | None = None,
        budget_ms: float | None = None,
    ) -> Answer:
        """Encode a picture, send it, and wait for its answer.

        Args:
            image: path, bytes of an encoded picture, PIL image or (H, W, 3) uint8 array.
            name: what the answer is called.
            rate: 0 (fewest bytes) to 1 (most), where the bundle has several rates.
            budget_bytes: instead, so many bytes of packet.
            budget_ms: instead, so many milliseconds from picture to predictions: the largest rate that usually meets
                them, by what earlier transfers showed. The first picture goes at the lowest rate; so does one whose
                budget nothing meets (compare ``answer.times.total_ms``).

        Raises:
            DeadlinePassed: no answer in time; says what the last attempt met with.
            ServiceError: the server refused, as ``Unauthorized``.
            CodingError: likewise, as ``ForeignPacket``; or the picture has no such packet.
            RecipeError: a head or an option is not one.
            ImageError: the picture cannot be read.
            CorruptAnswer: what came back is not an answer.
        """
        began = time.monotonic()
        until = began + self.deadline_s
        packet = self._encode(image, rate, budget_bytes, budget_ms)
        encode_s = time.monotonic() - began
        key = secrets.token_urlsafe(12)
        reply, attempts = self._ask(packet, key, self._query, until)
        if reply.status != 200:
            raise _error(reply)
        facts = self._facts(reply, len(packet), attempts, encode_s)
        predictions = _predictions(reply.body)
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
        """Encode a picture and put its packet into the outbox; when this returns, it is on the disk.

        Args:
            image: see ``send``.
            name: what the answer is called.
            rate: see ``send``.
            budget_bytes: likewise.
            budget_ms: likewise, by what ``link`` knows; nothing is asked of the server here.
            expires_s: seconds after which nobody wants the answer any more.

        Returns:
            The packet's idempotency key, which its answer will have.

        Raises:
            OutboxFull: there is no room.
            SplitregError: as ``send`` for the picture; as ``Outbox``.
        """
        outbox = self._box()
        began = time.monotonic()
        packet = self._encode(image, rate, budget_bytes, budget_ms, probe=False)
        self._encoding.append(time.monotonic() - began)
        expires = None if expires_s is None else time.time() + expires_s
        return outbox.put(packet, name=name, query=self._query, expires=expires).key

    def drain(self, on_answer: Callable[[Answer], None], *, patience_s: float | None = None) -> Drained:
        """Send what waits in the outbox, in order, and hand every answer over.

        An answer is recorded in the transaction that removes its packet, handed over, then forgotten. If the program
        dies in between, the next ``drain`` begins with handing it over: a packet is never answered twice, and an
        answer is handed over at least once. What the server refuses for the packet's own sake is handed over with
        ``answer.error``; so is what has expired.

        Args:
            on_answer: called for every answer, oldest first.
            patience_s: give up when the oldest packet is not answered for so long; None: never.

        Raises:
            OutboxError: another process drains this outbox, or it is damaged.
            ServiceError: the server refuses for a reason that is not the packet's, as ``Unauthorized``; all is kept.
        """
        outbox, answered, refused = self._box(), 0, 0
        with outbox.draining():
            while True:
                while (found := outbox.answered()) is not None:
                    answer = _restored(found)
                    on_answer(answer)
                    outbox.forget(found)
                    answered, refused = answered + (answer.error is None), refused + (answer.error is not None)
                waiting = outbox.first()
                if waiting is None or not self._settle(outbox, waiting, patience_s):
                    return Drained(answered=answered, refused=refused, left=len(outbox))

    def _settle(self, outbox: Outbox, waiting: Waiting, patience_s: float | None) -> bool:
        """Send one packet of the outbox and record what became of it; False when the patience is at its end."""
        began = time.monotonic()
        until = math.inf if patience_s is None else began + patience_s
        if waiting.expires is not None:
            until = min(until, began + waiting.expires - time.time())
        try:
            reply, attempts = self._ask(waiting.packet, waiting.key, waiting.query, until)
        except DeadlinePassed as error:
            if not expired(waiting):
                return False
            outbox.record(waiting, {**error_body(error), "status": 504}, None)
            return True
        if reply.status in _OF_THE_PACKET:
            outbox.record(waiting, {**error_body(_error(reply)), "status": reply.status}, None)
            return True
        if reply.status != 200:
            raise _error(reply)
        _predictions(reply.body)  # what is recorded is an answer
        facts = self._facts(reply, len(waiting.packet), attempts, 0.0)
        outbox.record(waiting, {**facts, "total_s": time.monotonic() - began}, reply.body)
        return True

    def _ask(self, packet: bytes, key: str, query: str, until: float) -> tuple[Reply, int]:
        """Send a packet until there is a reply that is worth no other attempt; return it and the number of attempts."""
        path = f"{INFER}?{query}" if query else INFER
        began, attempt, patience = time.monotonic(), 0, self.attempt_s
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise DeadlinePassed(f"{time.monotonic() - began:.3g} s had passed before there was anything to send")
            headers = {
                "Content-Type": PACKET, "Accept": ANSWERS, IDEMPOTENCY: key,
                DEADLINE: str(max(1, int(1000 * min(left, self.deadline_s)))),
            }  # fmt: skip
            attempt += 1
            error: SplitregError
            after = None
            try:
                reply = self.transport.request("POST", path, packet, headers, timeout_s=min(left, patience))
            except Unreachable as unreachable:
                error, patience = unreachable, max(patience, min(2 * patience, _LONGEST_ATTEMPT_S))
            else:
                if reply.status not in _RETRIABLE:
                    return reply, attempt
                error = _error(reply)
                after = error.retry_after_s if isinstance(error, ServiceError) else None
            pause = self._random.uniform(0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(attempt - 1, 16)))
            pause += after or 0.0
            if time.monotonic() + pause >= until:
                tries = f"{attempt} attempt{'s' * (attempt > 1)}"
                raise DeadlinePassed(f"not answered in time after {tries}; the last: {error}") from error
            time.sleep(pause)

    def _encode(
        self, image: ImageLike, rate: float | None, budget: int | None, budget_ms: float | None, *, probe: bool = True
    ) -> bytes:
        if self.encoder is None:
            raise RecipeError("this client has no bundle, so it encodes nothing; give it one")
        if budget_ms is None:
            return self.encoder.encode(image, rate=rate, budget_bytes=budget)[0]
        if rate is not None or budget is not None:
            raise RecipeError("a rate, a budget of bytes and one of milliseconds exclude each other; say one of them")
        if not 0 < budget_ms < math.inf:
            raise RecipeError(f"a budget is a number of milliseconds above 0, got {budget_ms}")
        if probe and self.link.rtt_s is None:
            self._probe()
        spent = sum(_high(seen) for seen in (self._encoding, self._serving, self._receiving))
        size = self.link.size(budget_ms / 1000 - spent)
        if size is not None and size > self._overhead_bytes:
            try:
                return self.encoder.encode(image, budget_bytes=size - self._overhead_bytes)[0]
            except OverBudget:
                pass  # the least there is, then
        return self.encoder.encode(image, rate=0.0)[0]

    def _probe(self) -> None:
        """Learn the round trip from requests that carry nothing; the first one opens the connection."""
        try:
            for _ in range(3):
                reply = self.transport.request("GET", HEALTHZ, timeout_s=self.attempt_s)
                if reply.kept:
                    self.link.add(_crossed(reply), reply.first_byte_s)
        except Unreachable:
            pass  # what comes next says so, and tries again

    def _facts(self, reply: Reply, packet_bytes: int, attempts: int, encode_s: float) -> dict[str, float]:
        """Learn from a good reply, and return what is told of it."""
        queue_s, compute_s = (_seconds(reply.headers.get(name.lower())) for name in (QUEUE_MS, COMPUTE_MS))
        serving = min(queue_s + compute_s, reply.seconds)
        if encode_s:
            self._encoding.append(encode_s)
        self._serving.append(serving)
        self._receiving.append(reply.seconds - reply.first_byte_s)
        self._overhead_bytes = _crossed(reply) - packet_bytes
        if reply.kept:  # otherwise the handshake is in it
            self.link.add(_crossed(reply), reply.first_byte_s - serving)
        return {
            "packet_bytes": packet_bytes, "sent_bytes": reply.sent_bytes, "received_bytes": reply.received_bytes,
            "attempts": attempts, "encode_s": encode_s, "link_s": reply.seconds - serving, "queue_s": queue_s,
            "compute_s": compute_s,
        }  # fmt: skip

    def _box(self) -> Outbox:
        if self.outbox is None:
            raise RecipeError("this client has no outbox; give it the path of one: Client(..., outbox='outbox.db')")
        return self.outbox


def _crossed(reply: Reply) -> int:
    """Return the bytes that must have crossed the link, either way, when the first of an answer is seen."""
    return reply.sent_bytes + min(reply.received_bytes, _SEGMENT_BYTES)


def _predictions(body: bytes) -> Mapping[str, Prediction]:
    """Return the one answer of a reply."""
    found = unpack(body)
    if len(found) != 1:
        raise CorruptAnswer(f"the server answered for {len(found)} images, one was sent")
    return found[0]


def _error(reply: Reply) -> SplitregError:
    """Return the error that a reply is."""
    try:
        body = json.loads(reply.body)
    except (ValueError, RecursionError):
        body = None  # a proxy's page, say
    return error_from(reply.status, body, reply.headers.get("retry-after"))


def _restored(found: Answered) -> Answer:
    """Return the answer that an outbox has kept."""
    if found.blob is None:
        error = error_from(int(found.facts.get("status", 500)), found.facts)
        return Answer.of(found.name, found.key, found.facts, {}, error)
    return Answer.of(found.name, found.key, found.facts, _predictions(found.blob))


def _seconds(milliseconds: str | None) -> float:
    try:
        found = float(milliseconds or 0.0) / 1000
    except ValueError:
        return 0.0
    return found if 0 <= found < math.inf else 0.0


def _high(seen: Collection[float]) -> float:
    """Return what four of five stay below: budgets are met by most pictures, not by half of them."""
    ordered = sorted(seen)
    return ordered[int(0.8 * len(ordered))] if ordered else 0.0
