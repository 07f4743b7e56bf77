"""A disk that says no: after a failed sync or write at the commit nothing more is claimed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from threading import Event, Thread

import apsw
import pytest

from clawnet.core.errors import OutcomeUnknown
from clawnet.core.units import Committed, Outcome, Put, Unit
from clawnet.engines.sqlite.engine import SqliteEngine
from clawnet.engines.sqlite.files import MARK_FILE
from clawnet.engines.sqlite.schema import LOG_FILE
from clawnet.testing.disk import Disk
from clawnet.testing.vfs import FaultVFS
from tests.faults.ledger import Asked, Ledger, audit, draft
from tests.faults.load import Load
from tests.faults.power import Bench, start_after_cut
from tests.faults.sqlite import close_on_broken_disk, open_sqlite

UNIT = Unit(
    drafts=tuple(
        draft(n, world="main", channel="public.a", type="x.message", key=f"k{n}", pad="p" * 9_000)
        for n in range(3)
    ),
    changes=(Put("grant/eve", '"all"'),),
)


def fail_everything(vfs: FaultVFS) -> None:
    vfs.fail_sync(is_lasting=True)
    vfs.fail_write(is_lasting=True)


BREAK: dict[str, Callable[[FaultVFS], None]] = {
    "sync": lambda vfs: vfs.fail_sync("log.db-wal"),
    "first write": lambda vfs: vfs.fail_write("log.db-wal"),
    "later write": lambda vfs: vfs.fail_write("log.db-wal", nth=6),
    "everything": fail_everything,
}


@pytest.mark.parametrize("fault", BREAK)
def test_an_engine_that_failed_says_nothing_more(tmp_path: Path, fault: str) -> None:
    with FaultVFS("failing") as vfs:
        engine = open_sqlite(tmp_path, vfs)
        ledger = Ledger()
        load = Load(1, ledger, note=lambda entry: None)
        for _ in range(20):
            load.step(engine)
        last_seq = engine.last_seq
        BREAK[fault](vfs)
        ledger.follow(Asked((UNIT,)))
        with pytest.raises(OutcomeUnknown):
            engine.commit([UNIT])
        vfs.heal()  # The disk says yes again, which proves nothing about what it was given.
        with pytest.raises(OutcomeUnknown):
            engine.commit([Unit(changes=(Put("grant/max", "1"),))])
        with pytest.raises(OutcomeUnknown):
            engine.trim_before(last_seq)
        with pytest.raises(OutcomeUnknown):
            engine.trim_channel("main", "public.a", keep=1)
        assert engine.last_seq == last_seq, "what is not certain is not shown"
        engine.close()

        engine = open_sqlite(tmp_path, vfs)
        audit(engine, ledger, random=Random(1))
        engine.close()


@pytest.mark.parametrize("fault", BREAK)
def test_a_power_cut_after_a_failed_commit_leaves_all_of_it_or_nothing(
    tmp_path: Path, fault: str
) -> None:
    live = tmp_path / "live"
    with FaultVFS("failing") as vfs:
        engine = open_sqlite(live, vfs)
        ledger = Ledger()
        load = Load(1, ledger, note=lambda entry: None)
        for _ in range(20):
            load.step(engine)
        mark = (live / MARK_FILE).read_bytes()
        BREAK[fault](vfs)
        ledger.follow(Asked((UNIT,)))
        with pytest.raises(OutcomeUnknown):
            engine.commit([UNIT])
        vfs.heal()
        failed_at = len(vfs.recording.ops)
        close_on_broken_disk(engine)
        ops = vfs.recording.ops
    random = Random(1)
    for seed in range(12):
        disk = Disk(seed)
        # Some cuts during the close that follows: it must not make things worse.
        for op in ops[: random.choice((failed_at, random.randint(failed_at, len(ops))))]:
            disk.apply(op)
        files = {**disk.after_power_cut(random), MARK_FILE: mark}
        cut = start_after_cut(live, files, ledger, open_engine=open_sqlite, random=random)
        assert cut.error is None, cut


def test_a_checkpoint_that_fails_loses_nothing(tmp_path: Path) -> None:
    """The sync that fails is that of log.db: what it was to save must be copied again."""

    def checkpoint_and_fail(
        engine: SqliteEngine, live: Path, vfs: FaultVFS, random: Random
    ) -> None:
        if random.random() < 0.2:
            vfs.heal()
            if random.random() < 0.7:
                vfs.fail_sync(LOG_FILE)
            connection = apsw.Connection(str(live / LOG_FILE), vfs=vfs.name)
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            try:
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
            except (apsw.IOError, apsw.BusyError):
                pass
            vfs.heal()
            connection.close()

    bench = Bench(tmp_path, open_sqlite, checkpoint_and_fail)
    cuts = list(bench.cuts(seed=1, generations=2, steps=60, count=30))
    assert not [str(cut) for cut in cuts if cut.error is not None]


def test_a_close_that_fails_loses_nothing(tmp_path: Path) -> None:
    ledger = Ledger()
    load = Load(1, ledger, note=lambda entry: None)
    with FaultVFS("failing") as vfs:
        engine = open_sqlite(tmp_path, vfs)
        for _ in range(30):
            load.step(engine)
        vfs.fail_sync(LOG_FILE, is_lasting=True)
        vfs.fail_write(LOG_FILE, is_lasting=True)
        close_on_broken_disk(engine)
        vfs.heal()
        engine = open_sqlite(tmp_path, vfs)
        audit(engine, ledger, random=Random(1))
        engine.close()


def test_reads_go_on_during_a_slow_sync_and_do_not_see_what_is_not_safe(tmp_path: Path) -> None:
    syncing, go_on = Event(), Event()

    def hold(path: str) -> None:
        if path.endswith("log.db-wal"):
            syncing.set()
            assert go_on.wait(30)

    with FaultVFS("slow") as vfs:
        engine = open_sqlite(tmp_path, vfs)
        engine.commit([Unit(drafts=(draft(9, world="main", channel="public.a", type="x.a"),))])
        vfs.before_sync = hold
        outcomes: list[Outcome] = []
        committing = Thread(target=lambda: outcomes.extend(engine.commit([UNIT])))
        committing.start()
        try:
            assert syncing.wait(30)
            assert engine.read_channel("main", "public.a").count == 1
            assert engine.last_seq == 1
            assert engine.scan("grant") == []
            head = engine.channel("main", "public.a")
            assert head is not None
            assert head.last == 1
            assert UNIT.drafts[0].identity is not None
            assert engine.find(UNIT.drafts[0].identity) is None
        finally:
            go_on.set()
            committing.join()
        assert isinstance(outcomes[0], Committed)
        assert engine.read_channel("main", "public.a").count == 4
        engine.close()
