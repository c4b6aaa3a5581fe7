"""The routes of the page: ``GET /`` with its files, and ``POST /v1/encode``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

from splitreg.errors import BadRequest, Unavailable
from splitreg.serving.app import App, Handler, check_content_type, client_address, read_body
from splitreg.serving.logs import log
from splitreg.serving.page.device import BrowserEncoder, EncodeOptions, is_image
from splitreg.serving.page.edge import BrowserModels
from splitreg.serving.query import parse_number, parse_query
from splitreg.serving.routing_errors import WrongType
from splitreg.serving.service import Service
from splitreg.wire import dump_json, protocol

ENCODE, EDGE = "/v1/encode", "/v1/edge"
#: Response headers: milliseconds from pixels to packet; with ``files=1`` the comparison with files
#: (JSON).
ENCODE_MS, FILES = "X-Splitreg-Encode-Ms", "X-Splitreg-Files"

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
_INDEX, _WORKER = "index.html", "sw.js"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}  # fmt: skip
#: Scripts, styles and requests only from and to this server; no framing.
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}


def add_page(app: App) -> None:
    """Add the page to an application; its files are public, since they are part of the package."""
    for name, (content, media_type) in static_files().items():
        path = protocol.PAGE if name == _INDEX else f"/page/{name}"
        # A service worker may control pages above its own folder only with this header.
        more = {"Service-Worker-Allowed": "../"} if name == _WORKER else {}
        app.routes[path] = {"GET": _static(content, media_type, more)}
        app.public.add(path)
    app.routes[EDGE] = {"GET": _edge_of(BrowserModels(app.service))}
    app.routes[ENCODE] = {"POST": _encode_with(BrowserEncoder(app.service))}


def static_files() -> dict[str, tuple[bytes, str]]:
    """Return name -> content and media type of the page's files; they are read once, at start."""
    folder, browser = resources.files(__package__) / "static", resources.files("splitreg.edge") / "browser"
    files = {}
    for file in sorted((*folder.iterdir(), *browser.iterdir()), key=lambda file: file.name):
        _, dot, ending = file.name.rpartition(".")
        if dot + ending in _MEDIA_TYPES:
            files[file.name] = file.read_bytes(), _MEDIA_TYPES[dot + ending]
    return files


def parse_encode_options(query: bytes) -> EncodeOptions:
    """Return the options of ``POST /v1/encode``.

    Raises:
        BadRequest: a parameter or its value is invalid.
    """
    parameters = parse_query(query, ("model", "rate", "files"))
    files = parameters.get("files", "0")
    if files not in ("0", "1"):
        raise BadRequest(f"files must be 0 or 1, got {files[:40]!r}")
    return EncodeOptions(model=parameters.get("model"), rate=parse_number(parameters, "rate"), files=files == "1")


def _static(content: bytes, media_type: str, more: Mapping[str, str]) -> Handler:
    async def respond(service: Service, request: Request) -> Response:
        return Response(content, media_type=media_type, headers={**HEADERS, **more})

    return respond


def _edge_of(models: BrowserModels) -> Handler:
    async def edge(service: Service, request: Request) -> Response:
        """``GET /v1/edge?model=ID``: return the edge half of a model as WebAssembly; 204 where there is none."""
        model = parse_query(request.scope["query_string"], ("model",)).get("model", "")
        try:
            data = await models.get(model)
        except Unavailable as error:
            log("images of browsers are encoded here", logging.INFO, model=model[:40], reason=str(error))
            return Response(status_code=204, headers=dict(HEADERS))
        return Response(data, media_type="application/wasm", headers=dict(HEADERS))

    return edge


def _encode_with(encoder: BrowserEncoder) -> Handler:
    async def encode(service: Service, request: Request) -> Response:
        """``POST /v1/encode?model=ID&rate=0.3&files=1``: return the packet of an image."""
        service.check_not_draining()
        check_content_type(request, IMAGE_TYPES)  # also makes browsers send a CORS preflight
        arrived = asyncio.get_running_loop().time()
        deadline = service.parse_deadline(request.headers.get(protocol.DEADLINE), arrived)
        options = parse_encode_options(request.scope["query_string"])
        with service.request_bytes.hold() as hold:
            body = await read_body(service, request, hold)
            if not is_image(body):
                raise WrongType("the body is not a JPEG, PNG or WebP file")
            image = await encoder.encode(body, options, deadline, client_address(request))
        response = Response(image.packet, media_type=protocol.PACKET, headers={"X-Content-Type-Options": "nosniff"})
        response.headers[ENCODE_MS] = f"{image.milliseconds:.1f}"
        if image.files is not None:
            response.headers[FILES] = dump_json(image.files).decode("ascii")
        return response

    return encode
