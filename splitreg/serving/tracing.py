"""OpenTelemetry traces of requests, if its packages are installed and an exporter is configured."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from splitreg.errors import MissingExtra

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from splitreg.errors import SplitregError
    from splitreg.serving.app import App

#: OpenTelemetry's own variables; either one enables traces.
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def traced(app: App) -> Any:
    """Return an application with a span per request if ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set, else ``app``.

    Raises:
        MissingExtra: it is set, but the packages are not installed.
    """
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return app
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as cause:
        raise MissingExtra(
            f"{_ENDPOINTS[0]} is set, but {cause.name} is not installed; pip install 'splitreg[telemetry]'"
        ) from cause
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return TracedApp(app, provider)


class TracedApp:
    """An application whose requests have spans; ``traceparent`` of the client is continued.

    Args:
        app: answers the requests.
        provider: OpenTelemetry's ``TracerProvider``.
    """

    def __init__(self, app: App, provider: Any) -> None:
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        self._app = app
        self._traced = OpenTelemetryMiddleware(
            app, tracer_provider=provider, excluded_urls="healthz,readyz,metrics", exclude_spans=["receive", "send"]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        await self._traced(scope, receive, send)

    def refuse(self, client: str, error: SplitregError) -> bytes:
        """See ``App.refuse``."""
        return self._app.refuse(client, error)
