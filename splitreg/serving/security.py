"""Authentication with bearer tokens, the origin check for browsers, and the rate limit."""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from splitreg.errors import RateLimited, RecipeError, Unauthorized

#: Clients whose rate is tracked; the least recently active one is dropped first.
MAX_CLIENTS = 65_536
_SCHEME = "bearer "


def read_tokens(path: str | Path) -> tuple[str, ...]:
    """Read a token file: one token per line; empty lines and lines that start with # are ignored.

    Raises:
        RecipeError: the file cannot be read or contains no token.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as cause:
        raise RecipeError(f"cannot read the token file {path}: {cause}") from cause
    tokens = tuple(line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))
    if not tokens:
        raise RecipeError(f"the token file {path} has no token; create one with: openssl rand -hex 32 > {path}")
    return tokens


def check_token(authorization: str | None, tokens: tuple[str, ...]) -> None:
    """Check the header ``Authorization`` in constant time.

    Args:
        authorization: value of the header; None if there is none.
        tokens: accepted tokens; empty disables authentication.

    Raises:
        Unauthorized: there is no bearer token, or it is not accepted.
    """
    if not tokens:
        return
    value = (authorization or "").strip()
    if not value.lower().startswith(_SCHEME):
        raise Unauthorized("this server requires a token: Authorization: Bearer TOKEN")
    token = value[len(_SCHEME) :].strip().encode("utf-8", "surrogateescape")
    matches = [hmac.compare_digest(token, accepted.encode()) for accepted in tokens]  # all of them
    if not any(matches):
        raise Unauthorized("the token is not valid for this server")


def check_origin(headers: Mapping[str, str]) -> None:
    """Refuse a stream opened by a web page of another site, in the browser of an internal user.

    Raises:
        Unauthorized: the page's origin is not this server.
    """
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower():
        raise Unauthorized(f"a page of {origin[:100]} may not open a stream here; the origin must be this server")


class RateLimit:
    """A token bucket per client address.

    Args:
        requests_per_s: sustained rate; bursts may have twice as many. 0 disables the limit.

    Source: the token bucket of RFC 2697.
    """

    def __init__(self, requests_per_s: float) -> None:
        self._requests_per_s = requests_per_s
        self._burst = max(1.0, 2 * requests_per_s)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    @property
    def clients(self) -> int:
        """Number of clients whose rate is tracked."""
        return len(self._buckets)

    def take(self, client: str, now: float) -> None:
        """Count one request.

        Args:
            client: its address.
            now: seconds of a monotonic clock.

        Raises:
            RateLimited: the client exceeds the rate.
        """
        if not self._requests_per_s:
            return
        left, last = self._buckets.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - last) * self._requests_per_s)
        self._buckets[client] = (max(0.0, left - 1), now) if left >= 1 else (left, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        if left < 1:
            raise RateLimited(
                f"the rate limit is {self._requests_per_s:g} requests per second per client; {client} exceeds it",
                retry_after_s=(1 - left) / self._requests_per_s,
            )
