"""The state as rows: small documents by key. Used by both engines; commits nothing itself."""

from __future__ import annotations

from collections.abc import Mapping

import apsw
import msgspec

from clawnet.core.ledger import Change
from clawnet.ports.log import StateEntry

STATE_SQL = """
CREATE TABLE state(key TEXT PRIMARY KEY, value TEXT NOT NULL, revision INTEGER NOT NULL)
    STRICT, WITHOUT ROWID;
CREATE TABLE meta(key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
"""

_FLOOR = "revision_floor"


class Revisions(msgspec.Struct, frozen=True):
    """What the ledger needs to know of the state."""

    by_key: dict[str, int]
    floor: int


def load_revisions(connection: apsw.Connection) -> Revisions:
    """Every key's revision, and the floor from which new keys start."""
    rows = connection.execute("SELECT key, revision FROM state")
    return Revisions(by_key=dict(rows), floor=get_meta(connection, _FLOOR, 0))


def write_changes(
    connection: apsw.Connection, changes: Mapping[str, Change], *, floor: int
) -> None:
    """Write a group's changes inside the transaction that is open."""
    puts = [(k, c.value, c.revision) for k, c in changes.items() if c.value is not None]
    deletes = [(k,) for k, c in changes.items() if c.value is None]
    if puts:
        connection.executemany("INSERT OR REPLACE INTO state VALUES (?, ?, ?)", puts)
    if deletes:
        connection.executemany("DELETE FROM state WHERE key = ?", deletes)
    # Also without a delete that is left: a key may have been removed and put again since.
    put_meta(connection, _FLOOR, floor)


def scan_state(connection: apsw.Connection, kind: str) -> list[StateEntry]:
    """All entries of a kind, by key."""
    rows = connection.execute(
        # '0' follows '/': this range is all that begins with `kind/`.
        "SELECT key, value, revision FROM state WHERE key >= ? AND key < ? ORDER BY key",
        (f"{kind}/", f"{kind}0"),
    )
    return [StateEntry(key, value, revision) for key, value, revision in rows]


def get_meta(connection: apsw.Connection, key: str, default: int) -> int:
    """A number of the file's own book-keeping."""
    value = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).get
    return default if value is None else int(value)


def put_meta(connection: apsw.Connection, key: str, value: int) -> None:
    """Write such a number inside the transaction that is open."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
