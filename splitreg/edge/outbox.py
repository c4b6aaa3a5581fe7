"""A bounded, ordered queue of packets on disk, for times without a connection.

The file is an SQLite database in WAL mode. A packet leaves the queue in the transaction that stores
its answer, so that it is queued or answered at any moment, and never both; the answer is deleted
after the program has taken it.
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
class QueuedPacket:
    """A packet in the queue.

    Args:
        number: position; increases in the order of ``put``.
        key: idempotency key, the same in every attempt.
        name: name of the image, e.g. a file name.
        packet: the bytes to send.
        query: query of the request, e.g. ``heads=seg,det``; empty for all heads.
        expires: seconds since the epoch after which the answer is not needed; None: never.
    """

    number: int
    key: str
    name: str
    packet: bytes
    query: str
    expires: float | None

    @property
    def expired(self) -> bool:
        """Whether the answer is not needed any more."""
        return self.expires is not None and time.time() > self.expires


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """An answer that the program has not taken yet.

    Args:
        number: position of its packet.
        key: idempotency key of its packet.
        name: name of the image.
        facts: plain data: sizes and times, or the error.
        blob: the server's answer; None if there is an error.
    """

    number: int
    key: str
    name: str
    facts: Mapping[str, Any]
    blob: bytes | None


class Outbox:
    """A queue of packets in a file.

    Args:
        path: the file; created if it is missing. SQLite's log (``-wal``, ``-shm``) and the lock of
            the draining process (``.lock``) are beside it.
        max_packets: largest number of queued packets.
        max_bytes: largest number of bytes of queued packets.
        when_full: ``"refuse"``: ``put`` raises OutboxFull; ``"drop-oldest"``: ``put`` makes room,
            and ``dropped`` counts.

    Raises:
        RecipeError: an invalid option.
        OutboxError: the file cannot be opened, is damaged, or is not an outbox.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        max_packets: int = 10_000,
        max_bytes: int = 64 * 1024 * 1024,
        when_full: str = "refuse",
    ) -> None:
        if when_full not in _WHEN_FULL:
            raise RecipeError(f"when_full must be one of {', '.join(_WHEN_FULL)}; got {when_full!r}")
        if max_packets < 1 or max_bytes < 1:
            raise RecipeError(f"max_packets and max_bytes must be at least 1, got {max_packets} and {max_bytes}")
        self.path = Path(path)
        self.max_packets, self.max_bytes, self.when_full = max_packets, max_bytes, when_full
        with self._error_context():
            # autocommit: transactions are explicit
            self._database = sqlite3.connect(self.path, isolation_level=None, timeout=30)
            try:
                self._open()
            except BaseException:
                self._database.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; queued packets stay in it."""
        self._database.close()

    def reopen(self) -> Outbox:
        """Return a second handle of the same file with the same limits, for another thread."""
        return Outbox(self.path, max_packets=self.max_packets, max_bytes=self.max_bytes, when_full=self.when_full)

    def __len__(self) -> int:
        return self._size()[0]

    @property
    def queued_bytes(self) -> int:
        """Bytes of the queued packets."""
        return self._size()[1]

    @property
    def dropped(self) -> int:
        """Number of packets that ``put`` has dropped since the file was created."""
        with self._error_context():
            (count,) = self._database.execute("SELECT value FROM counts WHERE name = 'dropped'").fetchone()
        return int(count)

    def put(self, packet: bytes, *, name: str = "", query: str = "", expires: float | None = None) -> QueuedPacket:
        """Append a packet; it is on disk when this returns.

        Args:
            packet: the bytes to send.
            name: name of the image.
            query: query of the request.
            expires: seconds since the epoch after which the answer is not needed.

        Raises:
            OutboxFull: there is no room, and ``when_full`` is ``"refuse"``; or the packet alone is
                too large.
            OutboxError: the disk is full, or the file is damaged.
        """
        if len(packet) > self.max_bytes:
            raise OutboxFull(
                f"a packet of {len(packet)} bytes exceeds the outbox's limit of {self.max_bytes} bytes (max_bytes)"
            )
        key = secrets.token_urlsafe(12)
        with self._transaction():
            self._make_room(len(packet))
            row = self._database.execute(
                "INSERT INTO waiting (key, name, query, packet, bytes, expires) VALUES (?, ?, ?, ?, ?, ?)",
                (key, name, query, packet, len(packet), expires),
            )
            number = row.lastrowid or 0
        return QueuedPacket(number=number, key=key, name=name, packet=packet, query=query, expires=expires)

    def first(self) -> QueuedPacket | None:
        """Return the oldest queued packet; it stays in the queue."""
        with self._error_context():
            row = self._database.execute(
                "SELECT number, key, name, packet, query, expires FROM waiting ORDER BY number LIMIT 1"
            ).fetchone()
        if row is None:
            return None
        number, key, name, packet, query, expires = row
        return QueuedPacket(number=number, key=key, name=name, packet=packet, query=query, expires=expires)

    def record(self, queued: QueuedPacket, facts: Mapping[str, Any], blob: bytes | None) -> bool:
        """Remove a packet and store its answer, both or neither.

        Args:
            queued: the packet.
            facts: plain data: sizes and times, or the error.
            blob: the server's answer; None if there is an error.

        Returns:
            Whether it was still queued; if not, nothing is stored.
        """
        with self._transaction():
            if not self._database.execute("DELETE FROM waiting WHERE number = ?", (queued.number,)).rowcount:
                return False
            self._database.execute(
                "INSERT INTO answered VALUES (?, ?, ?, ?, ?)",
                (queued.number, queued.key, queued.name, json.dumps(facts), blob),
            )
        return True

    def answered(self) -> StoredAnswer | None:
        """Return the oldest stored answer; it stays until ``forget``."""
        with self._error_context():
            row = self._database.execute(
                "SELECT number, key, name, facts, blob FROM answered ORDER BY number LIMIT 1"
            ).fetchone()
        if row is None:
            return None
        number, key, name, facts, blob = row
        return StoredAnswer(number=number, key=key, name=name, facts=json.loads(facts), blob=blob)

    def forget(self, answer: StoredAnswer) -> None:
        """Delete an answer that the program has taken."""
        with self._transaction():
            self._database.execute("DELETE FROM answered WHERE number = ?", (answer.number,))

    @contextmanager
    def draining(self) -> Iterator[None]:
        """Hold the lock of the draining process; it is released if the process dies.

        Raises:
            OutboxError: another process holds it.
        """
        lock = sqlite3.connect(self.path.with_name(self.path.name + ".lock"), isolation_level=None, timeout=0)
        with contextlib.closing(lock):
            try:
                lock.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as cause:
                raise OutboxError(f"another process drains {self.path}; wait for it, or stop it") from cause
            yield

    def _open(self) -> None:
        database = self._database
        (application,), (version,) = (
            database.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
        )
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and (application, version) != (_APPLICATION, _VERSION):
            raise OutboxError(f"{self.path} is not an outbox of this version of splitreg; choose another file")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")  # a commit survives loss of power
        if not tables:
            with self._transaction():
                (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
                for statement in _TABLES.split(";") if not tables else ():  # another process may have been first
                    database.execute(statement)
                database.execute(f"PRAGMA application_id = {_APPLICATION}")
                database.execute(f"PRAGMA user_version = {_VERSION}")

    def _size(self) -> tuple[int, int]:
        with self._error_context():
            count, size = self._database.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM waiting").fetchone()
        return count, size

    def _make_room(self, size: int) -> None:
        count, total = self._size()
        while count and (count + 1 > self.max_packets or total + size > self.max_bytes):
            if self.when_full == "refuse":
                raise OutboxFull(
                    f"{self.path} is full: {count} packets of {total} bytes in all; its limits are {self.max_packets} "
                    f"packets (max_packets) and {self.max_bytes} bytes (max_bytes). Drain it, raise the limits, or "
                    "set when_full='drop-oldest'"
                )
            number, oldest = self._database.execute(
                "SELECT number, bytes FROM waiting ORDER BY number LIMIT 1"
            ).fetchone()
            self._database.execute("DELETE FROM waiting WHERE number = ?", (number,))
            self._database.execute("UPDATE counts SET value = value + 1 WHERE name = 'dropped'")
            count, total = count - 1, total - oldest

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._error_context():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _error_context(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as cause:
            raise OutboxError(
                f"cannot use the outbox {self.path}: {cause}; if it is damaged, move it away and a new one is created"
            ) from cause
