"""The tables of log.db and how an older file gets them."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from clawnet.engines.sqlite.connections import Migration
from clawnet.engines.sqlite.state import STATE_SQL

LOG_FILE = "log.db"
INDEX_FILE = "index.db"

# `dedupe` is the identity and the digest, 16 bytes each; `dedupe_key` the identity's first 64
# bits, by which the index finds it. The heads in `channels` are written behind: what the log
# holds above meta.heads_seq counts more (see heads.py). `gone_*` is the newest event removed.
_VERSION_1 = (
    """
CREATE TABLE log(
    seq INTEGER PRIMARY KEY,
    channel_id INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    ts_ms INTEGER NOT NULL,
    type TEXT NOT NULL,
    actor_id TEXT NOT NULL,
    correlation_id TEXT,
    dedupe_key INTEGER,
    dedupe BLOB,
    head TEXT NOT NULL,
    data TEXT NOT NULL
) STRICT;
CREATE TABLE channels(
    id INTEGER PRIMARY KEY,
    world TEXT NOT NULL,
    name TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    last_ts_ms INTEGER NOT NULL,
    gone_offset INTEGER NOT NULL,
    gone_seq INTEGER NOT NULL
) STRICT;
CREATE TABLE epochs(place INTEGER PRIMARY KEY, epoch TEXT NOT NULL, first_seq INTEGER NOT NULL)
    STRICT;
"""
    + STATE_SQL
)


def _create(connection: apsw.Connection) -> None:
    connection.execute(_VERSION_1)


MIGRATIONS: Sequence[Migration] = (_create,)
"""Step n brings a file of version n to version n + 1; a step that shipped is never changed."""
