"""Somebody's long read and the engine's own: how long the WAL gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from clawnet.core.units import Unit
from clawnet.engines.sqlite.engine import SqliteEngine
from clawnet.engines.sqlite.schema import LOG_FILE
from clawnet.testing.vfs import FaultVFS
from tests.faults.ledger import draft
from tests.faults.sqlite import open_sqlite

MIB = 1_048_576
WAL_MAX_BYTES = 64 * MIB
GROUP_EVENTS = 32
PAD = "p" * 32_000


@pytest.fixture
def vfs() -> Iterator[FaultVFS]:
    with FaultVFS("long", is_recording=False) as vfs:
        yield vfs


def write(engine: SqliteEngine, *, mib: int, first: int) -> None:
    """Commit about so much, in groups of about 1 MiB."""
    for group in range(mib):
        numbers = range(first + group * GROUP_EVENTS, first + (group + 1) * GROUP_EVENTS)
        engine.commit(
            [
                Unit(drafts=(draft(n, world="main", channel="room.x", type="x.a", pad=PAD),))
                for n in numbers
            ]
        )


def wal_bytes(folder: Path) -> int:
    return (folder / f"{LOG_FILE}-wal").stat().st_size


def test_the_wal_is_short_again_when_a_long_reader_ends(tmp_path: Path, vfs: FaultVFS) -> None:
    engine = open_sqlite(tmp_path, vfs)
    write(engine, mib=1, first=0)
    reader = apsw.Connection(str(tmp_path / LOG_FILE), vfs=vfs.name)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM log").get == GROUP_EVENTS
    write(engine, mib=80, first=1_000)
    # SQLite must keep every page that the reader may still ask for: nothing can bound this.
    assert wal_bytes(tmp_path) > WAL_MAX_BYTES
    assert engine.last_seq == 81 * GROUP_EVENTS, "a reader held up the commits"
    assert reader.execute("SELECT count(*) FROM log").get == GROUP_EVENTS
    reader.execute("ROLLBACK")
    reader.close()
    write(engine, mib=8, first=100_000)
    assert wal_bytes(tmp_path) <= WAL_MAX_BYTES
    engine.close()


def test_the_engines_own_reads_hold_no_transaction_open(tmp_path: Path, vfs: FaultVFS) -> None:
    """L7: after each read, a checkpoint that would have to wait for a reader does not."""
    engine = open_sqlite(tmp_path, vfs)
    write(engine, mib=1, first=0)
    event = draft(-1, world="main", channel="room.x", type="x.a", key="k")
    engine.commit([Unit(drafts=(event,))])
    assert event.identity is not None
    assert engine.settle(timeout_s=30)
    identity = event.identity
    names = frozenset({"room.x"})
    reads = {
        "read_channel": lambda: engine.read_channel("main", "room.x", limit=5),
        "reverse": lambda: engine.read_channel_reverse("main", "room.x", limit=5),
        "read_log": lambda: engine.read_log("main", names, after_seq=0, limit=5),
        "get": lambda: engine.get("main", 1),
        "seq_before": lambda: engine.seq_before(1),
        "offset_at": lambda: engine.offset_at("main", "room.x", 3),
        "find": lambda: engine.find(identity),
        "scan": lambda: engine.scan("grant"),
        "channels": lambda: engine.channels("main", after="", limit=5),
    }
    other = apsw.Connection(str(tmp_path / LOG_FILE), vfs=vfs.name)
    # A connection that has read nothing yet does not know of the WAL and checkpoints nothing.
    assert other.execute("SELECT count(*) FROM log").get > 0
    for number, (name, read) in enumerate(reads.items()):
        write(engine, mib=1, first=1_000 * (number + 1))
        assert engine.settle(timeout_s=30)
        read()
        try:
            other.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.BusyError:
            pytest.fail(f"{name} left a transaction open")
        assert wal_bytes(tmp_path) == 0
    other.close()
    engine.close()


def test_the_wal_stays_short_while_the_engine_reads_and_writes(
    tmp_path: Path, vfs: FaultVFS
) -> None:
    engine = open_sqlite(tmp_path, vfs)
    after = 0
    for piece in range(20):
        write(engine, mib=8, first=piece * 1_000)
        chunk = engine.read_channel("main", "room.x", after=after)
        after = chunk.offset
        # Half as much again: each time that a checkpoint of the side thread is in the way, the
        # committer tries again 4 MiB later.
        assert wal_bytes(tmp_path) <= WAL_MAX_BYTES * 3 // 2
    engine.close()
