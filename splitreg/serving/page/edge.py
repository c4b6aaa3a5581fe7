"""Edge halves for browsers: the ``wasm`` target of a bundle, or compiled once and cached."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import splitreg
from splitreg.bundle import Bundle
from splitreg.edge import EdgeSource, ExportTarget
from splitreg.errors import MissingExtra, SplitregError, Unavailable
from splitreg.files import write_atomic
from splitreg.registry import discover
from splitreg.serving.service import Service

#: Name of the target, and its file with the model.
TARGET, MODEL = "wasm", "splitreg-model.wasm"


class BrowserModels:
    """The WebAssembly of a service's models.

    Args:
        service: whose bundles.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._models: dict[str, bytes] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def get(self, model_id: str) -> bytes:
        """Return the WebAssembly of a model; the first call may compile it.

        Raises:
            Unavailable: the model has none, and it cannot be compiled here.
        """
        lock = self._locks.setdefault(model_id, asyncio.Lock()) if model_id in self._service.models else None
        if lock is None:
            raise Unavailable(f"no model {model_id[:40]!r} on this server")
        async with lock:
            if model_id not in self._models:
                self._models[model_id] = await asyncio.to_thread(_find, self._service.config.bundles, model_id)
        return self._models[model_id]


def _find(places: tuple[str, ...], model_id: str) -> bytes:
    for place in places:
        bundle = Bundle.open(place)
        if bundle.config.id != model_id:
            continue
        name = f"targets/{TARGET}/{MODEL}"
        return bundle.read(name) if name in bundle else _compile(bundle)
    raise Unavailable(f"the bundle of model {model_id} was replaced on disk; reload the server")


def _compile(bundle: Bundle) -> bytes:
    """Compile a bundle's edge half, once per machine and version."""
    root = os.environ.get("SPLITREG_CACHE") or Path.home() / ".cache" / "splitreg"
    file = Path(root) / "wasm" / f"{bundle.config.id}-{splitreg.__version__}.wasm"
    if file.is_file():
        return file.read_bytes()
    try:
        target: ExportTarget = discover().create("target", TARGET, options={})
        data = target.export(EdgeSource.read(bundle)).files[MODEL]
    except MissingExtra as error:
        raise Unavailable(f"{error}; or publish the bundle with --target wasm") from error
    except SplitregError as error:
        raise Unavailable(f"this model does not run in a browser: {error}") from error
    write_atomic(file, data)
    return data
