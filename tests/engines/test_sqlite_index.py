"""The index is disposable: whatever is wrong with it, reads and dedupe stay right."""

import threading

import apsw
import msgspec
import pytest

from clawnet.core.errors import DedupeConflict, Unavailable
from clawnet.core.events import Existing
from clawnet.core.trace import chain_keys, correlation_key, trace_key
from clawnet.core.units import Committed, Unit
from clawnet.engines.sqlite import engine as engine_module
from clawnet.engines.sqlite import indexer as indexer_module
from clawnet.testing.drafts import WORLD, draft, publish
from clawnet.testing.log_suite import committed, lines, read_all, stored, texts, trimmed
from tests.engines.sqlite_storage import SqliteStorage

ROOMS = [f"room.r{i}" for i in range(10)]


@pytest.fixture
def storage(tmp_path):
    storage = SqliteStorage(tmp_path / "data")
    yield storage
    storage.close()


def fill(engine, count=3_000):
    """Events over ten channels, each with a key of its own; indexed."""
    events = []
    for first in range(0, count, 500):
        units = [publish(ROOMS[i % 10], str(i), key=f"k{i}") for i in range(first, first + 500)]
        events += stored(engine, *units)
    assert engine.settle()
    return events


def assert_whole(engine, events):
    """Everything is found by every way, and every key is known."""

    def forward(room):
        return lambda after: engine.read_channel(WORLD, room, after=after)

    for room in ROOMS:
        got = read_all(forward(room), start=0)
        assert got == texts([event for event in events if event.channel == room])
    backwards = read_all(
        lambda before: engine.read_channel_reverse(WORLD, ROOMS[0], before=before), start=1 << 40
    )
    assert backwards == texts([event for event in events if event.channel == ROOMS[0]])[::-1]
    numbers = range(0, len(events), 97)
    outcomes = committed(engine, *[publish(ROOMS[i % 10], str(i), key=f"k{i}") for i in numbers])
    for i, outcome in zip(numbers, outcomes, strict=True):
        (existing,) = outcome.events
        assert isinstance(existing, Existing)
        assert (existing.seq, existing.id) == (events[i].seq, events[i].id)
    (conflict,) = engine.commit([publish(ROOMS[0], '"other"', key="k0")])
    assert isinstance(conflict, DedupeConflict)
    assert engine.last_seq == events[-1].seq


def index_files(storage):
    return sorted(storage.folder.glob("index.db*"))


def test_a_clean_start_uses_the_index_as_it_is(storage):
    events = fill(storage.open())
    storage.close()
    engine = storage.open()
    assert engine._index.indexed_seq == len(events)
    assert_whole(engine, events)


def test_a_deleted_index_is_made_anew(storage):
    events = fill(storage.open())
    storage.close()
    for path in index_files(storage):
        path.unlink()
    engine = storage.open()
    assert_whole(engine, events)
    assert engine.settle()
    assert_whole(engine, events)


@pytest.mark.parametrize("content", [b"", b"no database at all" * 1_000])
def test_what_is_no_index_is_replaced(storage, content):
    events = fill(storage.open())
    storage.close()
    (storage.folder / "index.db").write_bytes(content)
    engine = storage.open()
    assert engine.settle()
    assert_whole(engine, events)


def test_a_torn_index_is_noticed_by_who_reads_it_and_made_anew(storage):
    events = fill(storage.open())
    storage.close()
    path = storage.folder / "index.db"
    content = bytearray(path.read_bytes())
    # The first page with the schema stays; the pages of the tables do not.
    content[4_096 * 6 :] = b"\xa5" * (len(content) - 4_096 * 6)
    path.write_bytes(content)
    engine = storage.open()
    assert_whole(engine, events)
    assert engine.settle()
    assert engine._readers.is_indexed
    assert_whole(engine, events)


def test_a_truncated_index_is_made_anew(storage):
    events = fill(storage.open())
    storage.close()
    path = storage.folder / "index.db"
    path.write_bytes(path.read_bytes()[: 4_096 * 5])
    engine = storage.open()
    assert_whole(engine, events)


def test_an_index_that_is_damaged_while_in_use_is_made_anew(storage):
    engine = storage.open()
    events = fill(engine)
    engine._indexer.broken()
    assert_whole(engine, events)
    assert engine.settle()
    assert_whole(engine, events)


def test_a_stale_index_catches_up(storage):
    engine = storage.open()
    events = fill(engine, 1_000)
    storage.close()
    old = (storage.folder / "index.db").read_bytes()
    engine = storage.open()
    events += stored(
        engine, *[publish(ROOMS[i % 10], str(i), key=f"k{i}") for i in range(1_000, 1_500)]
    )
    storage.close()
    (storage.folder / "index.db").write_bytes(old)
    engine = storage.open()
    assert engine._index.indexed_seq == 1_500, "so little is added before the start is over"
    assert_whole(engine, events)


def test_an_index_of_another_log_is_not_believed(storage, tmp_path):
    other = SqliteStorage(tmp_path / "other")
    other.randomness._seed = "another"
    stored(other.open(), *[publish("room.z", key=f"k{i}") for i in range(300)])
    other.close()
    events = fill(storage.open(), 500)
    storage.close()
    (storage.folder / "index.db").write_bytes((other.folder / "index.db").read_bytes())
    engine = storage.open()
    assert_whole(engine, events)


def test_an_index_that_is_ahead_of_an_older_log_is_not_believed(storage):
    engine = storage.open()
    events = fill(engine, 500)
    storage.close()
    log = (storage.folder / "log.db").read_bytes()
    fill_more = storage.open()
    stored(fill_more, *[publish(ROOMS[i % 10], f'"lost {i}"', key=f"lost{i}") for i in range(200)])
    storage.close()
    (storage.folder / "log.db").write_bytes(log)
    engine = storage.open()
    assert engine.last_seq == 500
    (event,) = stored(engine, publish(ROOMS[0], "1", key="lost0"))
    assert (event.seq, event.offset) == (501, 51)
    events.append(event)
    got = engine.read_channel(WORLD, ROOMS[0], after=49)
    assert lines(got) == texts([events[490], event])


def test_while_a_large_log_is_indexed_a_key_cannot_be_judged_and_nothing_is_guessed(
    storage, monkeypatch
):
    engine = storage.open()
    events = fill(engine, 1_000)
    monkeypatch.setattr(engine_module, "SCAN_MAX_EVENTS", 100)
    # As if the index were being made anew and had got nowhere yet.
    monkeypatch.setattr(engine._index, "fill", lambda up_to_seq: None)
    engine._index.indexed_seq = 0
    engine._readers.renew(is_indexed=False)
    engine._ledger.recent, engine._ledger.older = {}, {}
    with pytest.raises(Unavailable) as refused:
        engine.find(draft(ROOMS[0], key="k0").identity)
    assert refused.value.retry_after_s
    keyed, plain = engine.commit([publish(ROOMS[0], "0", key="k0"), publish(ROOMS[0], "7")])
    assert isinstance(keyed, Unavailable)
    assert keyed.retryable
    assert isinstance(plain, Committed)
    assert plain.events[0].offset == 101
    monkeypatch.undo()
    engine._indexer.broken()
    assert engine.settle()
    (outcome,) = committed(engine, publish(ROOMS[0], "0", key="k0"))
    assert outcome.events[0].seq == events[0].seq


def test_a_tail_that_nobody_indexes_does_not_grow_without_end(storage, monkeypatch):
    monkeypatch.setattr(indexer_module, "TAIL_MAX_EVENTS", 1_000)
    engine = storage.open()

    def fail(up_to_seq):
        raise apsw.FullError("no room for the index")

    monkeypatch.setattr(engine._index, "fill", fail)
    monkeypatch.setattr(indexer_module, "GATHER_EVENTS", 100)
    monkeypatch.setattr(indexer_module, "GATHER_S", 0.001)
    events = []
    for first in range(0, 5_000, 250):
        units = [publish(ROOMS[i % 10], str(i), key=f"k{i}") for i in range(first, first + 250)]
        events += stored(engine, *units)
    assert engine._tail.count <= 1_500
    assert_whole(engine, events)


def test_an_error_that_nobody_thought_of_does_not_end_the_indexer(storage, monkeypatch):
    monkeypatch.setattr(indexer_module, "RETRY_S", 0.01)
    engine = storage.open()
    events = fill(engine, 500)
    fill_index, failed = engine._index.fill, threading.Event()

    def fail(up_to_seq):
        failed.set()
        raise apsw.ReadOnlyError("attempt to write a readonly database")

    monkeypatch.setattr(engine._index, "fill", fail)
    events += stored(engine, publish(ROOMS[0], "500", key="k500"))
    engine._indexer._enough.set()
    assert failed.wait(10)
    with engine._indexer._progress:
        assert engine._indexer._progress.wait_for(lambda: engine._indexer._is_failing, timeout=10)
    assert not engine.settle(timeout_s=0)
    monkeypatch.setattr(engine._index, "fill", fill_index)
    assert engine.settle(timeout_s=10)
    assert_whole(engine, events)


def test_an_error_that_nobody_thought_of_does_not_end_the_checkpointer(storage, monkeypatch):
    monkeypatch.setattr("clawnet.engines.sqlite.checkpoints.RETRY_S", 0.01)
    failed, tried_again = threading.Event(), threading.Event()
    answers = iter((apsw.ReadOnlyError("no"), ValueError("nobody thought of this")))

    def fail(*args, **kwargs):
        error = next(answers, None)
        (failed if error else tried_again).set()
        raise error or apsw.BusyError("as usual")

    monkeypatch.setattr("clawnet.engines.sqlite.checkpoints.open_database", fail)
    engine = storage.open()
    engine._checkpointer.ask()
    assert failed.wait(10)
    engine._checkpointer.ask()
    assert tried_again.wait(10)


def test_rows_of_removed_events_are_cleaned_behind(storage, monkeypatch):
    monkeypatch.setattr(indexer_module, "SWEEP_MIN_EVENTS", 1)
    monkeypatch.setattr("clawnet.engines.sqlite.index.SWEEP_ROWS", 100)
    engine = storage.open()
    events = fill(engine)
    assert trimmed(lambda: engine.trim_before(2_500)) == 2_500
    stored(engine, publish(ROOMS[0], "1", key="more"))
    assert engine.settle()
    engine.close()
    connection = apsw.Connection(str(storage.folder / "index.db"))
    for table in ("by_channel", "dedupe"):
        assert connection.execute(f"SELECT count(*) FROM {table}").get < 600
    connection.close()
    engine = storage.open()
    (again,) = stored(engine, publish(ROOMS[0], "0", key="k0"))
    assert again.seq == len(events) + 2


def test_dedupe_survives_a_collision_of_the_indexed_half(storage):
    """The index holds 64 bits of an identity; the log has all of it and decides."""
    engine = storage.open()
    base = draft(key="k")
    one = msgspec.structs.replace(base, identity=b"samesame" + b"1" * 8)
    two = msgspec.structs.replace(base, identity=b"samesame" + b"2" * 8)
    first, second = stored(engine, Unit(drafts=(one,)), Unit(drafts=(two,)))
    assert engine.settle()
    again, other = committed(engine, Unit(drafts=(two,)), Unit(drafts=(one,)))
    assert (again.events[0].seq, other.events[0].seq) == (second.seq, first.seq)


def chained(n):
    """An event of one chain by correlation id, of another by trace, or of none, in turn."""
    return (
        draft(ROOMS[n % 10], str(n)),
        draft(ROOMS[n % 10], str(n), correlation_id=f"c{n % 5}"),
        draft(ROOMS[n % 10], str(n), traceparent=f"00-{n % 7 + 1:032x}-00f067aa0ba902b7-01"),
    )[n % 3]


def fill_chained(engine, count=900):
    return stored(engine, *[Unit(drafts=(chained(n),)) for n in range(count)])


def assert_chains(engine, events):
    keys = {correlation_key(f"c{n}") for n in range(5)} | {
        trace_key(f"{n + 1:032x}") for n in range(7)
    }
    found = 0
    for key in keys:
        at = {n for n in range(900) if key in chain_keys(chained(n))}
        wanted = texts([event for event in events if event.seq - 1 in at])
        assert lines(engine.correlated(WORLD, key)) == wanted
        found += len(wanted)
    return found


def test_an_index_of_before_there_were_chains_is_made_anew(storage):
    """What version 1 was: all but by_key, over this very log."""
    events = fill_chained(storage.open())
    storage.close()
    connection = apsw.Connection(str(storage.folder / "index.db"))
    connection.execute("DROP TABLE by_key")
    connection.pragma("user_version", 1)
    connection.close()
    engine = storage.open()
    assert assert_chains(engine, events) == 600
    assert engine.settle()
    assert engine._index.indexed_seq == 900
    engine._tail.clear(900)
    assert assert_chains(engine, events) == 600


def test_an_index_without_its_chains_is_not_believed(storage):
    events = fill_chained(storage.open())
    storage.close()
    connection = apsw.Connection(str(storage.folder / "index.db"))
    connection.execute("DROP TABLE by_key")
    connection.close()
    assert assert_chains(storage.open(), events) == 600


def test_only_events_with_a_key_are_in_the_index_of_chains(storage):
    fill_chained(storage.open())
    storage.close()
    connection = apsw.Connection(str(storage.folder / "index.db"))
    assert connection.execute("SELECT count(*) FROM by_key").get == 600
    assert connection.execute("SELECT count(*) FROM by_channel").get == 900
    connection.close()


def test_chains_are_found_while_there_is_no_index(storage):
    engine = storage.open()
    events = fill_chained(engine)
    with engine._lock:
        engine._tail.clear(engine.last_seq)
    engine._readers.renew(is_indexed=False)
    assert assert_chains(engine, events) == 600


def test_trimmed_events_leave_the_index_of_chains(storage, monkeypatch):
    monkeypatch.setattr(indexer_module, "SWEEP_MIN_EVENTS", 1)
    monkeypatch.setattr("clawnet.engines.sqlite.index.SWEEP_ROWS", 100)
    engine = storage.open()
    events = fill_chained(engine)
    assert engine.settle()
    assert trimmed(lambda: engine.trim_before(600)) == 600
    assert assert_chains(engine, events[600:]) == 200
    assert engine.settle()
    engine.close()
    connection = apsw.Connection(str(storage.folder / "index.db"))
    assert connection.execute("SELECT count(*) FROM by_key").get == 200
    connection.close()
