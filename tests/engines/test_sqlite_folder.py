"""The data folder: one engine at a time, older copies, restores, versions, the WAL."""

import itertools
import os
import shutil
import threading
from pathlib import Path

import apsw
import pytest

from clawnet.core.cursors import Cursor
from clawnet.core.errors import AlreadyRunning, StorageCorrupt
from clawnet.core.positions import branch_of, resolve
from clawnet.core.units import Put, Unit
from clawnet.engines.sqlite import backups as backups_module
from clawnet.engines.sqlite import restore
from clawnet.engines.sqlite.connections import migrate
from clawnet.engines.sqlite.schema import MIGRATIONS
from clawnet.testing.drafts import WORLD, publish
from clawnet.testing.log_suite import committed, lines, stored, texts
from tests.engines.sqlite_storage import SqliteStorage


@pytest.fixture
def storage(tmp_path):
    storage = SqliteStorage(tmp_path / "data")
    yield storage
    storage.close()


def quiet(done, total):
    assert 0 <= done <= total


# One at a time.


def test_a_second_engine_is_refused_with_the_process_that_has_the_folder(storage):
    storage.open()
    second = SqliteStorage(storage.folder)
    with pytest.raises(AlreadyRunning, match=rf"process id {os.getpid()} "):
        second.open()
    storage.close()
    second.open()
    second.close()


def test_a_start_that_fails_gives_the_lock_back(storage):
    storage.open()
    storage.close()
    (storage.folder / "log.db").write_bytes(b"this was a database once" * 500)
    for _ in range(2):
        with pytest.raises(StorageCorrupt):
            storage.open()


# Older copies.


def test_a_log_put_back_to_an_older_copy_begins_a_new_epoch(storage):
    engine = storage.open()
    events = stored(engine, publish(), publish())
    old_epoch = engine.epoch
    storage.close()
    log = (storage.folder / "log.db").read_bytes()
    stored(storage.open(), publish())
    storage.close()
    (storage.folder / "log.db").write_bytes(log)
    engine = storage.open()
    assert engine.epoch != old_epoch
    assert [start.epoch for start in engine.epochs] == [old_epoch, engine.epoch]
    assert engine.epochs[-1].first_seq == 3
    # What a cursor of the old epoch says below the branch still holds, and above it does not.
    assert branch_of(old_epoch, epochs=engine.epochs, last_seq=engine.last_seq) == 2
    assert lines(engine.read_channel(WORLD, "room.a")) == texts(events)
    (event,) = stored(engine, publish())
    assert (event.seq, event.offset, event.epoch) == (3, 3, f"{engine.epoch}.1")
    assert lines(engine.read_channel(WORLD, "room.a")) == texts([*events, event])


def test_a_whole_folder_put_back_to_an_older_copy_begins_a_new_epoch(storage, tmp_path):
    engine = storage.open()
    stored(engine, publish())
    old_epoch = engine.epoch
    storage.close()
    shutil.copytree(storage.folder, tmp_path / "copy")
    stored(storage.open(), publish())
    storage.close()
    shutil.rmtree(storage.folder)
    shutil.copytree(tmp_path / "copy", storage.folder)
    engine = storage.open()
    assert engine.epoch != old_epoch
    assert engine.epochs[-1].first_seq == 2


def test_a_folder_that_is_only_moved_keeps_its_epoch(storage, tmp_path):
    epoch = storage.open().epoch
    storage.close()
    storage.folder = storage.folder.rename(tmp_path / "elsewhere")
    assert storage.open().epoch == epoch


@pytest.mark.parametrize("name", ["high-water", "birthmark"])
def test_without_its_marks_a_log_is_not_trusted_to_be_the_newest(storage, name):
    epoch = storage.open().epoch
    storage.close()
    (storage.folder / name).unlink()
    assert storage.open().epoch != epoch
    epoch = storage.engine.epoch
    assert storage.open().epoch == epoch


def test_a_torn_mark_is_no_mark(storage):
    epoch = storage.open().epoch
    storage.close()
    mark = storage.folder / "high-water"
    mark.write_bytes(b"9" + mark.read_bytes()[1:])
    assert storage.open().epoch != epoch


# Backups and restores.


def test_a_backup_ends_under_writes_and_holds_them(storage, tmp_path):
    engine = storage.open()
    for _ in range(20):
        stored(engine, *[publish(data=f'"{"x" * 2_000}"') for _ in range(100)])
    target = tmp_path / "copy.db"
    steps = 0
    for done, total in engine.backup_steps(target):
        quiet(done, total)
        stored(engine, *[publish(data=f'"{"y" * 2_000}"') for _ in range(20)])
        steps += 1
        assert not target.exists()
        assert steps < 100
    assert steps > 1
    connection = apsw.Connection(str(target))
    assert connection.execute("SELECT max(seq) FROM log").get >= 2_000 + 20 * (steps - 1)
    assert connection.execute("PRAGMA integrity_check").get == "ok"
    connection.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.db", "data"]


def test_a_backup_that_is_broken_off_leaves_nothing(storage, tmp_path):
    engine = storage.open()
    stored(engine, publish())
    steps = engine.backup_steps(tmp_path / "copy.db")
    next(steps)
    steps.close()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_restore_begins_a_new_epoch_and_keeps_the_lineage(storage, tmp_path):
    engine = storage.open()
    events = stored(engine, publish(key="a"), publish(key="b"))
    committed(engine, Unit(changes=(Put("room/a", "1"),)))
    engine.backup(tmp_path / "first.db", progress=quiet)
    stored(engine, publish(key="c"))
    storage.close()
    epochs = [engine.epoch]
    for _ in range(2):
        restore(tmp_path / "first.db", storage.folder, progress=quiet)
        engine = storage.open()
        epochs.append(engine.epoch)
        assert [start.epoch for start in engine.epochs] == epochs
        assert engine.epochs[-1].first_seq == 3
        assert [branch_of(e, epochs=engine.epochs, last_seq=2) for e in epochs] == [2] * len(epochs)
        assert lines(engine.read_channel(WORLD, "room.a")) == texts(events)
        assert [entry.value for entry in engine.scan("room")] == ["1"]
        (event,) = stored(engine, publish(key="c"))
        assert event.seq == 3
        assert engine.settle()
        storage.close()
    assert (storage.folder / "log.db.replaced").exists()


class Branches:
    """A log that is restored to and fro, with all cursors that it ever gave."""

    def __init__(self, storage, tmp_path):
        self._storage, self._path = storage, tmp_path
        self.engine = storage.open()
        self.given = {}

    def publish(self, count):
        stored(self.engine, *[publish() for _ in range(count)])
        # The hub names older events by the present epoch, too.
        for seq in range(1, self.engine.last_seq + 1):
            self.given[self.engine.epoch, seq] = self.engine.get(WORLD, seq)

    def back_up(self, name):
        self.engine.backup(self._path / name, progress=quiet)

    def restore(self, name):
        self._storage.close()
        restore(self._path / name, self._storage.folder)
        self.engine = self._storage.open()

    def begin_epoch(self):
        """As after a rollback to a snapshot."""
        self._storage.close()
        (self._storage.folder / "high-water").unlink()
        self.engine = self._storage.open()

    def check(self):
        """What counts as good names the event that it was given for, in its epoch."""
        epochs, last_seq = self.engine.epochs, self.engine.last_seq
        good = 0
        for (epoch, seq), text in self.given.items():
            resolved = resolve(Cursor(epoch, seq), epochs=epochs, last_seq=last_seq)
            if resolved.seq == seq:
                assert self.engine.get(WORLD, seq) == text
                good += 1
        assert good > 0


@pytest.mark.parametrize("order", list(itertools.product("abcd", repeat=3)), ids="".join)
def test_a_good_cursor_names_its_event_whatever_was_restored_before(storage, tmp_path, order):
    log = Branches(storage, tmp_path)
    log.publish(10)
    log.back_up("a")
    log.publish(1)
    log.back_up("b")
    log.publish(4)
    log.back_up("c")
    log.restore("a")
    log.publish(3)
    log.begin_epoch()
    log.publish(3)
    log.back_up("d")
    log.check()
    for number, name in enumerate(order):
        log.restore(name)
        log.check()
        log.publish(2 + 3 * number)
        log.check()


def test_epochs_that_left_before_the_end_of_a_newer_copy_are_not_known_any_more(storage, tmp_path):
    log = Branches(storage, tmp_path)
    log.publish(10)
    log.back_up("older")
    log.publish(4)
    log.back_up("newer")
    log.restore("older")
    log.publish(2)
    branch = log.engine.epoch
    log.restore("newer")
    epochs, last_seq = log.engine.epochs, log.engine.last_seq
    resolved = resolve(Cursor(branch, 12), epochs=epochs, last_seq=last_seq)
    assert (resolved.seq, resolved.lost) == (0, (1, 12))
    log.check()


def test_a_restore_never_deletes_what_an_earlier_one_replaced(storage, tmp_path):
    engine = storage.open()
    stored(engine, publish(data='"first"'))
    engine.backup(tmp_path / "copy.db", progress=quiet)
    for data in ('"precious"', '"second"', '"third"'):
        stored(storage.open(), publish(data=data))
        storage.close()
        restore(tmp_path / "copy.db", storage.folder)
    kept = sorted(path.name for path in storage.folder.glob("log.db.replaced*"))
    assert kept == ["log.db.replaced", "log.db.replaced-2", "log.db.replaced-3"]
    for name, data in zip(kept, ('"precious"', '"second"', '"third"'), strict=True):
        connection = apsw.Connection(str(storage.folder / name))
        assert connection.execute("SELECT data FROM log ORDER BY seq DESC LIMIT 1").get == data
        connection.close()


def test_a_copy_and_a_restored_log_are_nobody_elses_to_read(storage, tmp_path):
    engine = storage.open()
    stored(engine, publish())
    engine.backup(tmp_path / "copy.db", progress=quiet)
    storage.close()
    restore(tmp_path / "copy.db", storage.folder)
    for path in (tmp_path / "copy.db", storage.folder / "log.db"):
        assert path.stat().st_mode & 0o777 == 0o600


class PowerCut(Exception):
    pass


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_restore_that_is_cut_off_at_any_step_leaves_one_of_the_logs_or_refuses(
    storage, tmp_path, monkeypatch, is_damaged
):
    engine = storage.open()
    stored(engine, publish(data='"copied"'))
    engine.backup(tmp_path / "copy.db", progress=quiet)
    stored(engine, publish(data='"precious"'))
    storage.close()
    before = tmp_path / "before"
    shutil.copytree(storage.folder, before)
    rename = Path.replace
    endings = []
    for allowed in itertools.count():
        shutil.rmtree(storage.folder)
        shutil.copytree(before, storage.folder)
        if is_damaged:
            # A WAL that no reader can fold in, so it has to be moved.
            (storage.folder / "log.db").write_bytes(b"this was a database once" * 500)
            (storage.folder / "log.db-wal").write_bytes(b"and this its WAL")
        left = itertools.count(allowed, -1)

        def cut(path, target, left=left):
            if next(left) <= 0:
                raise PowerCut
            return rename(path, target)

        monkeypatch.setattr(Path, "replace", cut)
        monkeypatch.setattr(backups_module, "_remove_database", lambda path: None)
        try:
            restore(tmp_path / "copy.db", storage.folder)
            is_done = True
        except PowerCut:
            is_done = False
        monkeypatch.undo()
        try:
            engine = storage.open()
            endings.append(lines(engine.read_channel(WORLD, "room.a"))[-1].decode())
            storage.close()
        except StorageCorrupt as error:
            endings.append(str(error))
        if is_done:
            break
        # Whatever was left, the same restore again ends it.
        restore(tmp_path / "copy.db", storage.folder)
        assert '"copied"' in lines(storage.open().read_channel(WORLD, "room.a"))[-1].decode()
        storage.close()
    assert '"copied"' in endings[-1]
    assert any("log.db is missing" in ending for ending in endings)
    for ending in endings[:-1]:
        assert '"precious"' in ending or "missing" in ending or "damaged" in ending


@pytest.mark.parametrize("is_empty", [False, True])
def test_a_log_that_is_gone_is_not_taken_for_one_that_never_was(storage, is_empty):
    engine = storage.open()
    stored(engine, publish())
    storage.close()
    (storage.folder / "log.db").unlink()
    if is_empty:
        (storage.folder / "log.db").touch()
    with pytest.raises(StorageCorrupt, match=r"log\.db is missing or empty.*high-water") as refused:
        storage.open()
    assert "high-water" in str(refused.value.next)
    (storage.folder / "high-water").unlink()
    assert storage.open().last_seq == 0


def test_a_folder_in_which_nothing_was_ever_written_may_begin_anew(storage):
    storage.open()
    storage.close()
    (storage.folder / "log.db").unlink()
    assert storage.open().last_seq == 0


def test_a_restore_into_a_new_folder_is_the_same_log_anew(storage, tmp_path):
    engine = storage.open()
    events = stored(engine, publish())
    engine.backup(tmp_path / "copy.db", progress=quiet)
    restore(tmp_path / "copy.db", tmp_path / "other")
    other = SqliteStorage(tmp_path / "other")
    # Its own chance: two hubs never give the same epoch.
    other.randomness._seed = "other"
    again = other.open()
    assert again.epochs[0] == engine.epochs[0]
    assert again.epoch != engine.epoch
    assert lines(again.read_channel(WORLD, "room.a")) == texts(events)
    other.close()


def test_a_restore_refuses_while_a_hub_runs(storage, tmp_path):
    engine = storage.open()
    engine.backup(tmp_path / "copy.db", progress=quiet)
    with pytest.raises(AlreadyRunning):
        restore(tmp_path / "copy.db", storage.folder)


def test_a_damaged_backup_is_refused_and_changes_nothing(storage, tmp_path):
    engine = storage.open()
    for _ in range(20):
        stored(engine, *[publish(data=f'"{"x" * 500}"') for _ in range(100)])
    engine.backup(tmp_path / "copy.db", progress=quiet)
    epoch = engine.epoch
    storage.close()
    content = bytearray((tmp_path / "copy.db").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 9_000] = b"\x5a" * 9_000
    for name, damaged in (("a", content), ("b", content[:9_000]), ("c", b"text" * 3_000)):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(StorageCorrupt):
            restore(tmp_path / name, storage.folder)
    engine = storage.open()
    assert (engine.epoch, engine.last_seq) == (epoch, 2_000)


# Versions of the file.


def test_an_older_file_is_brought_up_to_date_step_by_step(tmp_path):
    connection = apsw.Connection(str(tmp_path / "log.db"))
    migrate(connection, MIGRATIONS[:1], name="log.db")
    connection.execute("INSERT INTO epochs VALUES (1, 'abc', 1)")
    assert connection.pragma("user_version") == 1

    def add_column(connection):
        connection.execute("ALTER TABLE epochs ADD COLUMN note TEXT NOT NULL DEFAULT 'old'")

    def rename(connection):
        connection.execute("UPDATE epochs SET note = note || ' and renamed'")

    migrate(connection, [*MIGRATIONS[:1], add_column, rename], name="log.db")
    assert connection.execute("SELECT epoch, note FROM epochs").fetchall() == [
        ("abc", "old and renamed")
    ]
    assert connection.pragma("user_version") == 3
    connection.close()


def test_a_migration_that_fails_leaves_the_version_before_it(tmp_path):
    connection = apsw.Connection(str(tmp_path / "log.db"))

    def half(connection):
        connection.execute("CREATE TABLE half(x)")
        raise ValueError("the power went")

    with pytest.raises(ValueError, match="power"):
        migrate(connection, [*MIGRATIONS[:1], half], name="log.db")
    assert connection.pragma("user_version") == 1
    assert not connection.table_exists(None, "half")
    connection.close()


def test_a_file_of_version_1_opens_with_everything_in_it(storage):
    """The first version as a fixture: later ones must still take it."""
    storage.folder.mkdir()
    connection = apsw.Connection(str(storage.folder / "log.db"))
    migrate(connection, MIGRATIONS[:1], name="log.db")
    with connection:
        connection.execute("INSERT INTO channels VALUES (7, 'main', 'room.a', 1, 1, 1, 1, 5, 0, 0)")
        connection.execute(
            "INSERT INTO log VALUES (1, 7, 1, 5, 'x.message', 'ada', NULL, NULL, NULL, ?, '{}')",
            ('"id":"evt_1","ts":"t"',),
        )
        connection.execute("INSERT INTO epochs VALUES (1, 'abc', 1)")
        connection.execute("INSERT INTO state VALUES ('room/a', '1', 4)")
    connection.close()
    engine = storage.open()
    assert engine.read_channel(WORLD, "room.a").body == (
        b'{"seq":1,"channel":"room.a","offset":1,"epoch":"abc.1","id":"evt_1","ts":"t","data":{}}'
    )
    assert engine.scan("room")[0].revision == 4
    (event,) = stored(engine, publish("room.b"))
    assert event.seq == 2


def test_a_newer_file_is_refused(storage):
    storage.open()
    storage.close()
    connection = apsw.Connection(str(storage.folder / "log.db"))
    connection.pragma("user_version", 99)
    connection.close()
    with pytest.raises(StorageCorrupt, match="version 99"):
        storage.open()


# Heads are written behind.


def test_heads_are_right_after_a_crash_at_any_point_of_a_round(storage, tmp_path, monkeypatch):
    monkeypatch.setattr("clawnet.engines.sqlite.heads.ROUND_EVENTS", 40)
    monkeypatch.setattr("clawnet.engines.sqlite.heads.ROWS_PER_COMMIT", 3)
    engine = storage.open()
    crash = tmp_path / "crash"
    for turn in range(60):
        stored(engine, *[publish(f"room.r{(turn * 7 + i) % 23}") for i in range(5)])
        if turn % 9 == 0:
            engine.trim_before(turn * 2)
        if turn % 4:
            continue
        crash.mkdir()
        for path in storage.folder.glob("log.db*"):
            if not path.name.endswith("-shm"):
                shutil.copyfile(path, crash / path.name)
        copy = SqliteStorage(crash)
        there = copy.open()
        expected = engine.channels(WORLD, after="", limit=100)
        got = there.channels(WORLD, after="", limit=100)
        assert [(h.name, h.first, h.last, h.last_seq) for h in got] == [
            (h.name, h.first, h.last, h.last_seq) for h in expected
        ]
        # And once more, after an orderly end.
        again = copy.open().channels(WORLD, after="", limit=100)
        assert [(h.name, h.last) for h in again] == [(h.name, h.last) for h in got]
        copy.close()
        shutil.rmtree(crash)


# The write-ahead log.


def test_the_wal_stays_bounded_while_readers_page_through_everything(storage, monkeypatch):
    monkeypatch.setattr("clawnet.engines.sqlite.writer.WAL_PAGES_MAX", 512)
    engine = storage.open()
    engine._writer._restart_at_pages = 512
    stop = threading.Event()
    problems = []

    def read_on():
        after = 0
        try:
            while not stop.is_set():
                chunk = engine.read_log(WORLD, frozenset({"room.a"}), after_seq=after)
                after = 0 if chunk.is_end else chunk.seq
        except BaseException as error:
            problems.append(error)

    readers = [threading.Thread(target=read_on) for _ in range(2)]
    for reader in readers:
        reader.start()
    largest = 0
    for _ in range(120):
        stored(engine, *[publish(data=f'"{"x" * 2_000}"') for _ in range(50)])
        largest = max(largest, engine._writer.wal_pages)
    stop.set()
    for reader in readers:
        reader.join()
    assert problems == []
    # 120 groups write some 4,000 pages. Readers may put a restart off, but not for long.
    assert largest < 2_000
