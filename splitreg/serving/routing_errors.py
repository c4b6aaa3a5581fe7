"""Errors of HTTP and of routing: a ``BadRequest`` for clients, with a status of their own."""

from __future__ import annotations

from splitreg.errors import BadRequest


class RoutingError(BadRequest):
    """A request that no handler accepts.

    Attributes:
        headers: of the response.
    """

    status = 400
    headers: tuple[tuple[str, str], ...] = ()


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
        self.headers = (("Allow", ", ".join(allowed)),)


class WrongType(RoutingError):
    """The path does not accept this content type."""

    status = 415


class Malformed(RoutingError):
    """Not a valid request of HTTP/1.1, or one that this server does not support.

    Args:
        status: of the response.
        message: the text.
        headers: of the response.
    """

    def __init__(self, status: int, message: str, *, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
