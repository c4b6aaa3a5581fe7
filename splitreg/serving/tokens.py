"""Bearer tokens: names, expiry, rate and quota of each; read again without a restart."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import logging
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from splitreg.errors import RateLimited, RecipeError, Unauthorized
from splitreg.serving.logs import log
from splitreg.serving.security import RateLimit

_SCHEME = "bearer "
#: Characters of a token in a file: 16 hexadecimal digits are 64 bits.
MIN_CHARACTERS = 16
_CREATE = "create one with: openssl rand -hex 32"
_SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A bearer token.

    Args:
        secret: what clients send.
        name: who uses it, for the log and for errors.
        expires: when it is not accepted any more, as a date of UTC or a time with its zone; None: never.
        rate: requests and packets of streams per second, with bursts of twice as many; 0: no limit
            besides that of the address.
        quota: requests and packets of streams per day (UTC); 0: no limit.

    Raises:
        RecipeError: a value is invalid.
    """

    secret: str = field(repr=False)
    name: str = ""
    expires: datetime.datetime | None = None
    rate: float = 0.0
    quota: int = 0

    def __post_init__(self) -> None:
        if not self.secret or not self.secret.isascii() or self.secret.split() != [self.secret]:
            raise RecipeError(f"a token must be ASCII without spaces; {_CREATE}")
        if not 0 <= self.rate < float("inf") or self.quota < 0:
            raise RecipeError(f"rate and quota of a token must be at least 0, got {self.rate} and {self.quota}")


def read_tokens(path: str | Path) -> tuple[Token, ...]:
    """Read a token file.

    A line is a token, then optionally ``name=NAME``, ``expires=2027-01-31``, ``rate=10`` and
    ``quota=100000``. Empty lines and lines that start with # are ignored.

    Raises:
        RecipeError: the file cannot be read, can be changed by others, has no token, or has a line
            that is invalid.
    """
    try:
        mode = Path(path).stat().st_mode
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as cause:
        raise RecipeError(f"cannot read the token file {path}: {cause}") from cause
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RecipeError(
            f"other users may change the token file {path} (mode {mode & 0o777:o}); run: chmod 600 {path}"
        )
    if mode & stat.S_IROTH:
        log("token file is readable by other users", logging.WARNING, path=str(path), mode=f"{mode & 0o777:o}")
    tokens: dict[str, Token] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            token = _parse(words, f"line {number}")
        except (RecipeError, ValueError) as error:
            raise RecipeError(f"{path}, line {number}: {error}") from error
        if token.name in tokens:
            raise RecipeError(f"{path}, line {number}: two tokens have the name {token.name!r}")
        tokens[token.name] = token
    if not tokens:
        raise RecipeError(f"the token file {path} has no token; {_CREATE} > {path}")
    return tuple(tokens.values())


class TokenStore:
    """The accepted tokens of a server.

    Args:
        secrets: tokens without limits, from the configuration.
        path: token file, or None.
        now: seconds since the epoch.

    Raises:
        RecipeError: the file is invalid.
    """

    def __init__(self, secrets: tuple[str, ...], path: str | None, now: Callable[[], float]) -> None:
        self._fixed = tuple(Token(secret=secret, name=f"token {i}") for i, secret in enumerate(secrets, 1))
        self._path, self._now = path, now
        self._limits: dict[str, RateLimit] = {}
        self._used: dict[str, tuple[int, int]] = {}  # name -> day, requests
        self._tokens: dict[bytes, Token] = {}
        self.reload()

    def __bool__(self) -> bool:
        return bool(self._tokens)

    @property
    def tokens(self) -> tuple[Token, ...]:
        """The accepted tokens."""
        return tuple(self._tokens.values())

    def reload(self) -> None:
        """Read the token file again; quotas that were used stay used.

        Raises:
            RecipeError: the file is invalid; the previous tokens remain accepted.
        """
        tokens = (*self._fixed, *(read_tokens(self._path) if self._path is not None else ()))
        self._tokens = {_digest(token.secret.encode()): token for token in tokens}
        self._limits = {token.name: RateLimit(token.rate) for token in tokens if token.rate}
        self._used = {name: used for name, used in self._used.items() if name in {token.name for token in tokens}}

    def check(self, authorization: str | None) -> Token | None:
        """Return the token in the header ``Authorization``, compared in constant time.

        Args:
            authorization: value of the header; None if there is none.

        Returns:
            None if the server needs no token.

        Raises:
            Unauthorized: there is no bearer token, or it is not accepted, or it has expired.
        """
        if not self._tokens:
            return None
        value = (authorization or "").strip()
        if not value.lower().startswith(_SCHEME):
            raise Unauthorized("this server requires a token: Authorization: Bearer TOKEN")
        digest = _digest(value[len(_SCHEME) :].strip().encode("utf-8", "surrogateescape"))
        matches = [token for accepted, token in self._tokens.items() if hmac.compare_digest(digest, accepted)]
        if not matches:
            raise Unauthorized("the token is not valid for this server")
        self._check_expiry(matches[0])
        return matches[0]

    def take(self, token: Token | None, now: float) -> None:
        """Count one request or packet.

        Args:
            token: as returned by ``check``.
            now: seconds of a monotonic clock.

        Raises:
            Unauthorized: it was removed, or has expired, since ``check``.
            RateLimited: it exceeds its rate or its quota.
        """
        if token is None:
            return
        if self._tokens.get(_digest(token.secret.encode())) != token:
            raise Unauthorized(f"the token {token.name} is not accepted any more")
        self._check_expiry(token)
        if token.rate:
            self._limits[token.name].take(f"token {token.name}", now)
        if token.quota:
            time = self._now()
            day = int(time // _SECONDS_PER_DAY)
            last, count = self._used.get(token.name, (day, 0))
            count = count if last == day else 0
            if count >= token.quota:
                raise RateLimited(
                    f"the token {token.name} has used its quota of {token.quota} requests per day",
                    retry_after_s=(day + 1) * _SECONDS_PER_DAY - time,
                )
            self._used[token.name] = day, count + 1

    def _check_expiry(self, token: Token) -> None:
        if token.expires is not None and self._now() >= token.expires.timestamp():
            raise Unauthorized(f"the token {token.name} expired at {token.expires.isoformat()}")


def _parse(words: list[str], name: str) -> Token:
    secret, options = words[0], dict(_option(word) for word in words[1:])
    if len(secret) < MIN_CHARACTERS:
        raise RecipeError(f"a token must have at least {MIN_CHARACTERS} characters, got {len(secret)}; {_CREATE}")
    expires = options.get("expires")
    moment = None if expires is None else datetime.datetime.fromisoformat(expires)
    if moment is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return Token(
        secret=secret, name=options.get("name", name), expires=moment, rate=float(options.get("rate", 0)),
        quota=int(options.get("quota", 0)),
    )  # fmt: skip


def _option(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if name not in ("name", "expires", "rate", "quota") or not equals or not value:
        raise RecipeError(f"after a token come name=, expires=, rate= and quota=; got {word[:40]!r}")
    return name, value


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
