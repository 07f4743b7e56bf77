"""The side thread that copies the WAL into the database while commits go on.

Passive, so nobody waits for it. Safe beside a committing connection with
SQLite 3.51.3 and later; with the checkpoint inside the commit the 99th
percentile of the latency doubles (facts/performance).
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import apsw

from clawnet.engines.sqlite.connections import open_database

RETRY_S = 1.0

_log = logging.getLogger(__name__)


class Checkpointer:
    """Runs a checkpoint whenever it is asked to."""

    def __init__(self, path: Path, *, vfs: str | None) -> None:
        self._path = path
        self._vfs = vfs
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._is_free = threading.Event()
        self._is_free.set()
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name="clawnet-checkpoint", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self) -> None:
        """Enough was committed for a checkpoint. Cheap."""
        self._wake.set()

    def hold(self) -> None:
        """Begin no other checkpoint until free(): the committer wants to run its own, and
        would find one in its way again and again on a busy machine."""
        self._is_free.clear()

    def free(self) -> None:
        """What was asked for meanwhile runs now."""
        self._is_free.set()

    def close(self) -> None:
        """Wait for a checkpoint that runs, then end. Idempotent."""
        self._closing.set()
        self._is_free.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        connection = None
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            # No deadline: the committer, or close(), sets it free.
            self._is_free.wait()
            if self._closing.is_set():
                break
            try:
                if connection is None:
                    connection = open_database(self._path, vfs=self._vfs, synchronous="full")
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            except (apsw.BusyError, apsw.LockedError):
                pass
            except apsw.Error as error:
                # The WAL keeps everything, so nothing is lost. A disk that is broken fails
                # the next commit, and that is where it counts.
                _log.warning("a checkpoint failed: %s", error)
            except Exception as error:  # the top of a thread
                # Without this thread every commit would soon wait for a checkpoint of its own.
                if not self._is_failing:
                    _log.warning("a checkpoint failed: %s", error, exc_info=error)
                self._is_failing = True
                self._closing.wait(RETRY_S)
                self._wake.set()
            else:
                self._is_failing = False
        if connection is not None:
            connection.close()
