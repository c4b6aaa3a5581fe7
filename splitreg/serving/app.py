"""The routes, and what stands before them: rate, token, errors as JSON, the log."""

from __future__ import annotations

import asyncio
import gzip
import logging
import math
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from splitreg.errors import BadRequest, ForeignPacket, ServiceError, SlowRequest, SplitregError, TooLarge, Unauthorized
from splitreg.serving import security
from splitreg.serving.logs import log
from splitreg.serving.service import Service, read_options
from splitreg.serving.stream import stream
from splitreg.wire import dump_json, error_body, protocol, split_packets, status_of

#: Nothing of these paths needs a token, and no rate counts for them.
_OPEN = (protocol.HEALTHZ, protocol.READYZ)
#: After a refusal so many seconds of what the client still sends are read, so that it sees the answer and no reset. Bodies
#: of so many bytes are let pass, and the connection serves on.
_LINGER_SECONDS, _SMALL_BODY = 2.0, 1 << 16
#: Answers of so many bytes are compressed for who takes that.
_SQUEEZED_FROM = 1024
#: A mask of 480x360 takes 0.8 ms, and half the bytes of level 1; level 9 takes ten times as long for 7 % less.
_SQUEEZE = 7

Handler = Callable[[Service, Request], Awaitable[Response]]


class App:
    """The ASGI application of a service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        #: path -> method -> what answers it.
        self.routes: dict[str, dict[str, Handler]] = {
            protocol.INFER: {"POST": infer},
            protocol.MODELS: {"GET": models},
            protocol.RELOAD: {"POST": reload},
            protocol.HEALTHZ: {"GET": healthz},
            protocol.READYZ: {"GET": readyz},
            protocol.METRICS: {"GET": metrics},
        }
        #: Paths without a secret, which ask for no token; the rate counts for them.
        self.public: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hold a stream."""
        self.service.active += scope["type"] == "http"
        try:
            if scope["type"] == "http":
                await self._http(Request(scope, receive), send)
            elif scope["type"] == "websocket":
                await self._websocket(WebSocket(scope, receive, send))
        finally:
            self.service.active -= scope["type"] == "http"

    async def _http(self, request: Request, send: Send) -> None:
        begun = asyncio.get_running_loop().time()
        body = _Body(request)
        fields: dict[str, Any] = {}
        try:
            response = await self._answer(body.request)
        except _ClientGone:
            log("gone", client=_client(request), path=request.url.path)
            return
        except SplitregError as error:
            response = self._refusal(error)
            fields["error"] = type(error).__name__.lstrip("_")
        except Exception as error:
            log("failure", logging.ERROR, failure=error, path=request.url.path)
            response = self._refusal(ServiceError("the server failed; its log says more"))
            fields["error"] = type(error).__name__
        status = response.status_code
        response.headers["X-Request-Id"] = number = uuid.uuid4().hex[:16]
        response.headers["Cache-Control"] = "no-store"
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(self.service.config.write_seconds):
                await _send(response, body, send)
        if request.url.path not in _OPEN or status >= 400:
            seconds = asyncio.get_running_loop().time() - begun
            log(
                "request", id=number, client=_client(request), method=request.method, path=request.url.path[:200],
                status=status, ms=round(1000 * seconds, 1), sent=len(response.body), **fields,
            )  # fmt: skip

    async def _answer(self, request: Request) -> Response:
        path = request.url.path
        if path not in _OPEN:
            self._admit(request.headers.get("authorization"), _client(request), public=path in self.public)
        methods = self.routes.get(path)
        if methods is None:
            raise _NotFound(f"there is nothing at this path; there are {', '.join(self.routes)} and {protocol.STREAM}")
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            raise _WrongMethod(f"{path} takes {', '.join(methods)}", tuple(methods))
        return await handler(self.service, request)

    async def _websocket(self, socket: WebSocket) -> None:
        try:
            self._admit(socket.headers.get("authorization"), _client(socket))
            if socket.url.path != protocol.STREAM:
                raise _NotFound(f"streams are at {protocol.STREAM}")
            security.check_origin(socket.headers)
            self.service.refuse_if_draining()
            options = read_options(socket.scope["query_string"], ("heads", "masks", "min_score", "answers"))
            self.service.deadline(socket.headers.get(protocol.DEADLINE), 0.0)
        except SplitregError as error:
            await socket.send_denial_response(self._refusal(error))
            return
        await stream(self.service, socket, options, _client(socket))

    def _admit(self, authorization: str | None, client: str, *, public: bool = False) -> None:
        self.service.rate.take(client, asyncio.get_running_loop().time())
        if not public:
            security.check_token(authorization, self.service.config.tokens)

    def _refusal(self, error: SplitregError) -> Response:
        self.service.metrics.refusals.labels(type(error).__name__.lstrip("_")).inc()
        status = error.status if isinstance(error, _Routing) else status_of(error)
        more = {"served": served(self.service)} if isinstance(error, ForeignPacket) else {}
        body = error_body(error, **more)
        if isinstance(error, _Routing):
            body["error"]["type"] = BadRequest.__name__
        response = Response(dump_json(body), status, media_type=protocol.JSON)
        if isinstance(error, ServiceError) and error.retry_after_s is not None:
            response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
        if isinstance(error, Unauthorized):
            response.headers["WWW-Authenticate"] = "Bearer"
        if isinstance(error, _WrongMethod):
            response.headers["Allow"] = ", ".join(error.methods)
        return response


def served(service: Service) -> list[dict[str, str]]:
    """Ids and names of the models, for who sent a packet of another one."""
    return [{"id": model["id"], "name": model["name"]} for model in service.models.values()]


async def infer(service: Service, request: Request) -> Response:
    """``POST /v1/infer``: packets to answers."""
    arrived = asyncio.get_running_loop().time()
    service.refuse_if_draining()
    headers = request.headers
    deadline = service.deadline(headers.get(protocol.DEADLINE), arrived)
    key = headers.get(protocol.IDEMPOTENCY)
    key = None if key is None else protocol.check_key(key)
    form = protocol.ANSWERS if protocol.ANSWERS in headers.get("accept", "") else protocol.JSON
    options = read_options(request.scope["query_string"], ("heads", "masks", "min_score"), form)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (protocol.PACKET, protocol.PACKETS):
        raise WrongType(f"Content-Type must be {protocol.PACKET} or {protocol.PACKETS}, got {kind[:60]!r}")
    with service.held() as hold:
        body = await read_body(request, hold, service.config.body_bytes, service.config.body_seconds)
        packets = [body] if kind == protocol.PACKET else list(_bounded(body, service.config.request_images))
        asking = asyncio.create_task(service.ask(packets, options, arrived=arrived, deadline=deadline, key=key))
        leaving = asyncio.create_task(_gone(request))
        try:
            await asyncio.wait({asking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise _ClientGone
            answer = asking.result()
        finally:
            asking.cancel()
            leaving.cancel()
    blob = answer.blob if form == protocol.ANSWERS else b'{"answers":' + answer.blob + b"}"
    squeezed = len(blob) >= _SQUEEZED_FROM and "gzip" in headers.get("accept-encoding", "").lower()
    if squeezed:  # arrays of masks are a hundredth then, and a slow link carries both ways
        blob = await asyncio.to_thread(gzip.compress, blob, _SQUEEZE, mtime=0)
    response = Response(blob, media_type=form)
    if squeezed:
        response.headers["Content-Encoding"] = "gzip"
    response.headers[protocol.QUEUE_MS] = f"{1000 * answer.queue_seconds:.1f}"
    response.headers[protocol.COMPUTE_MS] = f"{1000 * answer.compute_seconds:.1f}"
    return response


async def models(service: Service, request: Request) -> Response:
    """``GET /v1/models``: what is served."""
    return JSONResponse({"models": list(service.models.values())})


async def reload(service: Service, request: Request) -> Response:
    """``POST /v1/reload``: load the bundles anew."""
    if not service.config.tokens:
        raise Unauthorized("a server without a token is reloaded with SIGHUP alone")
    service.refuse_if_draining()
    await asyncio.shield(asyncio.create_task(service.reload()))  # whoever asked may be gone: it is done whole
    return await models(service, request)


async def healthz(service: Service, request: Request) -> Response:
    """``GET /healthz``: the process lives."""
    return JSONResponse({"status": "alive"})


async def readyz(service: Service, request: Request) -> Response:
    """``GET /readyz``: requests are taken."""
    state = "ready" if service.ready else "draining" if service.draining else "not ready"
    return JSONResponse({"status": state}, 200 if service.ready else 503)


async def metrics(service: Service, request: Request) -> Response:
    """``GET /metrics``: for Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


class _ClientGone(Exception):
    """Nobody is there to be answered."""


class _Routing(BadRequest):
    """A bad request with a status of its own."""

    status = 400


class _NotFound(_Routing):
    status = 404


class _WrongMethod(_Routing):
    status = 405

    def __init__(self, message: str, methods: tuple[str, ...]) -> None:
        super().__init__(message)
        self.methods = methods


class WrongType(_Routing):
    """A body of another type than the route takes."""

    status = 415


class _Body:
    """Notices whether a request's body has been read to its end."""

    def __init__(self, request: Request) -> None:
        self.whole = False
        self._receive = request.receive
        self.request = Request(request.scope, self.receive)

    async def receive(self) -> Message:
        message = await self._receive()
        self.whole = self.whole or message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message


async def _send(response: Response, body: _Body, send: Send) -> None:
    """Send a response; where the client still sends much, say that the connection ends, and read on for a moment."""
    declared = body.request.headers.get("content-length", "0")
    small = "transfer-encoding" not in body.request.headers and len(declared) < 9 and int(declared) <= _SMALL_BODY
    if body.whole or (small and response.status_code != 408):
        await response(body.request.scope, body.receive, send)
        return
    response.headers["Connection"] = "close"
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while not body.whole:
                await body.receive()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def read_body(request: Request, hold: Callable[[int], None], most: int, seconds: float) -> bytes:
    """Read a body within its limits.

    Raises:
        TooLarge: said or found to be larger.
        SlowRequest: it did not come in time.
        Unavailable: too much is held already.
    """
    declared = request.headers.get("content-length", "0")
    if len(declared) > 15 or int(declared) > most:
        raise TooLarge(f"a body has at most {most} bytes here, this one {declared[:20]}")
    data = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise _ClientGone
                part = message.get("body", b"")
                if len(data) + len(part) > most:
                    raise TooLarge(f"a body has at most {most} bytes here, this one more")
                hold(len(part))  # what is there, not what is announced: announcing costs nothing
                data += part
                if not message.get("more_body", False):
                    return bytes(data)
    except TimeoutError as cause:
        raise SlowRequest(f"the body did not arrive within {seconds:g} s") from cause


def _bounded(body: bytes, most: int) -> list[bytes]:
    packets = []
    for packet in split_packets(body):
        packets.append(packet)
        if len(packets) > most:
            raise TooLarge(f"a request has at most {most} images here")
    return packets


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _client(connection: Request | WebSocket) -> str:
    return connection.client.host if connection.client else "?"
