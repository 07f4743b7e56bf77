"""The SQLite engine keeps the promises, indexed and not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from clawnet.core.units import Unit
from clawnet.engines.sqlite import SqliteEngine
from clawnet.testing.chain_suite import BlankSuite, ChainSuite, TrimSuite
from clawnet.testing.drafts import publish
from clawnet.testing.log_suite import LogSuite, StateSuite, committed, stored
from tests.engines.sqlite_storage import SqliteStorage


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SqliteStorage]:
    storage = SqliteStorage(tmp_path)
    yield storage
    storage.close()


class EngineSuite(LogSuite, ChainSuite, TrimSuite, BlankSuite):
    """All promises of the log."""

    __test__ = False


class TestSqliteLog(EngineSuite):
    __test__ = True


class TestSqliteState(StateSuite):
    pass


class IndexedEngine(SqliteEngine):
    """Indexes every group at once, so that reads find nothing in the tail."""

    def commit(self, units):
        outcomes = super().commit(units)
        assert self.settle()
        return outcomes


class TestSqliteLogWhenIndexed(EngineSuite):
    __test__ = True

    @pytest.fixture
    def storage(self, tmp_path):
        storage = SqliteStorage(tmp_path, kind=IndexedEngine)
        yield storage
        storage.close()


class ScanningEngine(SqliteEngine):
    """Has no index and forgets the tail, so that every read scans the log."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._readers.renew(is_indexed=False)

    def commit(self, units):
        outcomes = super().commit(units)
        with self._lock:
            self._tail.clear(self._last_seq)
            self._ledger.recent = {}
        return outcomes


class TestSqliteLogWithoutIndex(EngineSuite):
    __test__ = True

    @pytest.fixture
    def storage(self, tmp_path):
        storage = SqliteStorage(tmp_path, kind=ScanningEngine)
        yield storage
        storage.close()


def test_what_was_blanked_is_in_no_file_any_more(storage, tmp_path):
    engine = storage.open()
    secret = "only-for-your-eyes-" * 500
    stored(engine, publish(data=f'"{secret}"'), publish(data='"short-secret"'))
    committed(engine, Unit(blanks=(1, 2)))
    storage.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "log.db" for path in files)
    for path in files:
        raw = path.read_bytes()
        assert b"only-for-your-eyes" not in raw, path
        assert b"short-secret" not in raw, path
