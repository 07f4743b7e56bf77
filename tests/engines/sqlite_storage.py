"""A folder with a SQLite engine that tests open and close as they like."""

from pathlib import Path

from clawnet.engines.sqlite import SqliteEngine
from clawnet.testing.clocks import FakeClock, FakeRandomness


class SqliteStorage:
    def __init__(self, folder: Path, *, kind: type[SqliteEngine] = SqliteEngine) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.randomness = FakeRandomness()
        self.engine: SqliteEngine | None = None
        self._kind = kind

    def open(self, **settings) -> SqliteEngine:
        self.close()
        settings.setdefault("ballast_bytes", 65_536)
        self.engine = self._kind(
            self.folder, clock=self.clock, randomness=self.randomness, **settings
        )
        return self.engine

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()
            self.engine = None
