"""The OpenAPI document at ``/openapi.json``, from the tables that the routes themselves use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from splitreg import __version__
from splitreg.imaging import RESOLUTIONS
from splitreg.serving.query import INFER_PARAMETERS, MEDIA, STREAM_PARAMETERS
from splitreg.wire import protocol
from splitreg.wire.protocol import STATUSES

OPENAPI = "/openapi.json"
_BYTES = {"type": "string", "format": "binary"}
_PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "heads": {"schema": {"type": "string"}, "description": "Names of heads, with commas between them; default: all."},
    "masks": {"schema": {"type": "string", "enum": ["rle", "png", "none"]}, "description": "Format of masks in JSON."},
    "min_score": {"schema": {"type": "number"}, "description": "Smallest score of an object."},
    "resolution": {"schema": {"type": "string", "enum": list(RESOLUTIONS)}, "description": "Resolution of masks."},
    "tables": {"schema": {"type": "string", "pattern": "^[0-9a-f]{8}$"}, "description": "CRC-32 of known tables."},
    "answers": {"schema": {"type": "string", "enum": list(MEDIA)}, "description": "Format of the answers."},
    "video": {"schema": {"type": "string"}, "description": "Messages are frames of a video of this format."},
    "model": {"schema": {"type": "string"}, "description": "Model id; default: the only model."},
    "rate": {"schema": {"type": "number"}, "description": "0 to 1; default: the model's default."},
    "files": {"schema": {"type": "string", "enum": ["0", "1"]}, "description": "Compare with JPEG and WebP."},
}
_HEADERS: Mapping[str, str] = {
    protocol.DEADLINE: "Milliseconds from arrival after which the answer is useless.",
    protocol.IDEMPOTENCY: "1 to 64 letters, digits, _ and -: the request is computed once.",
}
#: (method, path) -> summary, query parameters, request headers, media types of body and response.
_Operation = tuple[str, Sequence[str], Sequence[str], Sequence[str], Sequence[str]]
_OPERATIONS: Mapping[tuple[str, str], _Operation] = {
    ("POST", protocol.INFER): (
        "Answer packets", INFER_PARAMETERS, tuple(_HEADERS), (protocol.PACKET, protocol.PACKETS),
        (protocol.JSON, protocol.ANSWERS, protocol.COMPACT),
    ),
    ("GET", protocol.STREAM): (
        "WebSocket: packets in, answers out", STREAM_PARAMETERS, (protocol.DEADLINE,), (), (),
    ),
    ("GET", protocol.MODELS): ("List the models", (), (), (), (protocol.JSON,)),
    ("POST", protocol.RELOAD): ("Load bundles, tokens and certificate again", (), (), (), (protocol.JSON,)),
    ("GET", protocol.HEALTHZ): ("Whether the process is alive", (), (), (), (protocol.JSON,)),
    ("GET", protocol.READYZ): ("Whether requests are accepted", (), (), (), (protocol.JSON,)),
    ("GET", protocol.METRICS): ("Metrics for Prometheus", (), (), (), ("text/plain",)),
    ("GET", OPENAPI): ("This document", (), (), (), (protocol.JSON,)),
    ("GET", "/v1/edge"): ("The edge half of a model for browsers", ("model",), (), (), ("application/wasm",)),
    ("POST", "/v1/encode"): (
        "Encode an image for the page", ("model", "rate", "files"), (protocol.DEADLINE,),
        ("image/jpeg", "image/png", "image/webp"), (protocol.PACKET,),
    ),
}  # fmt: skip
_WITHOUT_TOKEN = (protocol.HEALTHZ, protocol.READYZ, OPENAPI)


def describe_routes(routes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a server.

    Args:
        routes: path -> methods; files of the page, which are not part of the API, are left out.
    """
    paths: dict[str, dict[str, Any]] = {}
    for path, methods in [*routes.items(), (protocol.STREAM, ("GET",))]:
        for method in methods:
            operation = _OPERATIONS.get((method, path))
            if operation is not None:
                paths.setdefault(path, {})[method.lower()] = _describe(path, operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "splitreg", "version": __version__},
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _error_schema()},
        },
    }


def _describe(path: str, operation: _Operation) -> dict[str, Any]:
    summary, query, headers, bodies, media = operation
    parameters = [{"name": name, "in": "query", **_PARAMETERS[name]} for name in query]
    parameters += [
        {"name": name, "in": "header", "schema": {"type": "string"}, "description": _HEADERS[name]} for name in headers
    ]
    answer = {
        kind: {
            "schema": {"type": "object"} if kind == protocol.JSON else {"type": "string"} if "text" in kind else _BYTES
        }
        for kind in media
    }
    success = "101" if path == protocol.STREAM else "200"
    described: dict[str, Any] = {
        "summary": summary,
        "parameters": parameters,
        "responses": {
            success: {"description": "Success", **({"content": answer} if answer else {})},
            "default": {
                "description": "An error",
                "content": {protocol.JSON: {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
        "security": [] if path in _WITHOUT_TOKEN else [{"token": []}, {}],
    }
    if bodies:
        described["requestBody"] = {"required": True, "content": {kind: {"schema": _BYTES} for kind in bodies}}
    return described


def _error_schema() -> dict[str, Any]:
    statuses = ", ".join(f"{error.__name__} {status}" for error, status in STATUSES.items())
    error = {
        "type": "object",
        "required": ["type", "message"],
        "properties": {
            "type": {"type": "string", "description": f"A class of splitreg.errors, with its status: {statuses}."},
            "message": {"type": "string"},
            "retry_after_s": {"type": "number"},
        },
    }
    return {"type": "object", "required": ["error"], "properties": {"error": error}}
