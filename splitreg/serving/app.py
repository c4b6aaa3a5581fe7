"""The HTTP routes, and what applies to all: rate limit, authentication, JSON errors, the log."""

from __future__ import annotations

import asyncio
import gzip
import logging
import math
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from splitreg.errors import (
    RateLimited,
    ServiceError,
    SlowRequest,
    SplitregError,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from splitreg.serving import security
from splitreg.serving.http.responses import response_head
from splitreg.serving.logs import log, request_id
from splitreg.serving.memory import Hold
from splitreg.serving.openapi import OPENAPI, describe_routes
from splitreg.serving.query import INFER_PARAMETERS, STREAM_PARAMETERS, parse_request_options
from splitreg.serving.routing_errors import NotFound, RoutingError, WrongMethod, WrongType
from splitreg.serving.service import Service
from splitreg.serving.stream import Caller, serve_stream
from splitreg.serving.tokens import Token
from splitreg.wire import dump_json, protocol, split_packets

#: Paths without authentication and rate limit.
_HEALTH_PATHS = (protocol.HEALTHZ, protocol.READYZ)
#: Responses from this size on are compressed if the client accepts gzip.
_MIN_GZIP_BYTES = 1024
#: Compressing a 480x360 mask takes 0.8 ms and gives half the bytes of level 1; level 9 takes ten
#: times as long for 7 % fewer bytes.
_GZIP_LEVEL = 7

_REQUEST_ID = "X-Request-Id"
_ID = re.compile(r"[\w-]{1,64}", re.ASCII)
_HSTS = "max-age=31536000"
#: Request headers that pages of allowed origins may send.
_CORS_HEADERS = (
    "Accept", "Authorization", "Content-Type", _REQUEST_ID, protocol.DEADLINE, protocol.IDEMPOTENCY,
)  # fmt: skip

Handler = Callable[[Service, Request], Awaitable[Response]]


class App:
    """The ASGI application of a service.

    Args:
        service: answers the requests.

    Attributes:
        routes: path -> method -> handler.
        public: paths without authentication; the rate limit applies to them.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.routes: dict[str, dict[str, Handler]] = {
            protocol.INFER: {"POST": infer},
            protocol.MODELS: {"GET": models},
            protocol.RELOAD: {"POST": reload},
            protocol.HEALTHZ: {"GET": healthz},
            protocol.READYZ: {"GET": readyz},
            protocol.METRICS: {"GET": metrics},
        }
        self.routes[OPENAPI] = {"GET": self._openapi}
        self.public: set[str] = {OPENAPI}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request or one WebSocket."""
        self._identify(scope)
        self.service.active_requests += scope["type"] == "http"
        try:
            if scope["type"] == "http":
                request = Request(scope, receive)
                with self.service.answer_rooms.room(client_address(request)) as scope["state"]["room"]:
                    await self._http(request, send)
            elif scope["type"] == "websocket":
                await self._websocket(WebSocket(scope, receive, send))
        finally:
            self.service.active_requests -= scope["type"] == "http"

    def _identify(self, scope: Scope) -> None:
        """Give a request its id, and its client's address if a trusted proxy forwards it."""
        headers, proxies = Headers(scope=scope), self.service.config.trusted_proxies
        wanted = headers.get(_REQUEST_ID, "")
        scope["state"]["id"] = wanted if _ID.fullmatch(wanted) else uuid.uuid4().hex[:16]
        request_id.set(scope["state"]["id"])
        if proxies and scope.get("client"):
            forwarded = ",".join(headers.getlist("x-forwarded-for"))
            scope["client"] = security.forwarded_client(scope["client"][0], forwarded, proxies), 0

    async def _http(self, request: Request, send: Send) -> None:
        start = asyncio.get_running_loop().time()
        path: str = request.scope["path"]
        fields: dict[str, Any] = {}
        try:
            response = await self._respond(request)
        except _ClientDisconnected:
            log("client disconnected", client=client_address(request), path=path[:200])
            return
        except SplitregError as error:
            response = self._error(error)
            fields["error"] = type(error).__name__
        except Exception as error:
            log("unexpected error", logging.ERROR, exception=error, path=path[:200])
            response = self._error(ServiceError("the server failed; see its log"))
            fields["error"] = type(error).__name__
        status = response.status_code
        self._add_headers(request, response)
        await self._send(request, response, send)
        if path not in _HEALTH_PATHS or status >= 400:
            seconds = asyncio.get_running_loop().time() - start
            token = request.scope["state"].get("token")
            log(
                "request", client=client_address(request), method=request.method, path=path[:200], status=status,
                ms=round(1000 * seconds, 1), sent=len(response.body), **fields, **({"token": token} if token else {}),
            )  # fmt: skip

    def _add_headers(self, request: Request, response: Response) -> None:
        response.headers[_REQUEST_ID] = request.scope["state"]["id"]
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        if self.service.config.tls_cert is not None:
            response.headers["Strict-Transport-Security"] = _HSTS
        if self.service.config.allowed_origins:
            response.headers["Vary"] = "Origin"
            origin = request.headers.get("origin", "")
            if origin in self.service.config.allowed_origins:
                response.headers["Access-Control-Allow-Origin"] = origin
                response.headers["Access-Control-Expose-Headers"] = "*"

    async def _openapi(self, service: Service, request: Request) -> Response:
        return JSONResponse(describe_routes({path: tuple(methods) for path, methods in self.routes.items()}))

    async def _send(self, request: Request, response: Response, send: Send) -> None:
        """Send a response whose bytes count, within the time that its size allows."""
        abort, count = request.scope["state"]["abort"], len(response.body)
        try:
            with self.service.answer_bytes.hold(abort) as hold:
                hold.add(count)
                async with asyncio.timeout(self.service.config.send_seconds(count)):
                    await response(request.scope, request.receive, send)
        except TimeoutError:
            self.service.metrics.slow_readers.inc()
            abort()

    async def _respond(self, request: Request) -> Response:
        path: str = request.scope["path"]
        methods = self.routes.get(path)
        if path not in _HEALTH_PATHS:
            security.check_host(request.headers.get("host"), self.service.config)
            if request.method == "OPTIONS" and methods and self._is_preflight(request):
                return _preflight(methods)
            self._admit(request, public=path in self.public)
        if methods is None:
            raise NotFound(f"no such path; available: {', '.join(self.routes)} and {protocol.STREAM}")
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            raise WrongMethod(f"{path} supports {', '.join(methods)}, got {request.method[:20]}", tuple(methods))
        return await handler(self.service, request)

    def _is_preflight(self, request: Request) -> bool:
        return request.headers.get("origin", "") in self.service.config.allowed_origins

    async def _websocket(self, socket: WebSocket) -> None:
        try:
            security.check_host(socket.headers.get("host"), self.service.config)
            token = self._admit(socket)
            if socket.scope["path"] != protocol.STREAM:
                raise NotFound(f"WebSockets are available at {protocol.STREAM}")
            security.check_origin(socket.headers, self.service.config.allowed_origins)
            self.service.check_not_draining()
            options = parse_request_options(socket.scope["query_string"], STREAM_PARAMETERS)
            self.service.parse_deadline(socket.headers.get(protocol.DEADLINE), 0.0)
            video = None if options.video is None else await self.service.videos.open(options.video)
        except SplitregError as error:
            await socket.send_denial_response(self._error(error))
            return
        try:
            await serve_stream(self.service, socket, options, Caller(client_address(socket), token), video)
        finally:
            if video is not None:
                video.close()

    def _admit(self, connection: Request | WebSocket, *, public: bool = False) -> Token | None:
        """Count a request and check its token.

        Raises:
            RateLimited: the client or the token exceeds its rate.
            Unauthorized: there is no valid token.
        """
        now = asyncio.get_running_loop().time()
        self.service.rate_limit.take(client_address(connection), now)
        if public:
            return None
        token = self.service.tokens.check(connection.headers.get("authorization"))
        if connection.scope["type"] == "http":  # of a stream, each packet counts
            self.service.tokens.take(token, now)
        if token is not None:
            connection.scope["state"]["token"] = token.name
        return token

    def refuse(self, client: str, error: SplitregError) -> bytes:
        """Count and log what is not a request; return the whole response, empty for none.

        Args:
            client: its address.
            error: what is wrong.
        """
        try:
            self.service.rate_limit.take(client, asyncio.get_running_loop().time())
        except RateLimited:
            self.service.metrics.refusals.labels("RateLimited").inc()
            return b""
        response = self._error(error)
        response.headers["Connection"] = "close"
        log(
            "request refused", client=client, status=response.status_code, error=type(error).__name__, reason=str(error)
        )
        return response_head(response.status_code, response.raw_headers) + bytes(response.body)

    def _error(self, error: SplitregError) -> Response:
        status, body = self.service.error_response(error)
        response = Response(dump_json(body), status, media_type=protocol.JSON)
        if isinstance(error, ServiceError) and error.retry_after_s is not None:
            response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
        if isinstance(error, Unauthorized):
            response.headers["WWW-Authenticate"] = "Bearer"
        if isinstance(error, RoutingError):
            response.headers.update(dict(error.headers))
        return response


async def infer(service: Service, request: Request) -> Response:
    """``POST /v1/infer``: answer packets."""
    arrived = asyncio.get_running_loop().time()
    service.check_not_draining()
    headers = request.headers
    deadline = service.parse_deadline(headers.get(protocol.DEADLINE), arrived)
    key = headers.get(protocol.IDEMPOTENCY)
    key = None if key is None else protocol.check_key(key)
    accept = headers.get("accept", "")
    media = next((media for media in (protocol.COMPACT, protocol.ANSWERS) if media in accept), protocol.JSON)
    options = parse_request_options(request.scope["query_string"], INFER_PARAMETERS, media)
    content_type = check_content_type(request, (protocol.PACKET, protocol.PACKETS))
    with service.request_bytes.hold() as hold:
        body = await read_body(service, request, hold)
        single = content_type == protocol.PACKET
        packets = [body] if single else _split_packets(body, service.config.max_request_images)
        inference = asyncio.create_task(
            service.infer(
                packets, options, arrived=arrived, deadline=deadline, room=request.scope["state"]["room"], key=key
            )
        )
        disconnection = asyncio.create_task(_wait_for_disconnection(request))
        try:
            await asyncio.wait({inference, disconnection}, return_when=asyncio.FIRST_COMPLETED)
            if not inference.done():
                raise _ClientDisconnected
            result = inference.result()
        finally:
            inference.cancel()
            disconnection.cancel()
    blob = b'{"answers":' + result.blob + b"}" if media == protocol.JSON else result.blob
    compress = len(blob) >= _MIN_GZIP_BYTES and _accepts_gzip(headers.get("accept-encoding", ""))
    if compress:  # masks shrink to a hundredth, and the link may be slow in both directions
        blob = await asyncio.to_thread(gzip.compress, blob, _GZIP_LEVEL, mtime=0)
    response = Response(blob, media_type=media)
    if compress:
        response.headers["Content-Encoding"] = "gzip"
    response.headers[protocol.QUEUE_MS] = f"{1000 * result.queue_seconds:.1f}"
    response.headers[protocol.COMPUTE_MS] = f"{1000 * result.compute_seconds:.1f}"
    return response


async def models(service: Service, request: Request) -> Response:
    """``GET /v1/models``: list the models."""
    return JSONResponse({"models": list(service.models.values())})


async def reload(service: Service, request: Request) -> Response:
    """``POST /v1/reload``: load the bundles again."""
    if not service.tokens:
        raise Unauthorized("a server without tokens can be reloaded only with SIGHUP")
    service.check_not_draining()
    await asyncio.shield(asyncio.create_task(service.reload()))  # even if the client disconnects
    return await models(service, request)


async def healthz(service: Service, request: Request) -> Response:
    """``GET /healthz``: the process is alive."""
    return JSONResponse({"status": "alive"})


async def readyz(service: Service, request: Request) -> Response:
    """``GET /readyz``: whether requests are accepted."""
    state = "ready" if service.ready else "draining" if service.draining else "not ready"
    return JSONResponse({"status": state}, 200 if service.ready else 503)


async def metrics(service: Service, request: Request) -> Response:
    """``GET /metrics``: metrics for Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def check_content_type(request: Request, accepted: tuple[str, ...]) -> str:
    """Return the media type of a request's body.

    Raises:
        WrongType: it is none of the accepted ones.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in accepted:
        raise WrongType(f"Content-Type must be one of {', '.join(accepted)}, got {content_type[:60]!r}")
    return content_type


async def read_body(service: Service, request: Request, hold: Hold) -> bytes:
    """Read a request's body within the limits of the service.

    Args:
        service: whose ``max_body_bytes`` and ``body_timeout_seconds`` apply.
        request: the request.
        hold: where its bytes count.

    Raises:
        TooLarge: the declared or the received size exceeds the limit.
        SlowRequest: the body was not received in time.
        Unavailable: too many bytes are pending.
    """
    limit, seconds = service.config.max_body_bytes, service.config.body_timeout_seconds
    declared = request.headers.get("content-length", "0")
    if len(declared) > 15 or int(declared) > limit:
        raise TooLarge(f"a request body may have at most {limit} bytes, got {declared[:20]}")
    data = bytearray()
    dropped = False

    def drop() -> None:
        nonlocal dropped
        dropped = True
        timeout.reschedule(0)

    try:
        async with asyncio.timeout(seconds) as timeout:
            hold.drop = drop
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise _ClientDisconnected
                chunk = message.get("body", b"")
                if len(data) + len(chunk) > limit:
                    raise TooLarge(f"a request body may have at most {limit} bytes, got more")
                hold.add(len(chunk))  # not the declared bytes, which cost the client nothing
                data += chunk
                if not message.get("more_body", False):
                    return bytes(data)
    except TimeoutError as cause:
        if dropped:
            raise Unavailable("smaller requests need the memory; retry later", retry_after_s=1.0) from cause
        raise SlowRequest(f"the body was not received within {seconds:g} s") from cause
    finally:
        hold.drop = None


def _preflight(methods: Mapping[str, Handler]) -> Response:
    """Answer a browser that asks what a page of another site may send (CORS)."""
    headers = {
        "Access-Control-Allow-Methods": ", ".join(methods), "Access-Control-Max-Age": "600",
        "Access-Control-Allow-Headers": ", ".join(_CORS_HEADERS),
    }  # fmt: skip
    return Response(status_code=204, headers=headers)


def _accepts_gzip(header: str) -> bool:
    """Return whether ``Accept-Encoding`` accepts gzip (RFC 9110, 12.5.3)."""
    weights = {}
    for item in header.lower().split(","):
        coding, _, parameter = item.partition(";")
        name, _, value = parameter.strip().partition("=")
        weights[coding.strip()] = value.strip() if name.strip() == "q" else "1"
    weight = weights.get("gzip", weights.get("*", "0"))
    return bool(weight.strip("0.")) if weight.replace(".", "", 1).isdigit() else False


class _ClientDisconnected(Exception):
    """The client closed the connection, so nobody waits for a response."""


def _split_packets(body: bytes, max_packets: int) -> list[bytes]:
    packets = []
    for packet in split_packets(body):
        packets.append(packet)
        if len(packets) > max_packets:
            raise TooLarge(f"a request may have at most {max_packets} images, got more packets")
    return packets


async def _wait_for_disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def client_address(connection: Request | WebSocket) -> str:
    """Return the address of a client, without the port."""
    return connection.client.host if connection.client else "?"
