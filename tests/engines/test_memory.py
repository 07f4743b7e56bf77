"""The memory engine keeps the promises; its log is volatile and its state is not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from clawnet.core.units import Put, Unit
from clawnet.engines.memory import MemoryEngine
from clawnet.testing.chain_suite import BlankSuite, ChainSuite, TrimSuite
from clawnet.testing.clocks import FakeClock, FakeRandomness
from clawnet.testing.drafts import WORLD, publish
from clawnet.testing.log_suite import LogSuite, StateSuite, committed, stored


class MemoryStorage:
    def __init__(self, folder: Path | None) -> None:
        self.clock = FakeClock()
        self._folder = folder
        self._randomness = FakeRandomness()
        self.engine: MemoryEngine | None = None

    def open(self) -> MemoryEngine:
        self.close()
        self.engine = MemoryEngine(self._folder, clock=self.clock, randomness=self._randomness)
        return self.engine

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[MemoryStorage]:
    storage = MemoryStorage(tmp_path)
    yield storage
    storage.close()


class TestMemoryLog(LogSuite):
    pass


class TestMemoryChains(ChainSuite):
    pass


class TestMemoryTrims(TrimSuite):
    pass


class TestMemoryBlanks(BlankSuite):
    pass


class TestMemoryState(StateSuite):
    pass


def test_each_start_is_a_new_epoch_of_its_own(storage):
    first = storage.open()
    stored(first, publish())
    second = storage.open()
    assert second.epoch != first.epoch
    assert [(start.epoch, start.first_seq) for start in second.epochs] == [(second.epoch, 1)]


def test_without_a_folder_the_state_ends_with_the_engine():
    storage = MemoryStorage(None)
    engine = storage.open()
    committed(engine, Unit(changes=(Put("a/1", "1"),)))
    assert len(engine.scan("a")) == 1
    assert storage.open().scan("a") == []
    storage.close()


def test_a_trim_of_a_busy_channel_is_cheap_and_leaves_the_others(storage):
    engine = storage.open()
    stored(engine, publish("room.idle"))
    for _ in range(20):
        stored(engine, *[publish("room.busy") for _ in range(200)])
        while engine.trim_channel(WORLD, "room.busy", keep=100):
            pass
    assert engine.first_seq == 1
    assert engine.read_channel(WORLD, "room.busy").count == 100
    assert engine.read_channel(WORLD, "room.idle").count == 1
