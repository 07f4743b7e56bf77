"""Copies log.db while it is written, and puts a copy back.

A copy is one plain SQLite file with everything that cannot be made anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw

from clawnet.core.errors import BadRequest, StorageCorrupt
from clawnet.core.positions import EpochStart
from clawnet.engines.sqlite.connections import open_database
from clawnet.engines.sqlite.files import REPLACED_FILE, Lock
from clawnet.engines.sqlite.heads import load_last_seq
from clawnet.engines.sqlite.lineage import (
    later_epochs,
    load_lineage,
    load_log_id,
    mark_restored,
)
from clawnet.engines.sqlite.schema import INDEX_FILE, LOG_FILE, MIGRATIONS

STEP_PAGES = 512
_BESIDE = ("-wal", "-shm", "-journal")

Progress = Callable[[int, int], None]


def copy_steps(source: apsw.Connection, target: Path) -> Iterator[tuple[int, int]]:
    """Copy a database in bounded steps, yielding (pages done, pages in all).

    `source` is the connection that writes: SQLite then carries its commits over
    into what is copied already, so the copy ends under writes and is as of its
    last step. From another connection each commit would begin it anew. The
    target appears whole or not at all.
    """
    beside = target.with_name(f"{target.name}.part")
    _remove_database(beside)
    # SQLite keeps the mode of a file that is there, also for those that it puts beside it.
    os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    copy = apsw.Connection(str(beside))
    try:
        with copy.backup("main", source, "main") as backup:
            while not backup.done:
                backup.step(STEP_PAGES)
                yield backup.page_count - backup.remaining, backup.page_count
        # One file, without a WAL beside it.
        copy.pragma("journal_mode", "delete")
        copy.close()
        _sync(beside)
        beside.replace(target)
        _sync(target.parent)
    finally:
        copy.close()
        _remove_database(beside)


def restore(source: Path, folder: Path, *, progress: Progress | None = None) -> None:
    """Put the copy `source` in the place of the data folder's log.

    The next start begins a new epoch, since positions above the copy's end are
    given anew. What was there before stays as log.db.replaced, or with a number
    behind it if a restore has left one already. Raises AlreadyRunning while a hub
    has the folder open, and StorageCorrupt for a copy that is damaged or of a
    newer clawnet; nothing is changed then.
    """
    if not source.is_file():
        raise BadRequest(f"There is no backup {source}.", next="Name a file from claw backup.")
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder)
    try:
        new = folder / f"{LOG_FILE}.restoring"
        _remove_database(new)
        try:
            _copy_checked(source, new, progress)
            _mark(new, folder / LOG_FILE)
            _put_in_place(new, folder)
        finally:
            _remove_database(new)
    finally:
        lock.release()


def _copy_checked(source: Path, new: Path, progress: Progress | None) -> None:
    try:
        original = apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            version = original.pragma("user_version")
            if not 1 <= version <= len(MIGRATIONS):
                raise StorageCorrupt(
                    f"{source} is no backup that this clawnet can use (version {version}).",
                    next="Use the clawnet that made it, or another backup.",
                )
            for done, total in copy_steps(original, new):
                if progress is not None:
                    progress(done, total)
        finally:
            original.close()
        copy = apsw.Connection(str(new))
        try:
            found = copy.execute("PRAGMA integrity_check(1)").get
            load_lineage(copy)
        finally:
            copy.close()
    except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError, apsw.CantOpenError) as error:
        found = str(error)
    if found != "ok":
        raise StorageCorrupt(
            f"{source} is damaged: {found}.", next="Use another backup; nothing was changed."
        )


def _mark(new: Path, present: Path) -> None:
    copy = open_database(new, synchronous="full")
    try:
        epochs = _epochs_of(present, log_id=load_log_id(copy))
        last_seq = load_last_seq(copy)
        mark_restored(copy, later_epochs(load_lineage(copy), epochs, last_seq=last_seq))
        copy.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        copy.pragma("journal_mode", "delete")
    finally:
        copy.close()
    _sync(new)


def _epochs_of(present: Path, *, log_id: int) -> tuple[EpochStart, ...]:
    """The epochs of the log that is replaced, if it is one with the copy and can be read."""
    if not present.exists():
        return ()
    try:
        connection = apsw.Connection(str(present))
        try:
            return load_lineage(connection) if load_log_id(connection) == log_id else ()
        finally:
            connection.close()
    except apsw.Error:
        return ()


def _put_in_place(new: Path, folder: Path) -> None:
    log = folder / LOG_FILE
    replaced = _free_name(folder)
    # The order, and that each step is on disk before the next: until the new log is in place, a
    # start after a crash finds no log.db and refuses. A WAL belongs to its database and goes
    # with it, also one that a crash left here alone: beside the new log it would be played back.
    for suffix in ("", *_BESIDE):
        part = log.with_name(log.name + suffix)
        if part.exists():
            part.replace(replaced.with_name(replaced.name + suffix))
            _sync(folder)
    _remove_database(folder / INDEX_FILE)
    new.replace(log)
    _sync(folder)


def _free_name(folder: Path) -> Path:
    """Where the log that is there goes; what an earlier restore left is never touched."""
    number, place = 1, folder / REPLACED_FILE
    while any(place.with_name(place.name + suffix).exists() for suffix in ("", *_BESIDE)):
        number += 1
        place = folder / f"{REPLACED_FILE}-{number}"
    return place


def _remove_database(path: Path) -> None:
    for suffix in ("", *_BESIDE):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
