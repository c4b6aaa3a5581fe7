"""A bounded, ordered queue of packets on disk, for times without a connection.

The file is an SQLite database in WAL mode. A packet leaves the queue in the transaction that stores
its answer, so that it is queued or answered at any moment, and never both; the answer is deleted
after the program has taken it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from splitreg.errors import OutboxError, OutboxFull, RecipeError

if TYPE_CHECKING:
    from typing import Self

ResultT = TypeVar("ResultT")
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
#: Bytes that are kept free, for sqlite's log and the answers of packets on a full disk.
_RESERVE_BYTES = 1024 * 1024
#: Pages of 4 KiB after which sqlite's log is used again from its start; it must fit there.
_MAX_LOG_PAGES = 64
_DISK_FULL = "the disk is full: free some space; the queued packets are not lost, keep the file"
#: A clock that differs by this many seconds was set.
_CLOCK_STEP_SECONDS = 30
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
        path: the file; created if it is missing. SQLite's log (``-wal``, ``-shm``), the lock of the
            draining process (``.lock``) and space for a full disk (``.reserve``) are beside it.
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
        self._reserve = self.path.with_name(self.path.name + ".reserve")
        with self._error_context():
            self._connect()
        with contextlib.suppress(OSError):
            self._fill_reserve()

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
        try:
            self._fill_reserve()  # what is left of a full disk is for sending
        except OSError as cause:
            raise OutboxError(f"no space for another packet in {self.path}: {cause.strerror}; {_DISK_FULL}") from cause
        with self._error_context():
            self._follow_clock()
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
            with contextlib.suppress(OutboxError):  # of a full disk, which does not matter here
                self._follow_clock()
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
        return self._with_reserve(lambda: self._record(queued, json.dumps(facts), blob))

    def _with_reserve(self, write: Callable[[], ResultT]) -> ResultT:
        """Write; if the disk is full, once more with the reserved space."""
        try:
            return write()
        except OutboxError as error:
            if error.__cause__ is None or not self._free_reserve(error.__cause__):
                raise
        return write()

    def _record(self, queued: QueuedPacket, facts: str, blob: bytes | None) -> bool:
        with self._transaction():
            if not self._database.execute("DELETE FROM waiting WHERE number = ?", (queued.number,)).rowcount:
                return False
            self._database.execute(
                "INSERT INTO answered VALUES (?, ?, ?, ?, ?)", (queued.number, queued.key, queued.name, facts, blob)
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
        self._with_reserve(lambda: self._forget(answer.number))

    def _forget(self, number: int) -> None:
        with self._transaction():
            self._database.execute("DELETE FROM answered WHERE number = ?", (number,))

    @contextmanager
    def draining(self) -> Iterator[None]:
        """Hold the lock of the draining process; it is released if the process dies.

        Raises:
            OutboxError: another process holds it.
        """
        place = self.path.with_name(self.path.name + ".lock")
        try:
            lock = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as cause:
            raise OutboxError(f"cannot open the lock {place}: {cause.strerror or cause}") from cause
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an empty file: works on a full disk too
        except OSError as cause:
            os.close(lock)
            if cause.errno not in (errno.EAGAIN, errno.EACCES):
                raise OutboxError(f"cannot lock {place}: {cause.strerror or cause}") from cause
            raise OutboxError(f"another process drains {self.path}; wait for it, or stop it") from cause
        try:
            yield
        finally:
            os.close(lock)

    def _connect(self) -> None:
        for last in (False, True):
            # autocommit: transactions are explicit
            with contextlib.suppress(OSError):  # sqlite reports why the file cannot be created
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))  # sqlite's own files get the same mode
            self._database = sqlite3.connect(self.path, isolation_level=None, timeout=30)
            try:
                return self._open()
            except BaseException as error:
                self._database.close()
                if last or not self._free_reserve(error):
                    raise

    def _fill_reserve(self) -> None:
        """Keep some space, so that a full disk does not keep packets from being sent."""
        if not self._reserve.exists():
            with contextlib.suppress(FileExistsError):
                descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                try:
                    os.posix_fallocate(descriptor, 0, _RESERVE_BYTES)
                except OSError:
                    self._reserve.unlink(missing_ok=True)
                    raise
                finally:
                    os.close(descriptor)

    def _free_reserve(self, error: BaseException) -> bool:
        """Give up the reserved space if the disk is full; return whether it was."""
        if not isinstance(error, sqlite3.Error) or not _is_disk_full(error) or not self._reserve.exists():
            return False
        self._reserve.unlink(missing_ok=True)
        return True

    def _follow_clock(self) -> None:
        """Move the expiry of queued packets by the seconds by which the clock was set.

        A device without a battery starts in the past until it has the time from the network.
        """
        boot, clock = _boot()
        counts = dict(self._database.execute("SELECT name, value FROM counts WHERE name IN ('boot', 'clock')"))
        shift = clock - counts.get("clock", clock)
        if counts.get("boot") == boot and abs(shift) < _CLOCK_STEP_SECONDS:
            return
        with self._transaction():
            if counts.get("boot") == boot:
                self._database.execute("UPDATE waiting SET expires = expires + ? WHERE expires IS NOT NULL", (shift,))
            for row in (("boot", boot), ("clock", clock)):
                self._database.execute("INSERT OR REPLACE INTO counts VALUES (?, ?)", row)

    def _open(self) -> None:
        database = self._database
        (application,), (version,) = (
            database.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
        )
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and (application, version) != (_APPLICATION, _VERSION):
            raise OutboxError(f"{self.path} is not an outbox of this version of splitreg; choose another file")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA wal_autocheckpoint = {_MAX_LOG_PAGES}")
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
            raise OutboxError(f"cannot use the outbox {self.path}: {cause}; {_advice(cause)}") from cause


def _is_disk_full(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)


def _advice(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return _DISK_FULL
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return "check the disk, its free space and the permissions; the queued packets are not lost, keep the file"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return "the file is damaged: move it away, and a new one is created; packets in it can be read with sqlite3"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "another process uses it for a long time; try again"
    return "the queued packets are not lost, keep the file"


def _boot() -> tuple[int, int]:
    """Return a number of this start of the machine, and the second of the clock at which it was."""
    try:
        boot = int(Path("/proc/sys/kernel/random/boot_id").read_text()[:8], 16)
        since = time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, ValueError, AttributeError):  # not Linux
        boot, since = os.getpid(), time.monotonic()
    return boot, round(time.time() - since)
