"""The outbox's file: what waits to be sent, in order, and what the hub refused. Blocking.

One SQLite file in WAL mode whose commits are synced, so an entry is on disk when
append() returns. Any number of processes may append to one file; the lock beside it says
which of them sends. Calls of one Store may come from several threads. Sending is the
business of clawnet.client.outbox.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
import threading
import zlib
from base64 import urlsafe_b64decode
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from clawnet.core.errors import BadConfiguration, ClawError, OutboxFull, StorageCorrupt

APPLICATION_ID = 0x436C6F62
VERSION = 1
ENTRIES_MAX = 10_000
BYTES_MAX = 64 * 1_048_576
ENTRY_OVERHEAD_BYTES = 64
"""What an entry counts beside its own text, so that empty ones are not free."""
BUSY_TIMEOUT_MS = 10_000

_SCHEMA = """
CREATE TABLE about(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE owners(owner TEXT PRIMARY KEY, account TEXT NOT NULL) WITHOUT ROWID;
-- AUTOINCREMENT: an id that was removed is never given again, also not to the newest entry.
CREATE TABLE waiting(
    id INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, channel TEXT NOT NULL,
    dedupe_key TEXT NOT NULL, is_alone INTEGER NOT NULL, kept_ms INTEGER NOT NULL,
    crc INTEGER NOT NULL, members BLOB NOT NULL);
CREATE TABLE refused(
    id INTEGER PRIMARY KEY, owner TEXT NOT NULL, channel TEXT NOT NULL,
    dedupe_key TEXT NOT NULL, kept_ms INTEGER NOT NULL, members BLOB NOT NULL,
    refused_ms INTEGER NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL);
CREATE TABLE totals(name TEXT PRIMARY KEY, entries INTEGER NOT NULL, bytes INTEGER NOT NULL)
    WITHOUT ROWID;
INSERT INTO totals VALUES('waiting', 0, 0), ('refused', 0, 0);
"""

_TRIGGERS = """
CREATE TRIGGER {table}_in AFTER INSERT ON {table} BEGIN UPDATE totals SET entries = entries + 1,
    bytes = bytes + length(NEW.members) + {overhead} WHERE name = '{table}'; END;
CREATE TRIGGER {table}_out AFTER DELETE ON {table} BEGIN UPDATE totals SET entries = entries - 1,
    bytes = bytes - length(OLD.members) - {overhead} WHERE name = '{table}'; END;
"""


class New(NamedTuple):
    """An event to be kept. `members` is the JSON object of its publish, as it will be sent."""

    owner: str
    channel: str
    dedupe_key: str
    members: bytes
    is_alone: bool
    kept_ms: int


class Waiting(NamedTuple):
    """An event that waits to be sent. `is_sound` is False if the disk has changed it."""

    id: int
    owner: str
    channel: str
    dedupe_key: str
    members: bytes
    is_alone: bool
    kept_ms: int
    is_sound: bool


class Refusal(NamedTuple):
    """An event that the hub refused for good, and why. `members` is what was to be published."""

    id: int
    channel: str
    dedupe_key: str
    members: bytes
    kept_ms: int
    refused_ms: int
    code: str
    message: str


class Totals(NamedTuple):
    """How much is in the file."""

    waiting: int
    waiting_bytes: int
    refused: int
    refused_bytes: int


def owner_of(token: str | None) -> str:
    """Who enqueues, as far as the token itself tells: the same for all its renewals if it says.

    An opaque token stands for itself; of one that the hub signed (a JWT) the account
    counts that it names, since each lives for minutes only. It is compared, never believed: the
    hub checks the token when the events are sent.
    """
    if token is None:
        return "anonymous"
    said = token
    parts = token.split(".")
    if len(parts) == 3:
        try:
            claims = json.loads(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
            said = json.dumps([claims["iss"], claims.get("world"), claims["sub"]])
        except (ValueError, KeyError, TypeError, RecursionError):
            pass  # It only looks like one.
    return hashlib.sha256(b"clawnet outbox\0" + said.encode()).hexdigest()[:32]


def default_path(url: str, token: str | None) -> Path:
    """Where a hub's outbox lies if nobody says otherwise: a file for each hub and token."""
    given = os.environ.get("XDG_STATE_HOME", "")
    # The XDG specification: a relative path is invalid and to be ignored.
    home = Path(given) if given.startswith("/") else Path.home() / ".local/state"
    hub = hashlib.sha256(url.encode()).hexdigest()[:12]
    return home / "clawnet" / "outbox" / f"{hub}-{owner_of(token)[:12]}.db"


class Store:
    """One open outbox file, for the hub at `url`.

    Raises BadConfiguration for a file of another hub or one that cannot be opened, and
    StorageCorrupt for a damaged one, which is put aside first and never deleted.
    """

    def __init__(
        self,
        path: Path,
        url: str,
        *,
        entries_max: int = ENTRIES_MAX,
        bytes_max: int = BYTES_MAX,
        vfs: str | None = None,
    ) -> None:
        self.path = path
        self.entries_max = entries_max
        self.bytes_max = bytes_max
        self._vfs = vfs
        self._lock = threading.Lock()
        self._lock_file: int | None = None
        self._pid = os.getpid()
        self._broken: ClawError | None = None
        _make_folder(path.parent)
        try:
            self._connection = self._opened(url)
        except OSError as error:
            raise BadConfiguration(
                f"The outbox {path} cannot be opened ({error.strerror}).",
                next="Check its owner and mode, or give another path.",
            ) from None
        except (apsw.NotADBError, apsw.CorruptError) as error:
            raise self._put_aside(str(error)) from None
        except apsw.Error as error:
            raise _unusable(path, error) from None

    def close(self) -> None:
        """Close the file and let another process send."""
        with self._lock:
            self._connection.close()
        self.unlock()

    # --- who may send -------------------------------------------------------

    def try_lock(self) -> bool:
        """Become the one that sends; False if another process (or client) is.

        The system gives the lock back when its holder dies, however it dies.
        """
        if self._lock_file is not None:
            return True
        handle = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        except BaseException:  # whatever it was, it passes through; the handle must not leak
            os.close(handle)
            raise
        self._lock_file = handle
        return True

    def unlock(self) -> None:
        # The file stays: deleting it would let two processes hold two locks of one name.
        handle, self._lock_file = self._lock_file, None
        if handle is not None:
            os.close(handle)

    def admit(self, owner: str, account: str) -> None:
        """The hub says that this owner is this account. Raises BadConfiguration if the file
        belongs to another.
        """
        with self._writing() as run:
            bound = _value(run("SELECT value FROM about WHERE key = 'account'"))
            if bound is not None and bound != account:
                raise BadConfiguration(
                    f"The outbox {self.path} belongs to the account {bound}, and this token is "
                    f"that of {account}: nothing was sent.",
                    next="Give this account an outbox of its own, or send with the other's token.",
                )
            run("INSERT OR IGNORE INTO about VALUES('account', ?)", (account,))
            run("INSERT OR REPLACE INTO owners VALUES(?, ?)", (owner, account))

    # --- events -------------------------------------------------------------

    def append(self, entries: Sequence[New]) -> list[int | ClawError]:
        """Keep events, in order; on disk when this returns. For each its id, or OutboxFull."""
        outcomes: list[int | ClawError] = []
        with self._writing() as run:
            totals = _totals(run)
            count = totals.waiting + totals.refused
            size = totals.waiting_bytes + totals.refused_bytes
            for entry in entries:
                cost = len(entry.members) + ENTRY_OVERHEAD_BYTES
                if count + 1 > self.entries_max or size + cost > self.bytes_max:
                    outcomes.append(self._full(totals))
                    continue
                crc = _crc(entry.owner, entry.channel, entry.members)
                row = (
                    entry.owner, entry.channel, entry.dedupe_key, entry.is_alone,
                    entry.kept_ms, crc, entry.members,
                )  # fmt: skip
                run(
                    "INSERT INTO waiting(owner, channel, dedupe_key, is_alone, kept_ms, crc,"
                    " members) VALUES(?, ?, ?, ?, ?, ?, ?)",
                    row,
                )
                outcomes.append(self._connection.last_insert_rowid())
                count, size = count + 1, size + cost
        return outcomes

    def waiting(
        self,
        *,
        limit: int,
        bytes_max: int,
        not_channels: Collection[str] = (),
        owner: str | None = None,
    ) -> list[Waiting]:
        """The oldest events of `owner`'s account (None: of all), in order, one at least if any.

        Channels in `not_channels` are passed over.
        """
        mine = (
            "owner = ?1 OR owner IN (SELECT owner FROM owners WHERE account ="
            " (SELECT account FROM owners WHERE owner = ?1))"
        )
        sql = (
            "SELECT id, owner, channel, dedupe_key, members, is_alone, kept_ms, crc FROM waiting"
            f" WHERE (?1 IS NULL OR {mine}) AND channel NOT IN (SELECT value FROM json_each(?2))"
            " ORDER BY id LIMIT ?3"
        )
        found: list[Waiting] = []
        size = 0
        with self._using() as run:
            for *row, crc in run(sql, (owner, json.dumps(list(not_channels)), limit)):
                entry = Waiting._make((*row, True))
                size += len(entry.members)
                if found and size > bytes_max:
                    break
                is_sound = crc == _crc(entry.owner, entry.channel, entry.members)
                is_alone = bool(entry.is_alone)
                found.append(entry._replace(is_sound=is_sound, is_alone=is_alone))
        return found

    def remove(self, ids: Sequence[int]) -> None:
        """The hub has these events."""
        with self._writing() as run:
            for each in ids:
                run("DELETE FROM waiting WHERE id = ?", (each,))

    def refuse(self, id: int, *, code: str, message: str, now_ms: int) -> Refusal | None:
        """The hub refused this event for good: it is put among the refused, out of the way.

        None if it is no longer there.
        """
        with self._writing() as run:
            moved = run(
                "INSERT INTO refused SELECT id, owner, channel, dedupe_key, kept_ms, members,"
                " ?2, ?3, ?4 FROM waiting WHERE id = ?1"
                " RETURNING id, channel, dedupe_key, members, kept_ms, refused_ms, code, message",
                (id, now_ms, code, message),
            ).fetchall()
            run("DELETE FROM waiting WHERE id = ?", (id,))
        return Refusal(*moved[0]) if moved else None

    def refused(self) -> list[Refusal]:
        """What was refused, oldest first."""
        with self._using() as run:
            return [
                Refusal(*row)
                for row in run(
                    "SELECT id, channel, dedupe_key, members, kept_ms, refused_ms, code, message"
                    " FROM refused ORDER BY id"
                )
            ]

    def clear_refused(self, ids: Sequence[int] | None = None) -> int:
        """Forget refused events, all if none are named; says how many."""
        with self._writing() as run:
            if ids is None:
                run("DELETE FROM refused")
                return self._connection.changes()
            gone = 0
            for each in ids:
                run("DELETE FROM refused WHERE id = ?", (each,))
                gone += self._connection.changes()
            return gone

    def totals(self) -> Totals:
        """How much is in the file."""
        with self._using() as run:
            return _totals(run)

    def count(self, owner: str) -> int:
        """How many events of this owner's account wait."""
        sql = (
            "SELECT count(*) FROM waiting WHERE owner = ?1 OR owner IN (SELECT owner FROM owners"
            " WHERE account = (SELECT account FROM owners WHERE owner = ?1))"
        )
        with self._using() as run:
            return int(_value(run(sql, (owner,))) or 0)

    def account(self) -> str | None:
        """The account that the file belongs to, once the hub has named it."""
        with self._using() as run:
            found = _value(run("SELECT value FROM about WHERE key = 'account'"))
            return None if found is None else str(found)

    # --- the file -----------------------------------------------------------

    def _opened(self, url: str) -> apsw.Connection:
        path = self.path
        # The mode is given at creation: there is no moment at which others could read it.
        is_new = not path.exists()
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if is_new:
            _sync_folder(path.parent)
        connection = apsw.Connection(str(path), vfs=self._vfs)
        try:
            connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            if connection.pragma("journal_mode", "wal") != "wal":
                raise BadConfiguration(
                    f"The outbox {path} lies on a file system that cannot hold it.",
                    next="Put it on a local disk; network file systems do not do.",
                )
            connection.pragma("synchronous", "full")
            if sys.platform == "darwin":
                # Plain fsync on macOS leaves the data in the disk's cache.
                connection.pragma("fullfsync", 1)
                connection.pragma("checkpoint_fullfsync", 1)
            if connection.pragma("quick_check") != "ok":
                raise apsw.CorruptError("its pages contradict each other")
            # IMMEDIATE: two processes may open a new file at once.
            connection.execute("BEGIN IMMEDIATE")
            self._prepare(connection, url)
            connection.execute("COMMIT")
        except BaseException:  # whatever it was, it passes through; the file must not stay open
            connection.close()
            raise
        return connection

    def _prepare(self, connection: apsw.Connection, url: str) -> None:
        version = connection.pragma("user_version")
        if version > VERSION:
            raise BadConfiguration(
                f"The outbox {self.path} was written by a newer clawnet.",
                next="Use that clawnet, or give another path.",
            )
        if not _is_made(connection):
            connection.execute(_SCHEMA)
            for table in ("waiting", "refused"):
                overhead = ENTRY_OVERHEAD_BYTES
                connection.execute(_TRIGGERS.format(table=table, overhead=overhead))
            connection.execute("INSERT INTO about VALUES('hub', ?)", (url,))
            connection.pragma("application_id", APPLICATION_ID)
            connection.pragma("user_version", VERSION)
        hub = _value(connection.execute("SELECT value FROM about WHERE key = 'hub'"))
        if hub != url:
            raise BadConfiguration(
                f"The outbox {self.path} holds events for {ascii(str(hub)[:200])}, not for {url}.",
                next="Give each hub an outbox of its own.",
            )

    def _put_aside(self, reason: str) -> ClawError:
        """The damaged file gets another name; the error that says so."""
        if not self.try_lock():
            return StorageCorrupt(
                f"The outbox {self.path} is damaged ({reason}) and another process has it open.",
                next="Stop that process and try again: the file is then put aside.",
            )
        try:
            number = 1
            while (aside := Path(f"{self.path}.damaged-{number}")).exists():
                number += 1
            self.path.rename(aside)
            for suffix in ("-wal", "-shm"):
                beside = Path(f"{self.path}{suffix}")
                if beside.exists():
                    beside.rename(f"{aside}{suffix}")
        except OSError as error:
            return StorageCorrupt(
                f"The outbox {self.path} is damaged ({reason}) and cannot be put aside "
                f"({error.strerror}).",
                next="Move it away by hand; the next start begins an empty one.",
            )
        finally:
            self.unlock()
        return StorageCorrupt(
            f"The outbox {self.path} is damaged ({reason}); it is kept as {aside.name}, and what "
            "it held is not sent.",
            next="Start again with an empty outbox; sqlite3 with .recover may read the old one.",
            kept_as=str(aside),
        )

    @contextmanager
    def _using(self) -> Iterator[Any]:
        if os.getpid() != self._pid:
            raise BadConfiguration(
                "This outbox was opened before a fork, and SQLite cannot be used across one.",
                next="Open the client in the new process, after the fork.",
            )
        with self._lock:
            if self._broken is not None:
                raise copy(self._broken)
            try:
                yield self._connection.execute
            except apsw.ConnectionClosedError:
                raise BadConfiguration(
                    "The outbox is closed.", next="Enqueue inside `async with Client(…)`."
                ) from None
            except (apsw.CorruptError, apsw.NotADBError) as error:
                raise StorageCorrupt(
                    f"The outbox {self.path} is damaged ({error}).",
                    next="Start again: the damaged file is then put aside.",
                ) from None
            except apsw.Error as error:
                failure = _unusable(self.path, error)
                if isinstance(failure, BadConfiguration):
                    # After a failed write or sync the system may have dropped what it was given:
                    # only a file that is opened anew says what is there.
                    self._broken = failure
                raise failure from None

    @contextmanager
    def _writing(self) -> Iterator[Any]:
        with self._using() as run:
            # IMMEDIATE takes the write lock before anything is read, so two processes
            # cannot both find room for the last entry.
            run("BEGIN IMMEDIATE")
            try:
                yield run
                run("COMMIT")
            except BaseException:  # whatever it was, it passes through; nothing of it is kept
                if self._connection.in_transaction:
                    run("ROLLBACK")
                raise

    def _full(self, totals: Totals) -> OutboxFull:
        refused = f", {totals.refused} of them refused" if totals.refused else ""
        return OutboxFull(
            f"The outbox holds {totals.waiting + totals.refused} events{refused}, as much as it "
            "may; this one is not kept.",
            waiting=totals.waiting,
            refused=totals.refused,
            limit_entries=self.entries_max,
            limit_bytes=self.bytes_max,
        )


def _make_folder(folder: Path) -> None:
    try:
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for each in made:
            # The name of a new folder is not on disk before the folder that holds it is synced.
            _sync_folder(each.parent)
    except OSError as error:
        raise BadConfiguration(
            f"The outbox's folder {folder} cannot be made ({error.strerror}).",
            next="Give a path in a folder that you may write.",
        ) from None


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_made(connection: apsw.Connection) -> bool:
    sql = "SELECT count(*) FROM sqlite_schema WHERE name = 'totals'"
    return bool(_value(connection.execute(sql)))


def _totals(run: Any) -> Totals:
    found = {name: (count, size) for name, count, size in run("SELECT * FROM totals")}
    return Totals(*found["waiting"], *found["refused"])


def _value(rows: Any) -> Any:
    row = rows.fetchone()
    return None if row is None else row[0]


def _crc(owner: str, channel: str, members: bytes) -> int:
    return zlib.crc32(members, zlib.crc32(f"{owner}\0{channel}".encode()))


def _unusable(path: Path, error: apsw.Error) -> ClawError:
    is_shm = getattr(error, "extendedresult", None) == apsw.SQLITE_IOERR_SHMSIZE
    if isinstance(error, apsw.FullError) or is_shm:
        return OutboxFull(
            f"The disk of the outbox {path} is full; nothing of this is kept.",
            next="Free disk space on this machine, then enqueue it again.",
        )
    if isinstance(error, apsw.BusyError):
        return OutboxFull(
            f"Another program holds the outbox {path}; nothing of this is kept.",
            next="End that program, then enqueue it again.",
            retry_after_s=1.0,
        )
    return BadConfiguration(
        f"The outbox {path} cannot be used ({error}).",
        next="Check its owner, its mode and its disk, or give another path.",
    )
