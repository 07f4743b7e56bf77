"""index.db: where a channel's events, dedupe keys, chains and times lie in the log.

All of it can be had from the log again, so it is never waited for: whatever is
wrong with it, it is thrown away and made anew. Filled by SQL alone, in sorted
batches, so that the interpreter is free for the loop meanwhile.

`synchronous=NORMAL`, not OFF: it syncs only at checkpoints, on its own thread,
and in return a power cut leaves an older index, never a torn one that looks
whole. Measured: the difference in throughput is within the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import apsw

from clawnet.core.errors import StorageCorrupt
from clawnet.core.positions import EpochStart
from clawnet.engines.blocks import BLOCK_SHIFT
from clawnet.engines.sqlite.connections import open_database
from clawnet.engines.sqlite.schema import INDEX_FILE, LOG_FILE

VERSION = 2
"""2: by_key. A file of another version is made anew from the log."""

BATCH_EVENTS = 131_072
CHECKPOINT_PAGES = 4_096
SWEEP_ROWS = 5_000

BROKEN = (
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.CantOpenError,
    apsw.IOError,
    apsw.SQLError,
    apsw.ConstraintError,
    apsw.MismatchError,
    StorageCorrupt,
)
"""What a damaged file shows itself by. A full or busy disk is none of these."""

_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE by_channel(
    channel_id INTEGER, offset INTEGER, seq INTEGER NOT NULL, PRIMARY KEY(channel_id, offset)
) STRICT, WITHOUT ROWID;
CREATE TABLE dedupe(key INTEGER, seq INTEGER, PRIMARY KEY(key, seq)) STRICT, WITHOUT ROWID;
CREATE TABLE by_key(key TEXT, seq INTEGER, PRIMARY KEY(key, seq)) STRICT, WITHOUT ROWID;
CREATE TABLE times(block INTEGER PRIMARY KEY, ts_ms INTEGER NOT NULL) STRICT;
"""

# A key is `<world>/c:<correlation id>` or `<world>/t:<trace id>`; see core.trace. No member before
# `traceparent` can hold its mark: inside of a JSON string the quotes would be escaped.
TRACE_MARK = ',"traceparent":"00-'
_KEYED = f"""SELECT key, seq FROM (
    SELECT c.world || '/c:' || l.correlation_id AS key, l.seq AS seq
    FROM log.log AS l CROSS JOIN log.channels AS c ON c.id = l.channel_id
    WHERE l.seq > ?1 AND l.seq <= ?2 AND l.correlation_id IS NOT NULL
    UNION ALL
    SELECT c.world || '/t:' || substr(l.head, instr(l.head, '{TRACE_MARK}') + {len(TRACE_MARK)}, 32)
    , l.seq FROM log.log AS l CROSS JOIN log.channels AS c ON c.id = l.channel_id
    WHERE l.seq > ?1 AND l.seq <= ?2 AND instr(l.head, '{TRACE_MARK}')
) ORDER BY key, seq"""

_FILL = (
    f"INSERT OR REPLACE INTO by_key {_KEYED}",
    """INSERT OR REPLACE INTO by_channel SELECT channel_id, offset, seq FROM log.log
    WHERE seq > ?1 AND seq <= ?2 ORDER BY channel_id, offset""",
    """INSERT OR REPLACE INTO dedupe SELECT dedupe_key, seq FROM log.log
    WHERE seq > ?1 AND seq <= ?2 AND dedupe_key IS NOT NULL ORDER BY dedupe_key, seq""",
    f"""INSERT INTO times SELECT seq >> {BLOCK_SHIFT}, max(ts_ms) FROM log.log
    WHERE seq > ?1 AND seq <= ?2 GROUP BY seq >> {BLOCK_SHIFT}
    ON CONFLICT(block) DO UPDATE SET ts_ms = max(ts_ms, excluded.ts_ms)""",
)

Place = tuple[int | str, int]

LOWEST = -(1 << 63)
SWEPT: tuple[tuple[str, str, str, Place], ...] = (
    ("by_channel", "channel_id", "offset", (LOWEST, LOWEST)),
    ("dedupe", "key", "seq", (LOWEST, LOWEST)),
    ("by_key", "key", "seq", ("", LOWEST)),
)
"""Tables whose rows are cleaned behind, by which columns, and where that begins."""


class Index:
    """The file and its cursor. One thread uses it; `indexed_seq` may be read by all."""

    def __init__(self, folder: Path, *, vfs: str | None, log_id: int) -> None:
        self._folder = folder
        self._path = folder / INDEX_FILE
        self._vfs = vfs
        self._log_id = log_id
        self._connection: apsw.Connection | None = None
        self._wal_pages = 0
        self.indexed_seq = 0

    def open(self, *, epochs: Sequence[EpochStart], last_seq: int) -> None:
        """Take up the file if it belongs to this log as it is now, or begin anew.

        Raises apsw.Error if there cannot be an index at all.
        """
        try:
            self._connection = self._connect()
            self.indexed_seq = self._check(epochs, last_seq)
        except (*BROKEN, _Foreign):
            self.reset(epoch=epochs[-1].epoch)
            return
        self._write_meta("epoch", epochs[-1].epoch)

    def reset(self, *, epoch: str) -> None:
        """Throw the file away and begin anew. Raises apsw.Error or OSError."""
        self.indexed_seq = 0
        self._drop_connection()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self._connection = self._connect()
        with self._connection:
            self._connection.execute(_SCHEMA)
            self._connection.pragma("user_version", VERSION)
            self._write_meta("log_id", self._log_id)
            self._write_meta("epoch", epoch)
            self._write_meta("indexed_seq", 0)

    def fill(self, up_to_seq: int) -> None:
        """Index the next events, to `up_to_seq` at most; a bounded piece."""
        connection = self._open
        end = min(up_to_seq, self.indexed_seq + BATCH_EVENTS)
        # Not IMMEDIATE: that would lock the log, which is attached, for writing too.
        with connection:
            for sql in _FILL:
                connection.execute(sql, (self.indexed_seq, end))
            self._write_meta("indexed_seq", end)
        self.indexed_seq = end
        if self._wal_pages >= CHECKPOINT_PAGES:
            connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)

    def sweep(self, table: int, after: Place) -> Place | None:
        """Delete rows of removed events among the next rows of a table; None at its end."""
        name, first, second, _ = SWEPT[table]
        rows = f"FROM {name} WHERE ({first}, {second}) > (?1, ?2) ORDER BY {first}, {second}"
        end = self._open.execute(
            f"SELECT {first}, {second} {rows} LIMIT 1 OFFSET {SWEEP_ROWS - 1}", after
        ).fetchone()
        with self._open:
            self._open.execute(
                f"""DELETE FROM {name} WHERE ({first}, {second}) IN (
                    SELECT {first}, {second} FROM (
                        SELECT {first}, {second}, seq {rows} LIMIT {SWEEP_ROWS}
                    ) AS row WHERE NOT EXISTS (SELECT 1 FROM log.log WHERE seq = row.seq))""",
                after,
            )
        return end

    def drop_times(self, before_seq: int) -> None:
        """Forget the blocks of which every event lies before `before_seq`."""
        with self._open:
            self._open.execute("DELETE FROM times WHERE block < ?", (before_seq >> BLOCK_SHIFT,))

    def close(self) -> None:
        """Leave one whole file behind. Idempotent."""
        if self._connection is not None:
            try:
                self._connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except apsw.Error:
                # The WAL keeps what the file lacks, and the log has everything anyway.
                pass
        self._drop_connection()

    @property
    def _open(self) -> apsw.Connection:
        if self._connection is None:
            raise apsw.CantOpenError("the index is not open")
        return self._connection

    def _connect(self) -> apsw.Connection:
        connection = open_database(self._path, vfs=self._vfs, synchronous="normal")
        # See Readers: a file that is replaced while it is open must leave the new WAL alone.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.execute("ATTACH ? AS log", (str(self._folder / LOG_FILE),))
        connection.pragma("cache_size", -32_768)
        connection.set_wal_hook(self._after_commit)
        self._wal_pages = 0
        return connection

    def _after_commit(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _check(self, epochs: Sequence[EpochStart], last_seq: int) -> int:
        """The file's cursor. Raises _Foreign if it does not lie on this log's history."""
        if self._open.pragma("user_version") != VERSION:
            raise _Foreign
        meta = dict(self._open.execute("SELECT key, value FROM meta"))
        if meta.get("log_id") != self._log_id:
            raise _Foreign
        names = [start.epoch for start in epochs]
        if meta.get("epoch") not in names:
            raise _Foreign
        later = epochs[names.index(meta["epoch"]) + 1 :]
        good = min([last_seq, *(start.first_seq - 1 for start in later)])
        indexed = int(meta.get("indexed_seq", last_seq + 1))
        if indexed > good:
            # It knows a future that was put back, under positions that are given anew.
            raise _Foreign
        for table in ("by_channel", "dedupe", "by_key", "times"):
            self._open.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchall()
        return indexed

    def _write_meta(self, key: str, value: int | str) -> None:
        self._open.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Foreign(Exception):
    """The file is an index, but not of this log as it is now."""
