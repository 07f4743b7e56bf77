"""Opens SQLite connections and brings a file's schema up to date. Knows no table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import apsw

from clawnet.core.errors import BadConfiguration, StorageCorrupt

SQLITE_VERSION_MIN = (3, 51, 3)
"""Older ones can corrupt a WAL database when one connection checkpoints while another commits."""

BUSY_TIMEOUT_MS = 10_000
"""How long to wait for somebody else's program that has the file open."""

Migration = Callable[[apsw.Connection], None]


def open_database(path: Path, *, vfs: str | None = None, synchronous: str) -> apsw.Connection:
    """A connection in WAL mode that never checkpoints by itself.

    Raises BadConfiguration for an SQLite that is too old, StorageCorrupt for
    what is no database.
    """
    if _sqlite_version() < SQLITE_VERSION_MIN:
        raise BadConfiguration(
            f"SQLite {apsw.sqlite_lib_version()} can corrupt a database that is used as the hub"
            " uses it; 3.51.3 is the oldest that cannot.",
            next="Install the apsw wheel that clawnet asks for (pip install -U apsw).",
        )
    connection = apsw.Connection(str(path), vfs=vfs)
    try:
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        mode = connection.pragma("journal_mode", "wal")
        if mode != "wal":
            raise StorageCorrupt(
                f"{path} cannot be used in WAL mode (it is in {mode} mode).",
                next="Put the data folder on a local disk; network file systems do not do.",
            )
        connection.wal_autocheckpoint(0)
        connection.pragma("synchronous", synchronous)
        if sys.platform == "darwin":
            # Plain fsync on macOS leaves the data in the disk's cache.
            connection.pragma("fullfsync", 1)
            connection.pragma("checkpoint_fullfsync", 1)
    except (apsw.NotADBError, apsw.CorruptError) as error:
        connection.close()
        raise StorageCorrupt(f"{path} is damaged: {error}.") from None
    except BaseException:  # whatever it was, it passes through; the file must not stay open
        connection.close()
        raise
    return connection


def migrate(connection: apsw.Connection, migrations: Sequence[Migration], *, name: str) -> None:
    """Run what the file has not had yet; each step and its version commit together.

    Raises StorageCorrupt for a file of a newer clawnet.
    """
    version = connection.pragma("user_version")
    if version > len(migrations):
        raise StorageCorrupt(
            f"{name} has version {version}; this clawnet knows versions up to {len(migrations)}.",
            next="Run the newer clawnet that wrote it, or restore a backup of the older one.",
        )
    for done in range(version, len(migrations)):
        with connection:
            migrations[done](connection)
            connection.pragma("user_version", done + 1)


def _sqlite_version() -> tuple[int, ...]:
    """Of the library that is loaded, which need not be the one apsw was built against."""
    return tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
