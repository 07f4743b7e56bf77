"""The fault VFS itself, under plain SQLite: what it breaks, and that it can tell good from bad."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import apsw
import pytest

from clawnet.testing.disk import (
    Created,
    Deleted,
    DirectorySynced,
    Disk,
    Found,
    Mark,
    Op,
    Synced,
    SyncFailed,
    Truncated,
    Wrote,
)
from clawnet.testing.vfs import FaultVFS


@pytest.fixture
def vfs() -> Iterator[FaultVFS]:
    with FaultVFS("faulty") as vfs:
        yield vfs


def contents_after_cuts(ops: list[Op], path: str = "/d/f", cuts: int = 200) -> set[bytes | None]:
    """Everything that was found at `path` after many different power cuts."""
    disk, random = Disk(1), Random(1)
    for op in ops:
        disk.apply(op)
    return {disk.after_power_cut(random).get(path) for _ in range(cuts)}


# The disk.


def test_what_was_synced_survives_a_power_cut() -> None:
    ops: list[Op] = [Found(1, "/d/f", b""), Wrote(1, 0, b"abc"), Synced(1)]
    assert contents_after_cuts(ops) == {b"abc"}


def test_an_unsynced_write_is_kept_lost_or_torn_at_sectors() -> None:
    ops: list[Op] = [Found(1, "/d/f", b"o" * 1024), Wrote(1, 0, b"n" * 1024)]
    old, new = b"o" * 512, b"n" * 512
    assert contents_after_cuts(ops) == {old + old, old + new, new + old, new + new}


def test_a_write_behind_a_lost_one_leaves_a_hole_of_zeros() -> None:
    ops: list[Op] = [Found(1, "/d/f", b""), Wrote(1, 0, b"a" * 512), Wrote(1, 512, b"b" * 512)]
    assert bytes(512) + b"b" * 512 in contents_after_cuts(ops)


def test_an_unsynced_truncation_may_be_undone() -> None:
    ops: list[Op] = [Found(1, "/d/f", b"abc"), Truncated(1, 0)]
    assert contents_after_cuts(ops) == {b"abc", b""}


def test_a_file_may_vanish_until_its_directory_is_synced() -> None:
    ops: list[Op] = [Created(1, "/d/f"), Wrote(1, 0, b"abc"), Synced(1)]
    assert contents_after_cuts(ops) == {b"abc", None}
    assert contents_after_cuts([*ops, DirectorySynced("/other")]) == {b"abc", None}
    assert contents_after_cuts([*ops, DirectorySynced("/d")]) == {b"abc"}


def test_a_deleted_file_may_come_back_until_its_directory_is_synced() -> None:
    ops: list[Op] = [Found(1, "/d/f", b"old"), Deleted("/d/f"), Created(2, "/d/f")]
    assert contents_after_cuts(ops) == {b"old", None, b""}
    assert contents_after_cuts([*ops, DirectorySynced("/d")]) == {b""}


def test_what_a_failed_sync_lost_is_not_saved_by_the_next() -> None:
    ops: list[Op] = [Found(1, "/d/f", b"old"), Wrote(1, 0, b"new"), SyncFailed(1), Synced(1)]
    found = set()
    for seed in range(20):
        disk = Disk(seed)
        for op in ops:
            disk.apply(op)
        found.add(disk.after_power_cut(Random(seed))["/d/f"])
    assert found == {b"old", b"new"}


def test_a_cut_is_repeated_by_its_seed() -> None:
    disk = Disk(1)
    disk.apply(Found(1, "/d/f", b""))
    disk.apply(Wrote(1, 0, bytes(range(256)) * 64))
    one, two = (disk.after_power_cut(Random(7)) for _ in range(2))
    assert one == two


# SQLite on it.


def open_database(path: Path, vfs: FaultVFS, *, synchronous: str) -> apsw.Connection:
    connection = apsw.Connection(str(path), vfs=vfs.name)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA wal_autocheckpoint = 12")
    return connection


def rows_of(connection: apsw.Connection) -> int:
    if not connection.table_exists(None, "t"):
        return 0
    rows: int = connection.execute("SELECT count(*) FROM t").get
    return rows


def lost_after_cuts(folder: Path, vfs: FaultVFS, *, synchronous: str, cuts: int) -> tuple[int, int]:
    """How often an acknowledged row was missing and how often the database was broken."""
    live = folder / "live"
    live.mkdir()
    random = Random(1)
    for _ in range(3):  # With restarts, so that the WAL is deleted and made anew.
        connection = open_database(live / "a.db", vfs, synchronous=synchronous)
        connection.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, pad BLOB)")
        for _ in range(25):
            connection.execute(
                "INSERT INTO t VALUES (NULL, randomblob(?)) RETURNING n", (random.randint(1, 9000),)
            )
            vfs.mark(connection.last_insert_rowid())
        connection.close()

    ops = vfs.recording.ops
    lost = broken = done = acknowledged = 0
    disk = Disk(1)
    for number, cut in enumerate(sorted(random.sample(range(len(ops)), cuts))):
        for op in ops[done:cut]:
            disk.apply(op)
            if isinstance(op, Mark):
                acknowledged = op.what
        done = cut
        found = folder / f"cut-{number}"
        found.mkdir()
        for path, content in disk.after_power_cut(random).items():
            (found / Path(path).name).write_bytes(content)
        try:
            connection = apsw.Connection(str(found / "a.db"))
            if connection.pragma("integrity_check") != "ok":
                broken += 1
            elif rows_of(connection) < acknowledged:
                lost += 1
            connection.close()
        except apsw.Error:
            broken += 1
    return lost, broken


def test_sqlite_keeps_what_it_promises_on_this_disk(tmp_path: Path, vfs: FaultVFS) -> None:
    assert lost_after_cuts(tmp_path, vfs, synchronous="FULL", cuts=150) == (0, 0)


def test_the_disk_shows_what_normal_loses(tmp_path: Path, vfs: FaultVFS) -> None:
    lost, broken = lost_after_cuts(tmp_path, vfs, synchronous="NORMAL", cuts=60)
    assert lost > 0
    assert broken == 0


def test_the_disk_shows_what_off_breaks(tmp_path: Path, vfs: FaultVFS) -> None:
    _, broken = lost_after_cuts(tmp_path, vfs, synchronous="OFF", cuts=60)
    assert broken > 0


def test_readers_and_a_writer_share_a_wal_through_it(tmp_path: Path, vfs: FaultVFS) -> None:
    writer = open_database(tmp_path / "a.db", vfs, synchronous="FULL")
    writer.execute("CREATE TABLE t (n)")
    reader = open_database(tmp_path / "a.db", vfs, synchronous="FULL")
    with reader:
        assert reader.execute("SELECT count(*) FROM t").get == 0
        writer.execute("INSERT INTO t VALUES (1)")
        assert reader.execute("SELECT count(*) FROM t").get == 0
    assert reader.execute("SELECT count(*) FROM t").get == 1
    reader.close()
    writer.close()


# The switch.


def test_a_full_disk_refuses_growth_until_there_is_room(tmp_path: Path, vfs: FaultVFS) -> None:
    ballast = tmp_path / "ballast"
    ballast.write_bytes(bytes(100_000))
    connection = open_database(tmp_path / "a.db", vfs, synchronous="FULL")
    connection.execute("CREATE TABLE t (pad BLOB)")
    vfs.limit_room(tmp_path, 20_000)
    with pytest.raises(apsw.FullError):
        for _ in range(10):
            connection.execute("INSERT INTO t VALUES (randomblob(3000))")
    rows = connection.execute("SELECT count(*) FROM t").get
    with pytest.raises(apsw.FullError):
        connection.execute("INSERT INTO t VALUES (randomblob(3000))")
    assert connection.execute("SELECT count(*) FROM t").get == rows
    ballast.unlink()
    connection.execute("INSERT INTO t VALUES (randomblob(3000))")
    assert connection.execute("SELECT count(*) FROM t").get == rows + 1
    connection.close()


def test_the_nth_sync_fails_and_later_ones_do_not(tmp_path: Path, vfs: FaultVFS) -> None:
    connection = open_database(tmp_path / "a.db", vfs, synchronous="FULL")
    connection.execute("CREATE TABLE t (n)")
    vfs.fail_sync("-wal", nth=2)
    connection.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(apsw.IOError):
        connection.execute("INSERT INTO t VALUES (2)")
    connection.execute("INSERT INTO t VALUES (3)")
    connection.close()


def test_every_later_write_fails_if_the_fault_lasts(tmp_path: Path, vfs: FaultVFS) -> None:
    connection = open_database(tmp_path / "a.db", vfs, synchronous="FULL")
    connection.execute("CREATE TABLE t (n)")
    vfs.fail_write("-wal", is_lasting=True)
    for _ in range(2):
        with pytest.raises(apsw.IOError):
            connection.execute("INSERT INTO t VALUES (1)")
    vfs.heal()
    connection.execute("INSERT INTO t VALUES (1)")
    connection.close()


def test_a_slow_sync_is_seen_before_it_happens(tmp_path: Path, vfs: FaultVFS) -> None:
    waited: list[str] = []
    vfs.before_sync = waited.append
    connection = open_database(tmp_path / "a.db", vfs, synchronous="FULL")
    connection.execute("CREATE TABLE t (n)")
    connection.close()
    assert str(tmp_path / "a.db-wal") in waited
    assert len(waited) == vfs.syncs
