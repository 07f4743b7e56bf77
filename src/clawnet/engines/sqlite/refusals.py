"""What the engine says when it stores nothing, and how it tells a full disk from a broken one."""

from __future__ import annotations

import apsw

from clawnet.core.errors import DiskFull, Unavailable


def disk_full() -> DiskFull:
    return DiskFull("The disk is full; nothing of this was stored.")


def busy() -> Unavailable:
    return Unavailable("Another program holds the database.", retry_after_s=1)


def indexing() -> Unavailable:
    return Unavailable(
        "The index of dedupe keys is being made anew, so a repetition could not be told.",
        retry_after_s=2,
    )


def is_for_lack_of_room(error: apsw.Error) -> bool:
    """Whether a write failed only because the disk is full.

    The shared memory file is made longer by a write of its own, and what that
    finds no room for is an IOERR_SHMSIZE.
    """
    return isinstance(error, apsw.FullError) or (
        getattr(error, "extendedresult", None) == apsw.SQLITE_IOERR_SHMSIZE
    )
