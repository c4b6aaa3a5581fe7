"""Who may ask, and how often."""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from splitreg.errors import RateLimited, RecipeError, Unauthorized

#: Clients whose rate is remembered; the one that was silent longest is forgotten first.
MAX_CLIENTS = 65_536
_SCHEME = "bearer "


def read_tokens(path: str | Path) -> tuple[str, ...]:
    """Read tokens, one a line; empty lines and those that begin with # are not.

    Raises:
        RecipeError: no such file, or none in it.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as cause:
        raise RecipeError(f"cannot read the tokens in {path}: {cause}") from cause
    tokens = tuple(line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))
    if not tokens:
        raise RecipeError(f"there is no token in {path}; openssl rand -hex 32 > {path} makes one")
    return tokens


def check_token(authorization: str | None, tokens: tuple[str, ...]) -> None:
    """Compare in constant time; without tokens everybody is let in.

    Raises:
        Unauthorized: no token, or a wrong one.
    """
    if not tokens:
        return
    given = (authorization or "").strip()
    if not given.lower().startswith(_SCHEME):
        raise Unauthorized("this server asks for a token: Authorization: Bearer TOKEN")
    said = given[len(_SCHEME) :].strip().encode("utf-8", "surrogateescape")
    if not any([hmac.compare_digest(said, token.encode()) for token in tokens]):  # a list: all are compared
        raise Unauthorized("the token is not the one of this server")


def check_origin(headers: Mapping[str, str]) -> None:
    """Refuse a stream that a page of another site opens in a browser of this network.

    Raises:
        Unauthorized: the page's origin is not this server.
    """
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower():
        raise Unauthorized("a page of another site may not open a stream here")


class RateLimit:
    """A bucket of tokens for every client address.

    Args:
        per_s: requests a second; 0 for any number.

    Source: the token bucket of RFC 2697.
    """

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._most = max(1.0, 2 * per_s)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, now: float) -> None:
        """Count a request.

        Args:
            client: its address.
            now: of any steady clock, seconds.

        Raises:
            RateLimited: there were too many.
        """
        if not self._per_s:
            return
        left, then = self._buckets.pop(client, (self._most, now))
        left = min(self._most, left + (now - then) * self._per_s)
        self._buckets[client] = (max(0.0, left - 1), now) if left >= 1 else (left, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        if left < 1:
            raise RateLimited(
                f"more than {self._per_s:g} requests a second from {client}", retry_after_s=(1 - left) / self._per_s
            )
