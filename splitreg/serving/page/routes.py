"""``GET /`` with its files, and ``POST /v1/encode``: what a device would do, done here because a browser cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib import resources
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from splitreg.errors import BadRequest
from splitreg.serving.app import App, Handler, WrongType, read_body
from splitreg.serving.page.device import Device, check_picture
from splitreg.serving.service import Service
from splitreg.wire import dump_json, protocol

ENCODE = "/v1/encode"
#: Milliseconds from pixels to packet; and, with ``files=1``, what files of the same pixels have (JSON).
ENCODE_MS, FILES = "X-Splitreg-Encode-Ms", "X-Splitreg-Files"

PICTURES = ("image/jpeg", "image/png", "image/webp")
_INDEX = "index.html"
_KINDS = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}  # fmt: skip
#: Scripts, styles and requests of this server alone, and nowhere in a frame.
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}


def add_page(app: App) -> None:
    """Give an application the page. Its files are the package's, the same for everybody, so no token is asked for them."""
    for name, (content, kind) in static_files().items():
        path = protocol.PAGE if name == _INDEX else f"/page/{name}"
        app.routes[path] = {"GET": _fixed(content, kind)}
        app.public.add(path)
    app.routes[ENCODE] = {"POST": _encode_with(Device(app.service))}


def static_files() -> dict[str, tuple[bytes, str]]:
    """Return name -> content and media type of the page's files; read once, so that no request names a file."""
    folder = resources.files(__package__) / "static"
    found = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        _, dot, ending = file.name.rpartition(".")
        if dot + ending in _KINDS:
            found[file.name] = file.read_bytes(), _KINDS[dot + ending]
    return found


def _fixed(content: bytes, kind: str) -> Handler:
    async def give(service: Service, request: Request) -> Response:
        return Response(content, media_type=kind, headers=dict(HEADERS))

    return give


def _encode_with(device: Device) -> Handler:
    async def encode(service: Service, request: Request) -> Response:
        """``POST /v1/encode?model=ID&rate=0.3&files=1``: a picture to the packet that a device would send."""
        service.refuse_if_draining()
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in PICTURES:  # a page of another site may send other types without asking
            raise WrongType(f"Content-Type must be one of {', '.join(PICTURES)}, got {kind[:60]!r}")
        deadline = service.deadline(request.headers.get(protocol.DEADLINE), asyncio.get_running_loop().time())
        model, rate, files = read_query(request.scope["query_string"])
        with service.held() as hold:
            body = await read_body(request, hold, service.config.body_bytes, service.config.body_seconds)
            if not check_picture(body):
                raise WrongType("the body is no JPEG, PNG or WebP file")
            encoded = await device.encode(body, model=model, rate=rate, files=files, deadline=deadline)
        response = Response(encoded.packet, media_type=protocol.PACKET, headers={"X-Content-Type-Options": "nosniff"})
        response.headers[ENCODE_MS] = f"{encoded.milliseconds:.1f}"
        if encoded.files is not None:
            response.headers[FILES] = dump_json(encoded.files).decode("ascii")
        return response

    return encode


def read_query(query: bytes) -> tuple[str | None, float | None, bool]:
    """Return model id, rate and whether files are to be compared.

    Raises:
        BadRequest: a key that is unknown, twice or has no such value.
    """
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=8, errors="strict")
        found = dict(pairs)
        rate = float(found["rate"]) if "rate" in found else None
    except ValueError as cause:
        raise BadRequest("the query is not one, or its rate is no number") from cause
    wrong = [key for key in found if key not in ("model", "rate", "files")]
    if wrong or len(found) < len(pairs):
        raise BadRequest(f"the query has {(wrong or ['a key'])[0][:40]!r} twice, or it is unknown; model, rate, files")
    if found.get("files", "0") not in ("0", "1"):
        raise BadRequest(f"files is 0 or 1, got {found['files'][:40]!r}")
    return found.get("model"), rate, found.get("files") == "1"
