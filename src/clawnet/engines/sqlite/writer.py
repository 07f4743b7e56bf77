"""Writes a decision to log.db. It decides nothing; what it cannot write it rolls back."""

from __future__ import annotations

from collections.abc import Iterable

import apsw

from clawnet.core.events import DELETED
from clawnet.core.ledger import Decision, Head
from clawnet.engines.sqlite.heads import HeadSaver, write_heads
from clawnet.engines.sqlite.state import write_changes

PAGE_BYTES = 4_096
WAL_PAGES_MAX = 16_384
"""64 MiB: past it the committer itself makes the WAL begin anew."""

CHECKPOINT_PAGES = 1_000
"""After so many new pages the side thread copies them into the database."""

_RESTART_WAIT_MS = 50
_COLUMNS = 11
_BLANK = """UPDATE log SET data = 'null', head = head || ?2
    WHERE seq IN (SELECT value FROM json_each(?1)) AND substr(head, -?3) <> ?4"""


class NothingWritten(Exception):
    """The transaction could not begin or was rolled back for lack of room: nothing of it is
    stored. `is_full` says which."""

    def __init__(self, *, is_full: bool) -> None:
        super().__init__()
        self.is_full = is_full


class Writer:
    """The one connection that writes, with the committer's part in checkpoints."""

    def __init__(self, connection: apsw.Connection, heads: HeadSaver) -> None:
        self.connection = connection
        self.wal_pages = 0
        self._heads = heads
        self._restart_at_pages = WAL_PAGES_MAX
        self._checkpointed_pages = 0
        connection.set_wal_hook(self._after_commit)
        # The first commit after a RESTART also gives back what somebody's long read made the
        # file grow to; without a limit it would stay that large for ever.
        connection.pragma("journal_size_limit", WAL_PAGES_MAX * PAGE_BYTES)

    def write(self, decision: Decision) -> None:
        """Commit a decision. Raises NothingWritten, or apsw.Error if the outcome is unknown."""
        connection = self.connection
        self._begin()
        try:
            if decision.new_heads:
                write_heads(connection, [decision.heads[key] for key in decision.new_heads])
            if decision.events:
                self._insert(decision)
            if decision.changes:
                write_changes(connection, decision.changes, floor=decision.revision_floor)
            if decision.blanks:
                self._blank(decision.blanks)
            self._heads.write(connection)
            connection.execute("COMMIT")
        except BaseException as error:  # rolled back, then raised as what it means
            self._roll_back(error)
        self._heads.committed(decision.heads, last_seq=decision.last_seq)

    def _blank(self, seqs: list[int]) -> None:
        """Take away the data of events; their index rows say nothing of it."""
        # What an update leaves free in the file would keep the text until that is used again.
        self.connection.pragma("secure_delete", 1)
        try:
            self.connection.execute(_BLANK, (str(seqs), DELETED, len(DELETED), DELETED))
        finally:
            self.connection.pragma("secure_delete", 0)

    def remove(self, seqs: Iterable[int], heads: Iterable[Head]) -> None:
        """Delete events and write the heads that this moves. Raises as write() does."""
        self._begin()
        try:
            # Sorted seqs are neighbours in the table, so this walks it once.
            self.connection.execute(
                "DELETE FROM log WHERE seq IN (SELECT value FROM json_each(?))", (str([*seqs]),)
            )
            write_heads(self.connection, heads)
            self.connection.execute("COMMIT")
        except BaseException as error:  # rolled back, then raised as what it means
            self._roll_back(error)

    def save_heads(self, last_seq: int) -> None:
        """Write all heads that are behind, at the end of a run."""
        self._heads.begin_round(last_seq)
        if self._heads.is_saving:
            with self.connection:
                self._heads.write(self.connection, rows_max=1 << 62)
            self._heads.committed((), last_seq=last_seq)

    @property
    def is_wal_long(self) -> bool:
        """Whether the WAL is to begin anew before it grows much further."""
        return self.wal_pages >= self._restart_at_pages

    def restart_wal(self) -> bool:
        """Between groups, while none of our readers reads: begin the WAL anew.

        Returns whether that is done. If somebody else's program sits on an old snapshot,
        this is tried again some MiB later.
        """
        self.connection.set_busy_timeout(_RESTART_WAIT_MS)
        try:
            self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
            self._restart_at_pages = WAL_PAGES_MAX
            return True
        except (apsw.BusyError, apsw.LockedError, apsw.FullError):
            self._restart_at_pages = self.wal_pages + CHECKPOINT_PAGES
            return False
        finally:
            self.connection.set_busy_timeout(10_000)

    def is_checkpoint_due(self) -> bool:
        """Whether enough was written since the last one that the side thread should run."""
        pages = self.wal_pages
        if pages < self._checkpointed_pages:
            # The WAL began anew.
            self._checkpointed_pages = 0
        if pages - self._checkpointed_pages < CHECKPOINT_PAGES:
            return False
        self._checkpointed_pages = pages
        return True

    def _begin(self) -> None:
        try:
            self.connection.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            raise NothingWritten(is_full=False) from None
        except apsw.FullError:
            raise NothingWritten(is_full=True) from None

    def _roll_back(self, error: BaseException) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        # A write that found no room wrote no commit mark: that comes last. So nothing is stored.
        if isinstance(error, apsw.FullError):
            raise NothingWritten(is_full=True) from error
        raise error

    def _insert(self, decision: Decision) -> None:
        heads = decision.heads
        values: list[int | str | bytes | None] = []
        for event, draft in zip(decision.events, decision.drafts, strict=True):
            identity = draft.identity
            values += (
                event.seq,
                heads[event.world, event.channel].id,
                event.offset,
                event.ts_ms,
                event.type,
                event.actor_id,
                draft.correlation_id,
                None if identity is None else dedupe_key(identity),
                None if identity is None else identity + (draft.digest or b""),
                event.head,
                event.data,
            )
        # Each step of a statement hands the interpreter to the loop and must get it back:
        # one statement for 512 rows, not 512 (facts: 0.75 ms against 160 to 190 ms).
        count = len(decision.events)
        done = 0
        while done < count:
            size = min(1 << (count - done).bit_length() - 1, 512)
            end = done + size
            self.connection.execute(_insertion(size), values[done * _COLUMNS : end * _COLUMNS])
            done = end

    def _after_commit(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self.wal_pages = pages
        return apsw.SQLITE_OK


def dedupe_key(identity: bytes) -> int:
    """The 64 bits by which the index finds an identity."""
    return int.from_bytes(identity[:8], "big", signed=True)


def _insertion(size: int) -> str:
    sql = _insertions.get(size)
    if sql is None:
        # Without spaces: apsw caches no statement longer than 16 KiB.
        rows = ",".join(["(?,?,?,?,?,?,?,?,?,?,?)"] * size)
        sql = _insertions[size] = f"INSERT INTO log VALUES {rows}"
    return sql


_insertions: dict[int, str] = {}
