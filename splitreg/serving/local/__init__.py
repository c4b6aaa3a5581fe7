"""The backend of worker processes on this machine."""

from splitreg.serving.local.backend import LocalBackend

__all__ = ["LocalBackend"]
