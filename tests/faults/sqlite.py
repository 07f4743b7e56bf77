"""Opens the engine under test. The only place here that knows how it is made."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import apsw

from clawnet.engines.sqlite.engine import SqliteEngine
from clawnet.ports.clock import Clock
from clawnet.testing.clocks import FakeClock, FakeRandomness
from clawnet.testing.vfs import FaultVFS


def open_sqlite(
    folder: Path,
    vfs: FaultVFS | None = None,
    *,
    clock: Clock | None = None,
    ballast_bytes: int = 0,
) -> SqliteEngine:
    """The engine on `folder`, as the app opens it but for the ballast, which takes long to fill."""
    return SqliteEngine(
        folder,
        clock=clock or FakeClock(),
        randomness=FakeRandomness(f"start {next(_starts)}"),
        vfs=None if vfs is None else vfs.name,
        ballast_bytes=ballast_bytes,
    )


def close_on_broken_disk(engine: SqliteEngine) -> None:
    """Close an engine whose VFS refuses writes.

    SQLite itself does not mind if the checkpoint of a closing connection
    fails, but apsw passes on whatever a VFS in Python raised meanwhile.
    """
    try:
        engine.close()
    except (apsw.FullError, apsw.IOError):
        pass


_starts = count()
