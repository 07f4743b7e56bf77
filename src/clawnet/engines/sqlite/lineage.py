"""The log's identity and its epochs, as rows of log.db."""

from __future__ import annotations

import apsw

from clawnet.core.positions import EpochStart
from clawnet.engines.sqlite.state import get_meta, put_meta

_LOG_ID = "log_id"
_RESTORED = "is_restored"


def load_lineage(connection: apsw.Connection) -> tuple[EpochStart, ...]:
    """The epochs, oldest first; none in a file that was just made."""
    rows = connection.execute("SELECT epoch, first_seq FROM epochs ORDER BY place")
    return tuple(EpochStart(epoch, first_seq) for epoch, first_seq in rows)


def begin_epoch(
    connection: apsw.Connection, lineage: tuple[EpochStart, ...], start: EpochStart, *, log_id: int
) -> tuple[EpochStart, ...]:
    """Add an epoch; `log_id` is the log's for all time if it has none yet."""
    with connection:
        _append(connection, start)
        put_meta(connection, _RESTORED, 0)
        if get_meta(connection, _LOG_ID, 0) == 0:
            put_meta(connection, _LOG_ID, log_id or 1)
    return (*lineage, start)


def later_epochs(
    copy: tuple[EpochStart, ...], replaced: tuple[EpochStart, ...], *, last_seq: int
) -> tuple[EpochStart, ...]:
    """The further epochs of a replaced log, if it went on from where the copy ends, `last_seq`.

    Only then does everything below the copy's end mean the same in both. If one of them left the
    other's history before that, none is taken over: cursors of theirs are of an unknown epoch.
    """
    shared, later = replaced[: len(copy)], replaced[len(copy) :]
    if shared != copy or any(start.first_seq <= last_seq for start in later):
        return ()
    return later


def mark_restored(connection: apsw.Connection, later: tuple[EpochStart, ...]) -> None:
    """Say that this file is put in the place of another, whose later_epochs() were `later`.

    Cursors of those are good up to the new branch, like all others.
    """
    with connection:
        put_meta(connection, _RESTORED, 1)
        for start in later:
            _append(connection, start)


def is_restored(connection: apsw.Connection) -> bool:
    """Whether the file was put here by a restore and has not been opened since."""
    return get_meta(connection, _RESTORED, 0) == 1


def load_log_id(connection: apsw.Connection) -> int:
    """What this log and its copies have in common; 0 before the first epoch."""
    return get_meta(connection, _LOG_ID, 0)


def _append(connection: apsw.Connection, start: EpochStart) -> None:
    connection.execute(
        "INSERT INTO epochs SELECT coalesce(max(place), 0) + 1, ?, ? FROM epochs",
        (start.epoch, start.first_seq),
    )
