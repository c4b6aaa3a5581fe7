"""Packets that wait for the link: a bounded, ordered queue in one file that survives the death of its process.

The file is an SQLite database in WAL mode. A packet leaves it in the transaction that records its answer, so that at any
moment a packet is waiting, or answered, and never both; the answer leaves it when the program has taken it.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from splitreg.errors import OutboxError, OutboxFull, RecipeError

_APPLICATION, _VERSION = 0x5352_4F42, 2  # "SROB"
_TABLES = """
CREATE TABLE waiting (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, name TEXT NOT NULL, query TEXT NOT NULL,
    packet BLOB NOT NULL, bytes INTEGER NOT NULL, expires REAL
);
CREATE TABLE answered (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, name TEXT NOT NULL, facts TEXT NOT NULL, blob BLOB
);
CREATE TABLE counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT INTO counts VALUES ('dropped', 0);
"""
_WHEN_FULL = ("refuse", "drop-oldest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A packet in the queue.

    Args:
        number: its place; grows by the order of ``put``.
        key: its idempotency key, the same in every attempt.
        name: what it is of, e.g. a file name.
        packet: what is sent.
        query: what is asked for, as ``heads=seg,det``; all where it is empty.
        expires: seconds since the epoch after which nobody wants the answer; None: never.
    """

    number: int
    key: str
    name: str
    packet: bytes
    query: str
    expires: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer that was recorded and not yet taken: ``facts`` is JSON-able, ``blob`` is the server's answer or None."""

    number: int
    key: str
    name: str
    facts: Mapping[str, Any]
    blob: bytes | None


class Outbox:
    """The queue in a file.

    Args:
        path: of the file; made when it is missing. Beside it lie its log (``-wal``, ``-shm``) and the lock of who drains it.
        most_packets: so many wait at most.
        most_bytes: so many bytes of packets wait at most.
        when_full: ``"refuse"`` (``put`` raises OutboxFull) or ``"drop-oldest"`` (``put`` makes room; ``dropped`` counts).

    Raises:
        RecipeError: an option is not one.
        OutboxError: the file cannot be opened, is damaged, or is something else.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        most_packets: int = 10_000,
        most_bytes: int = 64 * 1024 * 1024,
        when_full: str = "refuse",
    ) -> None:
        if when_full not in _WHEN_FULL:
            raise RecipeError(f"when_full is one of {', '.join(_WHEN_FULL)}; got {when_full!r}")
        if most_packets < 1 or most_bytes < 1:
            raise RecipeError(f"an outbox holds at least 1 packet and 1 byte, got {most_packets} and {most_bytes}")
        self.path = Path(path)
        self.most_packets, self.most_bytes, self.when_full = most_packets, most_bytes, when_full
        with self._blaming():
            # autocommit: transactions are spelt out
            self._base = sqlite3.connect(self.path, isolation_level=None, timeout=30)
            try:
                self._open()
            except BaseException:
                self._base.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what waits stays in it."""
        self._base.close()

    def __len__(self) -> int:
        return self._size()[0]

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the packets that wait."""
        return self._size()[1]

    @property
    def dropped(self) -> int:
        """How many packets ``put`` has thrown away, since the file was made."""
        with self._blaming():
            (count,) = self._base.execute("SELECT value FROM counts WHERE name = 'dropped'").fetchone()
        return int(count)

    def put(self, packet: bytes, *, name: str = "", query: str = "", expires: float | None = None) -> Waiting:
        """Append a packet; when this returns, it is on the disk.

        Raises:
            OutboxFull: there is no room, and ``when_full`` is ``"refuse"``; or the packet alone is too large.
            OutboxError: the disk refuses.
        """
        if len(packet) > self.most_bytes:
            raise OutboxFull(
                f"a packet of {len(packet)} bytes is larger than the whole outbox: {self.most_bytes} bytes"
            )
        key = secrets.token_urlsafe(12)
        with self._transaction():
            self._make_room(len(packet))
            row = self._base.execute(
                "INSERT INTO waiting (key, name, query, packet, bytes, expires) VALUES (?, ?, ?, ?, ?, ?)",
                (key, name, query, packet, len(packet), expires),
            )
            number = row.lastrowid or 0
        return Waiting(number=number, key=key, name=name, packet=packet, query=query, expires=expires)

    def first(self) -> Waiting | None:
        """Return the oldest packet that waits; it stays."""
        with self._blaming():
            row = self._base.execute(
                "SELECT number, key, name, packet, query, expires FROM waiting ORDER BY number LIMIT 1"
            ).fetchone()
        if row is None:
            return None
        number, key, name, packet, query, expires = row
        return Waiting(number=number, key=key, name=name, packet=packet, query=query, expires=expires)

    def record(self, waiting: Waiting, facts: Mapping[str, Any], blob: bytes | None) -> bool:
        """Take a packet away and record its answer, both or neither.

        Returns:
            Whether it still waited; if not, nothing is recorded.
        """
        with self._transaction():
            if not self._base.execute("DELETE FROM waiting WHERE number = ?", (waiting.number,)).rowcount:
                return False
            self._base.execute(
                "INSERT INTO answered VALUES (?, ?, ?, ?, ?)",
                (waiting.number, waiting.key, waiting.name, json.dumps(facts), blob),
            )
        return True

    def answered(self) -> Answered | None:
        """Return the oldest answer that nobody has taken; it stays until ``forget``."""
        with self._blaming():
            row = self._base.execute(
                "SELECT number, key, name, facts, blob FROM answered ORDER BY number LIMIT 1"
            ).fetchone()
        if row is None:
            return None
        number, key, name, facts, blob = row
        return Answered(number=number, key=key, name=name, facts=json.loads(facts), blob=blob)

    def forget(self, answered: Answered) -> None:
        """Take an answer away: the program has it."""
        with self._transaction():
            self._base.execute("DELETE FROM answered WHERE number = ?", (answered.number,))

    @contextmanager
    def draining(self) -> Iterator[None]:
        """Keep other processes from draining; a process that dies lets go.

        Raises:
            OutboxError: another one drains.
        """
        lock = sqlite3.connect(self.path.with_name(self.path.name + ".lock"), isolation_level=None, timeout=0)
        with contextlib.closing(lock):
            try:
                lock.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as cause:
                raise OutboxError(
                    f"another process sends the packets of {self.path}; wait for it, or stop it"
                ) from cause
            yield

    def _open(self) -> None:
        base = self._base
        (application,), (version,) = (
            base.execute(f"PRAGMA {what}").fetchone() for what in ("application_id", "user_version")
        )
        (tables,) = base.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and (application, version) != (_APPLICATION, _VERSION):
            raise OutboxError(f"{self.path} is not an outbox of this version of splitreg; name another file")
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = FULL")  # a commit survives the loss of power too
        if not tables:
            with self._transaction():
                (tables,) = base.execute("SELECT count(*) FROM sqlite_master").fetchone()
                for statement in _TABLES.split(";") if not tables else ():  # unless another process was quicker
                    base.execute(statement)
                base.execute(f"PRAGMA application_id = {_APPLICATION}")
                base.execute(f"PRAGMA user_version = {_VERSION}")

    def _size(self) -> tuple[int, int]:
        with self._blaming():
            count, size = self._base.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM waiting").fetchone()
        return count, size

    def _make_room(self, size: int) -> None:
        count, there = self._size()
        while count and (count + 1 > self.most_packets or there + size > self.most_bytes):
            if self.when_full == "refuse":
                raise OutboxFull(
                    f"{self.path} is full: {count} packets of {there} bytes wait, the limits are {self.most_packets} and "
                    f"{self.most_bytes}; wait until the link is back, allow more, or let it drop the oldest"
                )
            number, oldest = self._base.execute("SELECT number, bytes FROM waiting ORDER BY number LIMIT 1").fetchone()
            self._base.execute("DELETE FROM waiting WHERE number = ?", (number,))
            self._base.execute("UPDATE counts SET value = value + 1 WHERE name = 'dropped'")
            count, there = count - 1, there - oldest

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._blaming():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._base.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._base.execute("ROLLBACK")
                raise

    @contextmanager
    def _blaming(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as cause:
            raise OutboxError(
                f"the outbox {self.path} cannot be used: {cause}; if it is damaged, move it away, and a new one is made"
            ) from cause


def expired(waiting: Waiting) -> bool:
    """Whether nobody wants its answer any more."""
    return waiting.expires is not None and time.time() > waiting.expires
