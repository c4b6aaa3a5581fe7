"""The server: bundles behind HTTP and WebSocket; the front process imports no torch."""

from splitreg.serving.config import ServeConfig
from splitreg.serving.run import serve

__all__ = ["ServeConfig", "serve"]
