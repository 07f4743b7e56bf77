"""The power goes at any moment: what was acknowledged is there, and nothing is there by half."""

from __future__ import annotations

from pathlib import Path
from random import Random

import apsw
import pytest

from clawnet.engines.sqlite.engine import SqliteEngine
from clawnet.engines.sqlite.schema import INDEX_FILE, LOG_FILE
from clawnet.testing.vfs import FaultVFS
from tests.faults.power import Bench, Cut
from tests.faults.sqlite import open_sqlite

MODES = (
    apsw.SQLITE_CHECKPOINT_PASSIVE,
    apsw.SQLITE_CHECKPOINT_PASSIVE,
    apsw.SQLITE_CHECKPOINT_RESTART,
    apsw.SQLITE_CHECKPOINT_TRUNCATE,
)


def disturb(engine: SqliteEngine, live: Path, vfs: FaultVFS, random: Random) -> None:
    """The load is too small for the engine's own checkpoints and index batches to begin."""
    if random.random() < 0.05:
        assert engine.settle(timeout_s=30)
    if random.random() < 0.1:
        name = random.choice((LOG_FILE, LOG_FILE, LOG_FILE, INDEX_FILE))
        connection = apsw.Connection(str(live / name), vfs=vfs.name)
        connection.pragma("synchronous", "full" if name == LOG_FILE else "normal")
        # Until it has read something, it does not know of the WAL and checkpoints nothing.
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        try:
            connection.wal_checkpoint(mode=random.choice(MODES))
        except apsw.BusyError:
            pass  # A reader of the engine's holds it up, for a moment.
        connection.close()


def run(folder: Path, *, seeds: range, count: int, generations: int = 5) -> list[Cut]:
    bench = Bench(folder, open_sqlite, disturb)
    return [
        cut
        for seed in seeds
        for cut in bench.cuts(seed=seed, generations=generations, steps=40, count=count)
    ]


def check(cuts: list[Cut]) -> None:
    broken = [str(cut) for cut in cuts if cut.error is not None]
    assert not broken, "\n".join(broken)
    # The cuts fell where it hurts, or the test says nothing.
    assert any(cut.is_in_flight and cut.has_stored_in_flight for cut in cuts)
    assert any(cut.is_in_flight and not cut.has_stored_in_flight for cut in cuts)


def test_500_power_cuts_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    cuts = run(tmp_path, seeds=range(1, 5), count=25)
    check(cuts)
    assert len(cuts) == 500


def test_power_cuts_inside_a_round_of_heads_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load is too small for the engine's own rounds, so these are as much smaller."""
    monkeypatch.setattr("clawnet.engines.sqlite.heads.ROUND_EVENTS", 20)
    monkeypatch.setattr("clawnet.engines.sqlite.heads.ROWS_PER_COMMIT", 2)
    cuts = run(tmp_path, seeds=range(11, 13), count=25)
    check(cuts)
    assert any(cut.is_in_round for cut in cuts)
    assert any(not cut.is_in_round for cut in cuts)


@pytest.mark.soak
def test_20000_power_cuts_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    check(run(tmp_path, seeds=range(100, 200), count=40))


def test_the_same_cuts_without_syncs_are_found_to_lose(tmp_path: Path) -> None:
    """If this fails, the test above cannot fail either, and proves nothing."""

    def open_unsynced(folder: Path, vfs: FaultVFS) -> SqliteEngine:
        engine = open_sqlite(folder, vfs)
        engine._writer.connection.pragma("synchronous", "off")
        return engine

    bench = Bench(tmp_path, open_unsynced, disturb)
    errors = [
        cut.error
        for seed in range(1, 6)
        for cut in bench.cuts(seed=seed, generations=1, steps=40, count=10)
        if cut.error is not None
    ]
    assert errors, "50 cuts without a sync, and nothing is missing"
