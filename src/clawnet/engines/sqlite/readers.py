"""Connections for reading, one for each thread that reads at a time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from clawnet.engines.sqlite.connections import open_database
from clawnet.engines.sqlite.schema import INDEX_FILE, LOG_FILE

IDLE_MAX = 4
CACHE_KIB = 16_384

INDEX_MAP_BYTES = 1 << 30
"""The index is read through a mapping: each of its batches empties a connection's own cache, and
with two million keys looking up a group's then costs a third of the commit. Not so the log: where
a disk is broken, a mapping ends the process, and only the index can be thrown away."""

GATE_S = 0.5
"""How long new reads wait, at most, for the WAL to begin anew."""


class Readers:
    """A pool that never makes anybody wait: it opens one more instead.

    With `is_indexed`, index.db is attached as `idx`. It may be replaced by a
    new file while readers have the old one open; `renew` makes them all go.
    """

    def __init__(self, folder: Path, *, vfs: str | None) -> None:
        self._folder = folder
        self._vfs = vfs
        self._idle: deque[tuple[int, apsw.Connection]] = deque()
        self._generation = 0
        self._gate = threading.Condition()
        self._reading = 0
        self._closed_until_s = 0.0
        self.is_indexed = False

    @contextmanager
    def reading(self, *, is_committer: bool = False) -> Iterator[None]:
        """Whoever reads log.db does it inside this, so that the committer finds a quiet moment.

        The WAL begins anew only when nobody reads it. Readers that take turns
        would never leave such a moment by themselves. The committer itself does
        not wait: nothing else opens the gate.
        """
        with self._gate:
            while not is_committer and (left := self._closed_until_s - time.monotonic()) > 0:
                self._gate.wait(left)
            self._reading += 1
        try:
            yield
        finally:
            with self._gate:
                self._reading -= 1

    def begin_quiet(self) -> bool:
        """Hold new reads back; whether none is running now. See end_quiet."""
        with self._gate:
            self._closed_until_s = time.monotonic() + GATE_S
            return self._reading == 0

    def end_quiet(self) -> None:
        """Let reads go on."""
        with self._gate:
            self._closed_until_s = 0.0
            self._gate.notify_all()

    @contextmanager
    def snapshot(self, *, is_committer: bool = False) -> Iterator[tuple[apsw.Connection, bool]]:
        """A connection inside a read transaction, and whether it has the index.

        All statements in the block see the same log; the transaction ends with it.
        """
        with self.reading(is_committer=is_committer), self._snapshot() as found:
            yield found

    @contextmanager
    def _snapshot(self) -> Iterator[tuple[apsw.Connection, bool]]:
        generation = self._generation
        is_indexed = self.is_indexed
        connection = self._take(generation, is_indexed)
        try:
            connection.execute("BEGIN")
            try:
                yield connection, is_indexed
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except BaseException:  # it passes through; a connection in doubt is not used again
            connection.close()
            raise
        if generation == self._generation and len(self._idle) < IDLE_MAX:
            self._idle.append((generation, connection))
        else:
            connection.close()

    def renew(self, *, is_indexed: bool) -> None:
        """From now on, give out only connections that are opened after this."""
        self.is_indexed = is_indexed
        self._generation += 1
        self._close_idle()

    def close(self) -> None:
        """Close what is idle; what is in use closes itself when it comes back."""
        self._generation += 1
        self._close_idle()

    def _take(self, generation: int, is_indexed: bool) -> apsw.Connection:
        while self._idle:
            try:
                born, connection = self._idle.pop()
            except IndexError:  # Another thread was faster.
                break
            if born == generation:
                return connection
            connection.close()
        connection = open_database(self._folder / LOG_FILE, vfs=self._vfs, synchronous="full")
        # The last to close would else run a checkpoint and delete the WAL by its name, which
        # may belong to a new index by then.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.pragma("cache_size", -CACHE_KIB)
        if is_indexed:
            connection.execute("ATTACH ? AS idx", (str(self._folder / INDEX_FILE),))
            connection.execute(f"PRAGMA idx.mmap_size = {INDEX_MAP_BYTES}")
        connection.pragma("query_only", 1)
        return connection

    def _close_idle(self) -> None:
        while self._idle:
            try:
                _, connection = self._idle.pop()
            except IndexError:
                break
            connection.close()
