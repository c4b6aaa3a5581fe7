"""Errors of HTTP routing: a ``BadRequest`` for clients, with a status of their own."""

from __future__ import annotations

from splitreg.errors import BadRequest


class RoutingError(BadRequest):
    """A request that no handler accepts."""

    status = 400


class NotFound(RoutingError):
    """There is no such path."""

    status = 404


class WrongMethod(RoutingError):
    """The path does not support this method.

    Args:
        message: the text.
        allowed: methods that it supports.
    """

    status = 405

    def __init__(self, message: str, allowed: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allowed = allowed


class WrongType(RoutingError):
    """The path does not accept this content type."""

    status = 415
