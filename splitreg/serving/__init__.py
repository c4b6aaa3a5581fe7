"""The server: bundles over HTTP and WebSocket; its own process does not import torch."""

import splitreg.python311  # noqa: F401
from splitreg.serving.backend import Backend
from splitreg.serving.config import ServeConfig
from splitreg.serving.run import serve

__all__ = ["Backend", "ServeConfig", "serve"]
